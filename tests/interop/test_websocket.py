"""WebSockets: PyPI's `websockets` and npm's `ws` at either end of the gateway, with TLS and without, and the
load generator.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -p test_websocket.py -v
"""

import os
import subprocess
import unittest
from pathlib import Path

from gateway import ROOT, Gateway, Scratch, closed_port, free_port, moorgate_binary, tool
from test_tls import NAME, Certificates

PEER = Path(__file__).resolve().parent / "ws_peer.py"
NODE = PEER.with_name("ws_node.js")
PYTHON = ROOT / ".peers/venv/bin/python"


def load_binary():
    """The load generator that was built with the gateway, or else the one of a release build."""
    beside = Path(moorgate_binary()).with_name("moorgate-load")
    return beside if beside.exists() else ROOT / "target/release/moorgate-load"


def port_of(test, argv):
    """The port that a server prints at the end of its first line."""
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    test.addClassCleanup(child.stdout.close)
    test.addClassCleanup(child.wait)
    test.addClassCleanup(child.kill)
    return int(child.stdout.readline().strip().rpartition(":")[2])


class EitherEnd(unittest.TestCase):
    """Every client with every server, with TLS and without on either side."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.dir = cls.scratch.path / "certs"
        cls.dir.mkdir(mode=0o755)
        Certificates(cls.dir).issue("web", f"DNS:{NAME},IP:127.0.0.1")
        cls.env = dict(os.environ, NODE_EXTRA_CA_CERTS=str(cls.dir / "ca.pem"),
                       NODE_PATH=str(ROOT / ".peers/npm/node_modules"))
        servers = {"python_plain": port_of(cls, [PYTHON, PEER, "serve"]),
                   "python_secure": port_of(cls, [PYTHON, PEER, "serve", cls.dir])}
        for name, files in (("node_plain", ()), ("node_secure", (cls.dir / "web.pem", cls.dir / "web.key"))):
            servers[name] = free_port()
            cls.scratch.start(name, [tool("node"), NODE, "serve", servers[name], *files],
                              servers[name], env=cls.env)
        cls.servers = servers
        cls.gateway = Gateway(cls.scratch, "websocket.yaml", certs=str(cls.dir), **servers)

    def talk(self, server, *clients):
        """Runs the clients at the same time, through both listeners to both servers."""
        running = {}
        for listener, scheme in (("http", "ws"), ("secure", "wss")):
            for upstream in ("plain", "secure"):
                url = f"{scheme}://127.0.0.1:{self.gateway.port(listener)}/{server}/{upstream}"
                for client in clients:
                    argv = [part if part != "URL" else url for part in client]
                    if scheme == "wss" and client[0] == PYTHON:
                        argv.append(self.dir / "ca.pem")
                    running[url, client[-1]] = subprocess.Popen(
                        argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for what, child in running.items():
            with self.subTest(what=what):
                said, _ = child.communicate(timeout=60)
                self.assertEqual(said.decode(), "ok\n")

    def test_node_to_node(self):
        self.talk("node", *((tool("node"), NODE, "talk", "URL", mode) for mode in ("plain", "deflate")))

    def test_python_to_python(self):
        self.talk("python", *((PYTHON, PEER, "talk", "URL", what) for what in ("talk", "deflate", "leave")))

    def test_both_ends_are_told_when_the_gateway_leaves(self):
        running = []
        gateway = Gateway(self.scratch, "websocket.yaml", flags=("--drain-time-s", "1"), certs=str(self.dir),
                          **self.servers)
        for listener, scheme in (("http", "ws"), ("secure", "wss")):
            for upstream in ("plain", "secure"):
                url = f"{scheme}://127.0.0.1:{gateway.port(listener)}/python/{upstream}"
                argv = [PYTHON, PEER, "talk", url, "stay"]
                if scheme == "wss":
                    argv.append(self.dir / "ca.pem")
                running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        for client in running:
            self.assertEqual(client.stdout.readline(), "here\n")
        gateway.child.process.terminate()
        for client in running:
            said, _ = client.communicate(timeout=60)
            self.assertEqual(said, "ok\n")
        for name, scheme in (("python_plain", "ws"), ("python_secure", "wss")):
            argv = [PYTHON, PEER, "talk", f"{scheme}://127.0.0.1:{self.servers[name]}/", "last"]
            if scheme == "wss":
                argv.append(self.dir / "ca.pem")
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.stdout, "ok\n", done.stderr)

    def test_python_to_node(self):
        # `leave` asks for fragments as Python's server sends them, Node's are the same message.
        self.talk("node", *((PYTHON, PEER, "talk", "URL", what) for what in ("deflate", "leave", "many")))


class WebSocket(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.server = port_of(cls, [PYTHON, PEER, "serve"])
        cls.gateway = Gateway(cls.scratch, upstream=cls.server, closed=closed_port())
        cls.url = f"ws://127.0.0.1:{cls.gateway.port()}/ws"

    def talk(self, what, url=None):
        argv = [PYTHON, PEER, "talk", url or self.url, what]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.stdout, "ok\n", done.stderr)

    def load(self, line, url):
        argv = [load_binary(), *line.split(), url]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_messages_of_every_kind(self):
        self.talk("talk")

    def test_compression_passes_untouched(self):
        self.talk("deflate")

    def test_the_servers_close_code_arrives(self):
        self.talk("leave")

    def test_many_at_once(self):
        self.talk("many")

    def test_load_generator_as_client(self):
        said = self.load("run -n 400 -c 8", self.url)
        self.assertIn("errors     0", said)

    def test_load_generator_holds_and_answers_pings(self):
        said = self.load("hold -c 20 --rate 1000 --every 5s -d 2s", self.url)
        self.assertIn("connected   20", said)
        self.assertIn("dropped     0", said)

    def test_load_generator_as_server(self):
        server = port_of(type(self), [load_binary(), "serve", "ws"])
        gateway = Gateway(self.scratch, upstream=server, closed=closed_port())
        url = f"ws://127.0.0.1:{gateway.port()}/ws"
        self.talk("talk", url)
        self.talk("many", url)


if __name__ == "__main__":
    unittest.main()
