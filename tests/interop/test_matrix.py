"""Every client through every protocol to every upstream: curl, nghttp, h2load and openssl; nginx, Node and grpcio.

    MOORGATE_BIN=... .peers/venv/bin/python -m unittest discover -s tests/interop -p test_matrix.py -v

The tables below are the test. A row of `CLIENTS` fetches a path of the upstream and gives what it got.
"""

import re
import subprocess
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import ROOT, Gateway, Scratch, free_port, raise_descriptor_limit, tool
from test_tls import NAME, Certificates

HERE = Path(__file__).resolve().parent
PYTHON = ROOT / ".peers/venv/bin/python"
BIG = 300_000
# Path and what is there.
PATHS = {"": b"hello", f"big/{BIG}": b"b" * BIG}
UPSTREAMS = ("nginx_h1", "nginx_h2c", "nginx_tls_h1", "nginx_tls_h2", "node_h2c", "node_tls")

NGINX = """daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{}}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; root {dir}/www;
ssl_certificate {dir}/web.pem; ssl_certificate_key {dir}/web.key;
server {{ listen 127.0.0.1:{nginx_h1}; }}
server {{ listen 127.0.0.1:{nginx_h2c} http2; }}
server {{ listen 127.0.0.1:{nginx_tls_h1} ssl; }}
server {{ listen 127.0.0.1:{nginx_tls_h2} ssl http2; }} }}
"""


def curl(version, spoken):
    """The body, once the answer came in the version that was asked for."""
    def fetch(test, url, expected):
        mark = "\n%{http_code} %{http_version}"
        out = test.run_client(tool("curl"), "-sS", "--max-time", 30, "--noproxy", "*", "--cacert",
                              test.ca, version, "-w", mark, url)
        body, _, said = out.rpartition(b"\n")
        test.assertEqual(said.decode(), f"200 {spoken}")
        test.assertTrue(body == expected, f"{len(body)} bytes")
    return fetch


def nghttp(test, url, expected):
    """Several streams at once; the client counts what each of them got."""
    out = test.run_client(tool("nghttp"), "-nv", "-m", 3, url)
    test.assertEqual(len(re.findall(rb"recv \(stream_id=\d+\) :status: 200", out)), 3)
    got = re.findall(rb"recv DATA frame <length=(\d+)", out)
    test.assertEqual(sum(map(int, got)), 3 * len(expected))


def h2load(*arguments):
    def fetch(test, url, _):
        out = test.run_client(tool("h2load"), "-n", 60, "-c", 3, *arguments, url)
        test.assertIn(b"60 succeeded, 0 failed", out)
    return fetch


def s_client(test, url, expected):
    """One request typed into TLS."""
    host, _, path = url.removeprefix("https://").partition("/")
    request = f"GET /{path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n".encode()
    out = test.run_client(tool("openssl"), "s_client", "-quiet", "-connect", host, "-alpn", "http/1.1",
                          "-CAfile", test.ca, "-verify_return_error", "-ign_eof", data=request)
    test.assertTrue(out.startswith(b"HTTP/1.1 200"), out[:200])
    body = out.partition(b"\r\n\r\n")[2]
    if b"transfer-encoding: chunked" in out.partition(b"\r\n\r\n")[0].lower():
        pieces, body = body, b""
        while (size := int(pieces.partition(b"\r\n")[0], 16)) > 0:
            pieces = pieces.partition(b"\r\n")[2]
            body += pieces[:size]
            pieces = pieces[size + 2:]
    test.assertTrue(body == expected, f"{len(body)} bytes")


# Client, listener, how it fetches.
CLIENTS = [
    ("curl 1.0", "http", curl("--http1.0", "1")),
    ("curl 1.1", "http", curl("--http1.1", "1.1")),
    # An upgrade that nobody takes.
    ("curl h2c upgrade", "http", curl("--http2", "1.1")),
    ("curl h2c", "http", curl("--http2-prior-knowledge", "2")),
    ("curl tls 1.0", "secure", curl("--http1.0", "1")),
    ("curl tls 1.1", "secure", curl("--http1.1", "1.1")),
    ("curl tls h2", "secure", curl("--http2", "2")),
    ("nghttp h2c", "http", nghttp),
    ("nghttp tls", "secure", nghttp),
    ("h2load 1.1", "http", h2load("--h1")),
    ("h2load h2c", "http", h2load("-m", 10)),
    ("h2load tls 1.1", "secure", h2load("--h1")),
    ("h2load tls h2", "secure", h2load("-m", 10)),
    ("openssl", "secure", s_client),
]


class Matrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise_descriptor_limit()
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        certs = cls.scratch.path / "certs"
        certs.mkdir(mode=0o755)
        Certificates(certs).issue("web", f"DNS:{NAME},IP:127.0.0.1")
        cls.ca = certs / "ca.pem"
        ports = {name: free_port() for name in (*UPSTREAMS, "grpcio_h2c", "grpcio_tls")}
        (certs / "www" / "big").mkdir(parents=True)
        (certs / "www" / "index.html").write_bytes(PATHS[""])
        (certs / "www" / "big" / str(BIG)).write_bytes(PATHS[f"big/{BIG}"])
        (certs / "nginx.conf").write_text(NGINX.format(dir=certs, **ports))
        start = cls.scratch.start
        start("nginx", [tool("nginx"), "-c", certs / "nginx.conf"], ports["nginx_h1"])
        node = [tool("node"), HERE / "http2_server.js"]
        start("node", [*node, ports["node_h2c"]], ports["node_h2c"])
        files = [certs / "web.pem", certs / "web.key"]
        start("node-tls", [*node, ports["node_tls"], *files], ports["node_tls"])
        (certs / "server.pem").write_bytes((certs / "web.pem").read_bytes())
        (certs / "server.key").write_bytes((certs / "web.key").read_bytes())
        grpcio = [PYTHON, HERE / "grpc_server.py"]
        start("grpcio", [*grpcio, ports["grpcio_h2c"]], ports["grpcio_h2c"])
        start("grpcio-tls", [*grpcio, ports["grpcio_tls"], certs], ports["grpcio_tls"])
        cls.gateway = Gateway(cls.scratch, "matrix.yaml", certs=str(certs), **ports)

    def run_client(self, *argv, data=None):
        argv = [str(part) for part in argv]
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, f"{argv}: {done.stderr.decode()}")
        return done.stdout

    def url(self, listener, upstream, path):
        scheme = "http" if listener == "http" else "https"
        return f"{scheme}://127.0.0.1:{self.gateway.port(listener)}/{upstream}/{path}"

    def test_every_client_with_every_upstream(self):
        rows = [(name, listener, fetch, upstream, path) for name, listener, fetch in CLIENTS
                for upstream in UPSTREAMS for path in PATHS]

        def go(row):
            _, listener, fetch, upstream, path = row
            try:
                fetch(self, self.url(listener, upstream, path), PATHS[path])
            except Exception as error:  # pylint: disable=broad-except
                return error
            return None
        with ThreadPoolExecutor(4) as pool:
            for row, error in zip(rows, pool.map(go, rows)):
                with self.subTest(client=row[0], upstream=row[3], path=row[4]):
                    if error:
                        raise error

    def test_a_call_by_hand(self):
        """What gRPC is underneath: a post, and trailers where the version has them."""
        frame = b"\0\0\0\0\x05hello"
        for listener, versions in (("http", ("--http1.1", "--http2-prior-knowledge")),
                                   ("secure", ("--http1.1", "--http2"))):
            for version in versions:
                for upstream in ("grpcio_h2c", "grpcio_tls"):
                    with self.subTest(listener=listener, version=version, upstream=upstream):
                        out = self.run_client(
                            tool("curl"), "-sS", "-i", "--max-time", 30, "--noproxy", "*", "--cacert",
                            self.ca, version, "-H", "content-type: application/grpc", "-H", "te: trailers",
                            "--data-binary", "@-", self.url(listener, upstream, "test.Echo/Unary"),
                            data=frame)
                        self.assertIn(frame, out)
                        self.assertIn(b"grpc-status: 0", out)


if __name__ == "__main__":
    unittest.main()
