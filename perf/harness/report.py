"""Results on disk: one .json with every figure, one .md to read, one .svg to look at."""

import datetime
import json
import os

from harness.peers import ROOT, machine

RESULTS = ROOT / "perf" / "results"


def table(header, rows):
    """A markdown table; the first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write(name, title, method, peers, data, tables, svg):
    """Writes perf/results/NAME.{md,json,svg} and prints the tables."""
    RESULTS.mkdir(exist_ok=True)
    versions = {peer.name: peer.version() for peer in peers}
    taken = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    where = f"{machine()}, load average {os.getloadavg()[2]:.1f} over the last 15 minutes"
    record = {"taken": taken, "machine": where, "versions": versions, **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / f"{name}.svg").write_text(svg)
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in tables)
    listed = "\n".join(f"- {peer}: `{version}`" for peer, version in versions.items())
    (RESULTS / f"{name}.md").write_text(
        f"# {title}\n\n{method}\n\nTaken {taken} on {where}.\n\n"
        f"{body}\n\n![{title}]({name}.svg)\n\n## Versions\n\n{listed}\n"
    )
    print(body)
    print(f"\nwritten: {RESULTS / name}.md .json .svg")
