#!/usr/bin/env python3
"""Latency of running TLS connections while a storm of new clients begins handshakes."""

import argparse
import subprocess
import sys
import threading
import time

from harness import h2load, plot, protocols, report, stats, wrk
from harness.peers import ROOT, USUAL, chosen, start_origin
from harness.process import Scratch, raise_descriptor_limit

PERCENTILES = ("p50", "p90", "p99", "p99.9")

METHOD = """{connections} keep-alive TLS connections whose users think for 0 to 40 ms between two requests
(wrk with perf/harness/think.lua), once in the calm and once while every half second {storm} other clients come at
once, send their hellos, wait for the proxy's flight, and reset their connections (harness/storm.py): the same
storm for every proxy. The running connections are there a second before the first one, and that second is in the
figures. The last column is how long the last client of a storm waited for its answer: whoever lets the
running connections go first makes these wait. TLS 1.3, AES-128-GCM, X25519, ECDSA P-256; {workers} workers each,
logs off, one shared nginx as upstream. All share the machine's cores, so that some of the wait is for a CPU.
{rounds} rounds of {seconds} s, interleaved, order rotating; median of the rounds (least-greatest)."""


def measure(port, connections, storm, seconds, environment):
    """(percentiles in microseconds, milliseconds that the last client of a storm waited)."""
    found = []

    def drive():
        try:
            found.append(wrk.percentiles(port, connections, seconds + 1, environment=environment)[0])
        except RuntimeError as error:
            found.append(error)

    driver = threading.Thread(target=drive)
    driver.start()
    time.sleep(1)
    last = 0
    if storm:
        argv = [sys.executable, "-m", "harness.storm", str(port), str(seconds), str(storm), "70"]
        result = subprocess.run(argv, cwd=ROOT / "perf", env=environment, capture_output=True,
                                text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"storm on port {port}: {result.stderr[-2000:]}")
        last = float(result.stdout)
    driver.join()
    if isinstance(found[0], RuntimeError):
        raise found[0]
    return found[0], last


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--storm", type=int, default=400, help="clients that come at once")
    parser.add_argument("--name", default="storm", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers, [name for name in USUAL if name != "floor"])
    raise_descriptor_limit()

    weathers = {"calm": 0, "storm": args.storm}
    samples = {weather: {peer.name: [] for peer in peers} for weather in weathers}
    waits = {peer.name: [] for peer in peers}
    with Scratch() as scratch:
        _, upstream = start_origin(scratch)
        environment = protocols.client_environment(scratch.path)
        running = []
        for peer in peers:
            _, port = peer.start(scratch, "tls", upstream, args.workers)
            h2load.check_headers(peer.name, f"https://127.0.0.1:{port}", environment, http2=False)
            wrk.run(port, args.connections, 1, environment=environment)
            running.append((peer.name, port))
        for turn in range(args.rounds):
            for weather, storm in weathers.items():
                for name, port in running[turn % len(running):] + running[: turn % len(running)]:
                    values, last = measure(port, args.connections, storm, args.seconds, environment)
                    samples[weather][name].append(values)
                    if storm:
                        waits[name].append(last)
            print(f"round {turn + 1} of {args.rounds} done", flush=True)

    tables, cells = [], {}
    for weather, storm in weathers.items():
        rows = []
        for name, _ in running:
            columns = [stats.summary(column) for column in zip(*samples[weather][name])]
            cells.setdefault(name, []).extend(columns)
            more = [stats.spread(stats.summary(waits[name]), 0)] if storm else []
            rows.append((name, *(stats.spread(column, 0) for column in columns), *more))
        header = ("proxy", *(f"{label} µs" for label in PERCENTILES),
                  *(["last handshake, ms"] if storm else []))
        title = f"While storms of {storm:,} clients come" if storm else "Calm"
        tables.append((title, report.table(header, rows)))
    report.write(
        args.name, "Latency in a reconnect storm", METHOD.format(**vars(args)), peers,
        {"microseconds": samples, "percentiles": PERCENTILES, "last_handshake_ms": waits,
         "workers": args.workers, "storm": args.storm},
        tables,
        plot.bars("Latency in a reconnect storm", "microseconds",
                  [f"{label}, {weather}" for weather in weathers for label in PERCENTILES], cells),
    )


if __name__ == "__main__":
    main()
