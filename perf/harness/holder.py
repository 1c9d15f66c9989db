"""Holds many connections to a proxy and uses each of them when told. One thread, epoll.

    python3 -m harness.holder PORT KIND FIRST_SOURCE

KIND is keepalive, tcp, sse or poll. Commands on stdin, one answer line each: `open N` opens
connections up to N in all, and each makes its request; `burst` uses every connection once more
(sse and poll: waits for what the upstream pushes to each, and poll asks again); `end` leaves.
Sources are 127.0.0.x, each for at most PER_SOURCE connections.
"""

import select
import socket
import sys

from harness.process import raise_descriptor_limit

PER_SOURCE = 10_000
WINDOW = 1_000  # requests in flight at once
IP_BIND_ADDRESS_NO_PORT = 24
TCP_MESSAGE = b"t" * 1024


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: perf.example\r\nUser-Agent: holder\r\n\r\n".encode()


def http_complete(data):
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"refused: {head[:200]!r}")
    lower = head.lower()
    if b"content-length: " in lower:
        return len(body) >= int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")


def event_complete(data):
    return b"!\n\n" in data


def echo_complete(data):
    return len(data) >= len(TCP_MESSAGE)


class Holder:
    def __init__(self, port, kind, source):
        self.port, self.kind, self.source = port, kind, source
        self.epoll = select.epoll()
        self.sockets = {}

    def open(self, total):
        fresh = []
        while len(self.sockets) < total:
            sock = socket.socket()
            address = f"127.0.0.{self.source + len(self.sockets) // PER_SOURCE}"
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((address, 0))
            sock.connect(("127.0.0.1", self.port))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[sock.fileno()] = sock
            self.epoll.register(sock, select.EPOLLIN)
            fresh.append(sock.fileno())
            if len(fresh) == WINDOW:
                self.first_use(fresh)
                fresh = []
        self.first_use(fresh)

    def first_use(self, fds):
        if self.kind == "tcp":
            self.exchange(fds, TCP_MESSAGE, echo_complete)
        elif self.kind == "sse":
            self.exchange(fds, get("/sse"), event_complete)
        else:
            self.exchange(fds, get("/"), http_complete)
            if self.kind == "poll":
                self.ask(fds)

    def burst(self):
        fds = list(self.sockets)
        if self.kind == "keepalive":
            self.exchange(fds, get("/"), http_complete)
        elif self.kind == "tcp":
            self.exchange(fds, TCP_MESSAGE, echo_complete)
        elif self.kind == "sse":
            self.exchange(fds, None, event_complete)
        else:
            self.exchange(fds, None, http_complete)
            self.ask(fds)

    def ask(self, fds):
        for fd in fds:
            self.sockets[fd].send(get("/poll"))

    def exchange(self, fds, message, complete):
        """Sends `message` (if any) on each and waits until `complete` says yes for each."""
        waiting, got = list(fds), {}
        while waiting or got:
            while waiting and (message is None or len(got) < WINDOW):
                fd = waiting.pop()
                got[fd] = b""
                if message:
                    self.sockets[fd].send(message)
            events = self.epoll.poll(20, 1024)
            if not events:
                raise RuntimeError(f"{len(got)} connections got no answer within 20 s")
            for fd, _ in events:
                data = self.sockets[fd].recv(65536)
                if not data or fd not in got:
                    raise RuntimeError("the proxy closed a connection" if not data
                                       else f"bytes nobody asked for: {data[:80]!r}")
                got[fd] += data
                if complete(got[fd]):
                    del got[fd]


def main():
    raise_descriptor_limit()
    holder = Holder(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        words = line.split()
        try:
            if words[0] == "open":
                holder.open(int(words[1]))
            elif words[0] == "burst":
                holder.burst()
            else:
                break
            print("ok", flush=True)
        except (OSError, RuntimeError) as error:
            print(f"failed: {error}", flush=True)
            break


if __name__ == "__main__":
    main()
