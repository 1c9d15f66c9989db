#!/usr/bin/env python3
"""CPU time a proxy spends per request: a small keep-alive GET at 1, 64 and 512 connections.

All rows share one upstream and are measured in turns, the order rotating each round, so that what
else the machine does falls on all of them alike.
"""

import argparse
import http.client
from functools import partial

from harness import cost, wrk
from harness.peers import COMPETITORS, chosen, start_origin
from harness.process import Scratch, raise_descriptor_limit

METHOD = """CPU time of every thread of the proxy, user and system (the scheduler's own nanosecond
count, /proc/PID/task/*/schedstat), divided by the requests wrk completed in the same seconds. Small
keep-alive GET, 100-byte body, one shared nginx as upstream, {workers} workers each, logs off, upstream
keep-alive. Every row except the floor adds x-forwarded-for, x-forwarded-proto and x-request-id. {rounds}
rounds of {seconds} s, interleaved, order rotating; median (least-greatest). The ratio is of medians, to
the least median among nginx, HAProxy and Envoy (in brackets: least and greatest of the same quotient
round by round). The floor is a copy loop without any HTTP (perf/floor)."""


def check_headers(name, port):
    """Every proxy must do the same work: the upstream says which headers it was sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/seen")
    seen = connection.getresponse().read().decode()
    connection.close()
    empty = [part for part in seen.split(" ") if part.endswith("=")]
    if empty and name != "floor":
        raise RuntimeError(f"{name} does not add {', '.join(empty)}")
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", default="1,64,512")
    parser.add_argument("--name", default="cpu", help="of the files in perf/results")
    args = parser.parse_args()
    levels = [int(level) for level in args.connections.split(",")]
    peers = chosen(args.peers)
    raise_descriptor_limit()

    cells, seen = [], {}
    with Scratch() as scratch:
        _, upstream = start_origin(scratch)
        running = []
        for peer in peers:
            child, port = peer.start(scratch, "http", upstream, args.workers)
            seen[peer.name] = check_headers(peer.name, port)
            wrk.run(port, max(levels), 1)
            running.append((peer.name, child, port))
        for level in levels:
            group = f"{level} connection{'s' if level > 1 else ''}"
            cells += [cost.Cell(group, name, child, partial(wrk.run, port, level))
                      for name, child, port in running]
        cost.run(cells, args.rounds, args.seconds)
    cost.write(args.name, "CPU per request", METHOD.format(**vars(args)), peers, cells, COMPETITORS,
               headers_seen_upstream=seen, workers=args.workers)


if __name__ == "__main__":
    main()
