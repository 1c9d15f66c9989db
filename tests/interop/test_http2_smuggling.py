"""Requests over HTTP/2 that would be two, or another one, as HTTP/1: none reaches the upstream.

Frames and header blocks are written by hand, since no client library would send these.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -p test_http2_smuggling.py -v
"""

import socket
import struct
import unittest
import urllib.request

from gateway import Gateway, Scratch, closed_port
from upstream import Upstream

DATA, HEADERS, RST, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
GET = ((":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/h1/"))
POST = ((":method", "POST"), *GET[1:])


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields):
    """Literal fields that no table keeps (RFC 7541 section 6.2.2), without Huffman."""
    out = b""
    for text in (part for field in fields for part in (None, *field)):
        if text is None:
            out += b"\0"
            continue
        raw = text.encode("latin-1")
        assert len(raw) < 127
        out += bytes([len(raw)]) + raw
    return out


def without(name, fields=GET):
    return tuple(field for field in fields if field[0] != name)


def but(name, value, fields=GET):
    return tuple((key, value if key == name else old) for key, old in fields)


SMUGGLED = "x\r\nhost: b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: b"

# Header sections without a body, each malformed.
HEADS = {
    "line breaks in a value": (*GET, ("x", SMUGGLED)),
    "line feed in a value": (*GET, ("x", "a\nb: c")),
    "carriage return in a value": (*GET, ("x", "a\rb")),
    "NUL in a value": (*GET, ("x", "a\0b")),
    "white space before a value": (*GET, ("x", " a")),
    "white space after a value": (*GET, ("x", "a\t")),
    "line breaks in a name": (*GET, ("x: y\r\nb", "c")),
    "colon in a name": (*GET, ("x:y", "c")),
    "white space in a name": (*GET, ("x ", "c")),
    "capital in a name": (*GET, ("Transfer-Encoding", "chunked")),
    "empty name": (*GET, ("", "c")),
    "transfer-encoding": (*GET, ("transfer-encoding", "chunked")),
    "connection": (*GET, ("connection", "transfer-encoding")),
    "keep-alive": (*GET, ("keep-alive", "1")),
    "proxy-connection": (*GET, ("proxy-connection", "close")),
    "upgrade": (*GET, ("upgrade", "h2c")),
    "te beyond trailers": (*GET, ("te", "trailers, chunked")),
    "line breaks in the method": but(":method", "GET / HTTP/1.1\r\nhost: b\r\n\r\nGET"),
    "white space in the method": but(":method", "GET /x"),
    "line breaks in the path": but(":path", "/h1/ HTTP/1.1\r\nhost: b\r\n\r\nGET /"),
    "white space in the path": but(":path", "/h1/ HTTP/1.0"),
    "empty path": but(":path", ""),
    "absolute path": but(":path", "http://b/"),
    "path that is none": but(":path", "h1"),
    "line breaks in the authority": but(":authority", "a\r\nx: y"),
    "path in the authority": but(":authority", "a/b"),
    "white space in the authority": but(":authority", "a b"),
    "scheme with a path": but(":scheme", "http://b/h1/?"),
    "host of another": (*GET, ("host", "b")),
    "two hosts": (*GET, ("host", "a"), ("host", "a")),
    "two authorities": (*GET, (":authority", "b")),
    "two paths": (*GET, (":path", "/h1/x")),
    "two methods": (*GET, (":method", "POST")),
    "pseudo-header behind a field": (*GET[:3], ("x", "y"), GET[3]),
    "status of a response": (*GET, (":status", "200")),
    "unknown pseudo-header": (*GET, (":x", "y")),
    "protocol without CONNECT": (*GET, (":protocol", "websocket")),
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "no path": without(":path"),
    "no authority": without(":authority"),
    "CONNECT with a path": but(":method", "CONNECT"),
    "length of nothing": (*GET, ("content-length", "5")),
    "length with a sign": (*POST, ("content-length", "+0")),
    "length in a list": (*POST, ("content-length", "0, 0")),
    "two lengths": (*POST, ("content-length", "0"), ("content-length", "0")),
}

# Bodies that are not as long as was said: they may reach the upstream, but never whole.
BODIES = {
    "longer than declared": (b"xxxxGET /smuggled HTTP/1.1\r\nhost: b\r\n\r\n", "4"),
    "shorter than declared": (b"xx", "40"),
}


class Smuggling(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        cls.gateway = Gateway(cls.scratch, "http2.yaml", upstream=cls.upstream.port, node=closed_port())

    def stat(self, name):
        url = f"http://127.0.0.1:{self.gateway.port('admin')}/stats?filter=^{name}$"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.read().split()[-1])

    def outcome(self, *frames):
        """What becomes of stream 1: "reset", "gone" with the connection, or the flags of its answer."""
        with socket.create_connection(("127.0.0.1", self.gateway.port()), timeout=20) as sock:
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + b"".join(frames))
            stream = sock.makefile("rb")
            ended = "nothing"
            while len(head := stream.read(9)) == 9:
                payload = stream.read(int.from_bytes(head[:3], "big"))
                kind, number = head[3], int.from_bytes(head[5:9], "big")
                if kind == GOAWAY and payload[4:8] != b"\0\0\0\0":
                    return "gone"
                if kind == RST and number == 1:
                    return "reset"
                if number == 1 and head[4] & END_STREAM:
                    return "answered"
            return ended

    def test_heads_that_are_malformed(self):
        for name, fields in HEADS.items():
            with self.subTest(name):
                self.upstream.take()
                before = self.stat("http2.rx_messaging_error")
                head = frame(HEADERS, END_HEADERS | END_STREAM, 1, block(fields))
                self.assertIn(self.outcome(head), ("gone", "reset"))
                self.assertEqual(self.upstream.take(), [])
                self.assertEqual(self.stat("http2.rx_messaging_error"), before + 1)

    def test_bodies_of_another_length(self):
        for name, (body, length) in BODIES.items():
            with self.subTest(name):
                self.upstream.take()
                frames = (frame(HEADERS, END_HEADERS, 1, block((*POST, ("content-length", length)))),
                          frame(DATA, END_STREAM, 1, body))
                self.assertIn(self.outcome(*frames), ("gone", "reset"))
                self.assertNotIn("/smuggled", [seen.target for seen in self.upstream.take()])

    def test_fields_that_cannot_frame_a_message(self):
        # Names that some servers take for those of HTTP/1's framing, and trailers that look like it.
        self.upstream.take()
        head = block((*POST, ("content_length", "100"), ("transfer_encoding", "chunked")))
        trailers = block((("content-length", "100"), ("transfer-encoding", "x"), ("host", "b")))
        frames = (frame(HEADERS, END_HEADERS, 1, head), frame(DATA, 0, 1, b"0\r\n\r\nGET /smuggled"))
        good = frame(HEADERS, END_HEADERS | END_STREAM, 1, block((("x-sum", "1"),)))
        self.assertEqual(self.outcome(*frames, good), "answered")
        (seen,) = self.upstream.take()
        self.assertIsNone(seen.get("content_length"))
        self.assertIsNone(seen.get("transfer_encoding"))
        bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, trailers)
        self.assertIn(self.outcome(*frames, bad), ("gone", "reset"))

    def test_a_good_request_is_one(self):
        self.upstream.take()
        head = frame(HEADERS, END_HEADERS | END_STREAM, 1, block((*GET, ("x", "y"), ("host", "a"))))
        self.assertEqual(self.outcome(head), "answered")
        (seen,) = self.upstream.take()
        self.assertEqual((seen.method, seen.target, seen.get("host")), ("GET", "/", "a"))


if __name__ == "__main__":
    unittest.main()
