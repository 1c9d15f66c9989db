"""Names that requests bring and TLS asks for, key logs and OCSP responses, with nginx and openssl.

    MOORGATE_BIN=... python3 -m unittest tests/interop/test_tls_names.py -v

Envoy passes all of it too, but for `require_sni`: MOORGATE_BIN=.peers/envoy.
"""

import http.client
import os
import subprocess
import threading
import time
import unittest
import urllib.request
from pathlib import Path

from gateway import Gateway, Scratch, free_port, moorgate_binary, tool
from test_tls import NGINX, Certificates

NAMES = "DNS:a.test,DNS:*.b.test,DNS:rewritten.test,IP:127.0.0.1"


class Names(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        os.chmod(cls.scratch.path, 0o755)
        cls.dir = Path(cls.scratch.path) / "certs"
        cls.dir.mkdir(mode=0o755)
        cls.certificates = Certificates(cls.dir)
        cls.certificates.issue("files", NAMES)
        cls.respond("server")
        (cls.dir / "www").mkdir()
        files = free_port()
        (cls.dir / "nginx.conf").write_text(NGINX.format(dir=cls.dir, port=files))
        cls.scratch.start("nginx", [tool("nginx"), "-c", cls.dir / "nginx.conf"], files)
        cls.gateway = Gateway(cls.scratch, "tls_names.yaml", certs=str(cls.dir), files=files)

    @classmethod
    def respond(cls, name):
        """An OCSP response that says that the certificate is good."""
        show = [tool("openssl"), "x509", "-in", f"{name}.pem", "-noout", "-serial"]
        shown = subprocess.run(show, cwd=cls.dir, check=True, capture_output=True, text=True)
        serial = shown.stdout.strip().removeprefix("serial=")
        index = f"V\t350101000000Z\t\t{serial}\tunknown\t/O=Moorgate/CN={name}\n"
        (cls.dir / "index.txt").write_text(index)
        cls.certificates.run(
            "ocsp", "-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key",
            "-issuer", "ca.pem", "-cert", f"{name}.pem", "-respout", f"{name}.ocsp", "-ndays", "5",
            "-noverify")

    def value(self, name):
        url = f"http://127.0.0.1:{self.gateway.port('admin')}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return int(dict(line.split(": ", 1) for line in lines if ": " in line).get(name, 0))

    def ask(self, host, path="/", connection=None, **headers):
        """The status, and the name that the upstream was asked for."""
        used = connection or self.client()
        used.request("GET", path, headers={"host": host, **headers})
        answer = used.getresponse()
        text = answer.read().decode()
        if not connection:
            used.close()
        # Subject of the client's certificate (none here), server name, whether the session was resumed.
        return answer.status, text.split(" ")[1] if answer.status == 200 else None

    def client(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port(), timeout=20)
        self.addCleanup(connection.close)
        return connection

    def test_the_host_of_a_request_is_asked_for_and_verified(self):
        connection = self.client()
        for _ in range(3):
            for host, asked in (("a.test", "a.test"), ("x.b.test", "x.b.test"),
                                ("a.test:8080", "a.test"), ("y.b.test", "y.b.test")):
                self.assertEqual(self.ask(host, connection=connection), (200, asked))
        before = self.value("cluster.named.ssl.fail_verify_san")
        for host in ("c.test", "a.b.b.test", "b.test"):
            self.assertEqual(self.ask(host, connection=connection)[0], 503)
        self.assertGreater(self.value("cluster.named.ssl.fail_verify_san"), before)
        self.assertEqual(self.ask("a.test", connection=connection), (200, "a.test"))

    def test_no_request_gets_a_connection_of_another_name(self):
        wrong = []

        def run(number):
            connection = self.client()
            for count in range(100):
                host = f"n{(number + count) % 5}.b.test"
                got = self.ask(host, connection=connection)
                if got != (200, host):
                    wrong.append((host, got))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        # They are used again: far fewer than requests.
        self.assertLess(self.value("cluster.named.upstream_cx_total"), 100)

    def test_the_name_is_the_rewritten_one(self):
        self.assertEqual(self.ask("c.test", "/rewritten"), (200, "rewritten.test"))

    def test_a_header_may_bring_the_name(self):
        self.assertEqual(self.ask("c.test", "/header", **{"x-sni": "d.test"}), (200, "d.test"))
        self.assertEqual(self.ask("c.test", "/header"), (200, "c.test"))

    def test_without_a_name_nothing_is_sent_where_names_are_verified(self):
        path = "/verified_header"
        self.assertEqual(self.ask("c.test", path, **{"x-sni": "a.test"}), (200, "a.test"))
        self.assertEqual(self.ask("a.test", path, **{"x-sni": ""}), (200, "a.test"))
        for value in (":", "[", "[]", b"\xff", "c.test"):
            self.assertEqual(self.ask("a.test", path, **{"x-sni": value})[0], 503, value)

    def test_an_address_is_no_name(self):
        self.assertEqual(self.ask("127.0.0.1", "/unverified"), (200, "fallback.test"))
        self.assertEqual(self.ask("c.test", "/unverified"), (200, "c.test"))

    def s_client(self, listener, *arguments):
        argv = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{self.gateway.port(listener)}",
                "-CAfile", self.dir / "ca.pem", "-ign_eof", *arguments]
        request = b"GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        return subprocess.run(argv, input=request, capture_output=True, timeout=30, check=False)

    def test_secrets_of_chosen_connections_are_logged(self):
        ours, theirs = self.dir / "keys.log", self.dir / "client.log"
        done = self.s_client("logged", "-servername", "moorgate.test", "-keylogfile", theirs)
        self.assertIn(b"hello", done.stdout)
        self.assertIn(b"hello", self.s_client("unlogged", "-keylogfile", "/dev/null").stdout)

        def lines(path):
            text = path.read_text() if path.exists() else ""
            return {line for line in text.splitlines() if "TRAFFIC_SECRET" in line}

        end = time.monotonic() + 20
        while time.monotonic() < end and not lines(theirs) <= lines(ours):
            time.sleep(0.05)
        self.assertEqual(len(lines(theirs)), 4)
        self.assertLessEqual(lines(theirs), lines(ours))
        self.assertEqual(lines(self.dir / "none.log"), set())

    def test_an_ocsp_response_is_stapled(self):
        for version in ("-tls1_2", "-tls1_3"):
            done = self.s_client("logged", "-servername", "moorgate.test", "-status", version)
            self.assertIn(b"OCSP Response Status: successful", done.stdout)
            self.assertIn(b"Cert Status: good", done.stdout)
            done = self.s_client("unlogged", "-servername", "moorgate.test", "-status", version)
            self.assertIn(b"OCSP response: no response sent", done.stdout)

    def test_a_client_has_to_name_the_server(self):
        if "envoy" in Path(moorgate_binary()).name:
            self.skipTest("Envoy reads require_sni, and does nothing")
        self.assertNotIn(b"hello", self.s_client("logged", "-noservername").stdout)
        self.assertIn(b"hello", self.s_client("unlogged", "-noservername").stdout)


if __name__ == "__main__":
    unittest.main()
