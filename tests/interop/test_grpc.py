"""gRPC through the gateway: PyPI's `grpcio` at both ends, with TLS and without on either side.

    MOORGATE_BIN=... .peers/venv/bin/python -m unittest discover -s tests/interop -p test_grpc.py -v

Messages are bytes: no code is generated. `grpc_server.py` says what can be asked of the server.
"""

import functools
import http.server
import json
import os
import signal
import subprocess
import threading
import time
import unittest
import urllib.request
from pathlib import Path

import grpc

from gateway import ROOT, Gateway, Scratch, closed_port, free_port, moorgate_binary, tool
from test_tls import NAME, Certificates

HERE = Path(__file__).resolve().parent
PYTHON = ROOT / ".peers/venv/bin/python"
MOST = 16 << 20
PATIENCE = 30


class Method:
    """The four shapes of calls of one channel, with the metadata that chooses the upstream."""

    def __init__(self, channel, upstream):
        self.channel, self.upstream = channel, upstream

    def _call(self, make, path, request, metadata, timeout):
        metadata = (("x-up", self.upstream), *metadata)
        return make(path)(request, metadata=metadata, timeout=timeout)

    def unary(self, request, *metadata, path="/test.Echo/Unary", timeout=PATIENCE):
        return self._call(self.channel.unary_unary, path, request, metadata, timeout)

    def future(self, request, *metadata, path="/test.Echo/Unary", timeout=PATIENCE):
        metadata = (("x-up", self.upstream), *metadata)
        return self.channel.unary_unary(path).future(request, metadata=metadata, timeout=timeout)

    def collect(self, requests, *metadata, timeout=PATIENCE):
        return self._call(self.channel.stream_unary, "/test.Echo/Collect", requests, metadata, timeout)

    def spread(self, request, *metadata, path="/test.Echo/Spread", timeout=PATIENCE):
        return self._call(self.channel.unary_stream, path, request, metadata, timeout)

    def chat(self, requests, *metadata, timeout=PATIENCE):
        return self._call(self.channel.stream_stream, "/test.Echo/Chat", requests, metadata, timeout)


def everywhere(test):
    """Runs a test for clients and servers with and without TLS, in every combination."""
    @functools.wraps(test)
    def run(self):
        for secure in (False, True):
            channel = self.channel(secure)
            for upstream in ("plain", "secure"):
                with self.subTest(client="tls" if secure else "h2c", upstream=upstream):
                    test(self, Method(channel, upstream))
    return run


class Plain(http.server.BaseHTTPRequestHandler):
    """A server of HTTP/1 that answers posts with what they said, as the last word of the path wants it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["content-length"]))
        how = self.path.rpartition("/")[2]
        self.server.seen = (self.path, self.headers["content-type"], self.headers["accept"], body)
        self.send_response(503 if how == "Fails" else 200)
        self.send_header("content-type", "text/html" if how == "Html" else "application/x-protobuf")
        if how != "Unsized":
            self.send_header("x-size", str(len(body) + (how == "Lies")))
        if how in ("Chunked", "Unsized"):
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for at in range(0, len(body), 1000):
                piece = body[at:at + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Grpc(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.dir = cls.scratch.path / "certs"
        cls.dir.mkdir(mode=0o755)
        cls.certificates = Certificates(cls.dir)
        cls.certificates.issue("web", f"DNS:{NAME},IP:127.0.0.1")
        cls.plain, cls.tls = cls.server(), cls.server(cls.dir)
        cls.aged = cls.server("--max-age", 150)
        cls.mortal = free_port()
        cls.http1 = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain)
        # Where a gateway gives up on a lie it resets the connection.
        cls.http1.handle_error = lambda *_: None
        threading.Thread(target=cls.http1.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.http1.server_close)
        cls.addClassCleanup(cls.http1.shutdown)
        cls.gateway = cls.start_gateway()
        cls.is_envoy = "envoy" in Path(moorgate_binary()).name

    @classmethod
    def server(cls, *arguments):
        port = free_port()
        cls.scratch.start("grpcio", [PYTHON, HERE / "grpc_server.py", port, *arguments], port)
        return port

    @classmethod
    def start_gateway(cls):
        return Gateway(cls.scratch, "grpc.yaml", certs=str(cls.dir), upstream=cls.plain,
                       tls_upstream=cls.tls, aged=cls.aged, mortal=cls.mortal, closed=closed_port(),
                       http1=cls.http1.server_port)

    def channel(self, secure=False, listener=None, gateway=None):
        """A channel with a connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", MOST),
                   ("grpc.max_send_message_length", MOST), ("grpc.enable_http_proxy", 0),
                   ("grpc.max_metadata_size", 64 << 10),
                   ("grpc.ssl_target_name_override", NAME), ("grpc.enable_retries", 0)]
        port = (gateway or self.gateway).port(listener or ("secure" if secure else "http"))
        address = f"127.0.0.1:{port}"
        if secure:
            trusted = grpc.ssl_channel_credentials((self.dir / "ca.pem").read_bytes())
            channel = grpc.secure_channel(address, trusted, options)
        else:
            channel = grpc.insecure_channel(address, options)
        self.addCleanup(channel.close)
        return channel

    def stats(self, gateway=None):
        url = f"http://127.0.0.1:{(gateway or self.gateway).port('admin')}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: int(value) for name, value in (line.split(": ", 1) for line in lines
                                                     if ": " in line) if value.isdigit()}

    def until(self, what, wanted):
        """Waits for what comes about by itself; the assertion after it says what was missing."""
        end = time.monotonic() + 20
        while time.monotonic() < end and not wanted():
            time.sleep(0.02)
        self.assertTrue(wanted(), what)

    def fails(self, code, call, *arguments, **options):
        """The call ends with that status (or one of those), and this is what it says."""
        with self.assertRaises(grpc.RpcError) as raised:
            list(made) if hasattr(made := call(*arguments, **options), "__next__") else made
        codes = code if isinstance(code, tuple) else (code,)
        self.assertIn(raised.exception.code(), codes, raised.exception.details())
        return raised.exception

    @everywhere
    def test_the_four_shapes(self, method):
        for message in (b"", b"x", bytes(range(256)) * 40):
            self.assertEqual(method.unary(message), message)
        self.assertEqual(method.collect(iter([b"ab", b"", b"cde"])), b"5")
        self.assertEqual(method.collect(iter([])), b"0")
        self.assertEqual(list(method.spread(b"3 2")), [b"\0\0", b"\1\1", b"\2\2"])
        self.assertEqual(list(method.spread(b"0 0")), [])
        said = [b"a", b"", b"bc" * 3000]
        self.assertEqual(list(method.chat(iter(said))), said)

    @everywhere
    def test_a_conversation_goes_message_by_message(self, method):
        heard = []

        def speak():
            # The next word comes when the answer to the last one is there.
            for turn in range(50):
                self.until("an answer", lambda: len(heard) == turn)
                yield str(turn).encode()
        for answer in method.chat(speak()):
            heard.append(answer)
        self.assertEqual(heard, [str(turn).encode() for turn in range(50)])

    @everywhere
    def test_messages_of_some_megabytes(self, method):
        piece = os.urandom(1 << 20)
        whole = piece * 6
        self.assertTrue(method.unary(whole) == whole)
        self.assertEqual(method.collect(iter([piece] * 12)), str(12 << 20).encode())
        self.assertEqual(sum(map(len, method.spread(b"12 1048576"))), 12 << 20)
        self.assertEqual(sum(map(len, method.chat(iter([piece] * 8)))), 8 << 20)

    @everywhere
    def test_metadata_and_trailers(self, method):
        for size in (1, 1000, 16_000):
            value = "v" * size
            call = method.future(b"m", ("x-echo", value))
            self.assertEqual(call.result(), b"m")
            self.assertEqual(dict(call.initial_metadata())["x-echoed"], value)
            trailers = dict(call.trailing_metadata())
            self.assertEqual((trailers["x-trailer"], trailers["x-bin"]), (value, b"\0\1\xff"))

    @everywhere
    def test_every_status_without_a_message(self, method):
        for code in grpc.StatusCode:
            number = code.value[0]
            if number:
                error = self.fails(code, method.unary, b"m", ("x-fail", str(number)))
                self.assertEqual(error.details(), "as asked: 100% caf\u00e9")
        # Trailers only: there is no other head.
        self.fails(grpc.StatusCode.ABORTED, method.spread, b"1 1", ("x-fail", "10"))
        self.fails(grpc.StatusCode.ABORTED, method.unary, b"", ("x-fail", "10"), ("x-echo", "a"))
        self.fails(grpc.StatusCode.UNIMPLEMENTED, method.unary, b"", path="/test.Echo/Nothing")

    @everywhere
    def test_a_status_after_messages(self, method):
        call = method.spread(b"3 100", ("x-then-fail", "1"))
        self.assertEqual([len(next(call)) for _ in range(3)], [100] * 3)
        self.fails(grpc.StatusCode.DATA_LOSS, lambda call=call: call)

    @everywhere
    def test_deadlines(self, method):
        # The server is told what is left, in the client's terms.
        remaining = float(method.unary(b"time", timeout=25))
        self.assertTrue(0 < remaining < 26, remaining)
        # None at all is, for the server, one in the year 292 billion.
        self.assertGreater(float(method.unary(b"time", timeout=None)), 1e18)
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, method.unary, b"m", ("x-sleep", "1"),
                   timeout=0.2)
        # Here the gateway may be the first to notice, and Envoy resets a stream that has begun.
        late = (grpc.StatusCode.DEADLINE_EXCEEDED, *[grpc.StatusCode.INTERNAL] * self.is_envoy)
        self.fails(late, method.spread, b"", timeout=0.2, path="/test.Echo/Watch")

    def test_a_route_bounds_what_clients_ask(self):
        for secure in (False, True):
            method = Method(self.channel(secure), "short")
            self.assertLess(float(method.unary(b"time", timeout=25)), 1)
            self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, method.unary, b"m", ("x-sleep", "2"))
            # Envoy resets a stream that has begun.
            late = grpc.StatusCode.INTERNAL if self.is_envoy else grpc.StatusCode.DEADLINE_EXCEEDED
            self.fails(late, method.spread, b"", path="/test.Echo/Watch")

    def seen(self, method, cancelled, watching):
        """What the server counted, once it has so many."""
        said = method.unary(f"{cancelled} {watching}".encode(), path="/test.Control/Seen")
        return json.loads(said)

    @everywhere
    def test_cancelled_calls_end_at_the_server(self, method):
        before = self.seen(method, 0, 0)["cancelled"]
        calls = [method.spread(b"", path="/test.Echo/Watch") for _ in range(5)]
        for call in calls:
            self.assertEqual(next(call), b"begun")
        self.assertEqual(self.seen(method, 0, 5)["watching"], 5)
        for call in calls:
            call.cancel()
            self.fails(grpc.StatusCode.CANCELLED, lambda call=call: call)
        after = self.seen(method, before + 5, 0)
        self.assertEqual((after["cancelled"], after["watching"]), (before + 5, 0))

    @everywhere
    def test_many_at_once(self, method):
        calls = [method.future(str(number).encode() * 50) for number in range(500)]
        for number, call in enumerate(calls):
            self.assertEqual(call.result(), str(number).encode() * 50)

    @everywhere
    def test_silent_watches_are_parked_and_wake(self, method):
        watches = [method.spread(b"", path="/test.Echo/Watch") for _ in range(40)]
        for watch in watches:
            self.assertEqual(next(watch), b"begun")
        for _ in range(3):
            if not self.is_envoy:
                # A client with its forty streams is one parked record.
                self.until("the client is parked", lambda: self.stats()["moorgate.parked.mux"] >= 1)
            # Somebody else wakes them.
            number = Method(self.channel(), method.upstream).unary(b"", path="/test.Control/Wake")
            for watch in watches:
                self.assertEqual(next(watch), number)
        for watch in watches:
            watch.cancel()
        self.assertEqual(self.seen(method, 0, 0)["watching"], 0)

    def drive(self, method, rounds):
        """Calls of all kinds, of which none may be lost."""
        for turn in range(rounds):
            calls = [method.future(b"m" * 100, ("x-sleep", "0.01")) for _ in range(10)]
            self.assertEqual(sum(map(len, method.spread(b"20 1000"))), 20_000)
            self.assertEqual(len(list(method.chat(iter([b"z"] * 10)))), 10)
            for call in calls:
                self.assertEqual(call.result(), b"m" * 100, turn)

    def test_a_server_that_sends_goaway_loses_no_call(self):
        for secure in (False, True):
            before = self.stats().get("cluster.aged.upstream_cx_total", 0)
            self.drive(Method(self.channel(secure), "aged"), 40)
            self.assertGreater(self.stats()["cluster.aged.upstream_cx_total"], before + 1)

    def test_a_gateway_that_sends_goaway_loses_no_call(self):
        for upstream in ("plain", "secure"):
            self.drive(Method(self.channel(listener="few"), upstream), 10)
        self.assertGreater(self.stats()["http.few.downstream_cx_max_requests_reached"], 2)

    def test_a_gateway_that_drains_loses_no_call(self):
        gateway = self.start_gateway()
        for secure in (False, True):
            method = Method(self.channel(secure, gateway=gateway), "plain")
            watch = method.spread(b"", path="/test.Echo/Watch")
            self.assertEqual(next(watch), b"begun")
            self.admin(gateway, "/healthcheck/fail")
            # What was open goes on, what is new goes elsewhere: to a connection of its own here.
            self.drive(method, 5)
            self.assertGreater(self.stats(gateway)["http.grpc.downstream_cx_total"], 1)
            number = method.unary(b"", path="/test.Control/Wake")
            self.assertEqual(next(watch), number)
            watch.cancel()
            self.admin(gateway, "/healthcheck/ok")

    @staticmethod
    def admin(gateway, path):
        url = f"http://127.0.0.1:{gateway.port('admin')}{path}"
        urllib.request.urlopen(url, data=b"", timeout=10).close()

    def test_a_server_that_dies(self):
        argv = [PYTHON, HERE / "grpc_server.py", self.mortal]
        for secure in (False, True):
            method = Method(self.channel(secure), "mortal")
            child = self.scratch.start("mortal", argv, self.mortal)
            calls = [method.spread(b"", path="/test.Echo/Watch") for _ in range(3)]
            for call in calls:
                self.assertEqual(next(call), b"begun")
            waiting = method.future(b"m", ("x-sleep", "20"))
            self.assertEqual(method.unary(b"m"), b"m")
            if not self.is_envoy:
                # It is no different when all of them are parked.
                self.until("the client is parked", lambda: self.stats()["moorgate.parked.mux"] >= 1)
            os.kill(child.process.pid, signal.SIGKILL)
            child.process.wait()
            # As if there were nobody between them; Envoy resets the stream.
            gone = grpc.StatusCode.INTERNAL if self.is_envoy else grpc.StatusCode.UNAVAILABLE
            for call in calls:
                self.fails(gone, lambda call=call: call)
            self.fails(grpc.StatusCode.UNAVAILABLE, waiting.result)
            # Nobody is there now.
            self.fails(grpc.StatusCode.UNAVAILABLE, method.unary, b"m")
            again = self.scratch.start("mortal", argv, self.mortal)
            self.assertEqual(method.unary(b"m"), b"m")
            again.stop()

    def test_a_server_that_is_not_there(self):
        for secure in (False, True):
            method = Method(self.channel(secure), "dead")
            self.fails(grpc.StatusCode.UNAVAILABLE, method.unary, b"m")
            self.fails(grpc.StatusCode.UNAVAILABLE, method.collect, iter([b"m"] * 3))
            self.fails(grpc.StatusCode.UNAVAILABLE, method.spread, b"1 1")

    def test_browsers(self):
        node = dict(os.environ, NODE_EXTRA_CA_CERTS=str(self.dir / "ca.pem"))
        for listener, scheme in (("http", "http"), ("secure", "https")):
            url = f"{scheme}://127.0.0.1:{self.gateway.port(listener)}"
            running = {}
            for mode in ("binary", "text"):
                for over in ("fetch", "http2"):
                    for upstream in ("plain", "secure"):
                        argv = [tool("node"), HERE / "grpc_web_client.js", url, mode, over, upstream]
                        running[mode, over, upstream] = subprocess.Popen(
                            argv, env=node, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for what, child in running.items():
                with self.subTest(listener=listener, what=what):
                    said, _ = child.communicate(timeout=60)
                    self.assertEqual(said.decode(), "ok\n")

    def counted(self, prefix):
        return {name.removeprefix(prefix): value for name, value in self.stats().items()
                if name.startswith(prefix) and value}

    def test_counters_of_methods(self):
        method = Method(self.channel(), "plain")
        prefix = "cluster.plain.grpc.test.Counted."
        for _ in range(3):
            self.fails(grpc.StatusCode.UNIMPLEMENTED, method.unary, b"m", path="/test.Counted/No")
        expected = {"12": 3, "failure": 3, "total": 3, "request_message_count": 3}
        self.until(self.counted(prefix + "No."), lambda: self.counted(prefix + "No.") == expected)
        before = self.counted("cluster.plain.grpc.test.Echo.Chat.")
        self.assertEqual(len(list(method.chat(iter([b"a", b"b" * 100_000, b""])))), 3)
        after = {"0": 1, "success": 1, "total": 1, "request_message_count": 3, "response_message_count": 3}
        after = {name: before.get(name, 0) + value for name, value in after.items()}
        self.until("the call", lambda: after.items() <= self.counted("cluster.plain.grpc.test.Echo.Chat.").items())
        # The messages of a call that goes on are counted as they pass.
        names = "cluster.plain.grpc.test.Echo.Watch."
        before = self.counted(names).get("response_message_count", 0)
        watch = method.spread(b"", path="/test.Echo/Watch")
        self.assertEqual(next(watch), b"begun")
        self.until("a message", lambda: self.counted(names).get("response_message_count", 0) > before)
        watch.cancel()

    def test_counters_of_a_list(self):
        method = Method(self.channel(listener="listed"), "plain")
        method.unary(b"m")
        method.collect(iter([b"m"] * 4))
        self.fails(grpc.StatusCode.ABORTED, method.unary, b"m", ("x-fail", "10"))
        self.fails(grpc.StatusCode.NOT_FOUND, method.spread, b"1 1", ("x-fail", "5"))
        expected = {"test.Echo.Unary.0": 1, "test.Echo.Unary.10": 1, "test.Echo.Unary.success": 1,
                    "test.Echo.Unary.failure": 1, "test.Echo.Unary.total": 2,
                    "test.Echo.Unary.request_message_count": 2,
                    "test.Echo.Unary.response_message_count": 1,
                    "0": 1, "5": 1, "success": 1, "failure": 1, "total": 2,
                    "request_message_count": 5, "response_message_count": 1}
        self.until("all", lambda: self.counted("cluster.counted.grpc.").get("total") == 2)
        self.assertEqual(self.counted("cluster.counted.grpc."), expected)

    def test_a_server_that_does_not_speak_grpc(self):
        big = os.urandom(300_000)
        for listener, how in (("bridge", ("Echo", "Chunked", "Unsized")), ("bridge_sized", ("Echo", "Chunked")),
                              ("bridge_framed", ("Echo", "Chunked", "Unsized"))):
            method = Method(self.channel(listener=listener), "plain")
            for name in how:
                for message in (b"x", b"some more", big):
                    with self.subTest(listener=listener, how=name, size=len(message)):
                        self.assertEqual(method.unary(message, path=f"/test.Plain/{name}"), message)
                        kind = "application/x-protobuf"
                        frame = b"\0" + len(message).to_bytes(4, "big") if listener == "bridge_framed" else b""
                        expected = (f"/test.Plain/{name}", kind, kind, frame + message)
                        self.assertTrue(self.http1.seen == expected, self.http1.seen[:3])
            # An HTTP status becomes one of gRPC.
            self.fails(grpc.StatusCode.UNAVAILABLE, method.unary, b"m", path="/test.Plain/Fails")
            error = self.fails(grpc.StatusCode.UNKNOWN, method.unary, b"m", path="/test.Plain/Html")
            self.assertIn("unsupported content-type text/html, status code 200", error.details())
            # Envoy's filter does not know our answers from the server's.
            nobody = grpc.StatusCode.UNKNOWN if self.is_envoy else grpc.StatusCode.UNAVAILABLE
            self.fails(nobody, method.unary, b"m", path="/nobody/here")
        method = Method(self.channel(listener="bridge_sized"), "plain")
        self.fails(grpc.StatusCode.INTERNAL, method.unary, b"m", path="/test.Plain/Unsized")
        self.fails((grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), method.unary, b"m",
                   path="/test.Plain/Lies")

    def test_zz_nothing_is_left(self):
        """By its name the last: no call is counted as open, whichever way it ended."""
        def active():
            gauges = ("downstream_rq_active", "upstream_rq_active", "upstream_rq_pending_active")
            return {name: value for name, value in self.stats().items()
                    if value and name.endswith(gauges) and not name.startswith("http.admin.")}
        self.until(active(), lambda: not active())


if __name__ == "__main__":
    unittest.main()
