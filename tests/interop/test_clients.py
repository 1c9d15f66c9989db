"""Everyday clients through the gateway: curl, wrk, ab, Python's http.client, raw upgrades.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -v
"""

import hashlib
import http.client
import socket
import struct
import subprocess
import threading
import time
import unittest

from gateway import Gateway, Scratch, closed_port, raise_descriptor_limit, tool
from harness.peers import start_origin
from http1 import Client, request
from upstream import Upstream


class GatewayCase(unittest.TestCase):
    """One gateway and one remembering upstream for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        raise_descriptor_limit()
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        cls.gateway = Gateway(cls.scratch, upstream=cls.upstream.port, closed=closed_port())
        cls.port = cls.gateway.port()

    def setUp(self):
        self.upstream.take()

    def url(self, path, listener="http"):
        return f"http://127.0.0.1:{self.gateway.port(listener)}{path}"


class Curl(GatewayCase):
    def curl(self, *arguments, data=None):
        argv = [tool("curl"), "-sS", "--max-time", "20", "--noproxy", "*", *arguments]
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=30)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout

    def test_get(self):
        self.assertEqual(self.curl(self.url("/")), b"hello")
        (seen,) = self.upstream.take()
        self.assertEqual(seen.get("x-forwarded-proto"), "http")
        # For a client on loopback Envoy names its own address: any one address will do here.
        self.assertRegex(seen.get("x-forwarded-for"), r"^[0-9a-f.:]+$")
        self.assertRegex(seen.get("x-request-id"), r"^[0-9a-f-]{36}$")

    def test_head(self):
        out = self.curl("-I", self.url("/"))
        self.assertIn(b"content-length: 5", out.lower())
        self.assertEqual(self.upstream.take()[0].method, "HEAD")

    def test_post(self):
        self.assertEqual(self.curl("-d", "a=1&b=2", self.url("/echo")), b"a=1&b=2")

    def test_chunked_upload(self):
        body = bytes(range(256)) * 4096
        out = self.curl("-H", "Transfer-Encoding: chunked", "-T", "-", "-X", "POST",
                        self.url("/echo"), data=body)
        self.assertEqual(out, body)
        self.assertEqual(self.upstream.take()[0].framing, "chunked")

    def test_expect_continue(self):
        body = b"x" * 100_000
        for path in ("/echo", "/continue"):
            out = self.curl("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "15",
                            "--data-binary", "@-", self.url(path), data=body)
            self.assertEqual(out, body if path == "/echo" else b"hello")
            self.assertEqual(self.upstream.take()[0].body_bytes, len(body))

    def test_two_requests_on_one_connection(self):
        out = self.curl("-w", "%{num_connects} ", self.url("/"), self.url("/"))
        self.assertEqual(out.replace(b"hello", b""), b"1 0 ")

    def test_chunked_answer_with_trailers(self):
        self.assertEqual(self.curl(self.url("/chunked")), b"hello world")

    def test_answer_until_close(self):
        self.assertEqual(self.curl(self.url("/until-close")), b"until the end")

    def test_http10(self):
        out = self.curl("-0", "-i", self.url("/chunked", "http10"))
        self.assertTrue(out.endswith(b"hello world"), out)
        self.assertNotIn(b"transfer-encoding", out.lower())

    def test_many_headers(self):
        out = self.curl("-i", self.url("/headers/40"))
        self.assertIn(b"x-h39: 39", out.lower())

    def test_early_answer_to_an_upload(self):
        body = b"x" * 4_000_000
        out = self.curl("-w", "%{http_code}", "-H", "Expect:", "--data-binary", "@-",
                        self.url("/early"), data=body)
        self.assertIn(b"413", out)

    def test_event_stream_arrives_as_it_is_sent(self):
        self.assertEqual(self.curl("-N", self.url("/sse/3")).count(b"data: "), 3)


class Load(GatewayCase):
    def test_wrk(self):
        argv = [tool("wrk"), "-t2", "-c64", "-d2s", self.url("/direct", "http")]
        self.assertNotIn("Socket errors", self.run_tool(argv))

    def test_wrk_through_nginx(self):
        _, port = start_origin(self.scratch)
        gateway = Gateway(self.scratch, upstream=port, closed=closed_port())
        out = self.run_tool([tool("wrk"), "-t2", "-c64", "-d2s",
                             f"http://127.0.0.1:{gateway.port()}/"])
        self.assertNotIn("Socket errors", out)
        self.assertNotIn("Non-2xx", out)

    def test_ab_keep_alive_and_not(self):
        _, port = start_origin(self.scratch)
        gateway = Gateway(self.scratch, upstream=port, closed=closed_port())
        for flags in (["-k"], []):
            out = self.run_tool([tool("ab"), "-q", *flags, "-n", "3000", "-c", "32",
                                 f"http://127.0.0.1:{gateway.port('http10')}/"])
            self.assertRegex(out, r"Complete requests:\s+3000")
            self.assertRegex(out, r"Failed requests:\s+0")
            self.assertNotIn("Non-2xx", out)
            if flags:
                self.assertRegex(out, r"Keep-Alive requests:\s+3000")

    def run_tool(self, argv):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class NginxOrigin(GatewayCase):
    """A real server behind the gateway: a file of 64 MiB, ranges, conditional requests."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.scratch.path / "files"
        directory.mkdir(mode=0o755)
        cls.content = bytes(range(251)) * (64 * 1024 * 1024 // 251)
        (directory / "file").write_bytes(cls.content)
        (directory / "nginx.conf").write_text(f"""
            worker_processes 1; pid {directory}/pid; daemon off; error_log {directory}/log crit;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
                fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
                scgi_temp_path {directory}/s;
                server {{ listen 127.0.0.1:{(port := closed_port())}; root {directory}; }}
            }}""")
        cls.scratch.start("files", [tool("nginx"), "-e", directory / "start", "-p", directory,
                                    "-c", directory / "nginx.conf"], port)
        cls.gateway = Gateway(cls.scratch, upstream=port, closed=closed_port())
        cls.port = cls.gateway.port()

    def get(self, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.addCleanup(connection.close)
        connection.request("GET", "/file", headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()

    def test_file(self):
        answer, body = self.get({})
        self.assertEqual(answer.status, 200)
        self.assertEqual(hashlib.sha256(body).digest(), hashlib.sha256(self.content).digest())

    def test_range(self):
        answer, body = self.get({"Range": "bytes=1000-2999"})
        self.assertEqual((answer.status, body), (206, self.content[1000:3000]))

    def test_not_modified(self):
        first, _ = self.get({"Range": "bytes=0-0"})
        answer, body = self.get({"If-None-Match": first.headers["ETag"]})
        self.assertEqual((answer.status, body), (304, b""))


class HttpClient(GatewayCase):
    def connection(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.addCleanup(connection.close)
        return connection

    def test_hundred_requests_on_one_connection(self):
        connection = self.connection()
        connection.connect()
        sock = connection.sock
        for number in range(100):
            body = str(number) * number
            connection.request("POST", f"/echo/{number}", body=body)
            self.assertEqual(connection.getresponse().read().decode(), body)
            self.assertIs(connection.sock, sock, "the gateway closed the connection")
        self.assertEqual(len(self.upstream.take()), 100)

    def test_chunks_from_an_iterator(self):
        connection = self.connection()
        pieces = [b"a" * n for n in (1, 10, 1000, 100_000)]
        connection.request("POST", "/echo", body=iter(pieces), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})
        self.assertEqual(connection.getresponse().read(), b"".join(pieces))

    def test_methods(self):
        for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"):
            connection = self.connection()
            connection.request(method, "/")
            self.assertEqual(connection.getresponse().status, 200)
            self.assertEqual(self.upstream.take()[0].method, method)

    def test_repeated_headers_stay_repeated(self):
        connection = self.connection()
        connection.request("GET", "/headers/1")
        answer = connection.getresponse()
        self.assertEqual(answer.headers.get_all("Set-Cookie"), ["a=1", "b=2"])


class Raw(GatewayCase):
    def test_pipelined_requests_are_answered_in_order(self):
        with Client(self.port) as client:
            client.send(b"".join(request(target=f"/echo/{n}", method="POST", body=b"%d" % n)
                                 for n in range(1, 21)))
            for number in range(1, 21):
                self.assertEqual(client.read().body, b"%d" % number)

    def test_every_split_of_a_request(self):
        whole = request("POST", "/echo", ["Transfer-Encoding: chunked"]) + (
            b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-t: 1\r\n\r\n")
        with Client(self.port) as client:
            for cut in range(1, len(whole)):
                client.send(whole[:cut])
                client.send(whole[cut:])
                answer = client.read()
                self.assertEqual((answer.status, answer.body), (200, b"abcde"), f"cut at {cut}")

    def test_websocket_upgrade_and_half_open_tunnel(self):
        with Client(self.port) as client:
            client.send(request(target="/upgrade", headers=[
                "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]) + b"early")
            answer = client.read()
            self.assertEqual((answer.status, answer.get("upgrade")), (101, "websocket"))
            got = client.buffer
            payload = bytes(range(256)) * 1000
            sender = threading.Thread(target=client.send, args=(payload,))
            sender.start()
            while len(got) < len(payload) + 5:
                got += client.sock.recv(65536)
            sender.join()
            self.assertEqual(got, b"early" + payload)

    def test_upgrade_that_is_not_configured(self):
        with Client(self.port) as client:
            client.send(request(target="/upgrade",
                                headers=["Connection: Upgrade", "Upgrade: something"]))
            self.assertEqual(client.read().status, 403)
        self.assertEqual(self.upstream.take(), [])

    def test_interim_answers_pass(self):
        with Client(self.port) as client:
            client.send(request(target="/hints"))
            self.assertEqual(client.read().status, 200)

    def test_connect_is_refused(self):
        with Client(self.port) as client:
            client.send("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
            self.assertGreaterEqual(client.read().status, 400)
        self.assertEqual(self.upstream.take(), [])


class Tcp(GatewayCase):
    """tcp_proxy: bytes both ways, and each direction closed by itself."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.listener = socket.create_server(("127.0.0.1", 0))
        cls.addClassCleanup(cls.listener.close)
        cls.gateway = cls.start()

    @classmethod
    def start(cls, **values):
        return Gateway(cls.scratch, upstream=cls.listener.getsockname()[1], closed=closed_port(),
                       **values)

    def logged_after(self, log, end):
        """The log's new line once `end` was called."""
        before = log.read_text().count("\n") if log.exists() else 0
        end()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            lines = log.read_text().splitlines() if log.exists() else []
            if len(lines) > before:
                return lines[before]
            time.sleep(0.01)
        self.fail("nothing was logged")

    def test_log_names_the_client_however_it_left(self):
        def reset(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

        log = self.scratch.path / "tcp.access"
        gateway = self.start(log=log)
        for quiet in (0, 1.5):  # the second of each is parked when it ends
            for side in ("client", "server"):
                for how in ("closes", "resets"):
                    with self.subTest(f"{side} {how} after {quiet} s"):
                        client, server = self.pair(gateway)
                        client.sendall(b"abc")
                        self.assertEqual(server.recv(3), b"abc")
                        server.sendall(b"hello")
                        self.assertEqual(client.recv(5), b"hello")
                        time.sleep(quiet)
                        first, second = (client, server) if side == "client" else (server, client)

                        def end(first=first, second=second, how=how):
                            first.close() if how == "closes" else reset(first)
                            second.close()

                        line = self.logged_after(log, end)
                        self.assertRegex(line, r"in=3 out=5 from=127\.0\.0\.1 ")

    def pair(self, gateway=None):
        port = (gateway or self.gateway).port("tcp")
        client = socket.create_connection(("127.0.0.1", port), 5)
        self.addCleanup(client.close)
        server, _ = self.listener.accept()
        server.settimeout(5)
        self.addCleanup(server.close)
        return client, server

    def test_client_half_closes_first(self):
        client, server = self.pair()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.drain(server), b"question")
        server.sendall(b"answer")
        server.close()
        self.assertEqual(self.drain(client), b"answer")

    def test_server_half_closes_first(self):
        client, server = self.pair()
        server.sendall(b"banner")
        server.shutdown(socket.SHUT_WR)
        self.assertEqual(self.drain(client), b"banner")
        client.sendall(b"still here")
        client.close()
        self.assertEqual(self.drain(server), b"still here")

    def test_megabytes_both_ways_at_once(self):
        client, server = self.pair()
        payload = bytes(range(256)) * 32768  # 8 MiB
        senders = [threading.Thread(target=self.send_and_close, args=(side, payload))
                   for side in (client, server)]
        got = {}
        readers = [threading.Thread(target=lambda s=side: got.update({s: self.drain(s)}))
                   for side in (client, server)]
        for thread in senders + readers:
            thread.start()
        for thread in senders + readers:
            thread.join(30)
        self.assertEqual([got.get(client) == payload, got.get(server) == payload], [True, True])

    @staticmethod
    def send_and_close(sock, payload):
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)

    @staticmethod
    def drain(sock):
        got = b""
        while data := sock.recv(65536):
            got += data
        return got


if __name__ == "__main__":
    unittest.main()
