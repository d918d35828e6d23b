#!/usr/bin/env python3
"""deploy/systemd's unit: systemd's own judgement of it, where systemd is installed, and its commands and variables run
against the simulator.

    systemd.py BINARY
"""
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import chroot
import lifecycle

UNIT = pathlib.Path(__file__).resolve().parents[2] / "deploy/systemd/defender-gateway.service"
# Of a hundred, where 0 is no exposure at all.
MOST_EXPOSURE = 15
# Part of it could not be looked at here.
SKIPPED = 77


def settings():
    """Every key of the unit with all its values, in their order."""
    found = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


def judged(binary, folder):
    """Every key known, every value valid, and exposed no more than said. None: systemd is not here."""
    if not shutil.which("systemd-analyze"):
        return None
    copy = folder / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/defender-gateway", binary))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert done.returncode == 0 and not said, f"systemd-analyze verify: {done.stderr}"
    command = ["systemd-analyze", "security", "--no-pager", "--offline=yes", f"--threshold={MOST_EXPOSURE}", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"more exposed than {MOST_EXPOSURE} of 100: {done.stdout}{done.stderr}"
    return re.search(r"exposure level for \S+: (\S+)", done.stdout)[1]


def run(binary, folder):
    """Start, wait, reload and stop, as systemd would, with the unit's own words."""
    unit = settings()
    simulator, known, env, region = chroot.simulate(binary)
    try:
        etc, secret = folder / "etc", folder / "credentials"
        sockets = folder / "run" / unit["RuntimeDirectory"][0]
        for made in (etc, secret, folder / "state" / unit["StateDirectory"][0], sockets):
            made.mkdir(parents=True)
        (secret / unit["LoadCredential"][0].split(":")[0]).write_text(env.pop("AZURE_CLIENT_SECRET"))
        config = etc / "gateway.toml"
        text = f'[[defender.regions]]\nname = "{region["name"]}"\nurl = "{region["url"]}"\n'
        config.write_text(text)
        for variable in unit["Environment"]:
            name, value = variable.split("=", 1)
            env[name] = value.replace("%d", str(secret)).replace("%S", str(folder / "state"))
        # The socket that the reference has as an example.
        socket = "/run/defender-gateway/gateway.sock".replace("/run", str(folder / "run"))
        env["DEFENDER_GATEWAY_SERVER_LISTEN"] = f"127.0.0.1:{chroot.DATA},unix:{socket}"
        env["DEFENDER_GATEWAY_ADMIN_LISTEN"] = f"127.0.0.1:{chroot.ADMIN}"
        moved = lambda word: word.replace("/usr/local/bin/defender-gateway", binary).replace("/etc/defender-gateway", str(etc))
        words = lambda key: [moved(word) for word in shlex.split(unit[key][0])]
        gateway = subprocess.Popen(words("ExecStart"), env=env, stderr=subprocess.PIPE, text=True)
        try:
            waited = subprocess.run(words("ExecStartPost"), env=env, capture_output=True, text=True, timeout=60)
            assert waited.returncode == 0, waited.stderr
            assert lifecycle.ask() == 200, "no answer"
            command = ["curl", "-sSf", "--unix-socket", socket, "http://localhost/api/DeviceAuthenticatedScanAgents"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            assert pathlib.Path(env["DEFENDER_GATEWAY_QUOTA_STATE_FILE"]).exists(), "no state file"
            config.write_text(text + '[quota]\nlimits = ["50/1m"]\n')
            # It looks at the file by itself as well: what the signal does is shown by the program's own
            # tests (reload::file).
            subprocess.run([word.replace("$MAINPID", str(gateway.pid)) for word in words("ExecReload")], check=True)
            lifecycle.until("the change is taken over", lambda: lifecycle.state()["quota"]["windows"][0]["limit"] == 50)
            gateway.send_signal(signal.SIGTERM)
            code = gateway.wait(int(unit["TimeoutStopSec"][0]))
            assert code == 0, f"exit status {code}: {gateway.stderr.read()}"
        finally:
            gateway.kill()
            gateway.wait()
    finally:
        simulator.terminate()
        simulator.wait(30)


def main(binary):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        exposure = judged(binary, folder)
        run(binary, folder)
    print(f"the unit starts, reloads and stops; exposure {exposure} of 10" if exposure else
          "the unit starts, reloads and stops; skipped: systemd-analyze is not here to judge it")
    return 0 if exposure else SKIPPED


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
