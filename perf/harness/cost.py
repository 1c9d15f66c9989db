"""CPU time per operation, measured in interleaved rounds: the part that all run_*.py for CPU share."""

import threading
import time
from dataclasses import dataclass, field
from typing import Callable

from harness import plot, report, stats


@dataclass
class Cell:
    """One proxy under one kind of load. `drive(seconds)` loads it and returns what was completed.

    With `count`, which tells how much the upstream has done so far, what happens in the first
    second of the load is left out: where connections begin with handshakes those are no part of it.
    """

    group: str
    name: str
    child: object
    drive: Callable[[int], int]
    count: Callable[[], int] | None = None
    microseconds: list = field(default_factory=list)
    rates: list = field(default_factory=list)


def run(cells, rounds, seconds):
    """Fills the cells: every round measures each once, group by group, the order within a group
    rotating, so that what else the machine does falls on all alike."""
    groups = list(dict.fromkeys(cell.group for cell in cells))
    for turn in range(rounds):
        for group in groups:
            row = [cell for cell in cells if cell.group == group]
            for cell in row[turn % len(row):] + row[: turn % len(row)]:
                try:
                    done, spent = (_settled if cell.count else _whole)(cell, seconds)
                except RuntimeError as error:
                    raise RuntimeError(f"{group}, {cell.name}: {error}") from error
                cell.microseconds.append(spent / done * 1e6)
                cell.rates.append(done / seconds)
        print(f"round {turn + 1} of {rounds} done", flush=True)


def _whole(cell, seconds):
    before = cell.child.cpu_seconds()
    done = cell.drive(seconds)
    return done, cell.child.cpu_seconds() - before


def _settled(cell, seconds):
    failures = []

    def drive():
        try:
            cell.drive(seconds + 2)
        except RuntimeError as error:
            failures.append(error)

    driver = threading.Thread(target=drive)
    driver.start()
    time.sleep(1)
    count, cpu = cell.count(), cell.child.cpu_seconds()
    time.sleep(seconds)
    spent, done = cell.child.cpu_seconds() - cpu, cell.count() - count
    driver.join()
    if failures:
        raise failures[0]
    return done, spent


def write(name, title, method, peers, cells, competitors, unit="request", **data):
    """Tables, figure and the raw samples into perf/results/NAME.*."""
    groups = list(dict.fromkeys(cell.group for cell in cells))
    tables, series = [], {cell.name: [None] * len(groups) for cell in cells}
    samples, rates = {}, {}
    for column, group in enumerate(groups):
        row = [cell for cell in cells if cell.group == group]
        ratios = stats.ratio_to_best({cell.name: cell.microseconds for cell in row}, competitors)
        lines = []
        for cell in row:
            spent = stats.summary(cell.microseconds)
            lines.append((
                cell.name,
                stats.spread(spent),
                stats.spread(ratios[cell.name]) if cell.name in ratios else "-",
                f"{stats.summary(cell.rates)['median']:,.0f}",
            ))
            series[cell.name][column] = spent
            samples.setdefault(cell.name, {})[group] = cell.microseconds
            rates.setdefault(cell.name, {})[group] = cell.rates
        header = ("proxy", f"CPU µs per {unit}", "ratio to best", f"{unit}s/s (closed loop)")
        tables.append((group, report.table(header, lines)))
    report.write(
        name, title, method, peers,
        {f"microseconds_per_{unit}": samples, f"{unit}s_per_second": rates, **data},
        tables,
        plot.bars(title, "microseconds of CPU", groups, series),
    )
