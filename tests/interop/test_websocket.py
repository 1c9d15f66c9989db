"""WebSockets: PyPI's `websockets` at both ends of the gateway, and the load generator at either.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -p test_websocket.py -v
"""

import subprocess
import unittest
from pathlib import Path

from gateway import ROOT, Gateway, Scratch, closed_port, moorgate_binary

PEER = Path(__file__).resolve().parent / "ws_peer.py"
PYTHON = ROOT / ".peers/venv/bin/python"


def load_binary():
    """The load generator that was built with the gateway, or else the one of a release build."""
    beside = Path(moorgate_binary()).with_name("moorgate-load")
    return beside if beside.exists() else ROOT / "target/release/moorgate-load"


class WebSocket(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.server = cls.port_of([PYTHON, PEER, "serve"])
        cls.gateway = Gateway(cls.scratch, upstream=cls.server, closed=closed_port())
        cls.url = f"ws://127.0.0.1:{cls.gateway.port()}/ws"

    @classmethod
    def port_of(cls, argv):
        """The port that a server prints at the end of its first line."""
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(child.stdout.close)
        cls.addClassCleanup(child.wait)
        cls.addClassCleanup(child.kill)
        return int(child.stdout.readline().strip().rpartition(":")[2])

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
        server = self.port_of([load_binary(), "serve", "ws"])
        gateway = Gateway(self.scratch, upstream=server, closed=closed_port())
        url = f"ws://127.0.0.1:{gateway.port()}/ws"
        self.talk("talk", url)
        self.talk("many", url)


if __name__ == "__main__":
    unittest.main()
