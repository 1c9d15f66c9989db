"""The rows of every table: how each proxy is started, and what it says it is."""

import os
import platform
import shutil
import string
import subprocess
import sys
import urllib.request
from pathlib import Path

from harness import protocols
from harness.process import free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "perf" / "configs"
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def tool(name):
    """The path of an installed program, or an error that says how to get it."""
    found = shutil.which(name, path=SEARCH)
    if not found:
        raise SystemExit(f"perf: {name} is not installed; run perf/install-peers.sh")
    return found


def _render(source, target, **values):
    text = string.Template((CONFIGS / source).read_text()).substitute(values)
    target.write_text(text)
    return target


def _nginx(config, _workers):
    start_log = config.with_name("nginx-start.log")
    return [tool("nginx"), "-e", start_log, "-p", config.parent, "-c", config]


def _haproxy(config, _workers):
    return [tool("haproxy"), "-db", "-f", config]


def _envoy(config, workers):
    return [envoy_binary(), "-c", config, "--concurrency", workers, "--disable-hot-restart", "-l", "error"]


def _moorgate(config, workers):
    return [moorgate_binary(), "-c", config, "--concurrency", workers, "-l", "error"]


def _nghttpx(config, _workers):
    return [tool("nghttpx"), "--conf", config]


def envoy_binary():
    return os.environ.get("ENVOY_BIN", str(ROOT / ".peers" / "envoy"))


def moorgate_binary():
    return os.environ.get("MOORGATE_BIN", str(ROOT / "target" / "release" / "moorgate"))


def floor_binary():
    return str(ROOT / "perf" / "floor" / "target" / "release" / "floor")


class Peer:
    """One row. `configs` maps "http" and "tcp" to files in perf/configs; every other kind of work
    (harness/protocols.py) is the file for "http" with other protocols filled in."""

    def __init__(self, name, configs, command, version):
        self.name = name
        self.configs = configs
        self._command = command
        self._version = version

    def start(self, scratch, kind, upstream, workers, **options):
        """Starts it in `scratch` in front of `upstream`; returns (child, port)."""
        port = free_port()
        if not self.configs:  # the floor: its command line is its configuration
            argv = [floor_binary(), f"127.0.0.1:{port}", f"127.0.0.1:{upstream}", workers]
            return scratch.start(self.name, argv, port), port
        directory = scratch.path / f"{self.name}-{port}"
        directory.mkdir(mode=0o755)
        source = self.configs["tcp" if kind == "tcp" else "http"]
        config = _render(
            source,
            directory / source,
            dir=directory,
            port=port,
            upstream=upstream,
            admin=free_port(),
            workers=workers,
            **protocols.placeholders(
                kind, directory, upstream, options.get("nginx_buffering", "on")
            ),
        )
        return scratch.start(self.name, self._command(config, workers), port), port

    def version(self):
        result = subprocess.run(
            self._version(), capture_output=True, text=True, check=False, timeout=20
        )
        lines = (result.stdout + result.stderr).strip().splitlines()
        # Some begin with the path they were started by: it says nothing about the version.
        words = [word for word in lines[0].split() if not word.startswith("/")] if lines else []
        return " ".join(words) or "unknown"


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "floor",
            {},
            None,
            lambda: ["echo", "perf/floor: bare copy loop, one upstream connection per client"],
        ),
        Peer(
            "nginx",
            {"http": "nginx-http.conf", "tcp": "nginx-tcp.conf"},
            _nginx,
            lambda: [tool("nginx"), "-v"],
        ),
        Peer(
            "haproxy",
            {"http": "haproxy-http.cfg", "tcp": "haproxy-tcp.cfg"},
            _haproxy,
            lambda: [tool("haproxy"), "-v"],
        ),
        Peer(
            "envoy",
            {"http": "envoy-http.yaml", "tcp": "envoy-tcp.yaml"},
            _envoy,
            lambda: [envoy_binary(), "--version"],
        ),
        Peer(
            "nghttpx",
            {"http": "nghttpx.conf"},
            _nghttpx,
            lambda: [tool("nghttpx"), "--version"],
        ),
        Peer(
            "moorgate",
            {"http": "envoy-http.yaml", "tcp": "envoy-tcp.yaml"},
            _moorgate,
            lambda: [moorgate_binary(), "--version"],
        ),
    )
}

# Who is measured unless asked otherwise. nghttpx is an HTTP/2 proxy, and has rows there.
USUAL = tuple(name for name in PEERS if name != "nghttpx")
HTTP2 = tuple(name for name in PEERS if name != "floor")

# Who may be "the best of them" in a ratio.
COMPETITORS = ("nginx", "haproxy", "envoy")
HTTP2_COMPETITORS = (*COMPETITORS, "nghttpx")


def start_origin(scratch, http2=False):
    """The shared HTTP upstream: nginx with a fixed body of 100 bytes. Returns (child, port), the port
    for HTTP/2 without TLS if asked."""
    port, http2_port = free_port(), free_port()
    directory = scratch.path / f"origin-{port}"
    directory.mkdir(mode=0o755)
    config = _render("nginx-origin.conf", directory / "nginx.conf", dir=directory, port=port,
                     http2_port=http2_port)
    return scratch.start("origin", _nginx(config, 1), port), http2_port if http2 else port


def origin_count(port):
    """How many requests that upstream has had."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=10) as answer:
        return int(answer.read().splitlines()[2].split()[2])


def start_grpc_origin(scratch, message):
    """The upstream of the unary gRPC rows, nghttpd: answers a call of /perf.Echo/Unary with `message`
    and then grpc-status. Returns (child, port)."""
    port = free_port()
    directory = scratch.path / "perf.Echo"
    directory.mkdir()
    (directory / "Unary").write_bytes(message)
    argv = [tool("nghttpd"), "--no-tls", "--trailer", "grpc-status: 0", "--max-concurrent-streams",
            2 * protocols.STREAMS, "--address", "127.0.0.1", "--htdocs", scratch.path, port]
    return scratch.start("grpc-origin", argv, port), port


def chosen(names, usual=USUAL):
    """The peers to measure. Asked for by name they must be there; the default leaves out, and says
    so, a Moorgate that is not built. The floor is built when it is missing."""
    rows = names.split(",") if names else list(usual)
    unknown = [name for name in rows if name not in PEERS]
    if unknown:
        raise SystemExit(f"perf: no such peer: {', '.join(unknown)} (there are {', '.join(PEERS)})")
    if "moorgate" in rows and not os.access(moorgate_binary(), os.X_OK):
        if names:
            raise SystemExit(f"perf: {moorgate_binary()} is not built: cargo build --release")
        print(f"perf: without moorgate: {moorgate_binary()} is not built", file=sys.stderr)
        rows.remove("moorgate")
    if "floor" in rows and not os.path.exists(floor_binary()):
        subprocess.run(
            ["cargo", "build", "--release", "--locked"], cwd=ROOT / "perf" / "floor", check=True
        )
    return [PEERS[name] for name in rows]


def machine():
    """What the figures were taken on."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory} MiB, Linux {platform.release()}"
