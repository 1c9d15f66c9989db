"""h2load: HTTP/2 load, and what curl says about one request over HTTP/2."""

import re
import subprocess

from harness.peers import tool


def run(url, connections, streams, seconds, environment=None, extra=()):
    """Requests completed in a closed loop of `connections` times `streams`.

    Raises on any that failed and on any answer that is not 2xx: a row that fails is no row.
    """
    argv = [tool("h2load"), "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}",
            *extra, url]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment,
                            timeout=seconds + 60)
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, "
                       r"(\d+) errored, (\d+) timeout", result.stdout)
    if result.returncode != 0 or not counts:
        raise RuntimeError(f"h2load {url}: {result.stdout}{result.stderr}")
    done, succeeded, *broken = (int(number) for number in counts.groups())
    if succeeded == 0 or done != succeeded or any(broken):
        raise RuntimeError(f"h2load {url}: {counts[0]}\n{result.stdout[-1000:]}")
    return succeeded


def check_headers(name, url, environment=None, http2=True):
    """Every proxy must do the same work: the upstream says which headers it was sent. Also checks that
    the proxy speaks that version of HTTP to clients. Returns what the upstream said."""
    version = ["--http1.1"]
    if http2:
        version = ["--http2"] if url.startswith("https") else ["--http2-prior-knowledge"]
    argv = [tool("curl"), "-s", "-k", "--max-time", "10", *version, "-w", "\n%{http_version}",
            url + "/seen"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    seen, _, spoken = result.stdout.rpartition("\n")
    if spoken != ("2" if http2 else "1.1"):
        raise RuntimeError(f"{name} answered with HTTP {spoken}: {result.stdout}{result.stderr}")
    empty = [part for part in seen.split(" ") if part.endswith("=")]
    if empty or not seen:
        raise RuntimeError(f"{name} does not add {', '.join(empty)}")
    return seen
