// What openapi-typescript and @hey-api/openapi-ts make of the description, in use.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./schema";
import { scanHistory } from "./hey";
import { client as hey } from "./hey/client.gen";

const path = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";

async function main(base: string, id: string) {
  const body = { ScanDefinitionIds: [id] };

  const typed = createClient<paths>({ baseUrl: base });
  const good = await typed.POST(path, { params: { query: { $top: 2 } }, body });
  assert.equal(good.response.status, 200);
  assert.equal(good.data?.value?.length, 2);
  const wrong = await typed.POST(path, { params: { query: { $top: 0 } }, body });
  assert.equal(wrong.response.status, 400);
  assert.match(JSON.stringify(wrong.error), /ODataError/);
  const defenders = await typed.GET("/api/DeviceAuthenticatedScanDefinitions", { params: { query: { $top: 0 } } });
  assert.equal(defenders.response.status, 400);
  const error = defenders.error && "error" in defenders.error ? defenders.error.error : undefined;
  assert.ok(error?.message, JSON.stringify(defenders.error));

  hey.setConfig({ baseUrl: base });
  const served = await scanHistory({ body, query: { $top: 2 } });
  assert.equal(served.response?.status, 200);
  assert.equal(served.data?.value?.length, 2);
  const refused = await scanHistory({ body, query: { $top: 0 } });
  assert.equal(refused.response?.status, 400);
  assert.match(JSON.stringify(refused.error), /ODataError/);
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
