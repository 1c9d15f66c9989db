#!/usr/bin/env python3
"""CPU time a proxy spends per message of sessions that stay open: WebSocket and gRPC streams."""

import argparse

from harness import cost, protocols
from harness.holders import Holders, start_silent_origin
from harness.peers import HTTP2, HTTP2_COMPETITORS, chosen
from harness.process import Scratch, raise_descriptor_limit

KINDS = {
    # kind of client (harness/holder.py): (what it is called, configuration)
    "ws": ("WebSocket", "ws"),
    "grpc": ("gRPC, 1 stream", "grpc"),
    "grpc10": ("gRPC, 10 streams", "grpc"),
}

METHOD = """CPU time of every thread of the proxy, user and system (the scheduler's own nanosecond
count, /proc/PID/task/*/schedstat), divided by the messages that went through it and came back in the same
seconds. {connections} connections, shared by two clients (harness/holder.py): WebSocket sessions over
HTTP/1 with a text message of 100 bytes each way, or HTTP/2 clients with 1 or 10 open gRPC streams, each
stream sending a message of 20 bytes and waiting for it to come back from the upstream
(harness/origin.py, HTTP/2 for gRPC); where there are ten the next ten are sent when all are back. {workers}
workers each, logs off. {rounds} rounds of {seconds} s, interleaved, order rotating; median (least-greatest).
The ratio is of medians, to the least median among nginx, HAProxy, Envoy and, for gRPC, nghttpx (in brackets:
least and greatest of the same quotient round by round). Clients and upstream are Python: what they can drive
says nothing about how many messages a second a proxy could carry."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--name", default="messages", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers, HTTP2)
    raise_descriptor_limit()

    cells, holders = [], []
    with Scratch() as scratch:
        environment = protocols.client_environment(scratch.path)
        upstream = start_silent_origin(scratch)
        try:
            for kind in args.kinds.split(","):
                label, config = KINDS[kind]
                for peer in peers:
                    if peer.name == "nghttpx" and config != "grpc":
                        continue
                    child, port = peer.start(scratch, config, upstream, args.workers,
                                             nginx_buffering="off")
                    clients = Holders(port, kind, environment)
                    holders.append(clients)
                    clients.tell(f"open {args.connections // len(clients)}")
                    clients.tell("loop 1")
                    cells.append(cost.Cell(
                        label, peer.name, child,
                        lambda seconds, clients=clients: clients.tell(f"loop {seconds}")))
            cost.run(cells, args.rounds, args.seconds)
        finally:
            for clients in holders:
                clients.end()
    cost.write(args.name, "CPU per message", METHOD.format(**vars(args)), peers, cells,
               HTTP2_COMPETITORS, unit="message", workers=args.workers,
               connections=args.connections)


if __name__ == "__main__":
    main()
