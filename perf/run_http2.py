#!/usr/bin/env python3
"""CPU time a proxy spends per request over HTTP/2, at 1, 10 and 100 streams per connection.

Without TLS and with, to an HTTP/1 upstream that all rows share, and over HTTP/2 to the same upstream.
"""

import argparse
from functools import partial

from harness import cost, h2load, protocols
from harness.peers import HTTP2, HTTP2_COMPETITORS, chosen, start_origin
from harness.process import Scratch, raise_descriptor_limit

KINDS = {
    # kind of work: (what it is called, who has no such row and why)
    "h2": ("h2c", {}),
    "h2tls": ("h2 over TLS", {}),
    "h2h2": ("h2c, upstream h2c", {"nginx": "speaks HTTP/2 to upstreams in its gRPC module only"}),
}

METHOD = """CPU time of every thread of the proxy, user and system (the scheduler's own nanosecond
count, /proc/PID/task/*/schedstat), divided by the requests h2load completed in the same seconds. Small
GET, 100-byte body, {connections} connections with the given number of streams each always in flight; one
shared nginx as upstream, over HTTP/1 keep-alive unless the row says HTTP/2; {workers} workers each, logs
off. Every row adds x-forwarded-for, x-forwarded-proto and x-request-id (nghttpx: a fixed one). TLS is 1.3
with AES-128-GCM, as the client asks. {rounds} rounds of {seconds} s, interleaved, order rotating; median
(least-greatest). The ratio is of medians, to the least median among nginx, HAProxy, Envoy and nghttpx (in
brackets: least and greatest of the same quotient round by round). nginx is left out where it would
have to speak HTTP/2 to an upstream, which only its gRPC module does."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--streams", default="1,10,100", help="per connection")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--name", default="http2", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers, HTTP2)
    kinds = args.kinds.split(",")
    raise_descriptor_limit()

    cells, seen = [], {}
    with Scratch() as scratch:
        _, http1 = start_origin(scratch)
        _, http2 = start_origin(scratch, http2=True)
        environment = protocols.client_environment(scratch.path)
        running = {}
        for kind in kinds:
            wire = protocols.KINDS[kind]
            for peer in peers:
                if peer.name in KINDS[kind][1]:
                    continue
                upstream = http2 if wire.upstream_http2 else http1
                child, port = peer.start(scratch, kind, upstream, args.workers)
                url = f"{wire.scheme}://127.0.0.1:{port}"
                seen[f"{kind} {peer.name}"] = h2load.check_headers(peer.name, url, environment)
                h2load.run(url, args.connections, 10, 1, environment)
                running[kind, peer.name] = child, url
        for kind in kinds:
            for streams in (int(number) for number in args.streams.split(",")):
                group = f"{KINDS[kind][0]}, {streams} stream{'s' if streams > 1 else ''}"
                cells += [
                    cost.Cell(group, peer.name, running[kind, peer.name][0],
                              partial(h2load.run, running[kind, peer.name][1], args.connections,
                                      streams, environment=environment))
                    for peer in peers if (kind, peer.name) in running
                ]
        cost.run(cells, args.rounds, args.seconds)
    cost.write(args.name, "CPU per request over HTTP/2", METHOD.format(**vars(args)), peers, cells,
               HTTP2_COMPETITORS, headers_seen_upstream=seen, workers=args.workers,
               connections=args.connections)


if __name__ == "__main__":
    main()
