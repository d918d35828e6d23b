#!/usr/bin/env python3
"""Every rule of lint.py finds its mistake and nothing else, and clean manifests pass."""
import copy
import pathlib
import re
import sys

import yaml

import lint

CORPUS = pathlib.Path(__file__).parent / "corpus"


def apply(document, step):
    """One operation of RFC 6902; `~` is the pod's spec."""
    def walk(path):
        whole = re.sub("^~", "/spec/template/spec", path).strip("/")
        *parents, last = [key.replace("~1", "/") for key in whole.split("/")]
        place = document
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        return place, (int(last) if isinstance(place, list) and last != "-" else last)

    value = copy.deepcopy(step.get("value"))
    if step["op"] == "move":
        place, key = walk(step["from"])
        value = place.pop(key)
    place, key = walk(step["path"])
    if step["op"] == "remove":
        del place[key]
    elif step["op"] == "replace":
        assert key in place if isinstance(place, dict) else key < len(place), step
        place[key] = value
    elif isinstance(place, list):
        place.insert(len(place) if key == "-" else key, value)
    else:
        place[key] = value


def main():
    clean = {name: (CORPUS / f"{name}.yaml").read_text() for name in ("sidecar", "shared")}
    wrong = [f"{name} is clean, but: {found}" for name, text in clean.items() for found in lint.lint(text)]
    mistakes = yaml.safe_load((CORPUS / "mistakes.yaml").read_text())
    for number, mistake in enumerate(mistakes, 1):
        documents = list(yaml.safe_load_all(clean[mistake["in"]]))
        document = next(d for d in documents if d["kind"] == mistake["at"])
        for step in mistake["patch"]:
            apply(document, step)
        found = {name for _, name, _ in lint.lint(yaml.safe_dump_all(documents))}
        if mistake["rule"] not in found or found - {mistake["rule"], *mistake.get("also", [])}:
            wrong.append(f"mistake {number} should be found as {mistake['rule']}; found: {sorted(found) or 'nothing'}")
    for name in sorted((lint.RULES.keys() | lint.WHOLE) - {m["rule"] for m in mistakes}):
        wrong.append(f"no mistake shows the rule {name}")
    print("\n".join(wrong) or f"{len(mistakes)} mistakes found by {len(lint.RULES.keys() | lint.WHOLE)} rules, clean manifests pass")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
