#!/usr/bin/env python3
"""The chart's README lists every value with its default and the comment above it in values.yaml.

    chart_readme.py             exit status 1 when it is out of date
    chart_readme.py --write     writes it anew
"""
import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "deploy/helm/defender-gateway"
HEAD = """# defender-gateway, as a chart

The shared service for several applications, and a named template for the sidecar in your own chart.
[deploy/README.md](../../README.md) explains both; [values.yaml](values.yaml) has the same as below, to copy from.

```sh
helm template scans deploy/helm/defender-gateway --namespace tools
```

| value | default | meaning |
|---|---|---|
"""


def comments(text):
    """By path of a key, the comment right above it."""
    found, path, above = {}, [], []
    for line in text.splitlines():
        if match := re.match(r"( *)# ?(.*)", line):
            above.append(match[2])
        elif match := re.match(r"( *)([A-Za-z_]+):", line):
            path = path[:len(match[1]) // 2] + [match[2]]
            found[".".join(path)] = " ".join(above).replace("|", "\\|")
            above = []
        else:
            above = []
    return found


def rows(values, said, path=()):
    for key, value in values.items():
        name = ".".join((*path, key))
        # Members of these are examples of what may be there, not values with a meaning of their own.
        if isinstance(value, dict) and value and name not in ("config", "resources", "dashboard.labels", "nodeSelector"):
            if said.get(name):
                yield f"| `{name}` | | {said[name]} |"
            yield from rows(value, said, (*path, key))
        else:
            yield f"| `{name}` | `{json.dumps(value)}` | {said.get(name, '')} |".replace("…", "...")


def main(write):
    text = (CHART / "values.yaml").read_text()
    page = HEAD + "\n".join(rows(yaml.safe_load(text), comments(text))) + "\n"
    file = CHART / "README.md"
    if write:
        file.write_text(page)
    elif not file.exists() or file.read_text() != page:
        sys.exit(f"{file} is out of date; tests/deploy/chart_readme.py --write")
    print(f"the chart's README lists its {page.count(chr(10) + '| `')} values")


if __name__ == "__main__":
    main("--write" in sys.argv[1:])
