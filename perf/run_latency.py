#!/usr/bin/env python3
"""Latency of a small GET through each proxy, at a load that none of them is busy with.

A row `direct` shows the same upstream without a proxy in between.
"""

import argparse

from harness import plot, report, stats, wrk
from harness.peers import chosen, start_origin
from harness.process import Scratch, raise_descriptor_limit

PERCENTILES = ("p50", "p90", "p99", "p99.9")

METHOD = """{connections} keep-alive connections whose users think for 0 to 40 ms between two
requests (wrk with perf/harness/think.lua), so that all rows are offered about the same rate, far
below what they can do. From the first byte of the request to the end of the answer. {workers} workers
each, logs off, upstream keep-alive, one shared nginx as upstream. {rounds} rounds of {seconds} s,
interleaved, order rotating; median of the rounds (least-greatest)."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--name", default="latency", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers)
    raise_descriptor_limit()

    samples, rates = {}, {}
    with Scratch() as scratch:
        _, upstream = start_origin(scratch)
        running = [("direct", upstream)]
        for peer in peers:
            _, port = peer.start(scratch, "http", upstream, args.workers)
            wrk.run(port, args.connections, 1)
            running.append((peer.name, port))
        for turn in range(args.rounds):
            for name, port in running[turn % len(running):] + running[: turn % len(running)]:
                values, rate = wrk.percentiles(port, args.connections, args.seconds)
                samples.setdefault(name, []).append(values)
                rates.setdefault(name, []).append(rate)
            print(f"round {turn + 1} of {args.rounds} done", flush=True)

    names = [name for name, _ in running]
    cells = {name: [stats.summary(column) for column in zip(*samples[name])] for name in names}
    rows = [
        (name, *(stats.spread(cell, 0) for cell in cells[name]),
         f"{stats.summary(rates[name])['median']:,.0f}")
        for name in names
    ]
    header = ("proxy", *(f"{label} µs" for label in PERCENTILES), "requests/s")
    report.write(
        args.name,
        "Latency",
        METHOD.format(**vars(args)),
        peers,
        {"microseconds": samples, "percentiles": PERCENTILES, "requests_per_second": rates,
         "workers": args.workers},
        [("Small GET", report.table(header, rows))],
        plot.bars("Latency of a small GET", "microseconds", PERCENTILES, cells),
    )


if __name__ == "__main__":
    main()
