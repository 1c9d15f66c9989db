"""An upstream that stays silent until told: event streams, long polls, WebSockets, gRPC streams, TCP echo.
One thread, epoll.

    python3 -m harness.origin PORT

An HTTP request for /sse opens an event stream and gets one event; /poll is held; anything else is
answered at once. Sent straight here, not through a proxy, `GET /push` sends one event to every stream
and answers every poll, and `GET /open` says how many there are of both. A WebSocket at /ws gets each message
back, as does a gRPC stream: a connection that begins with HTTP/2's preface is gRPC. Bytes that are not HTTP
are echoed: that is the TCP upstream.
"""

import base64
import hashlib
import select
import socket
import sys

from harness import frames
from harness.process import raise_descriptor_limit

EVENT = b"data: " + b"e" * 90 + b"!\n\n"
CHUNKED_EVENT = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + b"0" * 100
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED_EVENT
)


class Origin:
    def __init__(self, port):
        self.epoll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.epoll.register(self.listener, select.EPOLLIN)
        self.sockets = {}
        self.partial = {}
        self.streams = set()
        self.polls = set()
        self.websockets = set()
        self.grpc = set()

    def run(self):
        while True:
            for fd, _ in self.epoll.poll(maxevents=512):
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.receive(fd)

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets[sock.fileno()] = sock
            self.epoll.register(sock, select.EPOLLIN)

    def receive(self, fd):
        try:
            data = self.sockets[fd].recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close(fd)
            return
        data = self.partial.pop(fd, b"") + data
        if fd in self.websockets:
            self.receive_message(fd, data)
        elif fd in self.grpc or data.startswith(b"PRI "):
            self.receive_frames(fd, data)
        elif not data.startswith(b"G"):
            self.send(fd, data)
        elif b"\r\n\r\n" not in data:
            self.partial[fd] = data
        elif data.startswith(b"GET /sse"):
            self.streams.add(fd)
            self.send(fd, STREAM)
        elif data.startswith(b"GET /poll"):
            self.polls.add(fd)
        elif data.startswith(b"GET /ws"):
            self.upgrade(fd, data)
        elif data.startswith(b"GET /open"):
            self.send_number(fd, len(self.streams) + len(self.polls))
        elif data.startswith(b"GET /push"):
            self.push(fd)
        else:
            self.send(fd, SMALL)

    def upgrade(self, fd, head):
        key = next(line.split(b":")[1].strip() for line in head.split(b"\r\n")
                   if line.lower().startswith(b"sec-websocket-key:"))
        accept = base64.b64encode(hashlib.sha1(key + frames.WEBSOCKET_GUID).digest())
        self.websockets.add(fd)
        self.send(fd, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
                      b"\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")

    def receive_message(self, fd, data):
        # The holder sends one message and waits for it: there are never two.
        if len(data) < len(frames.CLIENT_MESSAGE):
            self.partial[fd] = data
        else:
            self.send(fd, frames.SERVER_MESSAGE)

    def receive_frames(self, fd, data):
        if fd not in self.grpc:
            if len(data) < len(frames.PREFACE):
                self.partial[fd] = data
                return
            data = data[len(frames.PREFACE):]
            self.grpc.add(fd)
            self.send(fd, frames.SERVER_SETTINGS)
        answer = bytearray()
        whole, self.partial[fd] = frames.split(data)
        for kind, flags, stream, payload in whole:
            if kind == frames.HEADERS:
                answer += frames.frame(frames.HEADERS, frames.END_HEADERS, stream, frames.GRPC_HEAD)
            elif kind == frames.DATA:
                answer += frames.frame(frames.DATA, 0, stream, payload)
            else:
                answer += frames.control_answer(kind, flags, payload)
        if answer and fd in self.sockets:
            self.send(fd, answer)

    def push(self, asker):
        polls, self.polls = self.polls, set()
        count = len(self.streams) + len(polls)
        for fd in tuple(self.streams):
            self.send(fd, CHUNKED_EVENT)
        for fd in polls:
            self.send(fd, SMALL)
        self.send_number(asker, count)

    def send_number(self, fd, number):
        body = b"%d" % number
        self.send(fd, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def send(self, fd, data):
        # What is sent here is small and the reader reads: a socket that refuses it is given up.
        try:
            if self.sockets[fd].send(data) != len(data):
                self.close(fd)
        except OSError:
            self.close(fd)

    def close(self, fd):
        for known in (self.streams, self.polls, self.websockets, self.grpc):
            known.discard(fd)
        self.partial.pop(fd, None)
        self.epoll.unregister(fd)
        self.sockets.pop(fd).close()


if __name__ == "__main__":
    raise_descriptor_limit()
    Origin(int(sys.argv[1])).run()
