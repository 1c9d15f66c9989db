#!/usr/bin/env python3
"""User memory a proxy keeps for each silent connection.

The slope of its proportional set size over several numbers of connections, so that what it costs to
be there at all falls out. A fresh process for every run.
"""

import argparse
import http.client
import subprocess
import sys
import time

from harness import plot, report, stats
from harness.peers import ROOT, chosen, start_origin
from harness.process import Scratch, free_port, raise_descriptor_limit

KINDS = {
    # kind of work: (what it is called, configuration, numbers of connections)
    "keepalive": ("keep-alive HTTP/1", "http", (4000, 8000, 12000, 16000)),
    "tcp": ("TCP session", "tcp", (2000, 4000, 6000, 8000)),
    "sse": ("event stream, open", "http", (2000, 4000, 6000, 8000)),
    "poll": ("long poll, open", "http", (2000, 4000, 6000, 8000)),
}

METHOD = """Bytes of user memory per silent connection: the least-squares slope of the PSS
(/proc/PID/smaps_rollup, all processes of the proxy) over the numbers of connections given. At each
number every connection has made a request, one full burst over all of them was served, and {settle} s
have passed. TCP sessions, event streams and long polls hold two sockets each and count as one. The
kernel's own memory is not in it. {rounds} fresh processes, interleaved; median (least-greatest). CPU is
what the process spends while all connections are silent, at the greatest number. {workers} workers
each. What a proxy allocates for connections before they come (nginx: worker_connections) is in the
fixed part, not in the slope."""


class Holders:
    """Two holder processes that share the connections."""

    def __init__(self, scratch, port, kind):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "harness.holder", str(port), kind, str(source)],
                cwd=ROOT / "perf", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for source in (10, 20)
        ]

    def tell(self, command):
        for process in self.processes:
            process.stdin.write(command + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in self.processes]
        if answers != ["ok"] * len(answers):
            raise RuntimeError(f"{command}: {answers}")

    def end(self):
        for process in self.processes:
            process.stdin.close()
            process.wait(20)


def ask_upstream(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    number = int(connection.getresponse().read())
    connection.close()
    return number


def push(port, expected):
    """Has the upstream speak on every stream and poll, once all of them are there."""
    deadline = time.monotonic() + 20
    while ask_upstream(port, "/open") != expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all of {expected} connections reached the upstream")
        time.sleep(0.05)
    ask_upstream(port, "/push")


def measure(peer, kind, workers, settle):
    """One fresh process: (points of (connections, bytes), milliseconds of CPU per silent second)."""
    _, config, levels = KINDS[kind]
    with Scratch() as scratch:
        if kind == "keepalive":
            _, upstream = start_origin(scratch)
        else:
            upstream = free_port()
            scratch.start("silent", ["env", f"PYTHONPATH={ROOT / 'perf'}", sys.executable, "-m",
                                     "harness.origin", upstream], upstream)
        child, port = peer.start(scratch, config, upstream, workers, nginx_buffering="off")
        holders = Holders(scratch, port, kind)
        points = []
        try:
            for level in levels:
                holders.tell(f"open {level // len(holders.processes)}")
                if kind in ("sse", "poll"):
                    push(upstream, level)
                holders.tell("burst")
                time.sleep(settle)
                points.append((level, child.pss_bytes()))
            before = child.cpu_seconds()
            time.sleep(3)
            silent_cpu = (child.cpu_seconds() - before) / 3 * 1000
        finally:
            holders.end()
    return points, silent_cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settle", type=float, default=2.0, help="seconds of silence before")
    parser.add_argument("--name", default="memory", help="of the files in perf/results")
    args = parser.parse_args()
    # The floor keeps nothing for a connection and speaks no HTTP: no row here.
    peers = [peer for peer in chosen(args.peers) if peer.name != "floor"]
    kinds = args.kinds.split(",")
    raise_descriptor_limit()

    runs = {kind: {peer.name: [] for peer in peers} for kind in kinds}
    for turn in range(args.rounds):
        for kind in kinds:
            for peer in peers[turn % len(peers):] + peers[: turn % len(peers)]:
                points, silent_cpu = measure(peer, kind, args.workers, args.settle)
                slope, fixed = stats.slope(points)
                runs[kind][peer.name].append(
                    {"points": points, "bytes_per_connection": slope, "fixed_bytes": fixed,
                     "silent_cpu_ms_per_s": silent_cpu}
                )
                print(f"round {turn + 1}, {kind}, {peer.name}: {slope:,.0f} bytes", flush=True)

    def over(kind, name, key):
        return stats.summary([run[key] for run in runs[kind][name]])

    tables = []
    for kind in kinds:
        label, _, levels = KINDS[kind]
        rows = []
        for peer in peers:
            fixed = over(kind, peer.name, "fixed_bytes")["median"] / (1 << 20)
            cpu = over(kind, peer.name, "silent_cpu_ms_per_s")
            rows.append((peer.name, stats.spread(over(kind, peer.name, "bytes_per_connection"), 0),
                         f"{fixed:.1f}", stats.spread(cpu, 1)))
        header = ("proxy", "bytes per connection", "fixed part, MiB", "CPU when silent, ms/s")
        tables.append((f"{label}, {levels[0]:,} to {levels[-1]:,}", report.table(header, rows)))
    cells = {
        peer.name: [over(kind, peer.name, "bytes_per_connection") for kind in kinds]
        for peer in peers
    }
    report.write(
        args.name,
        "User memory per silent connection",
        METHOD.format(**vars(args)),
        peers,
        {"runs": runs, "workers": args.workers},
        tables,
        plot.bars("User memory per silent connection", "bytes", [KINDS[k][0] for k in kinds],
                  cells),
    )


if __name__ == "__main__":
    main()
