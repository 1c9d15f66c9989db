"""Makes TLS handshakes with a proxy, one after the other on many connections. One thread, epoll.

    python3 -m harness.handshakes PORT full|resumed SECONDS CONCURRENCY FIRST_SOURCE

Each connection shakes hands, says close_notify, and waits until the proxy has closed: then all that the
handshake costs the proxy has been paid, session tickets included. `resumed` first gets a ticket by a
request, and every connection that was not resumed ends the run, as does one that `full` finds resumed.
Prints how many were made. What the client offers is for OPENSSL_CONF to say.
"""

import select
import socket
import ssl
import struct
import sys
import time

IP_BIND_ADDRESS_NO_PORT = 24
SOURCES = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: perf.example\r\n\r\n"
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, thousands of ports are needed


def context(protocol):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols([protocol])
    # A peer that closes without close_notify has made its handshake all the same.
    made.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return made


class Driver:
    def __init__(self, port, resumed, source):
        self.port, self.resumed, self.source = port, resumed, source
        self.context = context("http/1.1")
        self.session = self.ticket() if resumed else None
        self.epoll = select.epoll()
        self.open = {}
        self.started = self.done = 0

    def ticket(self):
        with socket.create_connection(("127.0.0.1", self.port), 10) as plain:
            with self.context.wrap_socket(plain, server_hostname="perf.example") as secure:
                secure.sendall(REQUEST)
                if not secure.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise RuntimeError("the proxy refused the first request")
                return secure.session

    def start(self):
        plain = socket.socket()
        plain.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        plain.bind((f"127.0.0.{self.source + self.started % SOURCES}", 0))
        plain.connect(("127.0.0.1", self.port))
        plain.setblocking(False)
        secure = self.context.wrap_socket(plain, do_handshake_on_connect=False,
                                          server_hostname="perf.example", session=self.session)
        self.started += 1
        self.open[secure.fileno()] = [secure, secure.do_handshake, time.monotonic()]
        self.epoll.register(secure, select.EPOLLIN)
        self.step(secure.fileno())

    def step(self, fd):
        entry = self.open[fd]
        secure, next_step, _ = entry
        try:
            if next_step == secure.do_handshake:
                secure.do_handshake()
                if secure.session_reused != self.resumed:
                    raise RuntimeError(f"resumed: {secure.session_reused}, wanted: {self.resumed}")
                next_step = entry[1] = secure.unwrap
            secure.unwrap()
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLError, OSError) as error:
            # After our close_notify the proxy may end the connection as it likes.
            if next_step == secure.do_handshake:
                raise RuntimeError(f"handshake: {error}") from error
        self.epoll.unregister(fd)
        del self.open[fd]
        secure.close()
        self.done += 1

    def run(self, seconds, concurrency):
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.open:
            while len(self.open) < concurrency and time.monotonic() < end:
                self.start()
            for fd, _ in self.epoll.poll(0.1, 256):
                self.step(fd)
            oldest = min((since for _, _, since in self.open.values()), default=end)
            if time.monotonic() - oldest > 10:
                raise RuntimeError("a handshake, or the close after it, took 10 s")
        return self.done


def main():
    port, kind, seconds, concurrency, source = sys.argv[1:]
    driver = Driver(int(port), kind == "resumed", int(source))
    print(driver.run(float(seconds), int(concurrency)))


if __name__ == "__main__":
    main()
