"""Clients that generators make of the OpenAPI description ask a gateway, and understand its answers and its errors.

    generated.py PROGRAM     PROGRAM is defender-gateway

The generators: openapi-python-client, openapi-typescript with openapi-fetch, and @hey-api/openapi-ts. A generator's warning is a failure.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import clients

HERE = pathlib.Path(__file__).parent
TARGET = HERE.parents[1] / "target/clients"
ID = "00000000-0000-4000-8000-000000000001"


def run(*command, cwd=HERE):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    if done.returncode or "warning" in (done.stdout + done.stderr).lower():
        raise SystemExit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")


def generate(program):
    description, folder = TARGET / "openapi.json", TARGET / "generated"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    description.write_bytes(subprocess.run([program, "openapi"], check=True, capture_output=True).stdout)
    tool = pathlib.Path(sys.executable).parent / "openapi-python-client"
    run(tool, "generate", "--path", description, "--output-path", folder / "python", "--meta", "none", "--fail-on-warning",
        "--config", HERE / "generator.yaml")
    bin = HERE / "node_modules/.bin"
    run(bin / "openapi-typescript", description, "--output", folder / "schema.d.ts")
    run(bin / "openapi-ts", "--input", description, "--output", folder / "hey", "--client", "@hey-api/client-fetch", "--silent")
    shutil.copy(HERE / "generated.ts", folder / "generated.ts")
    (folder / "package.json").write_text('{"type": "commonjs"}')
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    # Types are checked: what the description promises is what the client may use.
    run(bin / "tsc", "--project", HERE / "tsconfig.json", "--rootDir", folder, "--outDir", folder / "out", cwd=folder)
    return folder


def ask_python(folder, base):
    sys.path.insert(0, str(folder))
    from python.api.default import list_scan_definitions, scan_definition, scan_history
    from python.client import Client
    from python.models import DefenderError, Problem, ScanHistoryQuestion

    client = Client(base_url=base)
    good = scan_history.sync_detailed(client=client, body=ScanHistoryQuestion(scan_definition_ids=[ID]), top=2)
    assert good.status_code == 200 and len(good.parsed.value) == 2, good
    wrong = scan_history.sync_detailed(client=client, body=ScanHistoryQuestion(scan_definition_ids=[ID]), top=0)
    assert wrong.status_code == 400 and isinstance(wrong.parsed, Problem), wrong
    assert wrong.parsed.error.code == "ODataError", wrong.parsed
    defenders = list_scan_definitions.sync_detailed(client=client, top=0)
    assert defenders.status_code == 400 and isinstance(defenders.parsed, DefenderError), defenders
    assert defenders.parsed.error.code and defenders.parsed.error.message, defenders.parsed
    unknown, impossible = (scan_definition.sync_detailed(id, client=client) for id in ["no-such-id-1", "no-such-id"])
    assert unknown.status_code == 404 and isinstance(unknown.parsed, DefenderError), unknown
    assert impossible.status_code == 404 and isinstance(impossible.parsed, Problem), impossible


def main(program):
    folder = generate(program)
    with tempfile.TemporaryDirectory() as place:
        simulator, settings, secret = clients.simulate(program)
        gateway = None
        try:
            gateway, base = clients.start(program, place, settings, secret)
            ask_python(folder, base)
            subprocess.run(["node", folder / "out/generated.js", base, ID], check=True, timeout=60)
        finally:
            for process in (gateway, simulator):
                if process:
                    process.terminate()
                    process.wait(30)
    print("three generated clients ask, and understand answers and errors")


if __name__ == "__main__":
    main(sys.argv[1])
