"""The proxy under test, started with a file of tests/interop/configs.

MOORGATE_BIN names the binary (default target/release/moorgate). It is started with flags that Envoy
has too, so every script here can be checked against Envoy itself: MOORGATE_BIN=.peers/envoy.
"""

import os
import string
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "perf"))

# The search path above makes the harness of perf/ importable; it is the same need.
from harness.peers import envoy_binary, moorgate_binary, tool  # noqa: E402,F401
from harness.process import Scratch, free_port, raise_descriptor_limit  # noqa: E402,F401

CONFIGS = Path(__file__).resolve().parent / "configs"


def closed_port():
    """A port on which nothing listens."""
    return free_port()


class Gateway:
    """A running proxy. `port("http")` is the port put in place of `${http}` in its file."""

    def __init__(self, scratch, config="gateway.yaml", binary=None, flags=(), **values):
        binary = binary or moorgate_binary()
        text = (CONFIGS / config).read_text()
        values.setdefault("log", "/dev/null")
        names = {
            match["braced"] for match in string.Template.pattern.finditer(text) if match["braced"]
        }
        self._values = {name: values.get(name) or free_port() for name in sorted(names)}
        name = f"{Path(binary).name}-{len(scratch.children)}"
        path = scratch.path / f"{name}.yaml"
        path.write_text(string.Template(text).substitute(self._values))
        argv = [binary, "-c", path, "--concurrency", "2", "--disable-hot-restart", "-l", "error",
                "--file-flush-interval-msec", "20", *flags]
        self.child = scratch.start(name, argv, self._values["http"])

    def port(self, name="http"):
        return self._values[name]
