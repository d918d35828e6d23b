"""The servers that are measured, and the upstream behind them. All listen on loopback only."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import tomllib
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PATH = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
# The stub answers the other version of the operation with an answer of 1 MB.
LARGE_PATH = PATH.replace("/api/", "/api/v1.0/")

# The servers get one core, whoever loads them and the stub get the other: otherwise they would be measured through each other.
SERVER_CORE, LOAD_CORE = 0, 1


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def row(number):
    """A row as the upstream's documentation shows it."""
    return {
        "ScanDefinitionIds": f"{number * 2654435761 % 2**32:08x}-0001-4001-a001-{number:012x}",
        "ScannerId": "625431694b7d2ca9d07e77ca1b029ef216bebb6d",
        "LastScanned": "2026-11-02T17:13:31.6240621Z",
        "ScanStatus": "Success",
        "orgId": "f8b5b1a8-0e4a-4a0c-9f0c-2f5a3d1c7e9b",
        "NumberOfSuccessfullyScannedTargets": 3,
        "NumberOfTargets": 3,
    }


def answer(rows):
    context = f"https://api.security.microsoft.com{PATH}"
    return json.dumps({"@odata.context": context, "value": [row(n) for n in range(rows)]}, separators=(",", ":")).encode()


class Process:
    """A server in a process of its own, with the processes that it starts."""

    def __init__(self, name, folder, core):
        self.name, self.port, self.core = name, free_port(), core
        self.folder = Path(folder) / name.replace(" ", "-")
        self.folder.mkdir()
        self.process = self.admin_port = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, command, **environment):
        self.started = command, environment
        log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", str(self.core), *map(str, command)],
            cwd=self.folder, stdout=log, stderr=log, env={**os.environ, **environment},
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not start: {(self.folder / 'log').read_text()}")

    def restart(self):
        """The same anew, in other pages of memory."""
        command, environment = self.started
        self.stop()
        self.start(command, **environment)
        if self.admin_port:
            wait_until_ready(self)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def processes(self):
        """This process and its children; nginx works in children."""
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return [own, *map(int, children)]

    def cpu_us(self):
        """CPU time used so far, user and system, in microseconds."""
        used = 0
        for pid in self.processes():
            for thread in Path(f"/proc/{pid}/task").iterdir():
                used += int((thread / "schedstat").read_text().split()[0])
        return used / 1000

    def memory_kb(self):
        """Resident memory that is nobody else's, in kB. Shared memory counts once."""
        total = 0
        for pid in self.processes():
            try:
                text, name = Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss:"
            except PermissionError:
                # Without the right to look into it: its own and the shared.
                text, name = Path(f"/proc/{pid}/status").read_text(), "VmRSS:"
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))
        return total


def nginx(name, folder, core, workers, http):
    server = Process(name, folder, core)
    conf = server.folder / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    conf.write_text(f"""
{user}
worker_processes {workers};
daemon off;
pid {server.folder}/pid;
error_log {server.folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type application/json;
  keepalive_requests 1000000000;
  client_body_buffer_size 1m;
  client_max_body_size 1m;
  client_body_temp_path {server.folder}/body;
  proxy_temp_path {server.folder}/proxy;
  {http(server)}
}}
""")
    return server.start(["nginx", "-c", conf, "-e", server.folder / "error.log"])


def stub(folder, rows=3, name="stub"):
    """The upstream: signs in, and answers each version of the operation with one recorded answer."""
    files = Path(folder) / f"{name} files"
    for path, of in ((PATH, rows), (LARGE_PATH, 3300)):
        file = files / path.lstrip("/")
        file.parent.mkdir(parents=True)
        file.write_bytes(answer(of))
    token = json.dumps({"token_type": "Bearer", "expires_in": 86399, "access_token": "stub"})

    def http(server):
        return f"""
  server {{
    listen 127.0.0.1:{server.port} backlog=4096;
    root "{files}";
    location / {{ error_page 405 =200 $uri; }}
    location ~ /oauth2/v2.0/token$ {{ return 200 '{token}'; }}
  }}"""

    return nginx(name, folder, LOAD_CORE, 1, http)


def nginx_proxy(name, folder, upstream, workers=1, cached=True):
    """nginx as a caching proxy keyed on the body, or as a plain one."""
    port, token = getattr(upstream, "region", upstream.port), getattr(upstream, "token", "stub")

    def http(server):
        cache = f"""
      proxy_cache answers;
      proxy_cache_methods POST;
      proxy_cache_key "$request_uri|$request_body";
      proxy_cache_valid 200 1h;""" if cached else ""
        return f"""
  proxy_cache_path /dev/shm/{server.folder.parent.name}-{server.folder.name} keys_zone=answers:64m max_size=1g use_temp_path=off;
  upstream stub {{ server 127.0.0.1:{port}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{server.port} backlog=4096{' http2' if name.endswith('h2') else ''};
    location / {{
      proxy_pass http://stub;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
      proxy_buffers 8 256k;
      proxy_buffer_size 256k;
      proxy_busy_buffers_size 512k;{cache}
    }}
  }}"""

    return nginx(name, folder, SERVER_CORE, workers, http)


def haproxy(name, folder, stub):
    server = Process(name, folder, SERVER_CORE)
    conf = server.folder / "haproxy.cfg"
    conf.write_text(f"""
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend callers
  bind 127.0.0.1:{server.port}
  default_backend stub
backend stub
  http-request set-header Authorization "Bearer stub"
  server stub 127.0.0.1:{stub.port}
""")
    return server.start(["haproxy", "-db", "-f", conf])


def bare(name, folder, program, rows=3):
    server = Process(name, folder, SERVER_CORE)
    file = server.folder / "answer"
    file.write_bytes(answer(rows))
    return server.start([program, f"127.0.0.1:{server.port}", file])


def bare_proxy(name, folder, program, stub):
    server = Process(name, folder, SERVER_CORE)
    return server.start([program, f"127.0.0.1:{server.port}", f"127.0.0.1:{stub.port}"])


def gateway(name, folder, stub, program, workers=1, ttl="1h", cache_size="1GiB", quota=("1000000/1s", 1_000_000), max_wait="30s"):
    """The gateway, with its quota out of the way unless another is given."""
    limit, burst = quota
    server = Process(name, folder, SERVER_CORE)
    server.admin_port = free_port()
    conf = server.folder / "gateway.toml"
    conf.write_text(f"""
[server]
listen = ["127.0.0.1:{server.port}"]
[admin]
listen = "127.0.0.1:{server.admin_port}"
[defender]
regions = [{{ name = "stub", url = "{stub.url}" }}]
[credentials]
kind = "client_secret"
tenant_id = "11111111-1111-4111-8111-111111111111"
client_id = "22222222-2222-4222-8222-222222222222"
authority = "{stub.url}"
[quota]
limits = ["{limit}"]
burst = {burst}
[queue]
max_wait = "{max_wait}"
max_wait_limit = "24h"
max_requests_per_caller = 10000
[cache]
ttl = "{ttl}"
max_size = "{cache_size}"
""")
    server.start(
        [program, "run", "--config", conf],
        TOKIO_WORKER_THREADS=str(workers),
        DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET="stub",
        NO_PROXY="*",
    )
    wait_until_ready(server)
    return server


def simulator(name, folder, program):
    """The simulated upstream, whose answers hold the rows of the ids that are asked for; as many calls as anybody makes."""
    server = Process(name, folder, LOAD_CORE)
    command = [program, "simulate", "--limit", "1000000/1s", "--listen"]
    for attempt in range(5):
        try:
            server.start([*command, f"127.0.0.1:{server.port}"])
            break
        except SystemExit:
            # Its regions have the ports after its own, of which one may be taken.
            if attempt == 4:
                raise
            server.port = free_port()
    text = (server.folder / "log").read_text()
    server.config = tomllib.loads(text)
    server.region = urllib.parse.urlsplit(server.config["defender"]["regions"][0]["url"]).port
    server.secret = text.split("AZURE_CLIENT_SECRET='")[1].split("'")[0]
    credentials = server.config["credentials"]
    form = {"grant_type": "client_credentials", "client_id": credentials["client_id"], "client_secret": server.secret,
            "scope": credentials["scope"]}
    url = f"{credentials['authority']}/{credentials['tenant_id']}/oauth2/v2.0/token"
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode()) as answer:
        server.token = json.load(answer)["access_token"]
    return server


class LiveGateway(Process):
    """The gateway with all settings at their defaults but addresses, credentials, how long answers are fresh, and how many fit. Its
    cache was filled by more calls than an hour allows, so that its windows are full; it is asked for nothing else."""

    def __init__(self, name, folder, simulator, program):
        super().__init__(name, folder, SERVER_CORE)
        self.admin_port, self.simulator, self.bodies = free_port(), simulator, []
        self.conf = self.folder / "gateway.toml"
        self.configure(wide=True)
        self.start(
            [program, "run", "--config", self.conf],
            TOKIO_WORKER_THREADS="1",
            DEFENDER_GATEWAY_CREDENTIALS_CLIENT_SECRET=simulator.secret,
            NO_PROXY="*",
        )
        wait_until_ready(self)

    def configure(self, wide):
        credentials = self.simulator.config["credentials"]
        self.conf.write_text(f"""
[server]
listen = ["127.0.0.1:{self.port}"]
[admin]
listen = "127.0.0.1:{self.admin_port}"
[defender]
regions = [{{ name = "simulated", url = "http://127.0.0.1:{self.simulator.region}" }}]
[credentials]
tenant_id = "{credentials['tenant_id']}"
client_id = "{credentials['client_id']}"
authority = "{credentials['authority']}"
scope = "{credentials['scope']}"
[cache]
ttl = "1h"
max_size = "512MiB"
{'[quota]' if wide else ''}
{'limits = ["100000/1s", "1000000/1h"]' if wide else ''}
{'burst = 100000' if wide else ''}
""")

    def fill(self, bodies):
        """Has the answers to these in the cache, and the windows of the documented quota full of calls."""
        self.limit(wide=True)
        self.bodies = list(dict.fromkeys([*self.bodies, *bodies]))
        fill(self, self.bodies)
        fill(self, [body(key) for key in range(1_000_000, 1_001_600)])
        self.limit(wide=False)

    def restart(self):
        self.configure(wide=True)
        super().restart()
        self.fill([])

    def limit(self, wide):
        """Takes the limits over while it runs, and waits until that is done."""
        self.configure(wide)
        self.process.send_signal(signal.SIGHUP)
        expected = 100_000 if wide else 100
        for _ in range(200):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/status") as answer:
                if json.load(answer)["quota"]["windows"][0]["limit"] == expected:
                    return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not take its limits over: {(self.folder / 'log').read_text()}")


def fill(server, bodies, connections=64):
    """Asks for each once."""
    def ask(part):
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for each in part:
            connection.request("POST", PATH, each, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{server.name} answers {answer.status}: {text[:300]}")

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(ask, (bodies[n::connections] for n in range(connections))))


def body(key, ids=3):
    """The request of a key, as load.lua makes it."""
    def name(nth):
        mixed = (key * 2654435761 + nth * 40503) % 2**32
        return f'"{mixed:08x}-{nth:04x}-4{key % 4096:03x}-a{nth % 4096:03x}-{key:012x}"'

    return '{"ScanDefinitionIds":[' + ",".join(map(name, range(1, ids + 1))) + "]}"


def wait_until_ready(server):
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/readyz") as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{server.name} is not ready: {(server.folder / 'log').read_text()}")
