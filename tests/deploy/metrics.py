#!/usr/bin/env python3
"""Every metric and label of the alerts and the dashboard exists in the running program, and promtool can read all of it.

    metrics.py BINARY
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

import chroot

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALERTS, DASHBOARD = ROOT / "deploy/alerts", ROOT / "deploy/grafana/defender-gateway.json"
# Prometheus puts these on while scraping.
SCRAPED = {"namespace", "pod", "job", "instance", "container"}
# These appear only with merging or with a store, which the run below has not.
SOMETIMES = {"defender_gateway_merged_calls_total", "defender_gateway_merged_requests_total", "defender_gateway_store_up"}
wrong, notes = [], []


def scrape(binary):
    """The metrics of a gateway that has answered a caller, refused one and been told nonsense."""
    simulator, settings, env, _ = chroot.simulate(binary)
    regions = "".join(f'[[defender.regions]]\nname = "{r["name"]}"\nurl = "{r["url"]}"\n' for r in settings["defender"]["regions"])
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(regions)
        file.flush()
        env |= {"DEFENDER_GATEWAY_CONFIG": file.name, "DEFENDER_GATEWAY_SERVER_LISTEN": f"127.0.0.1:{chroot.DATA}",
                "DEFENDER_GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{chroot.ADMIN}"}
        gateway = subprocess.Popen([binary, "run"], env=env, stderr=subprocess.DEVNULL)
        try:
            subprocess.run([binary, "wait", "--admin", f"127.0.0.1:{chroot.ADMIN}"], check=True, timeout=60)
            path = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId"
            for body in ('{"ScanDefinitionIds": ["a"]}', '{"ScanDefinitionIds": ["a"]}', "nonsense"):
                chroot.get(chroot.DATA, path, "POST", body)
            return chroot.get(chroot.ADMIN, "/metrics")[1]
        finally:
            for process in (gateway, simulator):
                process.terminate()
                process.wait(30)


def exposed(text):
    """Label names by series name."""
    series = {}
    for name, labels in re.findall(r"^(defender_gateway_\w+)(?:\{(.*)\})? ", text, re.M):
        series.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return series


def check_expression(place, expression, series):
    for name, braces in re.findall(r"(defender_gateway_\w+)\s*(?:\{([^}]*)\})?", expression):
        if name not in series:
            if name not in SOMETIMES:
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
    done = subprocess.run(["promtool", *args], input=text, capture_output=True, text=True, timeout=60)
    if done.returncode:
        wrong.append(f"promtool {' '.join(args)}:\n{done.stdout}{done.stderr}")


def alerts(series):
    rules = yaml.safe_load((ALERTS / "rules.yaml").read_text())["groups"][0]["rules"]
    tests = (ALERTS / "rules_test.yaml").read_text()
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
    promtool("test", "rules", str(ALERTS / "rules_test.yaml"))
    return len(rules)


def dashboard(series):
    board = json.loads(DASHBOARD.read_text())
    targets = [(p["title"], t["expr"]) for p in board["panels"] for t in p.get("targets", [])]
    ids = [p["id"] for p in board["panels"]]
    if len(set(ids)) != len(ids) or board["uid"] != "defender-gateway":
        wrong.append("the dashboard needs unique panel ids and its fixed uid")
    rules = []
    for number, (title, expression) in enumerate(targets):
        check_expression(f"dashboard, {title}", expression, series)
        plain = expression.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$job", ".*")
        rules.append({"record": f"panel_{number}", "expr": plain})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, file)
        file.flush()
        promtool("check", "rules", file.name)
    used = " ".join(expression for _, expression in targets)
    for family in {re.sub(r"_(bucket|sum|count)$", "", name) for name in series} - {"defender_gateway_cache_entries"}:
        if family not in used:
            notes.append(f"note: the dashboard does not show {family}")
    return len(targets)


def main(binary):
    text = scrape(binary)
    series = exposed(text)
    promtool("check", "metrics", text=text)
    rules, targets = alerts(series), dashboard(series)
    print("\n".join(notes), end="\n" if notes else "")
    print("\n".join(wrong) or f"{rules} alerts and {targets} dashboard queries fit the program's {len(series)} series")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
