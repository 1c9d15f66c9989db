"""Child processes: starting, waiting for their port, what they cost, and ending them.

Only processes started here are ever signalled, each by its own pid.
"""

import ctypes
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def raise_descriptor_limit():
    """Raises RLIMIT_NOFILE to the hard limit; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


_given = set()


def free_port():
    """A loopback port nobody listens on, below the range the kernel gives to connecting sockets.

    Never the same one twice: whoever it was for may not have bound it yet.
    """
    while True:
        port = random.randrange(18000, 32000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One program and the processes it forks. Its output goes to `log`."""

    def __init__(self, name, argv, log, port=None, env=None):
        self.name = name
        self.argv = [str(arg) for arg in argv]
        self.log = Path(log)
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                preexec_fn=_die_with_parent,
            )
        if port is not None:
            self.wait_for(port)

    def wait_for(self, port, seconds=20):
        """Returns once something accepts on `port`; raises with the program's output if it ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.name} left with {self.process.returncode}: {self.output()}"
                )
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{self.name} did not listen within {seconds} s: {self.output()}")

    def output(self):
        return self.log.read_text(errors="replace")[-2000:].strip()

    def pids(self):
        """The program and all its descendants."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    queue.extend(int(child) for child in children.split())
            except OSError:
                continue
        return found

    def cpu_seconds(self):
        """Time on a CPU, user and system, of every thread of every process; nanosecond clock.

        The first field of schedstat is the sum that utime + stime are scaled to, without their
        10 ms ticks.
        """
        total = 0
        for pid in self.pids():
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    stat = Path(f"/proc/{pid}/task/{task}/schedstat").read_text()
                    total += int(stat.split()[0])
            except OSError:
                continue
        return total / 1e9

    def pss_bytes(self):
        """User memory: the proportional set size of all its processes together."""
        total = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                for line in rollup:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in self.pids():
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.process.wait()


class Scratch:
    """A directory and the children started in it; `with` removes both, also after an error or a
    SIGTERM."""

    def __init__(self):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self._directory = tempfile.TemporaryDirectory(prefix="moorgate-perf-")
        self.path = Path(self._directory.name)
        # nginx drops to another user and must be able to look in.
        self.path.chmod(0o755)
        self.children = []

    def start(self, name, argv, port=None, env=None):
        log = self.path / f"{name}-{len(self.children)}.log"
        child = Child(name, argv, log, port, env)
        self.children.append(child)
        return child

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.stop()
        self._directory.cleanup()
