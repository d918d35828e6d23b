#!/usr/bin/env python3
"""Every metric and label of the alerts, the dashboard and deploy/metrics.md exists in the running program and the other way round, and
promtool can read all of it.

    metrics.py BINARY             exit status 1 when anything is wrong
    metrics.py --write BINARY     writes the reference in deploy/metrics.md anew
"""
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import yaml

import chroot

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALERTS, DASHBOARD = ROOT / "deploy/alerts", ROOT / "deploy/grafana/defender-gateway.json"
# Prometheus puts these on while scraping.
SCRAPED = {"namespace", "pod", "job", "instance", "container"}
REFERENCE = ROOT / "deploy/metrics.md"
BEGIN, END = "<!-- metrics:begin -->\n", "<!-- metrics:end -->"
# Labels whose values are not all there from the start: what they are, and how many there can be.
OPEN = {
    "status": ("an HTTP status, or for upstream calls the name of an error (RFC 9209)", 80),
    "outcome": ("`hit`, `stale`, `collapsed`, `merged`, `forwarded`, `refused`, `failed`, `invalid`, `gone`", 9),
    "operation": ("an operation's name, see api.md; for requests also `none`: the path is unknown", 7),
    "region": ("a host's region; at most as many as hosts are configured", 32),
    "window": ("a window of `quota.limits`", 4),
    "caller": ("a caller's name; at any time the most active, of `queue_caller_…` the 20 with the most requests waiting, and `(others)`", 51),
    "version": ("the program's", 1),
    "hash": ("16 hexadecimal digits, of the running configuration", 1),
}
wrong, notes = [], []


@contextlib.contextmanager
def redis(folder):
    """A store, gone afterwards; its address."""
    port = chroot.free_ports()[0]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
    try:
        until("Redis", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def until(what, check, patience=30):
    end = time.monotonic() + patience
    while True:
        try:
            if check():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {patience} s")
        time.sleep(0.02)


def scrape(binary, certificate=False):
    """The metrics of a gateway with everything switched on, that has answered a caller, refused one and been told nonsense. With a
    certificate, which the simulator does not know, it has refused all of them."""
    simulator, settings, env, _ = chroot.simulate(binary)
    regions = "".join(f'[[defender.regions]]\nname = "{r["name"]}"\nurl = "{r["url"]}"\n' for r in settings["defender"]["regions"])
    with tempfile.TemporaryDirectory() as folder, redis(folder) as store:
        file = pathlib.Path(folder) / "gateway.toml"
        file.write_text(regions)
        env |= {"DEFENDER_GATEWAY_CONFIG": str(file), "DEFENDER_GATEWAY_SERVER_LISTEN": f"127.0.0.1:{chroot.DATA}",
                "DEFENDER_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{chroot.ADMIN}", "DEFENDER_GATEWAY_STORE_URL": store,
                "DEFENDER_GATEWAY_MERGE_ENABLED": "true",
                # Nobody is there to take the traces.
                "DEFENDER_GATEWAY_TELEMETRY_OTLP_ENDPOINT": f"http://127.0.0.1:{chroot.free_ports()[0]}"}
        if certificate:
            env |= {"DEFENDER_GATEWAY_CREDENTIALS_KIND": "certificate",
                    "DEFENDER_GATEWAY_CREDENTIALS_CERTIFICATE_FILE": str(ROOT / "tests/data/sim/app-cert.pem"),
                    "DEFENDER_GATEWAY_CREDENTIALS_PRIVATE_KEY_FILE": str(ROOT / "tests/data/sim/app-key.pem")}
        gateway = subprocess.Popen([binary, "run"], env=env, stderr=subprocess.DEVNULL)
        try:
            subprocess.run([binary, "wait", "--admin", f"127.0.0.1:{chroot.ADMIN}"], check=True, timeout=60)
            path = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
            for body in ('{"ScanDefinitionIds": ["a"]}', '{"ScanDefinitionIds": ["a"]}', "nonsense"):
                chroot.get(chroot.DATA, path, "POST", body)
            # Regions are measured in the background.
            until("every region has been measured",
                  lambda: chroot.get(chroot.ADMIN, "/metrics")[1].count("region_rtt_seconds{") == len(settings["defender"]["regions"]))
            return chroot.get(chroot.ADMIN, "/metrics")[1]
        finally:
            for process in (gateway, simulator):
                process.terminate()
                process.wait(30)


def exposed(text):
    """Label names by series name."""
    series = {}
    for name, labels in re.findall(r"^((?:defender_gateway|process)_\w+)(?:\{(.*)\})? ", text, re.M):
        series.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return series


def registered():
    """What the source registers by name, so that a metric which only an event brings to light is not forgotten."""
    for file in (ROOT / "src").glob("**/*.rs"):
        if "tests" not in file.parts and file.name != "tests.rs":
            production = re.split(r"^#\[cfg\(test\)\]\n(?:pub\([a-z]+\) )?mod \w+ \{", file.read_text(), flags=re.M)[0]
            yield from re.findall(r'register(?:_with_unit)?\(\s*"([a-z_]+)"', production)
            if "metrics! {" in production and file.name != "declare.rs":
                yield from re.findall(r'^ {8}(?:pub\([a-z]+\) )?[a-z_]+: [^"\n]* = "([a-z_]+)"', production, re.M)


def reference(text):
    """The metrics as a Markdown table."""
    helps, kinds = (dict(re.findall(rf"^# {what} (\S+) (.*)$", text, re.M)) for what in ("HELP", "TYPE"))
    rows, labels_of_all = [], {}
    for family in sorted(kinds):
        values = {}
        for labels in re.findall(rf"^{family}(?:_bucket|_sum|_count)?(?:\{{(.*)\}})? ", text, re.M):
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
                values.setdefault(label, set()).add(value)
        for label in values:
            labels_of_all.setdefault(label, set()).add(family)
        most = 1
        for label, found in values.items():
            # A histogram has a sum and a count beside its buckets.
            most *= OPEN[label][1] if label in OPEN else len(found) + 2 * (label == "le")
        named = " · ".join(f"`{label}`" + ("" if label in OPEN else ": " + ", ".join(sorted(found)))
                           for label, found in values.items() if label != "le") or "none"
        rows.append(f"| `{family}` | {kinds[family]} | {named} | {most} | {helps[family].removesuffix('.')} |")
    bounds = [f"| `{label}` | {OPEN[label][0]} | {OPEN[label][1]} |" for label in OPEN if label in labels_of_all]
    return "\n".join(["| metric | type | labels | series at most | meaning |", "|---|---|---|---|---|", *rows, "",
                      "| label | values | at most |", "|---|---|---|", *bounds, ""])


def check_reference(text, series, write):
    page = REFERENCE.read_text()
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    new = reference(text)
    if write:
        REFERENCE.write_text(before + BEGIN + new + END + after)
    elif old != new:
        missing = sorted(set(re.findall(r"^\| `(\w+)`", new, re.M)) ^ set(re.findall(r"^\| `(\w+)`", old, re.M)))
        wrong.append(f"deploy/metrics.md is not what the program has ({', '.join(missing) or 'a description or a label changed'}); "
                     "tests/deploy/metrics.py --write BINARY mends it")
    for label, value in set(re.findall(r'(\w+)="([^"]*)"', text)):
        if label not in OPEN and label != "le" and not re.fullmatch("[a-z_-]+", value):
            wrong.append(f'the label {label}="{value}" is none of a few words: say in OPEN how many values there can be')
    for name in registered():
        if not any(s.startswith(f"defender_gateway_{name}") for s in series):
            wrong.append(f"the source registers {name}, which a scrape does not show: have it appear before its first event")


def check_expression(place, expression, series):
    for name, braces in re.findall(r"((?:defender_gateway|process)_\w+)\s*(?:\{([^}]*)\})?", expression):
        if name not in series:
            wrong.append(f"{place}: the program has no {name}")
            continue
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces):
            if label not in series[name] | SCRAPED:
                wrong.append(f"{place}: {name} has no label {label}")
    known = set().union(*series.values()) | SCRAPED
    for names in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in re.split(r"[,\s]+", names.strip()):
            if label not in known:
                wrong.append(f"{place}: nothing has a label {label}")


def promtool(*args, text=None):
    done = subprocess.run(["promtool", *args], input=text, capture_output=True, text=True, timeout=300)
    if done.returncode:
        wrong.append(f"promtool {' '.join(args)}:\n{done.stdout}{done.stderr}")


def alerts(series):
    rules = yaml.safe_load((ALERTS / "rules.yaml").read_text())["groups"][0]["rules"]
    tests = "".join(file.read_text() for file in ALERTS.glob("rules_*test.yaml"))
    for rule in rules:
        name = rule["alert"]
        check_expression(name, rule["expr"], series)
        runbook = ALERTS / "runbooks" / f"{name}.md"
        if not runbook.exists() or not rule["annotations"]["runbook_url"].endswith(f"/{runbook.name}"):
            wrong.append(f"{name} has no runbook")
        if f'alertname="{name}"' not in tests:
            wrong.append(f"{name} has no unit test")
    names = {rule["alert"] for rule in rules}
    for file in (ALERTS / "runbooks").iterdir():
        if file.stem not in names:
            wrong.append(f"{file.name} belongs to no alert")
        for metric in re.findall(r"`([a-z]+_[a-z_]+(?:_total|_seconds|_bytes|_remaining|_healthy|_waiting))`", file.read_text()):
            if f"defender_gateway_{metric}" not in series and f"defender_gateway_{metric}_bucket" not in series:
                wrong.append(f"{file.name}: the program has no {metric}")
    promtool("check", "rules", str(ALERTS / "rules.yaml"))
    promtool("test", "rules", *map(str, sorted(ALERTS.glob("rules_*test.yaml"))))
    return len(rules)


def dashboard(series, text):
    board = json.loads(DASHBOARD.read_text())
    targets = [(p["title"], t["expr"]) for p in board["panels"] for t in p.get("targets", [])]
    ids = [p["id"] for p in board["panels"]]
    if len(set(ids)) != len(ids) or board["uid"] != "defender-gateway":
        wrong.append("the dashboard needs unique panel ids and its fixed uid")
    rules = []
    for number, (title, expression) in enumerate(targets):
        check_expression(f"dashboard, {title}", expression, series)
        plain = expression.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$job", ".*").replace("$pod", ".*")
        rules.append({"record": f"panel_{number}", "expr": plain})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        promtool("check", "rules", file.name)
    problems(dict(targets)["Problems"], text)
    figures(dict(targets))
    used = " ".join(expression for _, expression in targets)
    for family in sorted({re.sub(r"_(bucket|sum|count)$", "", name) for name in series}):
        if family not in used:
            notes.append(f"note: the dashboard does not show {family}")
    return len(targets)


def problems(expression, text):
    """The dashboard shows every problem that the program knows while it is there, and no other."""
    codes = sorted(set(re.findall(r'^defender_gateway_problem\{.*?code="([\w-]+)"', text, re.M)))
    if len(codes) < 10:
        wrong.append(f"the program shows hardly any problem: {codes}")
    expression = expression.replace("$namespace", "n").replace("$job", "j").replace("$pod", ".*")

    def at(pod, code):
        return f'defender_gateway_problem{{namespace="n", job="j", pod="{pod}", code="{code}"}}'

    tests = []
    for there in codes:
        tests.append({
            "name": there,
            "interval": "1m",
            "input_series": [{"series": at(pod, code), "values": f"0 {int(code == there and pod == 'a')} 0"} for pod in "ab" for code in codes],
            "promql_expr_test": [
                {"expr": expression, "eval_time": "0m", "exp_samples": []},
                {"expr": expression, "eval_time": "1m", "exp_samples": [{"labels": f'{{pod="a", code="{there}"}}', "value": 1}]},
                {"expr": expression, "eval_time": "2m", "exp_samples": []},
            ],
        })
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": tests}, file)
        file.flush()
        promtool("test", "rules", file.name)


def figures(expressions):
    """What the panels with one number show: of a gateway that is well, of one that is not, and of none."""
    def requests(outcome):
        return f'defender_gateway_requests_total{{namespace="n", job="j", pod="a", outcome="{outcome}"}}'

    def mode(mode):
        return f'defender_gateway_mode{{namespace="n", job="j", pod="a", mode="{mode}"}}'

    well = {requests("hit"): "0+30x60", requests("forwarded"): "0+10x60", mode("normal"): "1x60", mode("degraded"): "0x60",
            'defender_gateway_charged_calls_total{namespace="n", job="j", pod="a"}': "0+10x60"}
    ill = well | {mode("normal"): "0x60", mode("degraded"): "1x60", requests("failed"): "0+60x60", requests("refused"): "0+20x60",
                  requests("gone"): "0+20x60", requests("invalid"): "0+20x60"}
    tests = []
    for name, series, shown in [("well", well, {"Requests per upstream call": 4, "Failed": 0, "Not in normal mode": 0}),
                                ("ill", ill, {"Requests per upstream call": 4, "Failed": 0.5, "Not in normal mode": 1}),
                                ("none", {}, {"Requests per upstream call": None, "Failed": None, "Not in normal mode": None})]:
        tests.append({
            "name": name,
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in series.items()],
            "promql_expr_test": [
                {"expr": expressions[title].replace("$namespace", "n").replace("$job", "j").replace("$pod", ".*"), "eval_time": "1h",
                 "exp_samples": [] if value is None else [{"labels": "{}", "value": value}]} for title, value in shown.items()],
        })
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": tests}, file)
        file.flush()
        promtool("test", "rules", file.name)


def main(binary, write):
    texts = [scrape(binary), scrape(binary, certificate=True)]
    for text in texts:
        promtool("check", "metrics", text=text)
    text = "".join(texts)
    series = exposed(text)
    check_reference(text, series, write)
    rules, targets = alerts(series), dashboard(series, text)
    print("\n".join(notes), end="\n" if notes else "")
    print("\n".join(wrong) or f"{rules} alerts and {targets} dashboard queries fit the program's {len(series)} series")
    return 1 if wrong else 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--write"]
    if len(words) != 1:
        sys.exit("metrics.py [--write] BINARY, such as target/debug/defender-gateway")
    sys.exit(main(os.path.abspath(words[0]), "--write" in sys.argv))
