#!/usr/bin/env python3
"""Every YAML and shell block of deploy/**/*.md holds what it says.

    docs.py BINARY

YAML must parse; a kustomization is rendered and linted, with `vendor/defender-gateway` being this repository. Shell must parse; lines
that only render are run; subcommands and options of defender-gateway must exist; files of this repository must be there.
"""
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import yaml

import lint

ROOT = pathlib.Path(__file__).resolve().parents[2]
wrong = []


def blocks():
    for file in sorted(ROOT.glob("deploy/**/*.md")):
        for match in re.finditer(r"^```(\w+)\n(.*?)^```", file.read_text(), re.M | re.S):
            yield f"{file.relative_to(ROOT)}:{file.read_text()[:match.start()].count(chr(10)) + 2}", match[1], match[2]


def run(place, command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    if done.returncode:
        wrong.append(f"{place}: {shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def check_yaml(place, text):
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        wrong.append(f"{place}: {error}")
        return
    for pod in lint.World([d for d in documents if isinstance(d, dict)]).pods:
        if pod.gateway is not None and pod.init and pod.init[0] is not pod.gateway:
            wrong.append(f"{place}: the patch would move {pod.init[0].get('name')} before the gateway")
    if any(isinstance(d, dict) and d.get("kind") == "Kustomization" for d in documents):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            shutil.copytree(ROOT / "deploy/kubernetes", folder / "vendor/defender-gateway/deploy/kubernetes")
            for resource in documents[0].get("resources") or []:
                if not resource.startswith("vendor/"):
                    shutil.copy(ROOT / "deploy/kubernetes/overlays/sidecar/app.yaml", folder / resource)
            (folder / "kustomization.yaml").write_text(text)
            rendered = run(place, ["kubectl", "kustomize", str(folder)])
            wrong.extend(f"{place}: {' '.join(finding)}" for finding in lint.lint(rendered))
            if rendered and not any(p.gateway for p in lint.World([d for d in yaml.safe_load_all(rendered) if d]).pods):
                wrong.append(f"{place}: renders no gateway")


def check_shell(place, text, binary):
    run(place, ["bash", "-n", "-c", text])
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a line of a longer quotation; bash -n has judged the whole
        for path in re.findall(r"(?<![\w/])((?:deploy|tests|config)/[\w./-]+)", line):
            if "vendor" not in line and not (ROOT / path).exists():
                wrong.append(f"{place}: there is no {path}")
        if words[:2] == ["kubectl", "kustomize"]:
            run(place, words)
        elif words[:2] == ["helm", "template"]:
            run(place, [shutil.which("helm") or str(pathlib.Path(sys.executable).parent / "helm"), *words[1:]])
        for command, options in re.findall(r"(?:^|[\s/])defender-gateway ([a-z]+)((?: --[a-z]+(?:[ =][^\s-][^\s]*)?)*)\s*$", line):
            said = run(place, [binary, command, "--help"])
            for option in re.findall(r"--[a-z]+", options):
                if option not in said:
                    wrong.append(f"{place}: {command} has no {option}")


def links():
    """Relative links lead somewhere."""
    for file in ROOT.glob("deploy/**/*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
            if not (file.parent / target).exists():
                wrong.append(f"{file.relative_to(ROOT)}: the link {target} leads nowhere")


def versions():
    """The version in every example is the program's."""
    version = re.search(r'^version = "(.+?)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    for file in ROOT.glob("deploy/**/*"):
        if file.is_file():
            for tag in re.findall(r"defender-gateway:(\d+\.\d+\.\d+)|^(?:appVersion|version): (\d[\d.]+)$|newTag: (\d[\d.]+)",
                                  file.read_text(), re.M) if "example-app" not in str(file) else []:
                found = next(filter(None, tag))
                if found != version:
                    wrong.append(f"{file.relative_to(ROOT)} says {found}; the program is {version}")


def main(binary):
    count = 0
    for place, language, text in blocks():
        count += 1
        if language == "yaml":
            check_yaml(place, text)
        elif language == "sh":
            check_shell(place, text, binary)
        elif language not in ("text", "toml"):
            wrong.append(f"{place}: a block in {language}, which nothing checks")
    links()
    versions()
    if count < 10:
        wrong.append(f"only {count} blocks found")
    print("\n".join(wrong) or f"{count} blocks, all links and all versions are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
