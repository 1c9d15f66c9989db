"""wrk: HTTP/1.1 load from keep-alive connections."""

import re
import subprocess
from pathlib import Path

from harness.peers import tool

THINK = Path(__file__).with_name("think.lua")


def _run(port, connections, seconds, path, extra=(), environment=None):
    """wrk's output and the number of requests it completed.

    Raises on any answer that is not 2xx and on any socket error: a row that fails is no row.
    """
    argv = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
            *extra, f"{'https' if environment else 'http'}://127.0.0.1:{port}{path}"]
    result = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    requests = re.search(r"(\d+) requests in", result.stdout)
    broken = re.search(r"(Non-2xx.*|Socket errors.*)", result.stdout)
    if broken or not requests or int(requests[1]) == 0:
        raise RuntimeError(f"wrk on port {port}: {result.stdout}{result.stderr}")
    return result.stdout, int(requests[1])


def run(port, connections, seconds, path="/", environment=None):
    """Requests completed in a closed loop: each answer is followed by the next request at once.

    With an environment for OpenSSL (protocols.client_environment) it is over TLS.
    """
    return _run(port, connections, seconds, path, environment=environment)[1]


def percentiles(port, connections, seconds, path="/", environment=None):
    """Microseconds at p50, p90, p99 and p99.9 with users who think (think.lua), and the rate."""
    output, requests = _run(port, connections, seconds, path, ["-s", str(THINK)],
                            environment)
    found = re.search(r"^percentiles (\d+) (\d+) (\d+) (\d+)$", output, re.MULTILINE)
    if not found:
        raise RuntimeError(f"wrk printed no percentiles: {output}")
    return [int(value) for value in found.groups()], requests / seconds
