#!/usr/bin/env python3
"""The JSON Schema of the configuration is sound, fits every configuration file of the project, refuses mistakes, and is the one that the
chart checks its values with.

    schema.py             exit status 1 when anything is wrong
    schema.py --write     writes the chart's part anew
"""
import copy
import json
import pathlib
import sys
import tomllib

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/defender-gateway/values.schema.json"
# What the chart sets itself or refuses: its templates say so in better words than a schema would.
OF_THE_CHART = {"server": {"hosts", "allow_non_loopback"}, "credentials": {"client_secret"}}
MISTAKES = {
    "an unknown key": {"cache": {"tll": "30s"}},
    "an unknown section": {"caches": {}},
    "a duration without a unit": {"cache": {"ttl": 30}},
    "an unknown unit": {"cache": {"ttl": "30sec"}},
    "a size that is a duration": {"cache": {"max_size": "64m"}},
    "a number out of range": {"merge": {"max_ids": 1}},
    "a word that is no choice": {"quota": {"on_unknown_past": "emtpy"}},
    "a list that is a text": {"quota": {"limits": "100/1m"}},
    "a region without an address": {"defender": {"regions": [{"name": "eu"}]}},
    "a weight of nothing": {"callers": {"weights": {"a": 0}}},
    "a secret": {"credentials": {"client_secret": "s"}},
}


def for_chart(schema):
    """The sections as Helm's draft 7 knows them, which is all the same here."""
    sections = copy.deepcopy(schema["properties"])
    for section, keys in OF_THE_CHART.items():
        for key in keys:
            sections[section]["properties"][key] = {"description": "Not here: the chart says where."}
    for section in sections.values():
        for key in section["properties"].values():
            key.pop("x-environment", None)
            key.pop("x-reload", None)
            key.pop("default", None)
    return {"type": "object", "additionalProperties": False, "properties": sections}


def main(write):
    schema = json.loads((ROOT / "config/gateway.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    files = sorted((ROOT / "config").glob("*.toml"))
    assert files
    for file in files:
        for error in validator.iter_errors(tomllib.loads(file.read_text())):
            sys.exit(f"{file}: {error.json_path}: {error.message}")
    for name, mistake in MISTAKES.items():
        assert not validator.is_valid(mistake), f"{name} is not found"
    values = json.loads(CHART.read_text())
    expected = for_chart(schema)
    if write:
        values["properties"]["config"] = expected
        CHART.write_text(json.dumps(values, indent=2) + "\n")
    elif values["properties"]["config"] != expected:
        sys.exit(f"{CHART}: config is out of date; tests/deploy/schema.py --write")
    jsonschema.Draft7Validator.check_schema(values)
    print(f"the schema fits {len(files)} files and the chart, and finds {len(MISTAKES)} kinds of mistakes")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
