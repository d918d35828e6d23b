#!/usr/bin/env python3
"""A gateway that listens on `[::]`, as deploy/ has it, answers by the pod's address where there is IPv6 alone, IPv4 alone and both; and
`healthcheck`, `wait` and `status` find it by the same variable.

    families.py BINARY     needs the right to make a network namespace: root's, or a user namespace
"""
import os
import subprocess
import sys

FAMILIES = {"IPv6 alone": ["fd00::7"], "IPv4 alone": ["10.99.0.7"], "both": ["10.99.0.7", "fd00::7"]}
ADMIN, DATA = 9901, 8080


def inside(binary, name):
    """Runs in the namespace: only these addresses, besides loopback of the same families."""
    addresses = FAMILIES[name]
    run = lambda *command: subprocess.run(command, check=True)
    run("ip", "link", "set", "lo", "up")
    if not any("." in address for address in addresses):
        run("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    if not any(":" in address for address in addresses):
        run("ip", "address", "delete", "::1/128", "dev", "lo")
    for address in addresses:
        family = ["nodad"] if ":" in address else []
        run("ip", "address", "add", f"{address}/{128 if ':' in address else 32}", "dev", "lo", *family)
    env = {"AZURE_TENANT_ID": "t.example", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s", "DEFENDER_GATEWAY_ADMIN_LISTEN": f"[::]:{ADMIN}",
           "DEFENDER_GATEWAY_SERVER_LISTEN": f"[::]:{DATA}", "DEFENDER_GATEWAY_SERVER_ALLOW_NON_LOOPBACK": "true"}
    gateway = subprocess.Popen([binary, "run"], env=env, stderr=subprocess.DEVNULL)
    try:
        for command in (["wait", "--max", "20s"], ["healthcheck"], ["healthcheck", "--ready"], ["status"]):
            subprocess.run([binary, *command], env=env, check=True, timeout=60, stdout=subprocess.DEVNULL)
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            for port, path, expected in ((ADMIN, "/readyz", "200"), (DATA, "/nowhere", "404")):
                command = ["curl", "--silent", "--noproxy", "*", "--output", "/dev/null", "--write-out", "%{http_code}", f"http://{host}:{port}{path}"]
                said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
                if said != expected:
                    sys.exit(f"{name}: http://{host}:{port}{path} answers {said} instead of {expected}")
    finally:
        gateway.terminate()
        gateway.wait(30)


def main(binary):
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    for name in FAMILIES:
        subprocess.run(["unshare", *user, "--net", sys.executable, __file__, binary, name], check=True)
    print(f"a gateway on [::] answers with {', '.join(FAMILIES)}")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else inside(*sys.argv[1:])
