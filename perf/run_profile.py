#!/usr/bin/env python3
"""Where a proxy's CPU time per request goes, beside the floor's: system call by system call, and
function by function of its own code.

Needs `perf` (linux-perf) and the right to sample kernel stacks (root). The folded stacks, as
flame-graph tools read them, are left in perf/.work.
"""

import argparse
import collections
import re
import subprocess

from harness import plot, report, stats, wrk
from harness.peers import ROOT, chosen, start_origin, tool
from harness.process import Scratch, raise_descriptor_limit

WORK = ROOT / "perf" / ".work"
FREQUENCY = 997

METHOD = """Samples of the CPU clock ({frequency} Hz) with call stacks while wrk drives {connections}
keep-alive connections for {seconds} s; a row's share of the samples times the CPU time per request
measured in the same seconds. A system call's row holds everything the kernel did inside it, also what
it did there for the other end of a loopback connection. Microseconds per request."""

SYSCALL_PREFIX = re.compile(r"^(?:__x64_sys_|__se_sys_|__sys_|ksys_|do_)")
# One line of a stack: address, symbol+offset (object).
FRAME = re.compile(r"^\s+[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)?(?: \((.*)\))?$")


def stacks(data):
    """Each sample's frames, outermost first, from `perf script`."""
    script = subprocess.run(
        [tool("perf"), "script", "-i", str(data), "-F", "comm,ip,sym,dso"],
        capture_output=True, text=True, check=True, errors="replace",
    ).stdout
    for sample in script.split("\n\n"):
        frames = []
        for line in sample.splitlines()[1:]:
            if match := FRAME.match(line):
                frames.append((match[1], match[2] or ""))
        if frames:
            yield frames[::-1]


def in_kernel(dso):
    return "kernel" in dso or dso.endswith(".ko")


def row_of(frames):
    """What a sample is counted under."""
    for (outer, _), (inner, _) in zip(frames, frames[1:]):
        if outer == "do_syscall_64":
            return f"kernel: {SYSCALL_PREFIX.sub('', inner)}"
    symbol, dso = frames[-1]
    if in_kernel(dso):
        if any("irq" in name or "interrupt" in name for name, _ in frames):
            return "kernel: interrupts"
        return "kernel: entry, exit and scheduling"
    return f"own: {re.sub(r'::h[0-9a-f]{16}$', '', symbol)}"


def profile(peer, upstream, scratch, args):
    """Microseconds per request by row, and in all."""
    child, port = peer.start(scratch, "http", upstream, args.workers)
    wrk.run(port, args.connections, 1)
    data = scratch.path / f"{peer.name}.data"
    pids = ",".join(str(pid) for pid in child.pids())
    recorder = subprocess.Popen(
        [tool("perf"), "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "--call-graph",
         args.call_graph, "-p", pids, "-o", str(data), "--", "sleep", str(args.seconds + 2)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    before = child.cpu_seconds()
    requests = wrk.run(port, args.connections, args.seconds)
    per_request = (child.cpu_seconds() - before) / requests * 1e6
    recorder.wait()
    counts, folded = collections.Counter(), collections.Counter()
    for frames in stacks(data):
        counts[row_of(frames)] += 1
        folded[";".join(symbol for symbol, _ in frames)] += 1
    WORK.mkdir(exist_ok=True)
    (WORK / f"{peer.name}.folded").write_text(
        "".join(f"{stack} {count}\n" for stack, count in folded.most_common())
    )
    total = counts.total()
    return {row: count / total * per_request for row, count in counts.items()}, per_request


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peers", default="floor,moorgate", help="comma-separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--call-graph", default="fp", help="fp, or dwarf where there are no frames")
    parser.add_argument("--name", default="profile", help="of the files in perf/results")
    args = parser.parse_args()
    peers = chosen(args.peers)
    raise_descriptor_limit()
    rows, totals = {}, {}
    with Scratch() as scratch:
        _, upstream = start_origin(scratch)
        for peer in peers:
            rows[peer.name], totals[peer.name] = profile(peer, upstream, scratch, args)
    names = sorted({name for row in rows.values() for name in row},
                   key=lambda name: -max(row.get(name, 0) for row in rows.values()))
    shown = names[: args.rows]
    lines = [
        (f"`{name[:90]}`", *(f"{rows[peer.name].get(name, 0):.2f}" for peer in peers))
        for name in shown
    ]
    rest = {p.name: sum(v for n, v in rows[p.name].items() if n not in shown) for p in peers}
    lines.append(("everything else", *(f"{rest[peer.name]:.2f}" for peer in peers)))
    lines.append(("in all", *(f"{totals[peer.name]:.2f}" for peer in peers)))
    report.write(
        args.name,
        "Where the CPU time goes",
        METHOD.format(frequency=FREQUENCY, **vars(args)),
        peers,
        {"microseconds_per_request": rows, "in_all": totals},
        [(f"{args.connections} connections",
          report.table(("where", *(peer.name for peer in peers)), lines))],
        plot.bars("CPU time per request", "microseconds", shown[:6], {
            peer.name: [stats.summary([rows[peer.name].get(name, 0)]) for name in shown[:6]]
            for peer in peers
        }),
    )


if __name__ == "__main__":
    main()
