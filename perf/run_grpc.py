#!/usr/bin/env python3
"""CPU time a proxy spends per unary gRPC call, at 1, 10 and 100 calls in flight per connection."""

import argparse
import struct
import subprocess
from functools import partial

from harness import cost, h2load
from harness.peers import HTTP2, HTTP2_COMPETITORS, chosen, start_grpc_origin, tool
from harness.process import Scratch, raise_descriptor_limit

METHOD = """CPU time of every thread of the proxy, user and system (the scheduler's own nanosecond
count, /proc/PID/task/*/schedstat), divided by the calls h2load completed in the same seconds. Unary
calls over h2c with a message of {message} bytes each way and a trailer with grpc-status, {connections}
connections with the given number of calls each always in flight; to one shared nghttpd that answers
with a message, over h2c; {workers} workers each, logs off. nginx calls it through its gRPC module. Before a
row is measured a single call must come back with its message and its grpc-status. {rounds} rounds of
{seconds} s, interleaved, order rotating; median (least-greatest). The ratio is of medians, to the least
median among nginx, HAProxy, Envoy and nghttpx (in brackets: least and greatest of the same quotient round
by round)."""

CALL = ("-H", "content-type: application/grpc", "-H", "te: trailers")


def check_call(name, url, body):
    """One call must arrive with its message and come back with it and with the trailer."""
    argv = [tool("nghttp"), "-v", "-d", str(body), *CALL, "-H", ":method: POST", url]
    result = subprocess.run(argv, capture_output=True, check=False, timeout=20)
    wanted = (b":status: 200", b"grpc-status: 0", body.read_bytes())
    missing = [part for part in wanted if part not in result.stdout]
    if missing:
        raise RuntimeError(f"{name}: no {missing} in the answer to a call: {result.stdout[-3000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--streams", default="1,10,100", help="calls in flight per connection")
    parser.add_argument("--message", type=int, default=100, help="bytes")
    parser.add_argument("--name", default="grpc", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers, HTTP2)
    raise_descriptor_limit()

    cells = []
    with Scratch() as scratch:
        message = struct.pack(">BI", 0, args.message) + b"m" * args.message
        _, upstream = start_grpc_origin(scratch, message)
        body = scratch.path / "message"
        body.write_bytes(message)
        extra = ("-d", str(body), *CALL)
        running = {}
        for peer in peers:
            child, port = peer.start(scratch, "grpc", upstream, args.workers)
            url = f"http://127.0.0.1:{port}/perf.Echo/Unary"
            check_call(peer.name, url, body)
            h2load.run(url, args.connections, 10, 1, extra=extra)
            running[peer.name] = child, url
        for streams in (int(number) for number in args.streams.split(",")):
            group = f"{streams} call{'s' if streams > 1 else ''} per connection"
            cells += [
                cost.Cell(group, name, child,
                          partial(h2load.run, url, args.connections, streams, extra=extra))
                for name, (child, url) in running.items()
            ]
        cost.run(cells, args.rounds, args.seconds)
    cost.write(args.name, "CPU per unary gRPC call", METHOD.format(**vars(args)), peers, cells,
               HTTP2_COMPETITORS, unit="call", workers=args.workers, connections=args.connections,
               message_bytes=args.message)


if __name__ == "__main__":
    main()
