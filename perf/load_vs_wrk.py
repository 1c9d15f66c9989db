#!/usr/bin/env python3
"""CPU time a load generator spends per request: moorgate-load and wrk against the same nginx.

Both run one thread in a closed loop of keep-alive GETs. They take turns, and who is first changes from
round to round, so that what else the machine does falls on both alike.
"""

import argparse
import datetime
import json
import os
import re
import subprocess

from harness import report, stats
from harness.peers import ROOT, machine, start_origin, tool
from harness.process import Scratch, raise_descriptor_limit

METHOD = """CPU time of the load generator's process, user and system (rusage of the ended process),
divided by the requests it completed. One thread, closed loop, keep-alive GET, 100-byte body, from one
nginx with one worker that answers `return 200`. {rounds} rounds of {seconds} s, interleaved, the order
changing from round to round; median (least-greatest). The ratio is moorgate-load to wrk: of the medians
(in brackets: least and greatest of the quotients of the same round)."""


def measured(argv):
    """The output of a program and the CPU seconds it took."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{argv[0]} left with {child.returncode}: {output}")
    return output, usage.ru_utime, usage.ru_stime


def run_wrk(port, connections, seconds, _scratch):
    output, user, system = measured(
        [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
         f"http://127.0.0.1:{port}/"])
    requests = re.search(r"(\d+) requests in", output)
    broken = re.search(r"(Non-2xx.*|Socket errors.*)", output)
    if broken or not requests:
        raise RuntimeError(output)
    return int(requests[1]), user, system


def run_load(port, connections, seconds, scratch):
    result = scratch.path / "load.json"
    measured_run = measured(
        [str(ROOT / "target" / "release" / "moorgate-load"), "run", f"http://127.0.0.1:{port}/",
         "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--json", str(result)])
    figures = json.loads(result.read_text())
    if any(figures["errors"].values()):
        raise RuntimeError(measured_run[0])
    return figures["answers"], *measured_run[1:]


RUNS = {"wrk": run_wrk, "moorgate-load": run_load}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", default="64,512")
    parser.add_argument("--name", default="load_vs_wrk", help="of the file in perf/results")
    args = parser.parse_args()
    raise_descriptor_limit()
    levels = [int(level) for level in args.connections.split(",")]
    spent = {level: {name: [] for name in RUNS} for level in levels}
    kernel = {level: {name: [] for name in RUNS} for level in levels}
    rates = {level: {name: [] for name in RUNS} for level in levels}
    with Scratch() as scratch:
        _, port = start_origin(scratch)
        run_wrk(port, max(levels), 1, scratch)
        for turn in range(args.rounds):
            for level in levels:
                names = list(RUNS) if turn % 2 == 0 else list(RUNS)[::-1]
                for name in names:
                    requests, user, system = RUNS[name](port, level, args.seconds, scratch)
                    spent[level][name].append((user + system) / requests * 1e6)
                    kernel[level][name].append(system / requests * 1e6)
                    rates[level][name].append(requests / args.seconds)
            print(f"round {turn + 1} of {args.rounds} done", flush=True)

    parts = []
    for level in levels:
        rows = []
        for name in RUNS:
            ratio = "-"
            if name != "wrk":
                ratios = stats.ratio_to_best(spent[level], ["wrk"])
                ratio = stats.spread(ratios[name])
            in_kernel = stats.summary(kernel[level][name])["median"]
            rows.append((name, stats.spread(stats.summary(spent[level][name])),
                         f"{in_kernel:.2f}", ratio,
                         f"{stats.summary(rates[level][name])['median']:,.0f}"))
        header = ("generator", "CPU µs per request", "of it in the kernel", "ratio to wrk",
                  "requests/s")
        parts.append(f"## {level} connections\n\n{report.table(header, rows)}")
    body = "\n\n".join(parts)
    taken = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    version = subprocess.run([tool("wrk"), "-v"], capture_output=True, text=True, check=False)
    report.RESULTS.mkdir(exist_ok=True)
    path = report.RESULTS / f"{args.name}.md"
    path.write_text(
        "# CPU per request of the load generator\n\n"
        f"{METHOD.format(rounds=args.rounds, seconds=args.seconds)}\n\n"
        f"Taken {taken} on {machine()}, beside {version.stdout.splitlines()[0]}.\n\n{body}\n\n"
        "Made by `perf/load_vs_wrk.sh`.\n")
    print(body)
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
