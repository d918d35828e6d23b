// Callers with node's fetch and ky. None says who it is: to the gateway they are one caller with a hundred requests in flight.
import ky from "ky";

const [url, callers, budget] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];

async function ask(n) {
  let retries = 0;
  const answer = await ky.post(url, {
    json: { ScanDefinitionIds: [`00000000-0000-4000-8000-${n.toString(16).padStart(12, "0")}`] },
    retry: { limit: budget, methods: ["post"], statusCodes: [429, 503] },
    timeout: false,
    throwHttpErrors: true,
    hooks: { beforeRetry: [() => void (retries += 1)] },
  }).catch((error) => error.response ?? { status: 0 });
  return { status: answer.status, retries };
}

const answers = await Promise.all(Array.from({ length: callers }, (_, n) => ask(n)));
process.stdout.write(JSON.stringify(answers));
