"""Raw HTTP/1.1 from the client's side: bytes out, one parsed answer back. Nothing is repaired."""

import socket


class Answer:
    """A response: `status`, `reason`, `headers` (pairs, names in lower case), `body`, `trailers`,
    the interim statuses before it, how its body was framed, and whether the peer then closed."""

    def __init__(self):
        self.version = ""
        self.status = 0
        self.reason = ""
        self.headers = []
        self.body = b""
        self.trailers = []
        self.interim = []
        self.framing = "none"
        self.complete = False

    def get(self, name):
        return next((value for key, value in self.headers if key == name), None)


class Client:
    """One connection. Reads raise TimeoutError; the end of the stream ends an answer."""

    def __init__(self, port, timeout=5.0, source=None):
        self.sock = socket.create_connection(
            ("127.0.0.1", port), timeout, source_address=(source, 0) if source else None
        )
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))

    def fill(self):
        """More bytes into the buffer; False at the end of the stream."""
        try:
            data = self.sock.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        self.ended = not data
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.fill():
                return None
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def exactly(self, count):
        while len(self.buffer) < count and self.fill():
            pass
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found, len(found) == count

    def read(self, method="GET"):
        """The next answer, or None if the stream ended before one began."""
        answer = Answer()
        while True:
            head = self.until(b"\r\n\r\n")
            if head is None:
                return None
            lines = head.decode("latin-1").split("\r\n")
            answer.version, _, rest = lines[0].partition(" ")
            code, _, answer.reason = rest.partition(" ")
            answer.status = int(code)
            answer.headers = []
            for line in lines[1:]:
                name, _, value = line.partition(":")
                answer.headers.append((name.lower(), value.strip()))
            if not 100 <= answer.status < 200 or answer.status == 101:
                break
            answer.interim.append(answer.status)
        tunnel = method == "CONNECT" and answer.status // 100 == 2
        if method == "HEAD" or tunnel or answer.status in (101, 204, 304):
            answer.complete = True
        elif "chunked" in (answer.get("transfer-encoding") or ""):
            answer.framing = "chunked"
            self._read_chunks(answer)
        elif answer.get("content-length") is not None:
            answer.framing = "content-length"
            answer.body, answer.complete = self.exactly(int(answer.get("content-length")))
        else:
            answer.framing = "close"
            while self.fill():
                pass
            answer.body, self.buffer, answer.complete = self.buffer, b"", True
        return answer

    def _read_chunks(self, answer):
        while (line := self.until(b"\r\n")) is not None:
            size = int(line.split(b";")[0], 16)
            if size == 0:
                while line := self.until(b"\r\n"):
                    name, _, value = line.decode("latin-1").partition(":")
                    answer.trailers.append((name.lower(), value.strip()))
                answer.complete = line is not None
                return
            piece, whole = self.exactly(size)
            answer.body += piece
            if not whole or self.until(b"\r\n") is None:
                return

    def closed_within(self, seconds):
        """Whether the peer ends the stream in that time, saying nothing more."""
        self.sock.settimeout(seconds)
        try:
            return not self.fill()
        except TimeoutError:
            return False


def request(method="GET", target="/", headers=(), body=b"", host="gateway.example"):
    """A well-formed request with a Host and, if there is a body, its length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
