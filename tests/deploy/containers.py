#!/usr/bin/env python3
"""The image in real containers, without a daemon: buildah builds the Dockerfile's last stage around the given binary,
podman and runc run it as the sidecar's manifest says, with 64 MiB and half a core, beside a simulator in a container
of its own.

    containers.py BINARY     exit status 77: containers cannot be run here

Whether they can is found out with another program in the gateway's place, under the same options: what fails there is
the machine's fault, and everything after it the gateway's. Needs root, or sudo without a password, and the standard
library.
"""
import ctypes
import http.client
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import chroot
import lifecycle

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA, ADMIN, SIGN_IN = 8080, 9901, 8090
LIMIT = 64 << 20
SKIPPED = 77
CLONE_NEWNET = 0x40000000
# What a kubelet makes of the manifest's security context and limits.
# podman would raise both beyond what is allowed here, which not every root may.
ULIMITS = [f"--ulimit=nofile={resource.getrlimit(resource.RLIMIT_NOFILE)[1]}", "--ulimit=nproc=1000"]
AS_IN_THE_MANIFEST = [*ULIMITS, "--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL",
                      "--security-opt", "no-new-privileges",
                      "--cpus", "0.5", "--memory", str(LIMIT), "--memory-swap", str(LIMIT)]
SCENARIO = '[[regions]]\nname = "us"\nlatency = "1500ms"\n'


class Engine:
    """buildah and podman with a storage of their own."""

    def __init__(self, folder):
        self.env = {**os.environ, "DISABLE_HC_SYSTEMD": "true", "TMPDIR": str(folder)}
        self.storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]
        self.podman_options = [*self.storage, "--tmpdir", str(folder / "tmp"), "--runtime", "runc",
                               "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        self.started, self.busy, self.told_to_end = [], False, False

    def end(self, *_):
        """Whoever ends this must not leave containers behind, nor half of one."""
        self.told_to_end = True
        if not self.busy:
            sys.exit(1)

    def call(self, *command):
        self.busy = True
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        self.busy = False
        if self.told_to_end:
            sys.exit(1)
        return done

    def build(self, context, name):
        done = self.call("buildah", *self.storage, "build", "--isolation", "chroot",
                         "--format", "docker", "--pull-never",
                         "--file", str(context / "Dockerfile"), "--tag", name, str(context))
        done.check_returncode()

    def try_podman(self, *arguments):
        return self.call("podman", *self.podman_options, *arguments)

    def podman(self, *arguments):
        done = self.try_podman(*arguments)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout.strip()

    def start(self, name, image, options, *command):
        """Starts a container; returns the process id of its first process."""
        self.started.append(name)
        self.podman("run", "--detach", "--name", name, *options, image, *command)
        return int(self.podman("inspect", "--format", "{{.State.Pid}}", name))

    def content(self, image):
        """The files of an image."""
        folder = pathlib.Path(self.podman("image", "mount", image))
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
        self.podman("image", "unmount", image)
        return files

    def remove_all(self):
        """The last ones first: they are in the network of those before."""
        self.told_to_end = False
        while self.started:
            self.try_podman("rm", "--force", "--time", "0", self.started.pop())


def enter_network(pid):
    """Joins the network of a container; what is started from here on is in it."""
    with open(f"/proc/{pid}/ns/net") as namespace:
        if chroot.LIBC.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def group_file(pid, version_2, version_1):
    """A file of the memory group of a process."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return int(pathlib.Path(f"/sys/fs/cgroup/memory{path}/{version_1}").read_text())
        if controllers == "" and pathlib.Path(f"/sys/fs/cgroup{path}/{version_2}").exists():
            return int(pathlib.Path(f"/sys/fs/cgroup{path}/{version_2}").read_text())
    raise OSError("no memory group")


def check_machine(engine, folder):
    """Everything that the tests need of the machine, with `sleep` in place of the gateway."""
    context, sleep = folder / "probe", shutil.which("sleep")
    linked = subprocess.run(["ldd", sleep], capture_output=True, text=True, check=True)
    libraries = re.findall(r"(/\S+) \(0x", linked.stdout)
    for file in (*libraries, "/bin/sleep"):
        target = context / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sleep if file == "/bin/sleep" else file, target)
    text = 'FROM scratch\nCOPY . /\nUSER 65532:65532\nHEALTHCHECK CMD ["/bin/sleep", "0"]\n'
    (context / "Dockerfile").write_text(text)
    engine.build(context, "probe")
    assert "bin/sleep" in engine.content("probe")
    first = engine.start("probe-network", "probe", ["--network", "none", *AS_IN_THE_MANIFEST], "/bin/sleep", "60")
    enter_network(first)
    options = ["--network", "container:probe-network", "--volume", f"{context}:/etc/probe:ro", *AS_IN_THE_MANIFEST]
    second = engine.start("probe", "probe", options, "/bin/sleep", "60")
    assert os.readlink(f"/proc/{first}/ns/net") == os.readlink(f"/proc/{second}/ns/net"), "the network is not shared"
    assert group_file(second, "memory.max", "memory.limit_in_bytes") == LIMIT, "memory is not limited"
    group_file(second, "memory.peak", "memory.max_usage_in_bytes")
    assert chroot.status_of(second)["Seccomp"] == "2", "no seccomp filter"
    engine.podman("exec", "probe", "/bin/sleep", "0")
    engine.podman("healthcheck", "run", "probe")
    engine.podman("kill", "--signal", "KILL", "probe")
    assert engine.podman("wait", "probe") == "137"
    with socket.create_server(("127.0.0.1", ADMIN)):
        socket.create_connection(("127.0.0.1", ADMIN), 5).close()
    engine.remove_all()


def build(engine, folder, binary):
    """The Dockerfile's last stage, word for word; the stage before it is the binary that is already there."""
    context = folder / "image"
    context.mkdir()
    shutil.copy(binary, context / "defender-gateway")
    text = (ROOT / "deploy/Dockerfile").read_text()
    last = text[text.rindex("\nFROM "):]
    (context / "Dockerfile").write_text(f"FROM scratch AS build\nCOPY defender-gateway /out/defender-gateway\n{last}")
    engine.build(context, "gateway")
    assert engine.content("gateway") == ["defender-gateway"], engine.content("gateway")
    config = json.loads(engine.podman("image", "inspect", "gateway"))[0]["Config"]
    assert config["User"] == "65532:65532" and config["Cmd"] == ["run"], config


class Gateway:
    def __init__(self, engine, folder):
        settings = (ROOT / "deploy/kubernetes/components/sidecar/gateway.toml").read_text()
        self.engine, self.settings = engine, settings
        self.mount = lifecycle.ConfigMap(folder / "config")
        self.mount.swap(settings)
        literals = (ROOT / "deploy/kubernetes/overlays/trial/kustomization.yaml").read_text()
        known = dict(re.findall(r"- (tenant-id|client-id|client-secret)=(\S+)", literals))
        env = {"DEFENDER_GATEWAY_CONFIG": "/etc/defender-gateway/gateway.toml", "AZURE_TENANT_ID": known["tenant-id"],
               "AZURE_CLIENT_ID": known["client-id"], "AZURE_CLIENT_SECRET": known["client-secret"],
               "DEFENDER_GATEWAY_CREDENTIALS_AUTHORITY": f"http://127.0.0.1:{SIGN_IN}",
               "DEFENDER_GATEWAY_DEFENDER_REGIONS": f"us=http://127.0.0.1:{SIGN_IN + 1}",
               # The sidecar's own value lets one call leave every 2.4 s at first.
               "DEFENDER_GATEWAY_QUOTA_ON_UNKNOWN_PAST": "empty"}
        options = [f"--env={name}={value}" for name, value in env.items()]
        options += ["--network", "container:simulator", "--volume", f"{self.mount.root}:/etc/defender-gateway:ro"]
        self.pid = engine.start("gateway", "gateway", [*AS_IN_THE_MANIFEST, *options])

    def inside(self, *command):
        return self.engine.try_podman("exec", "gateway", "/defender-gateway", *command)

    def logs(self):
        done = self.engine.try_podman("logs", "gateway")
        return done.stdout + done.stderr


def ask(number, timeout=30):
    connection = http.client.HTTPConnection("127.0.0.1", DATA, timeout=timeout)
    try:
        body = json.dumps({"ScanDefinitionIds": [f"4ad8d5a7-7d2f-4e3b-9c1a-{number:012}"]})
        connection.request("POST", lifecycle.PATH, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def status():
    return json.loads(chroot.get(ADMIN, "/status")[1])


def started(gateway):
    done = gateway.inside("wait", "--max", "30s")
    assert done.returncode == 0, done.stderr + gateway.logs()
    assert chroot.get(ADMIN, "/readyz")[0] == 200
    health = gateway.engine.try_podman("healthcheck", "run", "gateway")
    assert health.returncode == 0, f"the image's health check: {health.stdout}{health.stderr}"
    done = gateway.inside("healthcheck", "--ready")
    assert done.returncode == 0, done.stderr
    seen = chroot.status_of(gateway.pid)
    assert set(seen["Uid"].split()) == set(seen["Gid"].split()) == {str(chroot.USER)}, seen
    assert all(int(seen[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), seen
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2"), seen
    lines = [json.loads(line) for line in gateway.logs().splitlines() if line.startswith("{")]
    said = next(line.get("fields", line) for line in lines if "memory_limit_bytes" in json.dumps(line))
    assert (said["memory_limit_bytes"], said["cpu_limit"]) == (LIMIT, 0.5), f"the limits that it found: {said}"


def called():
    used = lambda: status()["quota"]["windows"][0]["used"]
    assert ask(1) == 200
    first = used()
    assert ask(1) == 200
    assert used() == first > 0, f"the same request cost {used() - first} calls again, the first {first}"


def reloaded(gateway):
    """As the kubelet does it, by the swap of a link in the mounted directory."""
    gateway.mount.swap(gateway.settings.replace("[quota]\n", '[quota]\nlimits = ["50/1m"]\n'))
    lifecycle.until("the change is taken over", lambda: status()["quota"]["windows"][0]["limit"] == 50)
    gateway.mount.swap(gateway.settings.replace("[quota]\n", '[quota]\nlimits = ["fifty"]\n'))
    lifecycle.until("the mistake is told", lambda: "quota.limits" in (status()["config"]["last_error"] or ""))
    assert status()["quota"]["windows"][0]["limit"] == 50, "the last good one runs on"


def crowded(gateway):
    """Heads and bodies that do not end, from more connections than 64 MiB have room for; returns the most memory that
    was in use."""
    head = f"POST {lifecycle.PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    kinds = [head + b"x-filler: " + b"a" * 60_000, head + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000]
    connections = []

    def push(data):
        try:
            connection = socket.create_connection(("127.0.0.1", DATA), 2)
            connections.append(connection)
            connection.sendall(data)
        except OSError:
            pass  # refused, cut off or not read: that is how it defends itself

    callers = [threading.Thread(target=push, args=(kinds[n % 4 == 0],), daemon=True) for n in range(300)]
    for caller in callers:
        caller.start()
    lifecycle.until("it lives, whoever wants its memory", lambda: chroot.get(ADMIN, "/livez")[0] == 200)
    for caller in callers:
        caller.join(30)
    assert chroot.get(ADMIN, "/livez")[0] == 200
    assert len(connections) > 128, f"only {len(connections)} connections were made"
    for connection in connections:
        connection.close()
    lifecycle.until("it serves again", lambda: ask(1, 5) == 200)
    state = json.loads(gateway.engine.podman("inspect", "gateway"))[0]["State"]
    assert state["Running"] and not state["OOMKilled"], state
    return group_file(gateway.pid, "memory.peak", "memory.max_usage_in_bytes")


def ended(gateway):
    """SIGTERM to the container's first process while calls are under way: they are answered, its exit status is 0."""
    used = lambda: status()["quota"]["windows"][0]["used"]
    before, answers = used(), []
    callers = [threading.Thread(target=lambda n=n: answers.append(ask(n)), daemon=True) for n in range(100, 106)]
    for caller in callers:
        caller.start()
    lifecycle.until("six calls are under way", lambda: used() == before + 6)
    assert not answers, "the simulator answers too soon for this test"
    began = time.monotonic()
    gateway.engine.podman("kill", "--signal", "TERM", "gateway")
    code = gateway.engine.podman("wait", "gateway")
    took = time.monotonic() - began
    for caller in callers:
        caller.join(30)
    assert answers == [200] * 6, f"calls under way at SIGTERM got {answers}"
    assert code == "0", f"exit status {code} after SIGTERM: {gateway.logs()[-2000:]}"
    return took


def run(engine, folder, binary):
    build(engine, folder, binary)
    scenario = folder / "simulator"
    scenario.mkdir()
    (scenario / "scenario.toml").write_text(SCENARIO)
    options = ["--network", "none", "--volume", f"{scenario}:/scenario:ro", *AS_IN_THE_MANIFEST]
    command = ["simulate", "--listen", f"127.0.0.1:{SIGN_IN}", "--scenario", "/scenario/scenario.toml"]
    simulator = engine.start("simulator", "gateway", options, *command)
    enter_network(simulator)
    gateway = Gateway(engine, folder)
    started(gateway)
    print("start            ready, healthy, unprivileged, and it knows its limits")
    called()
    reloaded(gateway)
    print("mounted file     taken over, a wrong one refused")
    most = crowded(gateway) >> 20
    print(f"memory           at most {most} of {LIMIT >> 20} MiB, with 300 connections that want all of it")
    print(f"SIGTERM          six calls under way answered, left after {ended(gateway):.1f} s with status 0")


def main(binary):
    missing = [tool for tool in ("buildah", "podman", "runc", "ldd") if not shutil.which(tool)]
    if missing:
        print(f"skipped: containers need {', '.join(missing)}")
        return SKIPPED
    if os.geteuid():
        if subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode:
            print("skipped: containers need root, and sudo wants a password")
            return SKIPPED
        os.execvp("sudo", ["sudo", "-n", sys.executable, __file__, binary])
    # A socket's path has 107 bytes at most, and the tools make long ones.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gw-", dir="/tmp"))
    engine = Engine(folder)
    signal.signal(signal.SIGTERM, engine.end)
    try:
        try:
            check_machine(engine, folder)
        except (OSError, AssertionError, ValueError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            print(f"skipped: containers cannot be run here: {str(said).strip()[-1000:]}")
            return SKIPPED
        run(engine, folder, binary)
        return 0
    finally:
        engine.remove_all()
        # podman may still be tidying up after a container that ended by itself.
        lifecycle.until("the folder is gone", lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists())


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
