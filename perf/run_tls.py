#!/usr/bin/env python3
"""CPU time a proxy spends on TLS 1.3: per request of a keep-alive connection, and per handshake.

Handshakes are full and resumed, with an ECDSA P-256 and an RSA-2048 certificate.
"""

import argparse
import subprocess
import sys
from functools import partial

from harness import cost, h2load, protocols, wrk
from harness.peers import COMPETITORS, ROOT, USUAL, chosen, origin_count, start_origin
from harness.process import Scratch, raise_descriptor_limit

METHOD = """CPU time of every thread of the proxy, user and system (the scheduler's own nanosecond
count, /proc/PID/task/*/schedstat), divided by what its clients completed in the same seconds. TLS 1.3
with AES-128-GCM and X25519, as the clients ask; {workers} workers each, logs off. Requests: small
keep-alive GET by wrk over HTTP/1.1, 100-byte body, one shared nginx as upstream without TLS; every row
adds x-forwarded-for, x-forwarded-proto and x-request-id; the first second, with the handshakes, is left
out, and the upstream counts the requests. Handshakes (harness/handshakes.py): connect,
handshake, close_notify, and the proxy's close, with {concurrency} in flight from each of two clients,
which check of each that it was resumed or was not; accept, session tickets and close are in the figure.
{rounds} rounds of {seconds} s, interleaved, order rotating; median (least-greatest). The ratio is of
medians, to the least median among nginx, HAProxy and Envoy (in brackets: least and greatest of the same
quotient round by round). Cryptography: nginx and HAProxy use the system's OpenSSL ({openssl}), Envoy
BoringSSL, Moorgate ring {ring}."""


def handshakes(port, kind, concurrency, environment, seconds):
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "harness.handshakes", str(port), kind, str(seconds),
             str(concurrency), str(source)],
            cwd=ROOT / "perf", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for source in (30, 50)
    ]
    total = 0
    for client in clients:
        out, err = client.communicate(timeout=seconds + 60)
        if client.returncode != 0 or int(out or 0) == 0:
            raise RuntimeError(f"handshakes ({kind}) on port {port}: {out}{err[-2000:]}")
        total += int(out)
    return total


def ring_version():
    lines = (ROOT / "Cargo.lock").read_text().splitlines()
    return lines[lines.index('name = "ring"') + 1].split('"')[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", help="comma-separated; default: all that are there")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", default="1,64,512")
    parser.add_argument("--concurrency", type=int, default=16, help="handshakes at once, per client")
    parser.add_argument("--kinds", default="requests,ecdsa,rsa")
    parser.add_argument("--name", default="tls", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers, [name for name in USUAL if name != "floor"])
    kinds = args.kinds.split(",")
    raise_descriptor_limit()

    cells, seen = [], {}
    with Scratch() as scratch:
        _, upstream = start_origin(scratch)
        environment = protocols.client_environment(scratch.path)
        for kind in kinds:
            rows = []
            for peer in peers:
                wire = "tls-rsa" if kind == "rsa" else "tls"
                child, port = peer.start(scratch, wire, upstream, args.workers)
                url = f"https://127.0.0.1:{port}"
                seen[f"{kind} {peer.name}"] = h2load.check_headers(peer.name, url, environment, False)
                rows.append((peer.name, child, port))
            if kind == "requests":
                for level in (int(number) for number in args.connections.split(",")):
                    group = f"{level} connection{'s' if level > 1 else ''}"
                    cells += [cost.Cell(group, name, child, partial(wrk.run, port, level,
                                                                    environment=environment),
                                        partial(origin_count, upstream))
                              for name, child, port in rows]
                for _, _, port in rows:
                    wrk.run(port, 64, 1, environment=environment)
            else:
                label = {"ecdsa": "ECDSA P-256", "rsa": "RSA-2048"}[kind]
                for how in ("full", "resumed"):
                    cells += [cost.Cell(f"{how} handshake, {label}", name, child,
                                        partial(handshakes, port, how, args.concurrency, environment))
                              for name, child, port in rows]
                for _, _, port in rows:
                    handshakes(port, "full", args.concurrency, environment, 1)
        cost.run(cells, args.rounds, args.seconds)
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True)
    method = METHOD.format(**vars(args), openssl=openssl.stdout.split(" (")[0].strip(),
                           ring=ring_version())
    cost.write(args.name, "CPU per TLS request and handshake", method, peers, cells, COMPETITORS,
               unit="operation", headers_seen_upstream=seen, workers=args.workers)


if __name__ == "__main__":
    main()
