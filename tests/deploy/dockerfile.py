#!/usr/bin/env python3
"""The Dockerfile's build does not take what its caches hold for what it was given: they are shared with builds of other commits, and
Cargo goes by the age of files. The command runs here on files that are older than the cache, with another program in Cargo's place.

    dockerfile.py
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

DOCKERFILE = pathlib.Path(__file__).resolve().parents[2] / "deploy/Dockerfile"
# Says what Cargo would take for built already.
IN_PLACE_OF_THE_BUILD = """#!/bin/sh
find Cargo.toml Cargo.lock src tests/simulator -type f ! -newer cached | sed 's/^/taken from the cache: /' >&2
echo "$PWD/cached"
"""


def main():
    text = DOCKERFILE.read_text().replace("\\\n", "")
    (command,) = [line.removeprefix("RUN ") for line in text.splitlines() if line.startswith("RUN") and "build-static.sh" in line]
    mounts = re.findall(r"--mount=(\S+)", command)
    command = re.sub(r"--mount=\S+", "", command)
    unlocked = [mount for mount in mounts if "type=cache" in mount and "sharing=locked" not in mount]
    assert not unlocked, f"two builds at once would change {unlocked} under each other's hands"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for path in ("Cargo.toml", "Cargo.lock", "src/main.rs", "src/server/mod.rs", "tests/simulator/src/lib.rs"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("")
            os.utime(folder / path, (0, 0))
        (folder / "deploy").mkdir()
        build = folder / "deploy/build-static.sh"
        build.write_text(IN_PLACE_OF_THE_BUILD)
        build.chmod(0o755)
        (folder / "cached").write_text("")
        os.utime(folder / "cached", (1000, 1000))
        moved = command.replace("/out/", f"{folder}/out/")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", moved], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not done.stderr, f"{command.strip()}: {done.stderr}"
        assert (folder / "out/defender-gateway").exists()
    print("the image's build makes its program of its own files, whatever its caches hold")


if __name__ == "__main__":
    sys.exit(main())
