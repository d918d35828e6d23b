"""A hundred callers that retry as their packages do find the quota spent: all are served, and nobody needs more than five retries.

    clients.py PROGRAM     PROGRAM is defender-gateway

Each kind of client has a gateway and a simulated upstream of its own; the limits are small, so that it takes seconds. A request may
wait two seconds, so that most of them are refused first and have to come back when they are told to.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import tomllib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).parent
CALLERS = 100
BUDGET = 5
LIMITS = ["20/1s", "300/1m"]
PATH = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
KINDS = {
    "requests with urllib3's Retry": [sys.executable, str(HERE / "ask_requests.py")],
    "httpx with httpx-retries": [sys.executable, str(HERE / "ask_httpx.py")],
    "fetch with ky, all of one address": ["node", str(HERE / "ask_ky.mjs")],
}


def simulate(program):
    """The simulated upstream, with the settings and the secret that point to it."""
    command = [program, "simulate", "--listen", "127.0.0.1:0", "--limit", ",".join(LIMITS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = ""
    for line in process.stdout:
        text += line
        if "AZURE_CLIENT_SECRET='" in line:
            return process, tomllib.loads(text), line.split("'")[1]
    raise SystemExit("the simulator said nothing")


def start(program, folder, settings, secret):
    """A gateway in front of it, and its address."""
    credentials, region = settings["credentials"], settings["defender"]["regions"][0]
    config = pathlib.Path(folder) / "gateway.toml"
    config.write_text(f"""
[server]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
[credentials]
kind = "client_secret"
tenant_id = "{credentials["tenant_id"]}"
client_id = "{credentials["client_id"]}"
authority = "{credentials["authority"]}"
[[defender.regions]]
name = "{region["name"]}"
url = "{region["url"]}"
[quota]
limits = {json.dumps(LIMITS)}
burst = 20
[queue]
max_wait = "2s"
[merge]
enabled = false
""")
    environment = {"AZURE_CLIENT_SECRET": secret}
    command = [program, "run", "--config", str(config)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if "listening on http://" in line:
            # Nobody reads on otherwise, and the gateway would wait to be heard.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, line.split("listening on ", 1)[1].split()[0]
    raise SystemExit("the gateway did not start: " + "".join(said))


def spend(base):
    """Asks until a request that does not wait is refused; returns that refusal."""
    for n in range(1000):
        body = json.dumps({"ScanDefinitionIds": [f"00000000-0000-4000-9000-{n:012x}"]}).encode()
        headers = {"content-type": "application/json", "prefer": "wait=0", "x-caller": "who spends it"}
        try:
            urllib.request.urlopen(urllib.request.Request(base + PATH, body, headers), timeout=30).read()
        except urllib.error.HTTPError as refusal:
            if refusal.code == 429:
                return json.load(refusal)
    raise SystemExit("the quota is never spent")


def judge(kind, command, program, wrong):
    with tempfile.TemporaryDirectory() as folder:
        simulator, settings, secret = simulate(program)
        gateway = None
        try:
            gateway, base = start(program, folder, settings, secret)
            problem = spend(base)
            if not isinstance(problem.get("wait_needed"), int) or "Prefer: wait=" not in problem["detail"]:
                wrong.append(f"{kind}: the refusal does not say which wait is needed: {problem}")
            done = subprocess.run([*command, base + PATH, str(CALLERS), str(BUDGET)], stdout=subprocess.PIPE, text=True, timeout=180)
            results = json.loads(done.stdout or "[]")
        finally:
            for process in (gateway, simulator):
                if process:
                    process.terminate()
                    process.wait(30)
    served = [result["retries"] for result in results if result["status"] == 200]
    counts = {retries: served.count(retries) for retries in sorted(set(served))}
    print(f"{kind}: {len(served)} of {CALLERS} served, by number of retries: {counts}", flush=True)
    if len(served) != CALLERS:
        wrong.append(f"{kind}: not served: {[result for result in results if result['status'] != 200][:5]}")
    if any(retries > BUDGET for retries in served):
        wrong.append(f"{kind}: over the budget of {BUDGET} retries: {counts}")
    if sum(retries > 0 for retries in served) < CALLERS // 2:
        wrong.append(f"{kind}: too few had to come back for this to show anything: {counts}")


def main(program):
    wrong = []
    with ThreadPoolExecutor() as pool:
        judging = [pool.submit(judge, kind, command, program, wrong) for kind, command in KINDS.items()]
    # A judge that fell over has found nothing, which must not look like having found nothing wrong.
    for one in judging:
        one.result()
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main(sys.argv[1])
