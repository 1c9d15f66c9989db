#!/usr/bin/env python3
"""User memory a proxy keeps for each silent connection.

The slope of its proportional set size over several numbers of connections, so that what it costs to
be there at all falls out. A fresh process for every run.
"""

import argparse
import http.client
import time

from harness import frames, plot, protocols, report, stats
from harness.holders import Holders, start_silent_origin
from harness.peers import HTTP2, chosen, start_origin
from harness.process import Scratch, raise_descriptor_limit

KINDS = {
    # kind of work: (what it is called, configuration, numbers of clients)
    "keepalive": ("keep-alive HTTP/1", "http", (4000, 8000, 12000, 16000)),
    "tcp": ("TCP session", "tcp", (2000, 4000, 6000, 8000)),
    "sse": ("event stream, open", "http", (2000, 4000, 6000, 8000)),
    "poll": ("long poll, open", "http", (2000, 4000, 6000, 8000)),
    "ws": ("WebSocket session", "ws", (2000, 4000, 6000, 8000)),
    "tls": ("TLS 1.3, HTTP/1", "tls", (2000, 4000, 6000, 8000)),
    "h2": ("HTTP/2", "h2", (4000, 8000, 12000, 16000)),
    "h2tls": ("TLS 1.3, HTTP/2", "h2tls", (2000, 4000, 6000, 8000)),
    "grpc": ("gRPC, 1 open stream", "grpc", (1000, 2000, 3000, 4000)),
    "grpc10": ("gRPC, 10 open streams", "grpc", (400, 800, 1200, 1600)),
}
STREAMS = {"grpc": 1, "grpc10": 10}
SILENT_ORIGIN = ("tcp", "sse", "poll", "ws", "grpc", "grpc10")

METHOD = """Bytes of user memory per silent connection: the least-squares slope of the PSS
(/proc/PID/smaps_rollup, all processes of the proxy) over the numbers of connections given. At each
number every connection has made a request, one full burst over all of them was served, and {settle} s
have passed. TCP and WebSocket sessions, event streams and long polls hold two sockets each and count as
one. HTTP/2 clients send the heads that h2load sends; the entries these put into the client's header table
have {table} octets by RFC 7541's count, which are in the figure. gRPC streams have carried a message each
way, twice, and stay open, over HTTP/2 to an upstream that takes 100 streams per connection. TLS is 1.3 with
AES-128-GCM and an ECDSA P-256 certificate. The kernel's own memory is not in it. {rounds} fresh processes,
interleaved; median (least-greatest). CPU is what the process spends while all connections are silent, at
the greatest number. {workers} workers each. What a proxy allocates for connections before they come (nginx:
worker_connections) is in the fixed part, not in the slope."""


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
        if kind not in SILENT_ORIGIN:
            _, upstream = start_origin(scratch)
        else:
            upstream = start_silent_origin(scratch)
        child, port = peer.start(scratch, config, upstream, workers, nginx_buffering="off")
        holders = Holders(port, kind, protocols.client_environment(scratch.path))
        points = []
        try:
            for level in levels:
                holders.tell(f"open {level // len(holders)}")
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


def apart(runs, name):
    """What of an open gRPC client's bytes is the client's, and what each stream's."""
    one, ten = (stats.summary([run["bytes_per_connection"] for run in runs[kind][name]])["median"]
                for kind in STREAMS)
    stream = (ten - one) / (STREAMS["grpc10"] - STREAMS["grpc"])
    return one - stream, stream


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
    peers = [peer for peer in chosen(args.peers, HTTP2) if peer.name != "floor"]
    kinds = args.kinds.split(",")
    raise_descriptor_limit()

    # nghttpx is there for HTTP/2.
    rows = {
        kind: [peer for peer in peers
               if peer.name != "nghttpx" or kind in ("h2", "h2tls", "grpc", "grpc10")]
        for kind in kinds
    }
    runs = {kind: {peer.name: [] for peer in rows[kind]} for kind in kinds}
    for turn in range(args.rounds):
        for kind in kinds:
            row = rows[kind]
            for peer in row[turn % len(row):] + row[: turn % len(row)]:
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
        lines = []
        for peer in rows[kind]:
            fixed = over(kind, peer.name, "fixed_bytes")["median"] / (1 << 20)
            cpu = over(kind, peer.name, "silent_cpu_ms_per_s")
            lines.append((peer.name, stats.spread(over(kind, peer.name, "bytes_per_connection"), 0),
                         f"{fixed:.1f}", stats.spread(cpu, 1)))
        header = ("proxy", "bytes per connection", "fixed part, MiB", "CPU when silent, ms/s")
        tables.append((f"{label}, {levels[0]:,} to {levels[-1]:,}", report.table(header, lines)))
    if all(kind in kinds for kind in STREAMS):
        tables.append(("gRPC, apart", report.table(
            ("proxy", "bytes per client", "bytes per stream"),
            [(peer.name, *(f"{part:,.0f}" for part in apart(runs, peer.name)))
             for peer in rows["grpc"]])))
    cells = {
        peer.name: [over(kind, peer.name, "bytes_per_connection") if peer in rows[kind] else None
                    for kind in kinds]
        for peer in peers
    }
    report.write(
        args.name,
        "User memory per silent connection",
        METHOD.format(**vars(args), table=frames.TABLE_OCTETS),
        peers,
        {"runs": runs, "workers": args.workers},
        tables,
        plot.bars("User memory per silent connection", "bytes", [KINDS[k][0] for k in kinds],
                  cells),
    )


if __name__ == "__main__":
    main()
