"""Loads: what callers do, by wrk and h2load, and what it cost the server."""

import itertools
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contestant import LOAD_CORE, PATH, SERVER_CORE, body

HERE = Path(__file__).parent
# Requests that ask for something new never repeat the ids of an earlier run.
runs = itertools.count(1)


@dataclass(frozen=True)
class Sample:
    """One run, or the medians of several."""

    rate: float        # requests per second
    cpu_us: float      # CPU of the server per request, user and system
    p50_us: float
    p99_us: float
    p999_us: float
    memory_kb: float   # of the server, after the run

    @classmethod
    def median(cls, samples):
        return cls(*(statistics.median(getattr(sample, field) for sample in samples) for field in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Load:
    """What callers do."""

    connections: int = 64
    ids: int = 3
    keys: int | None = 1       # None: every request asks for something new
    shuffled: bool = False
    zipf: bool = False         # the n-th key is asked for 1/n as often as the first
    callers: int = 0           # that say who they are; 0: nobody does
    streams: int = 0           # by h2load instead of wrk, so many at once on a connection: HTTP/2, or HTTP/1.1 for 1
    path: str = PATH

    def run(self, server, seconds):
        """Loads the server and measures it."""
        drive = self._h2load if self.streams else self._wrk
        before = server.cpu_us()
        requests, elapsed, latencies = drive(server, seconds)
        used = server.cpu_us() - before
        return Sample(requests / elapsed, used / requests, *latencies, server.memory_kb())

    def _wrk(self, server, seconds):
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "10s", "-s", HERE / "load.lua", server.url,
                   "--", self.path, self.ids, self.keys or "new", "shuffled" if self.shuffled else "zipf" if self.zipf else "-", next(runs), self.callers]
        output = on_load_core(command)
        found = re.search(r"BENCH requests=(\d+) us=(\d+) failed=(\d+) p50=(\d+) p99=(\d+) p999=(\d+)", output)
        if not found or int(found[3]) or not int(found[1]):
            raise SystemExit(f"{server.name}: requests failed\n{output}")
        requests, us, _, *latencies = map(int, found.groups())
        return requests, us / 1e6, latencies

    def _h2load(self, server, seconds):
        """One key and one caller only: h2load sends one request."""
        version = ["--h1"] if self.streams == 1 else []
        options = [*version, f"-c{self.connections}", f"-m{self.streams}", f"-D{seconds}", "--warm-up-time=0"]
        return h2load(server, options, body(1, self.ids), self.path)

    def bodies(self):
        """All that is asked for."""
        return [body(key, self.ids) for key in range(1, self.keys + 1)]


def paced(server, rate, seconds):
    """HTTP/1.1, one connection, `rate` requests a second: what a request costs in time when nobody else is there."""
    options = ["--h1", "-c1", "-m1", f"--rps={rate}", f"-D{seconds}", "--warm-up-time=0"]
    return h2load(server, options, body(1), PATH)[2][0]


@contextmanager
def awake():
    """Keeps both cores from sleeping, with work that gives way to any other at once."""
    spin = ["chrt", "--idle", "0", sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(["taskset", "-c", str(core), *spin]) for core in (SERVER_CORE, LOAD_CORE)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def h2load(server, options, body, path):
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_text(body)
        command = ["h2load", "-t1", *options, "-d", data, "-H", "content-type: application/json", f"--log-file={log}", server.url + path]
        output = on_load_core(command)
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    seconds = float(re.search(r"finished in ([\d.]+)s", output)[1])
    failed = [line for line in lines if line[1] != "200"]
    # Those that the end of the run cut off do not count.
    if len(failed) > 0.01 * len(lines) + 1000 or not lines:
        raise SystemExit(f"{server.name}: requests failed\n{output}")
    times = sorted(int(line[2]) for line in lines if line[1] == "200")
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
    return len(times), seconds, [at(0.5), at(0.99), at(0.999)]


def on_load_core(command):
    done = subprocess.run(["taskset", "-c", str(LOAD_CORE), *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def alternate(load, servers, rounds, seconds, warm=0, fresh=False):
    """Runs the load on each server in turn, `rounds` times, so that a disturbance meets all of them. Medians by server.

    `warm`: seconds of load before it is measured for the first time. `fresh`: each round is run by new processes; where the pages of one
    happen to lie makes some percent."""
    samples = {server: [] for server in servers}
    for round in range(rounds):
        order = servers if round % 2 == 0 else servers[::-1]
        for server in order:
            if fresh and round:
                server.restart()
            if warm and (fresh or not round):
                load.run(server, warm)
            samples[server].append(load.run(server, seconds))
    return {server: Sample.median(of) for server, of in samples.items()}
