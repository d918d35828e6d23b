#!/usr/bin/env python3
"""Every YAML, TOML and shell block of the documents holds what it says.

    docs.py BINARY

YAML must parse; a kustomization is rendered and linted, with `vendor/defender-gateway` being this repository. TOML must pass the
gateway's own check. Shell must parse; lines that only render or check are run; the subcommands and options of defender-gateway, kubectl
and helm must exist; files of this repository must be there. Links must lead somewhere, and every version must be the program's.
"""
import functools
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap

import yaml

import lint

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("*.md", ".github/*.md", "src/*.md", "tests/*.md", "tests/bench/*.md", "deploy/**/*.md", "config/**/*.md")
DOCUMENTS = sorted(file for pattern in FOLDERS for file in ROOT.glob(pattern))
# Versions in the documents that are not this program's: the example applications', curl's, cargo-auditable's, the stores' that were
# tried, and the oldest Kubernetes.
OTHERS = {"6.0.16", "6.2.14", "7.0.15", "8.0.2", "8.1.1", "9.1.2", "0.7.7", "1.2.3", "1.2.4", "1.29.0", "8.10.1"}
KUBECTL = {"annotate", "apply", "create", "debug", "delete", "describe", "diff", "exec", "get", "kustomize", "label", "logs", "port-forward",
           "rollout", "scale"}
wrong = []


def blocks():
    for file in DOCUMENTS:
        text = file.read_text()
        for match in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```", text, re.M | re.S):
            place = f"{file.relative_to(ROOT)}:{text[:match.start()].count(chr(10)) + 2}"
            yield place, match[2], textwrap.dedent(match[3])


def run(place, command, cwd=ROOT, env=None):
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode:
        wrong.append(f"{place}: {shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout


def check_yaml(place, text):
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        wrong.append(f"{place}: {error}")
        return
    world = lint.World([d for d in documents if isinstance(d, dict)])
    for policy in [d for d in world.documents if d.get("kind") == "NetworkPolicy"]:
        wrong.extend(f"{place}: {' '.join(finding)}" for _, *finding in lint.way_out(policy))
    for pod in world.pods:
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


def check_toml(place, text, binary):
    """A configuration, with its files made up, and ids in place of the examples' zeros, which `check` refuses."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "file").write_text("value")
        named = lambda match: f'{match[1]} = "{folder / ("state" if match[1] == "state_file" else "file")}"'
        text = text.replace("00000000-0000-0000-0000-000000000000", "11111111-2222-3333-4444-555555555555")
        (folder / "gateway.toml").write_text(re.sub(r'^(\w+_file) = ".+?"', named, text, flags=re.M))
        env = {"AZURE_TENANT_ID": "t.example", "AZURE_CLIENT_ID": "c"} | ({} if "client_secret_file" in text else {"AZURE_CLIENT_SECRET": "s"})
        run(place, [binary, "check", "--config", str(folder / "gateway.toml")], env=env)


@functools.cache
def options(*command):
    """What a program's help says about one of its commands."""
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    return None if done.returncode else set(re.findall(r"--[a-z][a-z-]*", done.stdout))


def check_options(place, words, *command):
    known = options(*command)
    if known is None:
        wrong.append(f"{place}: there is no {shlex.join(command)}")
        return
    if command[0] == "kubectl":
        known = known | set(re.findall(r"--[a-z][a-z-]*", subprocess.run(["kubectl", "options"], capture_output=True, text=True).stdout))
    if "--" in words:
        words = words[:words.index("--")]
    for option in [w.split("=")[0] for w in words if w.startswith("--")]:
        if option not in known:
            wrong.append(f"{place}: {shlex.join(command[-2:])} has no {option}")


def check_command(place, words, binary):
    if words[0] in ("sudo", "exec"):
        words = words[1:]
    if words[:2] == ["cargo", "run"] and "--" in words:
        words = ["defender-gateway", *words[words.index("--") + 1:]]
    for sign in (">", "|"):
        words = words[:words.index(sign)] if sign in words else words
    program = pathlib.Path(words[0]).name
    if program == "defender-gateway":
        check_options(place, words, binary, words[1])
    elif program == "kubectl":
        verb = next((w for w in words if w in KUBECTL), None)
        if verb is None:
            wrong.append(f"{place}: which command of kubectl is meant? {shlex.join(words)}")
        else:
            more = words[words.index(verb) + 1:][:2] if verb == "create" else []
            check_options(place, words, "kubectl", verb, *more)
        if verb == "kustomize":
            run(place, words)
    elif program == "helm":
        check_options(place, words, "helm", words[1])
        # The reader's own chart, "."; render.py renders the example of one.
        if words[1] in ("template", "lint") and "." not in words:
            run(place, words)
    elif program == "promtool":
        run(place, words)


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
        if words:
            check_command(place, words, binary)


def links():
    """Relative links lead somewhere, and commands in running text exist."""
    for file in DOCUMENTS:
        text = file.read_text()
        for target, anchor in re.findall(r"\]\(([^)#: ]*)(#[^)]*)?\)", text):
            page = file.parent / target if target else file
            if not page.exists():
                wrong.append(f"{file.relative_to(ROOT)}: the link {target} leads nowhere")
            elif anchor and anchor not in anchors(page):
                wrong.append(f"{file.relative_to(ROOT)}: {target} has no {anchor}")


def anchors(page):
    """The anchors that a forge gives to headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {"#" + re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def inline(binary):
    for file in DOCUMENTS:
        for command in re.findall(r"`defender-gateway ([a-z]+)", file.read_text()):
            if options(binary, command) is None:
                wrong.append(f"{file.relative_to(ROOT)}: there is no command {command}")


def versions():
    """Whoever releases changes one number everywhere: no other version is in deploy/ or in the README's examples."""
    version = re.search(r'^version = "(.+?)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    seen = 0
    for file in [*DOCUMENTS, *ROOT.glob("deploy/**/*")]:
        if not file.is_file() or file.name == "rules_test.yaml" or file.suffix == ".json":
            continue
        image = r"defender-gateway[:@ ]v?(\d+\.\d+\.\d+)" if file.parent == ROOT else r"(?<![\d.:])(\d+\.\d+\.\d+)(?![\d.])"
        for found in re.findall(image, file.read_text()):
            seen += 1
            if found != version and found not in OTHERS:
                wrong.append(f"{file.relative_to(ROOT)} says {found}; the program is {version}")
    if seen < 10:
        wrong.append(f"only {seen} versions found in deploy/")


def hosts():
    """The hosts to let through a firewall are those that the program knows; short forms are put together."""
    source = (ROOT / "src/config/cloud.rs").read_text()
    known = set(re.findall(r'"https://([^"/]+)"', source[source.index("pub fn regions"):source.index("pub fn scope")]))
    table = (ROOT / "deploy/README.md").read_text().split("## Ways out")[1].split("\n## ")[0]
    stated = set(re.findall(r"`([\w-]+(?:\.[\w-]+){2,})`", table.split("`defender.region`")[0]))
    for names, suffix in re.findall(r"((?:`[\w-]+` )+)before `(\.[\w.-]+)`", table):
        stated |= {name + suffix for name in re.findall(r"`([\w-]+)`", names)}
    if stated != known:
        wrong.append(f"deploy/README.md, Ways out: {', '.join(sorted(stated ^ known))}")
    policy = yaml.safe_load((ROOT / "deploy/kubernetes/components/cilium/policy.yaml").read_text())
    names = [n.get("matchName") or n["matchPattern"] for e in policy["spec"]["egress"] for n in e.get("toFQDNs") or []]
    for host in known:
        if host.endswith(".com") and not any(re.fullmatch(n.replace(".", r"\.").replace("*", r"[\w-]+"), host) for n in names):
            wrong.append(f"components/cilium does not let {host} through")


def headers(described):
    """The names of all header fields in a description, of requests and of answers."""
    found = set()
    if isinstance(described, dict):
        if described.get("in") == "header":
            found.add(described["name"])
        found.update(described["headers"] if isinstance(described.get("headers"), dict) else ())
        described = list(described.values())
    if isinstance(described, list):
        found.update(*map(headers, described))
    return found


def interface(binary):
    """The page for tool authors names the header fields and error codes of the OpenAPI description, and no other codes."""
    described = json.loads(subprocess.run([binary, "openapi"], capture_output=True, text=True, check=True).stdout)
    page = (ROOT / "deploy/api.md").read_text()
    named = {name.split(":")[0].lower() for name in re.findall(r"`([^`\n]+)`", page)}
    missing = sorted(name for name in headers(described) if name.lower() not in named)
    if missing:
        wrong.append(f"deploy/api.md does not name the header fields {', '.join(missing)}")
    rows = [line.rsplit("|", 2)[1] for line in page.split("## Errors")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    stated = {code for row in rows[1:] for code in re.findall(r"`(\w+)`", row)}
    problems = [answer["content"]["application/problem+json"]["schema"]["properties"]["error"]["properties"]["code"]
                for name, answer in described["components"]["responses"].items() if name.startswith(("Problem", "Error"))]
    codes = {code for problem in problems for code in problem["enum"]}
    if stated != codes:
        wrong.append(f"deploy/api.md, Errors: {', '.join(sorted(stated ^ codes))}")


def main(binary):
    count = 0
    for place, language, text in blocks():
        count += 1
        if language == "yaml":
            check_yaml(place, text)
        elif language == "toml":
            check_toml(place, text, binary)
        elif language == "sh":
            check_shell(place, text, binary)
        # The integration tests run these (operations::readme), but for C# and PowerShell, which they have not.
        elif language not in ("text", "python", "javascript", "csharp", "powershell"):
            wrong.append(f"{place}: a block in {language or 'no language'}, which nothing checks")
    links()
    inline(binary)
    versions()
    hosts()
    interface(binary)
    if count < 20:
        wrong.append(f"only {count} blocks found")
    print("\n".join(wrong) or f"{count} blocks of {len(DOCUMENTS)} documents, all links and all versions are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
