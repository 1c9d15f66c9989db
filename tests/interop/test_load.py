"""The load generator and its servers against others: curl, nghttp, h2load, openssl, grpcio and nginx, and the
gateway between them.

    MOORGATE_BIN=... .peers/venv/bin/python -m unittest discover -s tests/interop -p test_load.py -v
"""

import json
import re
import subprocess
import unittest

import grpc

from gateway import Gateway, Scratch, closed_port, free_port, raise_descriptor_limit, tool
from test_grpc import HERE, PYTHON
from test_tls import NAME, Certificates
from test_websocket import load_binary

NGINX = """daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{}}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; keepalive_requests 1000000; root {dir}/www;
ssl_certificate {dir}/web.pem; ssl_certificate_key {dir}/web.key; ssl_protocols TLSv1.2 TLSv1.3;
ssl_session_cache shared:all:1m;
server {{ listen 127.0.0.1:{https} ssl http2; location /missing {{ return 404; }} }}
server {{ listen 127.0.0.1:{h2c} http2; location /missing {{ return 404; }} }}
server {{ listen 127.0.0.1:{few} http2; keepalive_requests 50; }} }}
"""
SIZE = 70_000


class Load(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise_descriptor_limit()
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.dir = cls.scratch.path / "certs"
        cls.dir.mkdir(mode=0o755)
        Certificates(cls.dir).issue("web", f"DNS:{NAME},IP:127.0.0.1")
        cls.tls = ["--cert", cls.dir / "web.pem", "--key", cls.dir / "web.key"]
        cls.trust = ["--cacert", cls.dir / "ca.pem"]
        (cls.dir / "www").mkdir()
        (cls.dir / "www" / "file").write_bytes(b"x" * SIZE)
        cls.https, cls.h2c, cls.few = free_port(), free_port(), free_port()
        text = NGINX.format(dir=cls.dir, https=cls.https, h2c=cls.h2c, few=cls.few)
        (cls.dir / "nginx.conf").write_text(text)
        cls.scratch.start("nginx", [tool("nginx"), "-c", cls.dir / "nginx.conf"], cls.h2c)

    def serve(self, *words):
        port = free_port()
        argv = [load_binary(), "serve", *words, "--listen", f"127.0.0.1:{port}"]
        self.scratch.start("serve", argv, port)
        return port

    def load(self, program, target, line, *more):
        """The report of a run or hold."""
        path = self.scratch.path / "report.json"
        argv = [load_binary(), program, target, *line.split(), *more, "--json", path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(path.read_text())

    def run_well(self, target, line, *more):
        """A run in which every request is answered and no error counted."""
        report = self.load("run", target, line, *more)
        errors = {kind: number for kind, number in report["errors"].items() if number}
        self.assertEqual(errors, {}, report)
        self.assertEqual(report["answers"], int(re.search(r"-n (\d+)", line)[1]))
        return report

    def held(self, target, line, *more):
        """A hold that loses nothing."""
        counts = self.load("hold", target, line, *more)["counts"]
        self.assertEqual(counts["connected"], int(re.search(r"-c (\d+)", line)[1]), counts)
        self.assertEqual((counts["failed"], counts["dropped"]), (0, 0), counts)
        self.assertGreater(counts["answers"], 0)
        self.assertFalse(any(counts["errors"].values()), counts)

    def out(self, *argv):
        done = subprocess.run([str(part) for part in argv], capture_output=True, text=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    # Its servers, and clients of others.

    def test_curl_and_nghttp_are_served(self):
        plain = self.serve("http", "--size", str(SIZE))
        secure = self.serve("http", "--size", str(SIZE), *self.tls)
        what = ("-o", "/dev/null", "-w", "%{http_version} %{size_download}", "--noproxy", "*", "-sS")
        for version, word in (("1.1", "--http1.1"), ("2", "--http2-prior-knowledge")):
            said = self.out(tool("curl"), *what, word, f"http://127.0.0.1:{plain}/")
            self.assertEqual(said, f"{version} {SIZE}")
        for version, word in (("1.1", "--http1.1"), ("2", "--http2")):
            for tls in ("1.2", "1.3"):
                said = self.out(tool("curl"), *what, word, f"--tlsv{tls}", "--tls-max", tls, *self.trust,
                                f"https://127.0.0.1:{secure}/")
                self.assertEqual(said, f"{version} {SIZE}")
        said = self.out(tool("nghttp"), "-s", "-n", "-m", "20", f"http://127.0.0.1:{plain}/")
        self.assertEqual(len(re.findall(r" 200 +\d+K /", said)), 20, said)

    def test_curl_gets_its_body_back(self):
        body = self.dir / "body"
        body.write_bytes(bytes(range(256)) * 8192)
        for port, scheme in ((self.serve("http", "--echo"), "http"),
                             (self.serve("http", "--echo", *self.tls), "https")):
            word = "--http2" if scheme == "https" else "--http2-prior-knowledge"
            self.out(tool("curl"), "-sS", "--noproxy", "*", word, "-k", "-H", "Expect:", "--data-binary",
                     f"@{body}", "-o", self.dir / "back", f"{scheme}://127.0.0.1:{port}/")
            self.assertTrue((self.dir / "back").read_bytes() == body.read_bytes())

    def test_h2load_is_served(self):
        for url in (f"http://127.0.0.1:{self.serve('http', '--size', '9000')}/",
                    f"https://127.0.0.1:{self.serve('http', '--size', '9000', *self.tls)}/"):
            said = self.out(tool("h2load"), "-n", "2000", "-c", "5", "-m", "20", url)
            self.assertIn("2000 succeeded, 0 failed", said)
            self.assertIn("status codes: 2000 2xx", said)

    def test_openssl_resumes_sessions(self):
        port = self.serve("http", *self.tls)
        session = self.dir / "session"
        ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        for version in ("-tls1_2", "-tls1_3"):
            for option, word in (("-sess_out", "New, "), ("-sess_in", "Reused, ")):
                argv = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", version, "-ign_eof",
                        option, str(session)]
                done = subprocess.run(argv, input=ask, capture_output=True, timeout=30, check=False)
                self.assertIn(word, done.stdout.decode(), version)
                self.assertIn("200 OK", done.stdout.decode())

    def test_grpcio_is_served(self):
        plain, failing = self.serve("grpc"), self.serve("grpc", "--error-rate", "1")
        secure = self.serve("grpc", *self.tls)
        trusted = grpc.ssl_channel_credentials((self.dir / "ca.pem").read_bytes())
        options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0),
                   ("grpc.max_receive_message_length", -1)]
        for channel in (grpc.insecure_channel(f"127.0.0.1:{plain}", options),
                        grpc.secure_channel(f"127.0.0.1:{secure}", trusted, options)):
            with channel:
                for message in (b"", b"hello", bytes(range(256)) * 20_000):
                    self.assertEqual(channel.unary_unary("/any.Service/Unary")(message, timeout=30), message)
                messages = [b"%d" % number * number for number in range(200)]
                chat = channel.stream_stream("/any.Service/Chat")(iter(messages), timeout=30)
                self.assertEqual(list(chat), messages)
        with grpc.insecure_channel(f"127.0.0.1:{failing}", options) as channel:
            with self.assertRaises(grpc.RpcError) as caught:
                channel.unary_unary("/any.Service/Unary")(b"x", timeout=30)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)

    # Its clients, and servers of others.

    def test_nginx_over_tls(self):
        url = f"https://127.0.0.1:{self.https}/file"
        for version in ("1.2", "1.3"):
            tls = (*self.trust, "--tls-version", version)
            report = self.run_well(url, "-n 300 -c 5", *tls)
            self.assertEqual(report["tls"]["alpn"], "http/1.1")
            self.assertGreater(report["bytes_in"], 300 * SIZE)
            resumed = self.run_well(url, "-n 100 -c 2 --reconnect-every 1", *tls)["tls"]
            self.assertGreaterEqual(resumed["resumed"], 90, resumed)
            full = self.run_well(url, "-n 50 -c 2 --reconnect-every 1 --no-resume", *tls)["tls"]
            self.assertEqual((full["full"], full["resumed"]), (50, 0))
            self.assertEqual(full["version"], f"TLSv{version}")
        self.run_well(url, f"-n 20 -c 2 --sni {NAME}", *self.trust)
        wrong = self.load("run", url, "-n 3 -c 1 --sni other.test", *self.trust)
        self.assertEqual(wrong["errors"]["tls"], 3)
        self.held(url, "-c 20 --rate 1000 --every 300ms -d 1s", *self.trust)

    def test_nginx_over_http2(self):
        plain, secure = f"http://127.0.0.1:{self.h2c}", f"https://127.0.0.1:{self.https}"
        for url, tls in ((plain, ()), (secure, self.trust)):
            report = self.run_well(f"{url}/file", "-n 400 -c 3 -m 20 --http2", *tls)
            self.assertGreater(report["bytes_in"], 400 * SIZE)
            self.run_well(f"{url}/file", "-n 100 -c 2 -m 3 --http2 --rate 1000", *tls)
            missing = self.load("run", f"{url}/missing", "-n 50 -c 2 -m 10 --http2", *tls)
            self.assertEqual((missing["answers"], missing["errors"]["status"]), (50, 50))
            self.held(f"{url}/file", "-c 20 --rate 1000 --every 300ms -d 1s --http2", *tls)
        resumed = self.run_well(f"{secure}/file", "-n 50 -c 2 --http2 --reconnect-every 1", *self.trust)
        self.assertGreaterEqual(resumed["tls"]["resumed"], 40)
        # One stream at a time: who is told to leave has nothing under way, and comes again.
        again = self.run_well(f"http://127.0.0.1:{self.few}/file", "-n 500 -c 1 -m 1 --http2")
        self.assertGreaterEqual(again["connects"], 10)

    def grpcio(self, *arguments):
        port = free_port()
        self.scratch.start("grpcio", [PYTHON, HERE / "grpc_server.py", port, *arguments], port)
        return port

    def test_grpcio_servers(self):
        for url, tls in ((f"grpc://127.0.0.1:{self.grpcio()}/test.Echo", ()),
                         (f"grpcs://127.0.0.1:{self.grpcio(self.dir)}/test.Echo", ("-k",))):
            self.run_well(f"{url}/Unary", "-n 300 -c 2 -m 5", *tls)
            self.run_well(f"{url}/Unary", "-n 10 -c 2 --size 1000000", *tls)
            self.run_well(f"{url}/Chat", "-n 500 -c 2 -m 5 --bidi", *tls)
            self.run_well(f"{url}/Chat", "-n 40 -c 1 -m 2 --bidi --reconnect-every 10", *tls)
            failing = self.load("run", f"{url}/Unary", "-n 20 -c 1 -m 2", "-H", "x-fail: 5", *tls)
            self.assertEqual((failing["answers"], failing["errors"]["grpc"]), (20, 20))
            unknown = self.load("run", f"{url}/None", "-n 20 -c 1 -m 2", *tls)
            self.assertEqual(unknown["errors"]["grpc"], 20)
            self.held(f"{url}/Unary", "-c 5 --rate 100 --every 300ms -d 1s", *tls)
            self.held(f"{url}/Chat", "-c 5 --rate 100 --every 300ms -d 1s --bidi --streams 4", *tls)

    # Both, and the gateway between them.

    def test_through_the_gateway(self):
        http = self.serve("http", "--size", str(SIZE))
        gateway = Gateway(self.scratch, "http2.yaml", upstream=http, node=closed_port())
        url = f"http://127.0.0.1:{gateway.port()}"
        for hop in ("h1", "h2"):
            for version in ("", " --http2 -m 20"):
                self.run_well(f"{url}/{hop}/", f"-n 400 -c 4{version}")
        self.held(f"{url}/h2/", "-c 20 --rate 1000 --every 300ms -d 1s --http2")

        plain, secure = self.serve("grpc"), self.serve("grpc", "--cert", self.dir / "server.pem",
                                                       "--key", self.dir / "server.key")
        gateway = Gateway(self.scratch, "grpc.yaml", certs=str(self.dir), upstream=plain,
                          tls_upstream=secure, aged=closed_port(), mortal=closed_port(),
                          closed=closed_port())
        for url, tls in ((f"grpc://127.0.0.1:{gateway.port()}/any.Service/Any", ()),
                         (f"grpcs://127.0.0.1:{gateway.port('secure')}/any.Service/Any", self.trust)):
            for upstream in ("plain", "secure"):
                to = ("-H", f"x-up: {upstream}", *tls)
                self.run_well(url, "-n 500 -c 3 -m 10", *to)
                self.run_well(url, "-n 1000 -c 3 -m 10 --bidi", *to)
                self.run_well(url, "-n 10 -c 1 -m 3 --bidi --size 500000", *to)
                self.held(url, "-c 10 --rate 1000 --every 300ms -d 1s --bidi --streams 5", *to)
            dead = self.load("run", url, "-n 10 -c 1 -m 2", "-H", "x-up: dead", *tls)
            self.assertEqual(dead["errors"]["grpc"], 10)


if __name__ == "__main__":
    unittest.main()
