#!/usr/bin/env python3
"""Bodies far larger than any buffer, up and down, while the gateway's memory is watched.

BODY_BYTES (default 2 GiB) is the size of each; GROWTH_BYTES (default 48 MiB) is how far resident
memory may rise above what the gateway used before the first of them. Every byte is hashed.
"""

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

from gateway import Gateway, Scratch, closed_port
from http1 import Client, request
from upstream import PIECE, Upstream

BODY_BYTES = int(os.environ.get("BODY_BYTES", 2 << 30))
GROWTH_BYTES = int(os.environ.get("GROWTH_BYTES", 48 << 20))
BLOCK = bytes(range(256)) * (PIECE // 256)


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Watch(threading.Thread):
    """Samples the resident memory of a process until told to stop."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.running = pid, 0, True

    def run(self):
        while self.running:
            self.peak = max(self.peak, resident_bytes(self.pid))
            time.sleep(0.02)


def expected_hash():
    digest, left = hashlib.sha256(), BODY_BYTES
    while left:
        part = BLOCK[: min(left, PIECE)]
        digest.update(part)
        left -= len(part)
    return digest.hexdigest()[:16]


def upload(port, chunked):
    """Sends BODY_BYTES and returns the status of the answer."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BODY_BYTES}"
    with Client(port, timeout=60) as client:
        client.send(request("POST", "/large/", [framing]))
        left = BODY_BYTES
        while left:
            part = BLOCK[: min(left, PIECE)]
            client.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            left -= len(part)
        if chunked:
            client.send(b"0\r\n\r\n")
        return client.read().status


def download(port, chunked, pause):
    """Receives BODY_BYTES, stopping once for `pause` seconds; returns the hash of the body."""
    digest, left = hashlib.sha256(), BODY_BYTES
    with Client(port, timeout=60) as client:
        client.send(request(target=f"/large/give/{BODY_BYTES}/{'chunked' if chunked else ''}"))
        head = client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        time.sleep(pause)
        while left:
            if chunked:
                size = int(client.until(b"\r\n").split(b";")[0], 16)
                piece, _ = client.exactly(size)
                client.until(b"\r\n")
            else:
                if not client.buffer:
                    client.fill()
                piece, client.buffer = client.buffer, b""
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()[:16]


def main():
    want, bad = expected_hash(), 0
    with Scratch() as scratch:
        upstream = Upstream()
        gateway = Gateway(scratch, upstream=upstream.port, closed=closed_port())
        with Client(gateway.port()) as client:
            client.send(request())
            client.read()
        upstream.take()
        base = resident_bytes(gateway.child.process.pid)
        for chunked in (False, True):
            framing = "chunked" if chunked else "content-length"
            for way, run in (
                ("up", lambda c=chunked: upload(gateway.port(), c)),
                ("down", lambda c=chunked: download(gateway.port(), c, 0)),
                ("down, reader stops for 3 s", lambda c=chunked: download(gateway.port(), c, 3)),
            ):
                watch = Watch(gateway.child.process.pid)
                watch.start()
                start = time.monotonic()
                result = run()
                seconds = time.monotonic() - start
                watch.running = False
                watch.join()
                (seen,) = upstream.take()
                if way == "up":
                    right = result == 200 and seen.body() == (BODY_BYTES, want)
                else:
                    right = result == want
                growth = watch.peak - base
                fine = right and growth <= GROWTH_BYTES
                bad += not fine
                print(
                    f"{'ok  ' if fine else 'BAD '} {framing}, {way}: {BODY_BYTES >> 20} MiB in "
                    f"{seconds:.1f} s, bytes {'agree' if right else 'DIFFER'}, "
                    f"memory +{growth / (1 << 20):.1f} MiB",
                    flush=True,
                )
        upstream.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
