"""An HTTP/1.1 upstream that remembers, byte for byte, what it was sent.

It is lenient on purpose: it must be able to show that a proxy forwarded something it should not
have. One thread per connection; the first segment of the path says how to answer (see `answer`).
"""

import hashlib
import socket
import struct
import threading
import time

PIECE = 1 << 18


class Seen:
    """One request as it arrived."""

    def __init__(self, connection, head):
        self.connection = connection
        self.head = head
        lines = head.decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        self.method = parts[0]
        self.target = parts[1] if len(parts) > 1 else ""
        self.version = parts[-1]
        self.headers = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers.append((name.lower(), value.strip()))
        self.body_bytes = 0
        self.body_hash = hashlib.sha256()
        self.trailers = []
        self.framing = "none"
        self.complete = False

    def get(self, name):
        values = [value for key, value in self.headers if key == name]
        return values[0] if values else None

    def body(self):
        return (self.body_bytes, self.body_hash.hexdigest()[:16])


class _Gone(Exception):
    pass


class _Connection:
    def __init__(self, server, sock, number):
        self.server, self.sock, self.number = server, sock, number
        self.buffer = b""
        self.between_requests = True

    def fill(self):
        data = self.sock.recv(PIECE)
        if not data:
            raise _Gone
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.fill()
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, count, keep):
        while count:
            if not self.buffer:
                self.fill()
            piece, self.buffer = self.buffer[:count], self.buffer[count:]
            count -= len(piece)
            keep(piece)

    def read_body(self, seen, keep):
        coding = (seen.get("transfer-encoding") or "").lower()
        if "chunked" in coding:
            seen.framing = "chunked"
            while True:
                size = int(self.until(b"\r\n").split(b";")[0], 16)
                if size == 0:
                    break
                self.exactly(size, keep)
                self.until(b"\r\n")
            while line := self.until(b"\r\n"):
                name, _, value = line.decode("latin-1").partition(":")
                seen.trailers.append((name.lower(), value.strip()))
        elif seen.get("content-length"):
            seen.framing = "content-length"
            self.exactly(int(seen.get("content-length")), keep)
        seen.complete = True

    def run(self):
        while True:
            self.between_requests = True
            head = self.until(b"\r\n\r\n")
            self.between_requests = False
            seen = Seen(self.number, head)
            with self.server.lock:
                self.server.seen.append(seen)
            if not self.answer(seen):
                return

    def send(self, *pieces):
        self.sock.sendall(b"".join(p if isinstance(p, bytes) else p.encode() for p in pieces))

    def answer(self, seen):
        """Answers one request; False ends the connection."""
        path = seen.target.split("?")[0].split("/")[1:] + ["", ""]
        kind, argument = path[0], path[1]
        body = []

        def keep(piece):
            seen.body_bytes += len(piece)
            seen.body_hash.update(piece)
            if kind == "echo":
                body.append(piece)

        if seen.target in self.server.replies:
            self.send(self.server.replies[seen.target])
            return False
        if kind == "continue":
            self.send("HTTP/1.1 100 Continue\r\n\r\n")
        if kind == "early":  # answers before it has read the body
            self.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n"
                      "connection: close\r\n\r\nbig")
            self.sock.shutdown(socket.SHUT_WR)
            while True:  # a close with unread bytes would be a reset, and take the answer with it
                self.buffer = b""
                self.fill()
        if kind == "upgrade" and seen.get("upgrade"):
            self.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n"
                      f"upgrade: {seen.get('upgrade')}\r\n\r\n")
            left = int(argument or 1 << 40)  # upgrade/BYTES: leaves after so many
            while True:
                if self.buffer:
                    data, self.buffer = self.buffer, b""
                    self.send(data)
                    left -= len(data)
                if left <= 0:
                    return False
                self.fill()
        self.read_body(seen, keep)
        if kind == "echo":
            whole = b"".join(body)
            self.send(f"HTTP/1.1 200 OK\r\ncontent-length: {len(whole)}\r\n\r\n", whole)
        elif kind == "status":
            empty = argument in ("204", "304")
            length = "" if empty else "content-length: 6\r\n"
            payload = "" if empty or seen.method == "HEAD" else "status"
            self.send(f"HTTP/1.1 {argument} Whatever\r\n{length}\r\n{payload}")
        elif kind == "flaky":  # 503 until the attempt of that number
            tries = self.server.count(seen.target)
            if tries < int(argument):
                self.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            else:
                self.send(f"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{tries}")
        elif kind == "chunked":
            self.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n",
                      "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nx-sum: 42\r\n\r\n")
        elif kind == "grpc":  # grpc/STATUS with a message and trailers, grpc/STATUS/only without
            fields = f"grpc-status: {argument}\r\nx-sum: 7\r\n"
            head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n"
            if path[2] == "only":
                self.send(f"{head}{fields}content-length: 0\r\n\r\n")
            else:
                self.send(f"{head}transfer-encoding: chunked\r\n\r\n",
                          f"7\r\n\0\0\0\0\2hi\r\n0\r\n{fields}\r\n")
        elif kind == "until-close":
            self.send("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end")
            return False
        elif kind == "http10":
            self.send("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold")
            return False
        elif kind == "hints":
            self.send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n",
                      "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        elif kind == "headers":
            self.send("HTTP/1.1 200 OK\r\n",
                      "".join(f"x-h{n}: {n}\r\n" for n in range(int(argument))),
                      "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: origin\r\nVia: 1.1 x\r\n"
                      "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"
                      "content-length: 0\r\n\r\n")
        elif kind == "slow":
            time.sleep(int(argument) / 1000)
            self.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
        elif kind == "stall":
            self.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nand then")
            time.sleep(1.5)
            return False
        elif kind == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        elif kind == "empty":
            return False
        elif kind == "truncated":
            self.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
            return False
        elif kind == "malformed":
            self.send(MALFORMED[argument])
            return False
        elif kind == "give":  # give/BYTES with a length, give/BYTES/chunked without
            self.give(int(argument), path[2] == "chunked")
        elif kind == "sse":
            self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                      "transfer-encoding: chunked\r\n\r\n")
            for number in range(int(argument or "3")):
                event = f"data: {number}\n\n"
                self.send(f"{len(event):x}\r\n{event}\r\n")
                time.sleep(0.05)
            self.send("0\r\n\r\n")
        else:
            payload = "" if seen.method == "HEAD" else "hello"
            self.send(f"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\n"
                      f"{payload}")
        return (seen.get("connection") or "").lower() != "close"

    def give(self, count, chunked):
        head = "transfer-encoding: chunked" if chunked else f"content-length: {count}"
        self.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n")
        piece = bytes(range(256)) * (PIECE // 256)
        while count:
            part = piece[: min(count, PIECE)]
            self.send(f"{len(part):x}\r\n", part, "\r\n") if chunked else self.sock.sendall(part)
            count -= len(part)
        if chunked:
            self.send("0\r\n\r\n")


MALFORMED = {
    "status-line": "HTTP/1.1 abc Bad\r\ncontent-length: 0\r\n\r\n",
    "not-http": "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "two-lengths": "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde",
    "length-and-chunked": "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n"
                          "\r\n3\r\nabc\r\n0\r\n\r\n",
    "bad-length": "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "bad-chunk": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "nul-in-header": "HTTP/1.1 200 OK\r\nx-a: a\0b\r\ncontent-length: 0\r\n\r\n",
    "cut-head": "HTTP/1.1 200 OK\r\ncontent-len",
    "cut-chunk": "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    "huge-header": "HTTP/1.1 200 OK\r\nx-a: " + "a" * 200_000 + "\r\ncontent-length: 0\r\n\r\n",
}


class Upstream:
    """Listens on a loopback port of its own until `close`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.seen = []
        self.replies = {}  # target -> the bytes to answer it with, as they are
        self._tries = {}
        self._connections = 0
        self._live = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self, target):
        with self.lock:
            self._tries[target] = self._tries.get(target, 0) + 1
            return self._tries[target]

    def take(self):
        """The requests since the last call."""
        with self.lock:
            seen, self.seen = self.seen, []
            self._tries = {}
        return seen

    def unfinished(self):
        """What connections were sent that has not become a request: a head without its end."""
        with self.lock:
            return b"".join(one.buffer for one in self._live if one.between_requests)

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections += 1
            connection = _Connection(self, sock, self._connections)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with self.lock:
            self._live.add(connection)
        try:
            connection.run()
        except (_Gone, OSError, ValueError):
            pass
        finally:
            with self.lock:
                self._live.discard(connection)
            connection.sock.close()

    def close(self):
        self.listener.close()
