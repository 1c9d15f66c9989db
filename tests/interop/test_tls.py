"""TLS with real peers: curl, openssl s_client and Python's ssl as clients, nginx as upstream.

    MOORGATE_BIN=... python3 -m unittest tests/interop/test_tls.py -v
"""

import hashlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import unittest
import urllib.request
from pathlib import Path

from gateway import Gateway, Scratch, free_port, moorgate_binary, raise_descriptor_limit, tool
from listening import Listening
from upstream import Upstream

NAME = "moorgate.test"
BIG = 3_000_000

NGINX = """daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{}}
http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
server {{ listen 127.0.0.1:{port} ssl; root {dir}/www;
ssl_certificate {dir}/files.pem; ssl_certificate_key {dir}/files.key;
ssl_client_certificate {dir}/ca.pem; ssl_verify_client optional; ssl_protocols TLSv1.2 TLSv1.3;
location /who {{ return 200 "$ssl_client_s_dn $ssl_server_name $ssl_session_reused"; }} }} }}
"""


class Certificates:
    """An authority, another one, and what they issue, in files of one directory."""

    def __init__(self, directory):
        self.dir = directory
        for name in ("ca", "other"):
            self.key(name)
            self.run("req", "-x509", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}",
                     "-days", "30", "-out", f"{name}.pem")
        self.issue("server", f"DNS:{NAME},URI:spiffe://moorgate.test/gateway")
        self.issue("rsa", f"DNS:{NAME}", rsa=True)
        self.issue("client", "URI:spiffe://moorgate.test/client,DNS:client.test")
        self.issue("nobody", "DNS:client.test")
        self.issue("forged", "URI:spiffe://moorgate.test/client", authority="other")
        self.issue("files", "DNS:files.test")
        self.version = 0
        self.rotate("server")

    def run(self, *arguments):
        subprocess.run([tool("openssl"), *arguments], cwd=self.dir, check=True,
                       capture_output=True)

    def key(self, name, rsa=False):
        if rsa:
            self.run("genrsa", "-out", f"{name}.key", "2048")
        else:
            self.run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")

    def issue(self, name, alt_names, authority="ca", rsa=False):
        self.key(name, rsa)
        self.run("req", "-new", "-key", f"{name}.key", "-subj", f"/O=Moorgate/CN={name}",
                 "-out", f"{name}.csr")
        extensions = f"subjectAltName={alt_names}\nbasicConstraints=CA:FALSE\n"
        (self.dir / f"{name}.ext").write_text(extensions)
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey",
                 f"{authority}.key", "-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext",
                 "-out", f"{name}.pem")


    def rotate(self, name, key=None):
        """Makes these the files in `rotating`, at one stroke: as volumes of Kubernetes do."""
        self.version += 1
        version = self.dir / "rotating" / f"..{self.version}"
        version.mkdir(parents=True)
        (version / "tls.pem").write_bytes((self.dir / f"{name}.pem").read_bytes())
        (version / "tls.key").write_bytes((self.dir / f"{key or name}.key").read_bytes())
        for file in ("tls.pem", "tls.key"):
            link = version.parent / file
            if not link.is_symlink():
                link.symlink_to(f"..data/{file}")
        new = version.parent / "..new"
        new.symlink_to(version.name)
        new.rename(version.parent / "..data")


class RawServer(Listening):
    """Says how many bytes it got until their end, and what they were."""

    @staticmethod
    def serve(sock):
        with sock:
            count, digest = 0, hashlib.sha256()
            while data := sock.recv(1 << 16):
                count += len(data)
                digest.update(data)
            sock.sendall(f"{count} {digest.hexdigest()}".encode())

    def close(self):
        self.listener.close()


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise_descriptor_limit()
        cls.scratch = Scratch()
        cls.addClassCleanup(cls.scratch.__exit__)
        cls.upstream = Upstream()
        cls.addClassCleanup(cls.upstream.close)
        cls.raw = RawServer()
        cls.addClassCleanup(cls.raw.close)
        cls.dir = Path(cls.scratch.path) / "certs"
        cls.dir.mkdir(mode=0o755)
        cls.certificates = Certificates(cls.dir)
        os.chmod(cls.scratch.path, 0o755)
        (cls.dir / "www").mkdir()
        cls.big = os.urandom(BIG)
        (cls.dir / "www" / "big").write_bytes(cls.big)
        files = free_port()
        (cls.dir / "nginx.conf").write_text(NGINX.format(dir=cls.dir, port=files))
        cls.scratch.start("nginx", [tool("nginx"), "-c", cls.dir / "nginx.conf"], files)
        cls.gateway = Gateway(cls.scratch, "tls.yaml", certs=str(cls.dir), files=files,
                              upstream=cls.upstream.port, raw=cls.raw.port)
        cls.is_envoy = "envoy" in Path(moorgate_binary()).name

    def setUp(self):
        self.upstream.take()

    def stats(self):
        url = f"http://127.0.0.1:{self.gateway.port('admin')}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    def value(self, name, listener="http"):
        port = self.gateway.port(listener)
        return int(self.stats().get(f"listener.127.0.0.1_{port}.{name}", 0))

    def until(self, what, wanted):
        """Waits for what comes about by itself; the assertion after it says what was missing."""
        end = time.monotonic() + 20
        while time.monotonic() < end and not wanted():
            time.sleep(0.02)
        self.assertTrue(wanted(), what)

    def curl(self, path, *arguments, listener="http", code=0):
        port = self.gateway.port(listener)
        argv = [tool("curl"), "-sS", "--max-time", "20", "--noproxy", "*", "--cacert",
                self.dir / "ca.pem", "--resolve", f"{NAME}:{port}:127.0.0.1", *arguments,
                f"https://{NAME}:{port}{path}"]
        done = subprocess.run(argv, capture_output=True, check=False, timeout=30)
        if code is not None:
            self.assertEqual(done.returncode, code, done.stderr.decode())
        return done

    def connect(self, listener="http", version=None, certificate=None):
        context = ssl.create_default_context(cafile=self.dir / "ca.pem")
        if version:
            context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(self.dir / f"{certificate}.pem", self.dir / f"{certificate}.key")
        sock = socket.create_connection(("127.0.0.1", self.gateway.port(listener)), timeout=20)
        return context.wrap_socket(sock, server_hostname=NAME)

    @staticmethod
    def get(sock, path="/"):
        sock.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(1 << 16)
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += sock.recv(1 << 16)
        return body

    def test_curl_in_both_versions(self):
        for flag, version in (("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")):
            before = self.value(f"ssl.versions.{version}")
            done = self.curl("/", "--tls-max", flag, f"--tlsv{flag}")
            self.assertEqual(done.stdout, b"hello")
            (seen,) = self.upstream.take()
            self.assertEqual(seen.get("x-forwarded-proto"), "https")
            self.assertEqual(self.value(f"ssl.versions.{version}"), before + 1)

    def test_an_rsa_client_gets_the_rsa_certificate(self):
        self.curl("/", "--tls-max", "1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256")
        self.assertGreaterEqual(self.value("ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256"), 1)

    def test_an_https_target_is_what_it_says(self):
        self.curl("/", "--request-target", f"https://{NAME}/path")
        (seen,) = self.upstream.take()
        self.assertEqual((seen.target, seen.get("host")), ("/path", NAME))

    def test_sessions_resume(self):
        for version in ("-tls1_2", "-tls1_3"):
            session = self.dir / f"session{version}"
            for turn, flag in (("New", "-sess_out"), ("Reused", "-sess_in")):
                argv = [tool("openssl"), "s_client", "-connect",
                        f"127.0.0.1:{self.gateway.port()}", "-servername", NAME, "-CAfile",
                        self.dir / "ca.pem", version, "-ign_eof", flag, session]
                request = f"GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n".encode()
                done = subprocess.run(argv, input=request, capture_output=True, timeout=30,
                                      check=False)
                self.assertIn(f"{turn}, TLSv1.".encode(), done.stdout)
                self.assertIn(b"hello", done.stdout)
        self.assertGreaterEqual(self.value("ssl.session_reused"), 2)

    def test_a_silent_connection_goes_on(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.connect(version=version) as sock:
                for _ in range(3):
                    self.assertEqual(self.get(sock), b"hello")
                    if not self.is_envoy:
                        parked = lambda: int(self.stats()["moorgate.parked.idle"]) >= 1  # noqa: E731
                        self.until("a parked client", parked)

    def test_what_is_no_tls_is_refused(self):
        before = self.value("ssl.connection_error")
        with socket.create_connection(("127.0.0.1", self.gateway.port()), timeout=20) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = sock.recv(100)
            # An alert, or, as Envoy has it, nothing at all.
            self.assertIn(answer[:1], (b"\x15", b""))
        self.assertEqual(self.value("ssl.connection_error"), before + 1)

    def test_a_handshake_that_stops_is_given_up(self):
        before = self.value("downstream_cx_transport_socket_connect_timeout")
        with socket.create_connection(("127.0.0.1", self.gateway.port()), timeout=20) as sock:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            self.assertEqual(sock.recv(100), b"")
        after = self.value("downstream_cx_transport_socket_connect_timeout")
        self.assertEqual(after, before + 1)

    def test_a_record_that_stops_is_given_up(self):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=self.dir / "ca.pem")
        tls = context.wrap_bio(incoming, outgoing, server_hostname=NAME)
        with socket.create_connection(("127.0.0.1", self.gateway.port()), timeout=20) as sock:
            self.shake(tls, sock, incoming, outgoing)
            tls.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            record = outgoing.read()
            sock.sendall(record[: len(record) // 2])
            while sock.recv(1 << 16):
                pass
        self.assertGreaterEqual(int(self.stats()["http.https.downstream_cx_idle_timeout"]), 1)
        self.assertEqual(self.upstream.take(), [])

    @staticmethod
    def shake(tls, sock, incoming, outgoing):
        while True:
            try:
                tls.do_handshake()
                sock.sendall(outgoing.read())
                return
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))

    def test_a_client_without_a_good_certificate_is_refused(self):
        for certificate, counter in (
            (None, "fail_verify_no_cert"),
            ("forged", "fail_verify_error"),
            ("nobody", "fail_verify_san"),
        ):
            before = self.value(f"ssl.{counter}", "mutual")
            arguments = []
            if certificate:
                arguments = ["--cert", self.dir / f"{certificate}.pem", "--key",
                             self.dir / f"{certificate}.key"]
            done = self.curl("/", *arguments, listener="mutual", code=None)
            self.assertNotEqual(done.returncode, 0)
            self.assertEqual(self.value(f"ssl.{counter}", "mutual"), before + 1, counter)
        self.assertEqual(self.upstream.take(), [])

    def test_the_next_hop_is_told_of_the_certificate(self):
        self.curl("/", "--cert", self.dir / "client.pem", "--key", self.dir / "client.key",
                  "-H", "x-forwarded-client-cert: By=forged", listener="mutual")
        (seen,) = self.upstream.take()
        der = ssl.PEM_cert_to_DER_cert((self.dir / "client.pem").read_text())
        pem = (self.dir / "client.pem").read_text()
        for char, code in (("\n", "%0A"), (" ", "%20"), ("+", "%2B"), ("/", "%2F"), ("=", "%3D")):
            pem = pem.replace(char, code)
        self.assertEqual(
            seen.get("x-forwarded-client-cert"),
            f"By=spiffe://moorgate.test/gateway;Hash={hashlib.sha256(der).hexdigest()};"
            f'Cert="{pem}";Subject="CN=client,O=Moorgate";'
            "URI=spiffe://moorgate.test/client;DNS=client.test",
        )
        self.curl("/", "-H", "x-forwarded-client-cert: By=forged")
        (seen,) = self.upstream.take()
        self.assertIsNone(seen.get("x-forwarded-client-cert"))

    def test_the_access_log_names_the_client(self):
        self.curl("/", "--cert", self.dir / "client.pem", "--key", self.dir / "client.key",
                  "--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256",
                  listener="mutual")
        der = ssl.PEM_cert_to_DER_cert((self.dir / "client.pem").read_text())
        serial = subprocess.run([tool("openssl"), "x509", "-in", self.dir / "client.pem", "-noout",
                                 "-serial"], capture_output=True, check=True).stdout
        line = (
            f"TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 CN=client,O=Moorgate CN=ca "
            f"{serial.decode().strip().partition('=')[2].lower()} {hashlib.sha256(der).hexdigest()} "
            "spiffe://moorgate.test/client client.test"
        )
        log = self.dir / "access.log"
        self.until("the log", lambda: log.exists() and log.read_text())
        self.assertEqual(log.read_text().splitlines()[-1], line)

    def test_large_answers_from_a_tls_upstream(self):
        for flag in ("1.2", "1.3"):
            done = self.curl("/files/big", "--tls-max", flag)
            self.assertEqual(hashlib.sha256(done.stdout).digest(),
                             hashlib.sha256(self.big).digest())
        who = self.curl("/files/who").stdout
        self.assertTrue(who.startswith(b"CN=client,O=Moorgate files.test"), who)
        self.assertGreaterEqual(int(self.stats()["cluster.files.ssl.handshake"]), 1)

    def test_an_upstream_that_is_not_trusted_is_not_used(self):
        for path, counter in (
            ("/stranger", "cluster.stranger.ssl.fail_verify_error"),
            ("/misnamed", "cluster.misnamed.ssl.fail_verify_san"),
        ):
            before = int(self.stats().get(counter, 0))
            done = self.curl(path, "-o", "/dev/null", "-w", "%{http_code}")
            self.assertEqual(done.stdout, b"503")
            self.assertEqual(int(self.stats()[counter]), before + 1)

    def test_a_tunnel_keeps_half_closes(self):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=self.dir / "ca.pem")
        tls = context.wrap_bio(incoming, outgoing, server_hostname=NAME)
        port = self.gateway.port("tunnel")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            self.shake(tls, sock, incoming, outgoing)
            tls.write(self.big)
            sock.sendall(outgoing.read())
            try:
                tls.unwrap()
            except ssl.SSLWantReadError:
                pass
            # close_notify, and no FIN.
            sock.sendall(outgoing.read())
            answer = b""
            while True:
                try:
                    data = tls.read(1 << 16)
                    if not data:
                        break
                    answer += data
                except ssl.SSLWantReadError:
                    data = sock.recv(1 << 16)
                    if not data:
                        break
                    incoming.write(data)
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    break
        wanted = f"{BIG} {hashlib.sha256(self.big).hexdigest()}".encode()
        self.assertEqual(answer, wanted)

    def test_new_certificates_need_no_restart(self):
        if self.is_envoy:
            self.skipTest("Envoy reads files again by SDS alone")

        def serial(sock):
            return sock.getpeercert()["serialNumber"]

        with self.connect(version=ssl.TLSVersion.TLSv1_3) as old:
            first = serial(old)
            self.assertEqual(self.get(old), b"hello")
            self.certificates.issue("server", f"DNS:{NAME},URI:spiffe://moorgate.test/gateway")
            self.gateway.child.process.send_signal(signal.SIGHUP)

            def changed():
                with self.connect(version=ssl.TLSVersion.TLSv1_3) as new:
                    return serial(new) != first

            self.until("the new certificate", changed)
            self.assertEqual(self.get(old), b"hello")


    def test_certificates_that_move_in_are_taken_under_load(self):
        if self.is_envoy:
            self.skipTest("Envoy watches directories for SDS alone")
        updated = lambda: self.value("ssl.context_updated", "rotating")
        rejected = lambda: self.value("ssl.context_update_rejected", "rotating")
        stop, failures, shaken = threading.Event(), [], [0, 0, 0]

        def shake(number):
            while not stop.is_set():
                try:
                    with self.connect("rotating") as sock:
                        answer = self.get(sock)
                        if answer != b"hello":
                            failures.append(answer)
                    shaken[number] += 1
                except OSError as error:
                    failures.append(repr(error))

        def serial():
            with self.connect("rotating") as sock:
                return sock.getpeercert()["serialNumber"]

        threads = [threading.Thread(target=shake, args=(number,)) for number in range(3)]
        with self.connect("rotating") as old:
            before = serial()
            for thread in threads:
                thread.start()
            try:
                for number in range(20):
                    count = updated()
                    self.certificates.issue("next", f"DNS:{NAME}")
                    self.certificates.rotate("next")
                    self.until("new certificates", lambda: updated() == count + 1)
                    now = serial()
                    self.assertNotEqual(now, before)
                    before = now
                    self.assertEqual(self.get(old), b"hello")
                # A key of another certificate: what was there stays, and is taken back when that is done.
                self.certificates.rotate("next", key="files")
                self.until("a refusal", lambda: rejected() == 1)
                self.assertEqual(serial(), before)
                self.certificates.rotate("server")
                self.until("good ones", lambda: updated() == count + 2)
                self.assertNotEqual(serial(), before)
                self.assertEqual(self.get(old), b"hello")
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(min(shaken), 20)


if __name__ == "__main__":
    unittest.main()
