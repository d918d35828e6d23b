#!/usr/bin/env python3
"""Plays the kubelet: what a pod goes through, step by step, against the real program.

    lifecycle.py BINARY
"""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import chroot

PATH = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
BODY = json.dumps({"ScanDefinitionIds": ["4ad8d5a7-7d2f-4e3b-9c1a-000000000001"]})


class Gateway:
    started = []

    def __init__(self, binary, env, **more):
        Gateway.started.append(self)
        self.binary, self.env = binary, {**env, **more}
        self.process = subprocess.Popen([binary, "run"], env=self.env, stderr=subprocess.DEVNULL)
        done = subprocess.run([binary, "wait", "--max", "30s"], env=self.env, timeout=60)
        assert done.returncode == 0, "it did not start"

    def health(self, *options):
        return subprocess.run([self.binary, "healthcheck", *options], env=self.env, capture_output=True, timeout=30).returncode

    def end(self, patience=30):
        code = self.process.wait(patience)
        assert code == 0, f"exit status {code} after SIGTERM"


def ask():
    try:
        return chroot.get(chroot.DATA, PATH, "POST", BODY)[0]
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def until(what, check, patience=20):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if check():
            return
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {patience} s")


def shared(binary, env):
    """A rolling update: while endpoints are removed, connections still come, and none of them may fail."""
    gateway = Gateway(binary, env, DEFENDER_GATEWAY_SERVER_LINGER="3s", DEFENDER_GATEWAY_SERVER_DRAIN="10s")
    answers, stop = [], threading.Event()

    def traffic():
        while not stop.is_set():
            answers.append(ask())

    callers = [threading.Thread(target=traffic, daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    until("traffic flows", lambda: len(answers) > 50)
    gateway.process.send_signal(signal.SIGTERM)
    until("unready while draining", lambda: gateway.health("--ready") == 1)
    assert gateway.health() == 0, "a draining gateway must stay alive for the kubelet"
    seen = len(answers)
    until("it goes on answering new connections", lambda: len(answers) > seen + 20, 2.5)
    # Now the endpoints are gone: nobody calls any more.
    stop.set()
    for caller in callers:
        caller.join()
    gateway.end()
    failed = [a for a in answers if a != 200]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {set(failed)}"
    return len(answers)


def sidecar(binary, env):
    """The application is gone when SIGTERM comes: there is nothing to wait for."""
    gateway = Gateway(binary, env, DEFENDER_GATEWAY_SERVER_DRAIN="25s")
    assert ask() == 200
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    gateway.end()
    took = time.monotonic() - began
    assert took < 5, f"took {took:.1f} s to leave although nobody was there"
    return took


def killed(binary, env, folder):
    """SIGKILL leaves the socket's file behind, in a volume that outlives the container; the next start must manage."""
    data, admin = folder / "gateway.sock", folder / "admin.sock"
    unix = {**env, "DEFENDER_GATEWAY_SERVER_LISTEN": f"unix:{data}", "DEFENDER_GATEWAY_ADMIN_LISTEN": f"unix:{admin}"}
    gateway = Gateway(binary, unix)
    gateway.process.kill()
    gateway.process.wait(10)
    assert data.exists() and admin.exists(), "the test is about files left behind"
    gateway = Gateway(binary, unix)
    assert gateway.health("--ready") == 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(data))
        request = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
        connection.sendall(request.encode())
        assert connection.recv(15).startswith(b"HTTP/1.1 200"), "no answer through the socket"
    gateway.process.send_signal(signal.SIGTERM)
    gateway.end()


def impatient(binary, env):
    """A second signal ends it at once, although the first asked for a long farewell."""
    gateway = Gateway(binary, env, DEFENDER_GATEWAY_SERVER_LINGER="60s")
    gateway.process.send_signal(signal.SIGTERM)
    until("draining", lambda: gateway.health("--ready") == 1)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(5)


def state():
    return json.loads(chroot.get(chroot.ADMIN, "/status")[1])


class ConfigMap:
    """A mounted ConfigMap, which the kubelet changes by the swap of a link."""

    def __init__(self, root):
        self.root, self.version = root, 0
        root.mkdir()
        (root / "gateway.toml").symlink_to("..data/gateway.toml")

    def swap(self, text):
        root, old = self.root, self.root / f"..{self.version}"
        self.version += 1
        (root / f"..{self.version}").mkdir()
        (root / f"..{self.version}/gateway.toml").write_text(text)
        (root / "..data_tmp").symlink_to(f"..{self.version}")
        (root / "..data_tmp").rename(root / "..data")
        if old.exists():
            (old / "gateway.toml").unlink()
            old.rmdir()


def mounted(binary, env, folder, regions):
    """A ConfigMap changes by the swap of a link, the way the kubelet does it; a wrong one is refused, and the one before runs on."""
    mount = ConfigMap(folder / "config")
    swap = lambda text: mount.swap(regions + text)
    swap("")
    gateway = Gateway(binary, env, DEFENDER_GATEWAY_CONFIG=str(mount.root / "gateway.toml"))
    first = state()["config"]["hash"]
    swap('[quota]\nlimits = ["50/1m"]\n')
    until("the change is taken over", lambda: state()["quota"]["windows"][0]["limit"] == 50)
    second = state()["config"]["hash"]
    assert first != second, "the hash tells configurations apart"
    swap('[quota]\nlimits = ["fifty"]\n')
    until("the mistake is told", lambda: "quota.limits" in (state()["config"]["last_error"] or ""))
    assert state()["config"]["hash"] == second and ask() == 200, "the last good one runs on"
    swap('[quota]\nlimits = ["50/1m"]\n[admin]\nquit = true\n')
    until("what needs a restart is named", lambda: state()["config"]["restart_required"] == ["admin.quit"])
    # The restarted container reads the same file, and nothing is pending.
    gateway.process.send_signal(signal.SIGTERM)
    gateway.end()
    gateway = Gateway(binary, gateway.env)
    assert state()["config"]["restart_required"] == []
    gateway.process.send_signal(signal.SIGTERM)
    gateway.end()


def job(binary, env):
    """A Job on a cluster without native sidecars: the application's last act ends the gateway, and the pod completes."""
    gateway = Gateway(binary, env, DEFENDER_GATEWAY_ADMIN_QUIT="true")
    assert ask() == 200
    assert chroot.get(chroot.ADMIN, "/quitquitquit")[0] == 405, "a link that is followed must not end it"
    assert chroot.get(chroot.ADMIN, "/quitquitquit", "POST", "")[0] in (200, 202)
    gateway.end()


def main(binary):
    simulator, settings, env, _ = chroot.simulate(binary)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            regions = "".join(f'[[defender.regions]]\nname = "{r["name"]}"\nurl = "{r["url"]}"\n' for r in settings["defender"]["regions"])
            (folder / "gateway.toml").write_text(regions)
            env |= {"DEFENDER_GATEWAY_CONFIG": str(folder / "gateway.toml"), "DEFENDER_GATEWAY_SERVER_LISTEN": f"127.0.0.1:{chroot.DATA}",
                    "DEFENDER_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{chroot.ADMIN}"}
            print(f"rolling update   {shared(binary, env)} requests, none failed")
            print(f"end of a pod     the sidecar left after {sidecar(binary, env) * 1000:.0f} ms")
            killed(binary, env, folder)
            print("SIGKILL          the next start takes the sockets over")
            impatient(binary, env)
            print("second signal    leaves at once")
            mounted(binary, env, folder, regions)
            print("ConfigMap        taken over, a wrong one refused, what needs a restart named")
            job(binary, env)
            print("Job              completes")
    finally:
        # After a failure gateways may be left, and calls to them would go on.
        for gateway in Gateway.started:
            gateway.process.kill()
            gateway.process.wait(10)
        simulator.terminate()
        simulator.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
