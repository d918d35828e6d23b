"""What a gateway keeps in memory: a full cache against the size that it was told to use, and requests that wait."""

import contextlib
import re
import socket
import time
import urllib.request
from dataclasses import dataclass

import contestant
from contestant import PATH
from load import Load

MIB = 1 << 20


@dataclass(frozen=True)
class Fill:
    """A cache of so many MiB, filled with answers of so many rows; then a million requests over 10,000 keys, or new ones only."""

    mib: int
    rows: int
    what: str
    keys: int | None = None
    requests: int = 0
    full: bool = True


FILLS = [
    Fill(16, 3, "1 kB", keys=10_000, requests=1_000_000, full=False),
    Fill(16, 0, "200 B"),
    Fill(64, 0, "200 B"),
    Fill(64, 3, "1 kB"),
    Fill(64, 66, "20 kB"),
    Fill(256, 3, "1 kB"),
    Fill(256, 66, "20 kB"),
]


def measure(bench):
    """All cases that are wanted."""
    if bench.wanted("memory", full=True):
        fills(bench)
    if bench.wanted("waiting", full=True):
        waiting(bench)


def fills(bench):
    print("\nmemory: resident, of a gateway whose cache is full: idle, at the end, and when the load's connections are gone; MB")
    print(f"  {'cache':>8}{'answers of':>12}{'requests':>12}{'entries':>10}{'idle':>8}{'end':>8}{'later':>8}{'above idle, over the cache':>30}", flush=True)
    for fill in FILLS:
        name = f"gateway {fill.mib}MiB {fill.rows}"
        stub = contestant.stub(bench.folder, rows=fill.rows, name=f"stub {fill.mib} {fill.rows}")
        server = contestant.gateway(name, bench.folder, stub, bench.options.gateway, cache_size=f"{fill.mib}MiB")
        try:
            idle = server.memory_kb() * 1000
            requests = filled(server, fill)
            # The allocator gives back what the crowd needed a second after it has gone, when somebody calls.
            Load(connections=1).run(server, 3)
            entries = metric(server, "cache_entries")
            end = server.memory_kb() * 1000
            # Idle connections to the upstream are kept for a minute.
            time.sleep(65)
            Load(connections=1).run(server, 3)
            later = server.memory_kb() * 1000
        finally:
            server.stop()
            stub.stop()
        at_once, ratio = ((bytes - idle) / (fill.mib * MIB) for bytes in (end, later))
        print(f"  {fill.mib:4} MiB{fill.what:>12}{requests:12,.0f}{entries:10,.0f}{idle / 1e6:8.1f}{end / 1e6:8.1f}{later / 1e6:8.1f}"
              f"{at_once:18.2f}×, then {ratio:.2f}×", flush=True)
        if fill.keys:
            bench.target("memory above idle, over the cache's size, when the load's connections are gone", ratio, 1.2)


def filled(server, fill):
    """Loads until the cache is full and enough was asked; how many requests that took."""
    load, requests = Load(keys=fill.keys), 0
    for _ in range(60):
        requests += load.run(server, 3).rate * 3
        if requests >= fill.requests and metric(server, "cache_bytes") > 0.95 * fill.mib * MIB:
            return requests
    raise SystemExit(f"{server.name}: the cache does not fill")


def metric(server, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/metrics") as answer:
        return float(re.search(rf"^defender_gateway_{name} (\S+)", answer.read().decode(), re.MULTILINE)[1])


def waiting(bench):
    """Almost no quota: everybody waits for it, with a request of their own. The gateway takes 2,048 connections and queues 10,000 requests."""
    print("\nwaiting: kB for each, its connection or stream and its call included")
    for protocol, count in (("HTTP/1.1", 1_000), ("HTTP/1.1", 2_000), ("HTTP/2", 1_000), ("HTTP/2", 9_900)):
        name = f"gateway {protocol[5]} {count}"
        server = contestant.gateway(name, bench.folder, bench.server("stub"), bench.options.gateway,
                                    quota=("3600/1h", 1), max_wait="24h")
        try:
            idle = server.memory_kb()
            hold = http1 if protocol == "HTTP/1.1" else http2
            with hold(server, count) as connections:
                until(lambda: metric(server, "queue_waiting") > count * 0.98, f"{server.name}: too few wait")
                used = server.memory_kb()
            print(f"  {count:7,} waiting, {protocol}, {connections:6,} connections{(used - idle) / count:10.1f}", flush=True)
        finally:
            server.kill()


def until(condition, complaint):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise SystemExit(complaint)


def body(number):
    ids = ",".join(f'"{number:08x}-{nth:04x}-4001-a001-{number:012x}"' for nth in range(3))
    return f'{{"ScanDefinitionIds":[{ids}]}}'.encode()


@contextlib.contextmanager
def http1(server, count):
    with contextlib.ExitStack() as open_sockets:
        for number in range(count):
            request = body(number)
            caller = open_sockets.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(request)}\r\n\r\n"
            caller.sendall(head.encode() + request)
        yield count


@contextlib.contextmanager
def http2(server, count, streams=100):
    """By hand (RFC 9113, RFC 7541 §6.2.2 without Huffman's code), because h2load asks everybody the same."""
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", PATH), ("content-type", "application/json")]
    text = lambda value: bytes([len(value)]) + value.encode()
    block = b"".join(b"\0" + text(name) + text(value) for name, value in fields)
    frame = lambda kind, flags, stream, payload: len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    with contextlib.ExitStack() as open_sockets:
        for first in range(0, count, streams):
            caller = open_sockets.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
            for nth in range(min(streams, count - first)):
                sent += frame(1, 4, 2 * nth + 1, block) + frame(0, 1, 2 * nth + 1, body(first + nth))
            caller.sendall(sent)
        yield -(-count // streams)
