"""Sessions that leave HTTP where one side speaks HTTP/2: extended CONNECT (RFC 8441) and CONNECT.

At the ends are Node's http2, PyPI's `websockets` and plain sockets.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -p test_extended_connect.py -v
"""

import socket
import subprocess
import threading
import time
import unittest
import urllib.request
from pathlib import Path

from gateway import ROOT, Gateway, Scratch, free_port, tool

HERE = Path(__file__).resolve().parent
PYTHON = ROOT / ".peers/venv/bin/python"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Bytes:
    """Listens, answers a request head when it is to, then echoes until the end and says so too."""

    def __init__(self, http):
        self.http = http
        self.heads = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        try:
            self.talk(peer)
        except OSError:
            pass
        finally:
            peer.close()

    def talk(self, peer):
        if self.http:
            head = b""
            while b"\r\n\r\n" not in head:
                more = peer.recv(1)
                if not more:
                    return
                head += more
            self.heads.append(head)
            if b"GET /refused" in head:
                peer.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 11\r\n\r\nnot for you")
                return
            peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n"
                         b"upgrade: websocket\r\n\r\n")
            if b"GET /first" in head:
                peer.sendall(b"bye")
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
                return
        while piece := peer.recv(65536):
            peer.sendall(piece)

    def close(self):
        self.listener.close()


class ExtendedConnect(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.raw, cls.echo = Bytes(True), Bytes(False)
        cls.addClassCleanup(cls.raw.close)
        cls.addClassCleanup(cls.echo.close)
        server = subprocess.Popen([PYTHON, HERE / "ws_peer.py", "serve"], stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(server.stdout.close)
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.kill)
        origin = int(server.stdout.readline())
        node, plain = free_port(), free_port()
        peer = HERE / "connect_peer.js"
        cls.scratch.start("node", [tool("node"), peer, "serve", node], node)
        cls.scratch.start("plain", [tool("node"), peer, "serve", plain, "plain"], plain)
        cls.gateway = Gateway(cls.scratch, "connect.yaml", origin=origin, raw=cls.raw.port,
                              echo=cls.echo.port, node=node, plain=plain)

    def stat(self, name):
        url = f"http://127.0.0.1:{self.gateway.port('admin')}/stats?filter=^{name}$"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.read().split()[-1])

    def until(self, name, value):
        deadline = time.monotonic() + 10
        while self.stat(name) != value:
            self.assertLess(time.monotonic(), deadline, f"{name} is {self.stat(name)}")
            time.sleep(0.02)

    def node(self, what, path, *more):
        url = f"http://127.0.0.1:{self.gateway.port()}{path}"
        done = subprocess.run([tool("node"), HERE / "connect_peer.js", what, url, *map(str, more)],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def upgrade(self, path):
        """An HTTP/1 client's socket after its request, and the head of the answer."""
        client = socket.create_connection(("127.0.0.1", self.gateway.port()), timeout=20)
        self.addCleanup(client.close)
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                       f"sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(1)
            if not more:
                break
            head += more
        return client, head

    def rest(self, client):
        got = b""
        while more := client.recv(65536):
            got += more
        return got

    def test_websocket_over_http2_to_every_upstream(self):
        for hop in ("h1", "h2"):
            self.assertEqual(self.node("talk", f"/{hop}/ws"), "messages left 0, code 0", hop)
        self.until("http.front.downstream_cx_upgrades_active", 0)

    def test_websocket_over_http1_to_an_http2_upstream(self):
        url = f"ws://127.0.0.1:{self.gateway.port()}/h2/ws"
        for what in ("talk", "deflate", "leave", "many"):
            done = subprocess.run([PYTHON, HERE / "ws_peer.py", "talk", url, what], capture_output=True,
                                  text=True, timeout=60, check=False)
            self.assertEqual(done.stdout, "ok\n", what + done.stderr)
        self.until("http.front.downstream_cx_upgrades_active", 0)
        self.until("http.back.downstream_cx_upgrades_active", 0)

    def test_much_and_the_end_of_it_both_ways(self):
        for path in ("/raw/x", "/node/x"):
            for size in (0, 1, 3_000_000):
                self.assertEqual(self.node("pipe", path, size), f"whole {size}", path)
        client, head = self.upgrade("/node/x")
        self.assertTrue(head.startswith(b"HTTP/1.1 101"), head)
        self.assertIn(b"sec-websocket-accept: " + ACCEPT, head)
        body = bytes(range(256)) * 8192
        writer = threading.Thread(target=lambda: (client.sendall(body), client.shutdown(socket.SHUT_WR)))
        writer.start()
        self.assertTrue(self.rest(client) == body)
        writer.join()

    def test_an_http1_upstream_gets_a_key(self):
        self.raw.heads.clear()
        self.assertEqual(self.node("pipe", "/raw/x", 1), "whole 1")
        (head,) = self.raw.heads
        self.assertTrue(head.startswith(b"GET /x HTTP/1.1\r\n"), head)
        self.assertIn(b"upgrade: websocket\r\n", head)
        self.assertIn(b"sec-websocket-key: ", head)
        self.assertNotIn(b"chunked", head)
        self.assertNotIn(b":protocol", head)

    def test_an_upstream_may_end_first(self):
        self.assertEqual(self.node("pipe", "/raw/first", 100_000), "got bye")
        self.assertEqual(self.node("pipe", "/node/first", 100_000), "got bye")
        client, _ = self.upgrade("/node/first")
        self.assertEqual(self.rest(client), b"bye")
        # Its other direction is still open.
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        self.until("http.front.downstream_cx_upgrades_active", 0)

    def test_an_upstream_may_refuse(self):
        self.assertEqual(self.node("status", "/raw/refused"), "403 not for you")
        self.assertEqual(self.node("status", "/node/refused"), "403 not for you")
        client, head = self.upgrade("/node/refused")
        self.assertTrue(head.startswith(b"HTTP/1.1 403"), head)
        self.assertIn(b"not for you", self.rest(client))

    def test_an_upstream_that_takes_none_is_not_asked(self):
        _, head = self.upgrade("/plain/x")
        self.assertTrue(head.startswith(b"HTTP/1.1 502"), head)
        self.assertEqual(self.node("status", "/plain/x").split()[0], "502")

    def test_a_route_may_forbid_it(self):
        self.assertEqual(self.node("status", "/none/x").split()[0], "403")

    def test_resets_cross(self):
        self.assertEqual(self.node("reset", "/raw/x"), "code 8")
        self.assertEqual(self.node("reset", "/node/x"), "code 8")
        client, _ = self.upgrade("/node/reset")
        client.sendall(b"now")
        self.assertEqual(self.rest(client), b"")
        client, _ = self.upgrade("/node/x")
        client.sendall(b"there and back")
        self.assertEqual(client.recv(100), b"there and back")
        client.close()
        self.until("http.front.downstream_cx_upgrades_active", 0)
        self.until("cluster.node.upstream_rq_active", 0)

    def test_silence_ends_by_its_timeout(self):
        self.assertNotEqual(self.node("wait", "/idle/x"), "")
        client, _ = self.upgrade("/idle/x")
        self.assertEqual(self.rest(client), b"")
        self.until("http.front.downstream_cx_upgrades_active", 0)

    def test_connect_over_http2_ends_here(self):
        self.assertEqual(self.node("pipe", "/", 500_000, "connect"), "whole 500000")
        self.until("cluster.echo.upstream_rq_active", 0)


if __name__ == "__main__":
    unittest.main()
