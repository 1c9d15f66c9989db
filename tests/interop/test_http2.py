"""HTTP/2 through the gateway, and HTTP/1 beside it in every combination: curl, nghttp, h2load and Node.

    MOORGATE_BIN=... python3 -m unittest discover -s tests/interop -v
"""

import re
import subprocess
import unittest
import urllib.request
from pathlib import Path

from gateway import Gateway, Scratch, free_port, raise_descriptor_limit, tool
from upstream import Upstream

HERE = Path(__file__).resolve().parent
VERSIONS = ("--http1.1", "--http2-prior-knowledge")


def run(*argv, data=None):
    done = subprocess.run([str(part) for part in argv], input=data, capture_output=True,
                          check=False, timeout=60)
    if done.returncode != 0:
        raise AssertionError(f"{argv}: {done.returncode} {done.stderr.decode()}")
    return done.stdout


class Http2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise_descriptor_limit()
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        node = free_port()
        cls.scratch.start("node", [tool("node"), HERE / "http2_server.js", node], node)
        either, secure = free_port(), free_port()
        server = [tool("node"), HERE / "either_server.js"]
        cert, key = cls.scratch.path / "own.pem", cls.scratch.path / "own.key"
        run(tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own",
            "-out", cert, "-keyout", key)
        cls.scratch.start("either", [*server, either], either)
        cls.scratch.start("secure", [*server, secure, cert, key], secure)
        cls.gateway = Gateway(cls.scratch, "http2.yaml", upstream=cls.upstream.port, node=node,
                              either=either, secure=secure)

    def setUp(self):
        self.upstream.take()

    def url(self, path, listener="http"):
        return f"http://127.0.0.1:{self.gateway.port(listener)}{path}"

    def curl(self, *arguments, data=None):
        return run(tool("curl"), "-sS", "--max-time", "20", "--noproxy", "*", *arguments, data=data)

    def stat(self, name):
        url = self.url(f"/stats?filter=^{name}$", "admin")
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.read().split()[-1])

    def each(self, *hops):
        return [(version, hop) for version in VERSIONS for hop in hops or ("h1", "h2", "node")]

    def test_get(self):
        for version, hop in self.each():
            out = self.curl(version, "-w", " %{http_code} %{http_version}", self.url(f"/{hop}/"))
            spoken = b"2" if "2" in version else b"1.1"
            self.assertEqual(out, b"hello 200 " + spoken)

    def test_head(self):
        for version, hop in self.each():
            out = self.curl(version, "-I", self.url(f"/{hop}/"))
            self.assertIn(b"content-length: 5", out.lower())

    def test_bodies_come_back_whole(self):
        body = bytes(range(256)) * 8192
        for version, hop in self.each():
            for length in ((), ("-H", "Content-Length:", "-H", "Transfer-Encoding: chunked")):
                if length and "2" in version:
                    continue
                out = self.curl(version, *length, "-H", "Expect:", "--data-binary", "@-",
                                self.url(f"/{hop}/echo"), data=body)
                self.assertTrue(out == body, f"{len(out)} of {len(body)} bytes")

    def test_expectations(self):
        for version, hop in self.each("h1", "h2"):
            out = self.curl(version, "-H", "Expect: 100-continue", "--expect100-timeout", "15",
                            "--data-binary", "@-", self.url(f"/{hop}/continue"), data=b"x" * 70_000)
            self.assertEqual(out, b"hello")

    def test_trailers_and_early_hints(self):
        for version, hop in self.each("node"):
            out = self.curl(version, "-D", "-", self.url(f"/{hop}/trailers"))
            self.assertIn(b"body", out)
            self.assertIn(b"x-sum: 42", out)
            out = self.curl(version, "-i", self.url(f"/{hop}/early"))
            self.assertIn(b" 103", out)
            self.assertIn(b"link: </a>", out)
            self.assertIn(b"early", out)

    def test_what_the_upstream_gets(self):
        for version, hop in self.each("h1", "h2"):
            self.upstream.take()
            self.curl(version, "-H", "te: trailers", "-H", "cookie: a=b", "-H", "Keep-Alive: 3",
                      self.url(f"/{hop}/x?y=z"))
            (seen,) = self.upstream.take()
            self.assertEqual((seen.method, seen.target, seen.version), ("GET", "/x?y=z", "HTTP/1.1"))
            self.assertEqual(seen.get("cookie"), "a=b")
            self.assertEqual(seen.get("te"), "trailers")
            self.assertIsNone(seen.get("keep-alive"))
            self.assertEqual(len([1 for name, _ in seen.headers if name == "host"]), 1)

    def test_a_refused_stream_is_answered(self):
        for version, _ in self.each("node"):
            out = self.curl(version, "-o", "/dev/null", "-w", "%{http_code}", self.url("/node/refuse"))
            self.assertEqual(out, b"503")

    def test_an_upstream_that_leaves_loses_nothing(self):
        for version, _ in self.each("node"):
            for _ in range(10):
                self.assertEqual(self.curl(version, self.url("/node/leave")), b"left")
                self.assertEqual(self.curl(version, self.url("/node/")), b"hello")

    def test_many_streams_and_loads(self):
        for hop in ("h1", "h2", "node"):
            for streams in (1, 10, 100):
                out = run(tool("h2load"), "-n", 3000, "-c", 4, "-m", streams, self.url(f"/{hop}/"))
                self.assertIn(b"3000 succeeded, 0 failed", out, hop)
            out = run(tool("h2load"), "--h1", "-n", 1000, "-c", 10, self.url(f"/{hop}/"))
            self.assertIn(b"1000 succeeded, 0 failed", out, hop)

    def test_large_answers_side_by_side(self):
        # Node resets streams when a connection holds more than 10 MB.
        out = run(tool("h2load"), "-n", 40, "-c", 2, "-m", 10, "-w", 16, "-W", 16,
                  self.url("/node/big/300000"))
        self.assertIn(b"40 succeeded, 0 failed", out)

    def test_nghttp(self):
        for hop in ("h1", "h2", "node"):
            url = self.url(f"/{hop}/")
            out = run(tool("nghttp"), "-nv", "-m", 5, url)
            self.assertEqual(len(re.findall(rb"recv \(stream_id=\d+\) :status: 200", out)), 5)
            # A header block of several frames.
            run(tool("nghttp"), "-n", "--continuation", url)

    def test_node_as_client(self):
        # Below the 10 MB at which Node begins to reset streams, wherever they wait.
        for hop in ("h1", "h2", "node"):
            out = run(tool("node"), HERE / "http2_client.js", self.url(f"/{hop}/echo"), 50, 60_000)
            self.assertEqual(out.strip(), b"50", hop)

    def test_several_connections_when_one_is_full(self):
        # The cluster allows 20 streams a connection.
        run(tool("node"), HERE / "http2_client.js", self.url("/node/echo"), 60, 500_000)
        self.assertGreaterEqual(self.stat("cluster.node.upstream_cx_http2_total"), 3)

    def test_requests_go_on_by_the_version_they_came_by(self):
        for hop in ("either", "secure"):
            for _ in range(3):
                for version, spoken in zip(VERSIONS, (b"1.1", b"2.0")):
                    self.assertEqual(self.curl(version, self.url(f"/{hop}/")), spoken)
            for version in (1, 2):
                # One connection each, or one a worker.
                opened = self.stat(f"cluster.{hop}.upstream_cx_http{version}_total")
                self.assertIn(opened, (1, 2))

    def test_upgrades_to_h2c_are_passed_over(self):
        # As in Envoy: the request is answered, in HTTP/1.1.
        out = self.curl("--http2", "-w", " %{http_version}", self.url("/h1/"))
        self.assertEqual(out, b"hello 1.1")

    def test_a_listener_of_http2_alone(self):
        out = self.curl("--http2-prior-knowledge", self.url("/", "back"))
        self.assertEqual(out, b"hello")
        argv = [tool("curl"), "-sS", "--max-time", "20", "--http1.1", self.url("/", "back")]
        done = subprocess.run(argv, capture_output=True, check=False, timeout=30)
        self.assertNotEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
