"""Peers that stop in the middle: of a handshake, a record, a preface, a frame, a header block, a body.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -p test_broken.py -v

Each beginning is tried twice: the client leaves, and the client stays and says no more. The outcome is
defined, it is counted, and nothing is left of it: no connection, stream, descriptor or buffered byte.
"""

import os
import socket
import ssl
import struct
import time
import unittest
import urllib.request
from pathlib import Path

from gateway import Gateway, Scratch, moorgate_binary
from listening import Listening
from test_tls import NAME, Certificates
from upstream import Upstream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS = 1, 4
# :method, :scheme http, :path /, :authority a
GET = b"\x82\x86\x84\x41\x01a"
POST = b"\x83\x86\x84\x41\x01a"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


SETTINGS = frame(4, 0, 0)
HELLO = PREFACE + SETTINGS
HEADERS = frame(1, END_HEADERS, 1, POST)
HALF_BODY = frame(0, 0, 1, b"\0\0\0\0\x64" + b"x" * 50)

# Beginning, what is sent, and what counts a client that stays and says no more. The name ends one of the
# gateway's statistics.
HTTP = [
    ("nothing", b"", "downstream_cx_idle_timeout"),
    ("half a request line", b"GET / HT", "downstream_rq_header_timeout"),
    ("half a head", b"GET / HTTP/1.1\r\nhost: a\r\nx-", "downstream_rq_header_timeout"),
    ("half a body", b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", "downstream_rq_idle_timeout"),
    ("half a chunk", b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
     "downstream_rq_idle_timeout"),
    ("half a preface", PREFACE[:10], None),
    ("a preface alone", PREFACE, "downstream_cx_idle_timeout"),
    ("half a frame's head", HELLO + HEADERS[:5], "downstream_cx_idle_timeout"),
    ("half a frame", HELLO + HEADERS[:12], None),
    ("half a header block", HELLO + frame(1, 0, 1, POST[:3]), None),
    ("half a continuation", HELLO + frame(1, 0, 1, POST[:3]) + frame(9, END_HEADERS, 1, POST[3:])[:10], None),
    ("half a body's frame", HELLO + HEADERS + HALF_BODY[:30], "downstream_rq_idle_timeout"),
    ("half a message", HELLO + HEADERS + HALF_BODY, "downstream_rq_idle_timeout"),
    ("half a frame beside a request", HELLO + frame(1, END_STREAM | END_HEADERS, 1, GET) + frame(4, 0, 0, b"x" * 6)[:11],
     "downstream_cx_idle_timeout"),
]


class Tls:
    """A client's end of TLS whose records are in our hands before they are sent."""

    def __init__(self, authority):
        context = ssl.create_default_context(cafile=authority)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)

    def hello(self):
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def shake(self, sock):
        sock.sendall(self.hello())
        while True:
            self.incoming.write(sock.recv(1 << 16))
            try:
                self.object.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing.read())
        sock.sendall(self.outgoing.read())

    def seal(self, plain):
        if plain:
            self.object.write(plain)
        return self.outgoing.read()


class BrokenServer(Listening):
    """Answers the first bytes it gets with bytes of its own, and leaves."""

    def __init__(self):
        self.says = b""
        super().__init__()

    def serve(self, sock):
        with sock:
            data = b""
            while not self.has_request(data):
                if not (more := sock.recv(1 << 16)):
                    return
                data += more
            try:
                sock.sendall(self.says)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            except OSError:
                pass

    @staticmethod
    def has_request(data):
        """There is a whole frame of headers behind the preface."""
        at = len(PREFACE)
        while at + 9 <= len(data):
            end = at + 9 + int.from_bytes(data[at:at + 3], "big")
            if data[at + 3] == 1 and end <= len(data):
                return True
            at = end
        return False

    def close(self):
        self.listener.close()


class Broken(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.dir = cls.scratch.path / "certs"
        cls.dir.mkdir(mode=0o755)
        Certificates(cls.dir)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        cls.broken = BrokenServer()
        cls.addClassCleanup(cls.broken.close)
        cls.gateway = Gateway(cls.scratch, "broken.yaml", certs=str(cls.dir), upstream=cls.upstream.port,
                              broken=cls.broken.port)
        cls.is_envoy = "envoy" in Path(moorgate_binary()).name

    def stats(self):
        url = f"http://127.0.0.1:{self.gateway.port('admin')}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: int(value) for name, value in (line.split(": ", 1) for line in lines
                                                     if ": " in line) if value.isdigit()}

    def total(self, name):
        return sum(value for full, value in self.stats().items()
                   if full.endswith("." + name) and ".admin." not in full)

    def until(self, what, wanted):
        """Waits for what comes about by itself; the assertion after it says what was missing."""
        end = time.monotonic() + 15
        while time.monotonic() < end and not wanted():
            time.sleep(0.02)
        self.assertTrue(wanted(), what)

    def left(self):
        """Gauges of connections and streams, and bytes, that are not zero."""
        names = ("downstream_cx_active", "downstream_rq_active", "upstream_rq_active", "upstream_rq_pending_active",
                 "downstream_pre_cx_active", "buffers.bytes")
        return {name: value for name, value in self.stats().items()
                if value and name.endswith(names) and ".admin." not in name}

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.gateway.child.process.pid}/fd"))

    def connect(self, listener):
        return socket.create_connection(("127.0.0.1", self.gateway.port(listener)), timeout=20)

    @staticmethod
    def rest(sock):
        """Reads until the end, whichever way it comes."""
        try:
            while sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass

    def beginnings(self):
        """Of each: listener, name, a socket on which it was sent, the counter."""
        for name, sent, counter in HTTP:
            sock = self.connect("http")
            sock.sendall(sent)
            yield "http", name, sock, counter
            tls = Tls(self.dir / "ca.pem")
            sock = self.connect("secure")
            tls.shake(sock)
            sock.sendall(tls.seal(sent))
            yield "secure", name, sock, counter
        hello = Tls(self.dir / "ca.pem").hello()
        for name, sent in (("half a record's head", hello[:3]), ("half a hello", hello[:100]),
                           ("a hello", hello)):
            sock = self.connect("secure")
            sock.sendall(sent)
            yield "secure", name, sock, "downstream_cx_transport_socket_connect_timeout"
        for cut in (3, 20):
            tls = Tls(self.dir / "ca.pem")
            sock = self.connect("secure")
            tls.shake(sock)
            sock.sendall(tls.seal(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")[:cut])
            yield "secure", f"{cut} bytes of a record", sock, None

    def test_clients_that_leave(self):
        before = self.descriptors()
        for how in ("end", "reset"):
            for _, _, sock, _ in self.beginnings():
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            self.until(self.left(), lambda: not self.left())
        # The pool keeps what it may go on to use.
        self.until("descriptors", lambda: self.descriptors() <= before + 4)

    def test_clients_that_half_close(self):
        for _, _, sock, _ in self.beginnings():
            with sock:
                sock.shutdown(socket.SHUT_WR)
                self.rest(sock)
        self.until(self.left(), lambda: not self.left())

    def test_clients_that_stay_and_say_no_more(self):
        counters = {counter for _, _, counter in HTTP if counter}
        before = {name: self.total(name) for name in counters}
        open_ones = list(self.beginnings())
        expected = {}
        for listener, name, sock, counter in open_ones:
            with self.subTest(listener=listener, name=name), sock:
                # Each is told to go, by an answer, a reset, a GOAWAY or without a word.
                self.rest(sock)
            expected[counter] = expected.get(counter, 0) + 1
        self.until(self.left(), lambda: not self.left())
        if not self.is_envoy:
            for name in counters:
                self.assertGreaterEqual(self.total(name) - before[name], expected[name], name)
            name = "downstream_cx_transport_socket_connect_timeout"
            self.assertGreaterEqual(self.total(name), expected[name])

    def test_servers_that_leave_in_the_middle(self):
        head = frame(1, END_HEADERS, 1, b"\x88")
        for name, says, code in (
                ("nothing", b"", 503),
                ("settings", SETTINGS, 503),
                ("half a frame's head", SETTINGS + head[:5], 503),
                ("half a header block", SETTINGS + frame(1, 0, 1, b"\x88"), 503),
                ("a head", SETTINGS + head, None),
                ("half a body's frame", SETTINGS + head + frame(0, 0, 1, b"x" * 50)[:30], None),
                ("half a block of trailers", SETTINGS + head + frame(1, END_STREAM, 1, b"\0\1a"), None)):
            with self.subTest(name):
                self.broken.says = says
                sock = self.connect("http")
                sock.sendall(b"GET /broken/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                with sock:
                    got = b""
                    try:
                        while more := sock.recv(1 << 16):
                            got += more
                    except ConnectionResetError:
                        pass
                if code:
                    self.assertTrue(got.startswith(f"HTTP/1.1 {code}".encode()), got)
                else:
                    # It began, and its end is missing.
                    self.assertTrue(got.startswith(b"HTTP/1.1 200"), got)
                    self.assertFalse(got.endswith(b"0\r\n\r\n"), got)
        self.until(self.left(), lambda: not self.left())


if __name__ == "__main__":
    unittest.main()
