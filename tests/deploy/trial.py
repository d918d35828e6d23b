#!/usr/bin/env python3
"""Plays deploy/kubernetes/overlays/trial, the first thing that a newcomer applies: the rendered pod's containers as processes, with the
environment, arguments, files and script of the manifest, only on other ports. A Service of the gateway's name exists, and other pods
reach the health port only.

    trial.py BINARY
"""
import base64
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import yaml

import lint

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORTS = [8080, 8090, 8091, 8092, 8093, 8094, 9901]


def moved():
    """A translation of addresses to ports that are free; consecutive ones stay consecutive."""
    for base in range(20000, 32000, 100):
        ports = {port: base + number for number, port in enumerate(PORTS)}
        try:
            for port in ports.values():
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return lambda text: re.sub(r"(?<=[\d.\]]:)(\d{4})\b", lambda m: str(ports.get(int(m[1]), m[1])), text)
    sys.exit("no free ports")


def data(world, kind, name, namespace):
    found = world.find(kind, name, namespace)
    assert found is not None, f"the render has no {kind} {name}"
    return found.get("data") or {}


def files(pod, container, root, move):
    """The volumes of a container as directories below `root`; returns what leads there in place of the mount paths."""
    places = {}
    for mount in container.get("volumeMounts") or []:
        volume, folder = pod.volumes[mount["name"]], root / mount["name"]
        folder.mkdir()
        places[mount["mountPath"]] = str(folder)
        if "configMap" in volume:
            content = {k: v.encode() for k, v in data(pod.world, "ConfigMap", volume["configMap"]["name"], pod.namespace).items()}
        else:
            content = {k: base64.b64decode(v) for k, v in data(pod.world, "Secret", volume["secret"]["secretName"], pod.namespace).items()}
        for name, value in content.items():
            (folder / name).write_bytes(move(value.decode()).encode())
    return places


def variables(pod, container, places, move):
    env = service_links("defender-gateway", 8080)
    for entry in container.get("env") or []:
        reference = (entry.get("valueFrom") or {}).get("configMapKeyRef")
        value = data(pod.world, "ConfigMap", reference["name"], pod.namespace)[reference["key"]] if reference else entry["value"]
        for path, folder in places.items():
            value = value.replace(path, folder)
        env[entry["name"]] = move(value)
    return env


def service_links(name, port):
    """What Kubernetes puts into every pod that starts after a Service of this name, and a sidecar cannot switch off."""
    prefix, address = name.upper().replace("-", "_"), "10.0.0.1"
    one = f"{prefix}_PORT_{port}_TCP"
    return {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(port), f"{prefix}_SERVICE_PORT_HTTP": str(port),
            f"{prefix}_PORT": f"tcp://{address}:{port}", one: f"tcp://{address}:{port}", f"{one}_PROTO": "tcp", f"{one}_PORT": str(port),
            f"{one}_ADDR": address}


def reachable_from_outside(port):
    """Whether another pod could connect: whether somebody listens on this machine's own address. None: it has no other than loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        try:
            route.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return None
        address = route.getsockname()[0]
    try:
        socket.create_connection((address, port), 5).close()
        return True
    except ConnectionRefusedError:
        return False


def main(binary):
    rendered = subprocess.run(["kubectl", "kustomize", str(ROOT / "deploy/kubernetes/overlays/trial")], capture_output=True, text=True, check=True)
    pod = next(p for p in lint.World([d for d in yaml.safe_load_all(rendered.stdout) if d]).pods)
    move, started, app = moved(), [], pod.app[0]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for container in pod.init:
                env = variables(pod, container, files(pod, container, pathlib.Path(folder), move), move)
                command = [binary, *map(move, container["args"])]
                started.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                if container is pod.gateway:
                    # The kubelet's startup probe: what comes next starts after it.
                    admin = move("127.0.0.1:9901")
                    subprocess.run([binary, "wait", "--max", "30s", "--admin", admin], check=True, timeout=60)
            script = [move(a).replace("sleep 10", "sleep 0.2") for a in app["args"]]
            asker = subprocess.Popen([*app["command"], *script], stdout=subprocess.PIPE, text=True)
            started.append(asker)
            seen = []
            # The first requests may come before the simulator listens.
            for line in asker.stdout:
                seen.append(line.strip())
                if "; hit;" in line or len(seen) > 50:
                    break
            outside = [reachable_from_outside(int(move(f"127.0.0.1:{port}").split(":")[1])) for port in (8080, 9901)]
            assert outside in ([False, True], [None, None]), f"callers' port, health's port from outside the pod: {outside}"
            assert any(re.match("200 defender-gateway; fwd=miss; stored", s) for s in seen), seen
            assert re.match("200 defender-gateway; hit; ttl=", seen[-1]), seen
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait(30)
    print(f"the trial's application saw: {' | '.join(seen[-2:])}")
    if outside == [None, None]:
        print("skipped: without an address of this machine's, nobody asks from outside the pod")
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
