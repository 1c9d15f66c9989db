"""Upstreams that are told whose a connection is (`upstream_proxy_protocol`).

    MOORGATE_BIN=... python3 -m unittest tests/interop/test_proxy_header.py -v

Envoy passes all of it too: MOORGATE_BIN=.peers/envoy.
"""

import socket
import ssl
import struct
import unittest
from pathlib import Path

from gateway import Gateway, Scratch
from listening import Listening
from test_tls import Certificates

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Told(Listening):
    """Reads a header, then requests, which it answers, or bytes, which it sends back."""

    def __init__(self, context=None):
        self.context = context
        self.headers = []
        # Apart: a connection that the gateway gives up is no header.
        self.errors = []
        super().__init__()

    @staticmethod
    def exactly(sock, count):
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def header(self, sock):
        start = self.exactly(sock, 6)
        if start == b"PROXY ":
            while not start.endswith(b"\r\n"):
                start += self.exactly(sock, 1)
            _, family, source, to, source_port, to_port = start.decode().split()
            return ("v1", family, (source, int(source_port)), (to, int(to_port)), b"")
        start += self.exactly(sock, 10)
        if start[:12] != SIGNATURE:
            raise ConnectionError(f"no header: {start}")
        command, family, length = struct.unpack("!BBH", start[12:])
        rest = self.exactly(sock, length)
        if command == 0x20:
            return ("v2", "LOCAL", None, None, rest)
        source, to = socket.inet_ntoa(rest[:4]), socket.inet_ntoa(rest[4:8])
        source_port, to_port = struct.unpack("!HH", rest[8:12])
        return ("v2", f"{family:#x}", (source, source_port), (to, to_port), rest[12:])

    def serve(self, sock):
        with sock:
            try:
                self.headers.append(self.header(sock))
                if self.context:
                    sock = self.context.wrap_socket(sock, server_side=True)
                while data := sock.recv(1 << 16):
                    sock.sendall(ANSWER if data.startswith(b"GET") else data)
            except (OSError, ConnectionError) as error:
                self.errors.append(repr(error))

    def take(self):
        taken, self.headers = self.headers, []
        return taken


class ProxyHeader(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        directory = Path(cls.scratch.path) / "certs"
        directory.mkdir()
        Certificates(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem", directory / "server.key")
        cls.plain, cls.secure = Told(), Told(context)
        cls.addClassCleanup(cls.plain.listener.close)
        cls.addClassCleanup(cls.secure.listener.close)
        cls.gateway = Gateway(cls.scratch, "proxy_header.yaml", certs=str(directory),
                              upstream=cls.plain.port, secure=cls.secure.port)

    def setUp(self):
        self.plain.take()
        self.secure.take()

    def client(self, listener="http"):
        sock = socket.create_connection(("127.0.0.1", self.gateway.port(listener)), timeout=20)
        self.addCleanup(sock.close)
        return sock

    def get(self, sock, path):
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        data = b""
        while not data.endswith(b"\r\n\r\nok"):
            more = sock.recv(1 << 16)
            self.assertTrue(more, data)
            data += more

    def test_each_client_has_connections_that_tell_of_it(self):
        for path, version, family, tlvs in (("/v1", "v1", "TCP4", b""),
                                            ("/v2", "v2", "0x11", b"\xf1\0\x05hello")):
            one, two = self.client(), self.client()
            for _ in range(3):
                self.get(one, path)
                self.get(two, path)
            wanted = [(version, family, sock.getsockname(), sock.getpeername(), tlvs)
                      for sock in (one, two)]
            self.assertCountEqual(self.plain.take(), wanted)

    def test_the_header_is_before_tls(self):
        sock = self.client()
        for _ in range(3):
            self.get(sock, "/tls")
        wanted = ("v2", "0x11", sock.getsockname(), sock.getpeername(), b"")
        self.assertEqual(self.secure.take(), [wanted])

    def test_a_tunnel_tells_of_its_client(self):
        sock = self.client("tcp")
        sock.sendall(b"hello")
        self.assertEqual(Told.exactly(sock, 5), b"hello")
        wanted = ("v2", "0x11", sock.getsockname(), sock.getpeername(), b"\xf1\0\x05hello")
        self.assertEqual(self.plain.take(), [wanted])

    def test_who_was_told_tells_on(self):
        sock = self.client("told")
        sock.sendall(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\nhello")
        self.assertEqual(Told.exactly(sock, 5), b"hello")
        wanted = ("v2", "0x11", ("203.0.113.7", 4711), ("192.0.2.1", 443), b"\xf1\0\x05hello")
        self.assertEqual(self.plain.take(), [wanted])


if __name__ == "__main__":
    unittest.main()
