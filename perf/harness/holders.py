"""The processes that hold connections (harness/holder.py), and the upstream that goes with them."""

import subprocess
import sys

from harness.peers import ROOT
from harness.process import free_port


class Holders:
    """Two holder processes that share the connections."""

    def __init__(self, port, kind, environment):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "harness.holder", str(port), kind, str(source)],
                cwd=ROOT / "perf", env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True,
            )
            for source in (10, 20)
        ]

    def __len__(self):
        return len(self.processes)

    def tell(self, command):
        """Has all of them do it; returns the sum of what they counted."""
        for process in self.processes:
            process.stdin.write(command + "\n")
            process.stdin.flush()
        answers = [process.stdout.readline().split() for process in self.processes]
        if any(answer[:1] != ["ok"] for answer in answers):
            raise RuntimeError(f"{command}: {answers}")
        return sum(int(answer[1]) for answer in answers)

    def end(self):
        for process in self.processes:
            process.stdin.close()
            process.wait(20)


def start_silent_origin(scratch):
    """harness/origin.py; returns its port."""
    port = free_port()
    scratch.start("silent", ["env", f"PYTHONPATH={ROOT / 'perf'}", sys.executable, "-m",
                             "harness.origin", port], port)
    return port
