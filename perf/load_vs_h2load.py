#!/usr/bin/env python3
"""CPU time a load generator spends per request: moorgate-load and h2load against the same nginx.

Both run one thread in a closed loop, over HTTP/2 in the clear and over TLS, and over HTTP/1.1 with TLS. They
take turns, and who is first changes from round to round, so that what else the machine does falls on both
alike.
"""

import argparse
import datetime
import json
import re
import subprocess

from harness import report, stats
from harness.peers import ROOT, machine, tool
from harness.process import Scratch, free_port, raise_descriptor_limit
from harness.protocols import certificate
from load_vs_wrk import measured

METHOD = """CPU time of the load generator's process, user and system (rusage of the ended process),
divided by the requests it completed. One thread, closed loop, {connections} connections, keep-alive GET,
100-byte body, from one nginx with one worker that answers `return 200`. {rounds} rounds of {requests}
requests, interleaved, the order changing from round to round; median (least-greatest). The ratio is
moorgate-load to h2load: of the medians (in brackets: least and greatest of the quotients of the same round)."""

NGINX = """daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; http2_max_concurrent_streams 256;
ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3;
server {{ listen 127.0.0.1:{h2c} http2; listen 127.0.0.1:{https} ssl http2;
location / {{ return 200 "{body}"; }} }} }}
"""
# Name, over TLS, HTTP/2, streams of each connection.
KINDS = (("HTTP/2, 1 stream", False, True, 1), ("HTTP/2, 10 streams", False, True, 10),
         ("HTTP/2, 100 streams", False, True, 100), ("HTTP/2 over TLS, 1 stream", True, True, 1),
         ("HTTP/2 over TLS, 10 streams", True, True, 10), ("HTTP/1.1 over TLS", True, False, 1))


def run_h2load(url, http2, streams, args, _scratch):
    protocol = [] if http2 else ["--h1"]
    output, user, system = measured(
        [tool("h2load"), "-t1", f"-c{args.connections}", f"-m{streams}", f"-n{args.requests}", *protocol, url])
    done = re.search(r"(\d+) succeeded, 0 failed", output)
    if not done:
        raise RuntimeError(output)
    return int(done[1]), user, system


def run_load(url, http2, streams, args, scratch):
    result = scratch.path / "load.json"
    words = ["--http2", "-m", str(streams)] if http2 else []
    words += ["-k"] if url.startswith("https") else []
    output, user, system = measured(
        [str(ROOT / "target" / "release" / "moorgate-load"), "run", url, "-t", "1", "-c", str(args.connections),
         "-n", str(args.requests), *words, "--json", str(result)])
    figures = json.loads(result.read_text())
    if any(figures["errors"].values()):
        raise RuntimeError(output)
    return figures["answers"], user, system


RUNS = {"h2load": run_h2load, "moorgate-load": run_load}


def start_nginx(scratch):
    """nginx's ports: in the clear, and with TLS."""
    certificate(scratch.path, "ecdsa")
    h2c, https = free_port(), free_port()
    path = scratch.path / "nginx.conf"
    path.write_text(NGINX.format(dir=scratch.path, h2c=h2c, https=https, body="x" * 100))
    scratch.start("nginx", [tool("nginx"), "-c", path], h2c)
    return h2c, https


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--name", default="load_vs_h2load", help="of the file in perf/results")
    args = parser.parse_args()
    raise_descriptor_limit()
    spent = {kind[0]: {name: [] for name in RUNS} for kind in KINDS}
    kernel = {kind[0]: {name: [] for name in RUNS} for kind in KINDS}
    with Scratch() as scratch:
        h2c, https = start_nginx(scratch)
        for turn in range(args.rounds):
            for kind, tls, http2, streams in KINDS:
                url = f"https://127.0.0.1:{https}/" if tls else f"http://127.0.0.1:{h2c}/"
                for name in list(RUNS) if turn % 2 == 0 else list(RUNS)[::-1]:
                    requests, user, system = RUNS[name](url, http2, streams, args, scratch)
                    spent[kind][name].append((user + system) / requests * 1e6)
                    kernel[kind][name].append(system / requests * 1e6)
            print(f"round {turn + 1} of {args.rounds} done", flush=True)

    rows = []
    for kind, *_ in KINDS:
        ratio = stats.spread(stats.ratio_to_best(spent[kind], ["h2load"])["moorgate-load"])
        for name in RUNS:
            rows.append((kind, name, stats.spread(stats.summary(spent[kind][name])),
                         f"{stats.summary(kernel[kind][name])['median']:.2f}",
                         ratio if name == "moorgate-load" else "-"))
    body = report.table(("", "generator", "CPU µs per request", "of it in the kernel", "ratio to h2load"), rows)
    taken = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    version = subprocess.run([tool("h2load"), "--version"], capture_output=True, text=True, check=False)
    report.RESULTS.mkdir(exist_ok=True)
    path = report.RESULTS / f"{args.name}.md"
    method = METHOD.format(rounds=args.rounds, requests=args.requests, connections=args.connections)
    path.write_text(
        f"# CPU per request of the load generator over HTTP/2 and TLS\n\n{method}\n\n"
        f"Taken {taken} on {machine()}, beside {version.stdout.splitlines()[0]}.\n\n{body}\n\n"
        "Made by `perf/load_vs_h2load.py`, after `cargo build --release -p moorgate-load`.\n")
    print(body)
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
