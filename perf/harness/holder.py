"""Holds many connections to a proxy and uses each of them when told. One thread, epoll.

    python3 -m harness.holder PORT KIND FIRST_SOURCE

KIND is one of KINDS. Commands on stdin, one answer line each, `ok` with a count: `open N` opens connections
up to N in all, and each makes its request; `burst` uses every connection once more (sse and poll: waits for
what the upstream pushes to each, and poll asks again); `loop SECONDS` uses each again as soon as it has its
answer, and counts the answers; `end` leaves. Sources are 127.0.0.x, each for at most
PER_SOURCE connections. What TLS clients offer is for OPENSSL_CONF to say.
"""

import select
import socket
import ssl
import sys
import time

from harness import frames
from harness.handshakes import context
from harness.process import raise_descriptor_limit

PER_SOURCE = 10_000
WINDOW = 1_000  # connections with a request in flight at once
IP_BIND_ADDRESS_NO_PORT = 24
TCP_MESSAGE = b"t" * 1024


def get(path, more=""):
    return (f"GET {path} HTTP/1.1\r\nHost: perf.example\r\nUser-Agent: holder\r\n{more}\r\n").encode()


class Client:
    """One connection: what it sends, and whether what it got since then is all it waits for."""

    tls = None  # the protocol to ask for
    messages = 1  # that one use of it waits for

    def __init__(self):
        self.got = b""

    def first(self):
        """What the first use of the connection sends."""
        raise NotImplementedError

    def again(self):
        """What every later use sends; nothing where the upstream speaks on its own."""
        return self.first()

    def after(self):
        """What it sends when a use is over, without waiting for the answer."""
        return b""

    def feed(self, data):
        """Takes what arrived: (is the use complete, what to send at once)."""
        self.got += data
        done = self.complete()
        if done:
            self.got = b""
        return done, b""

    def complete(self):
        raise NotImplementedError


class KeepAlive(Client):
    def first(self):
        return get("/")

    def complete(self):
        head, mark, body = self.got.partition(b"\r\n\r\n")
        if not mark:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {head[:200]!r}")
        lower = head.lower()
        if b"content-length: " in lower:
            return len(body) >= int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
        return body.endswith(b"0\r\n\r\n")


class Tls(KeepAlive):
    tls = "http/1.1"


class Poll(KeepAlive):
    def again(self):
        return b""

    def after(self):
        return get("/poll")


class EventStream(Client):
    def first(self):
        return get("/sse")

    def again(self):
        return b""

    def complete(self):
        return b"!\n\n" in self.got


class Tcp(Client):
    def first(self):
        return TCP_MESSAGE

    def complete(self):
        return len(self.got) >= len(TCP_MESSAGE)


class WebSocket(Client):
    def __init__(self):
        super().__init__()
        self.upgraded = False

    def first(self):
        return get("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: cGVyZiBwZXJmIHBlcmYhIQ==\r\n")

    def again(self):
        return frames.CLIENT_MESSAGE

    def feed(self, data):
        self.got += data
        if not self.upgraded:
            head, mark, rest = self.got.partition(b"\r\n\r\n")
            if not mark:
                return False, b""
            if not head.startswith(b"HTTP/1.1 101") or rest:
                raise RuntimeError(f"no upgrade: {self.got[:200]!r}")
            self.upgraded, self.got = True, b""
            return False, frames.CLIENT_MESSAGE
        if len(self.got) < len(frames.SERVER_MESSAGE):
            return False, b""
        if self.got != frames.SERVER_MESSAGE:
            raise RuntimeError(f"not the message that was sent: {self.got[:200]!r}")
        self.got = b""
        return True, b""


class Http2(Client):
    """One GET on a stream of its own for each use, as h2load makes it."""

    def __init__(self):
        super().__init__()
        self.stream = -1
        self.waiting = set()

    def first(self):
        return frames.PREFACE + frames.CLIENT_SETTINGS + self.request(frames.GET_FIRST)

    def again(self):
        return self.request(frames.GET_AGAIN)

    def request(self, head):
        self.stream += 2
        self.waiting.add(self.stream)
        return frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, self.stream, head)

    def feed(self, data):
        had_any = bool(self.waiting)
        whole, self.got = frames.split(self.got + data)
        answer = b""
        for kind, flags, stream, payload in whole:
            if kind in (frames.RST_STREAM, frames.GOAWAY):
                raise RuntimeError(f"stream {stream} was refused: frame {kind}, {payload!r}")
            if kind == frames.HEADERS and not self.accepts(payload):
                raise RuntimeError(f"not an answer with 200: {payload!r}")
            if stream in self.waiting and self.ends(kind, flags, payload):
                self.waiting.discard(stream)
            if not stream:
                answer += frames.control_answer(kind, flags, payload)
        return had_any and not self.waiting, answer

    @staticmethod
    def accepts(head):
        # The static entry for :status 200, behind table size updates at most.
        return b"\x88" in head[:6]

    @staticmethod
    def ends(kind, flags, _payload):
        return kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM


class TlsHttp2(Http2):
    tls = "h2"


class Grpc(Http2):
    """Streams that stay open; each use sends a message on each and waits for one on each."""

    streams = 1

    def first(self):
        sent = frames.PREFACE + frames.CLIENT_SETTINGS
        for number in range(self.streams):
            head = frames.CALL_AGAIN if number else frames.CALL_FIRST
            sent += frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, head)
        return sent + self.again()

    def again(self):
        self.waiting = {2 * number + 1 for number in range(self.streams)}
        return b"".join(frames.frame(frames.DATA, 0, stream, frames.GRPC_MESSAGE)
                        for stream in sorted(self.waiting))

    @staticmethod
    def ends(kind, flags, payload):
        if flags & frames.END_STREAM and kind in (frames.DATA, frames.HEADERS):
            raise RuntimeError("a stream that should stay open was ended")
        return kind == frames.DATA and len(payload) > 0


class GrpcTen(Grpc):
    streams = messages = 10


KINDS = {
    "keepalive": KeepAlive,
    "tls": Tls,
    "tcp": Tcp,
    "sse": EventStream,
    "poll": Poll,
    "ws": WebSocket,
    "h2": Http2,
    "h2tls": TlsHttp2,
    "grpc": Grpc,
    "grpc10": GrpcTen,
}


class Holder:
    def __init__(self, port, kind, source):
        self.port, self.kind, self.source = port, KINDS[kind], source
        self.context = context(self.kind.tls) if self.kind.tls else None
        self.epoll = select.epoll()
        self.sockets = {}
        self.clients = {}

    def open(self, total):
        fresh = []
        while len(self.sockets) < total:
            sock = socket.socket()
            address = f"127.0.0.{self.source + len(self.sockets) // PER_SOURCE}"
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((address, 0))
            sock.connect(("127.0.0.1", self.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context:
                sock.settimeout(20)
                sock = self.context.wrap_socket(sock, server_hostname="perf.example")
            sock.setblocking(False)
            self.sockets[sock.fileno()] = sock
            self.clients[sock.fileno()] = self.kind()
            self.epoll.register(sock, select.EPOLLIN)
            fresh.append(sock.fileno())
            if len(fresh) == WINDOW:
                self.exchange(fresh, self.kind.first)
                fresh = []
        self.exchange(fresh, self.kind.first)

    def burst(self):
        self.exchange(list(self.sockets), self.kind.again)

    def loop(self, seconds):
        """Whoever has its answer goes on at once; returns how many came."""
        end = time.monotonic() + seconds
        answers, busy = 0, set(self.sockets)
        for fd in busy:
            self.send(fd, self.clients[fd].again())
        while busy:
            events = self.epoll.poll(20, 1024)
            if not events:
                raise RuntimeError(f"{len(busy)} connections got no answer within 20 s")
            for fd, _ in events:
                client = self.clients[fd]
                done, answer = client.feed(self.receive(fd))
                self.send(fd, answer)
                if done:
                    answers += client.messages
                    if time.monotonic() < end:
                        self.send(fd, client.again())
                    else:
                        busy.discard(fd)
        return answers

    def exchange(self, fds, use):
        """Has every one of these clients use its connection, and waits until each has what it wants.

        Whoever waits for the upstream to speak waits from the start, the others WINDOW at a time.
        """
        waiting, busy = list(fds), set()
        limit = WINDOW if use is self.kind.first or self.kind.again(self.kind()) else len(fds)
        while waiting or busy:
            while waiting and len(busy) < limit:
                fd = waiting.pop()
                busy.add(fd)
                self.send(fd, use(self.clients[fd]))
            events = self.epoll.poll(20, 1024)
            if not events:
                raise RuntimeError(f"{len(busy)} connections got no answer within 20 s")
            for fd, _ in events:
                data = self.receive(fd)
                if not data:
                    continue
                done, answer = self.clients[fd].feed(data)
                self.send(fd, answer)
                if fd not in busy and not isinstance(self.clients[fd], Http2):
                    raise RuntimeError(f"bytes nobody asked for: {data[:80]!r}")
                if done:
                    busy.discard(fd)
        for fd in fds:
            self.send(fd, self.clients[fd].after())

    def send(self, fd, data):
        if data:
            self.sockets[fd].sendall(data)

    def receive(self, fd):
        """What has arrived. A TLS socket may have woken us for a ticket, and may hold more than one
        record that epoll knows nothing of."""
        data = b""
        try:
            while True:
                part = self.sockets[fd].recv(65536)
                if not part:
                    raise RuntimeError("the proxy closed a connection")
                data += part
                if not self.context:
                    return data
        except (BlockingIOError, ssl.SSLWantReadError):
            return data


def main():
    raise_descriptor_limit()
    holder = Holder(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    for line in sys.stdin:
        words = line.split()
        try:
            count = 0
            if words[0] == "open":
                holder.open(int(words[1]))
            elif words[0] == "burst":
                holder.burst()
            elif words[0] == "loop":
                count = holder.loop(float(words[1]))
            else:
                break
            print("ok", count, flush=True)
        except (OSError, RuntimeError) as error:
            print(f"failed: {error}", flush=True)
            break


if __name__ == "__main__":
    main()
