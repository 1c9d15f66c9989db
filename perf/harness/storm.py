"""A storm of clients that begin a TLS handshake: whoever has lost its connection comes back at once.

    python3 -m harness.storm PORT SECONDS CONCURRENCY FIRST_SOURCE

Every client sends a hello and waits for the proxy's flight, for which it has agreed on a key and signed,
then resets the connection and makes room for the next; CONCURRENCY of them wait at any time. All send the
same hello, so that the storm costs the machine little beside what it costs the proxy. Prints how many were
answered. What the hello offers is for OPENSSL_CONF to say.
"""

import select
import socket
import ssl
import sys
import time

from harness.handshakes import AT_ONCE, IP_BIND_ADDRESS_NO_PORT, SOURCES, context
from harness.process import raise_descriptor_limit

HANDSHAKE = 0x16


def hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context("http/1.1").wrap_bio(incoming, outgoing, server_hostname="perf.example")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake without a peer")


def run(port, seconds, concurrency, source):
    epoll, message, waiting = select.epoll(), hello(), {}
    begun = answered = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        while len(waiting) < concurrency:
            client = socket.socket()
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            client.bind((f"127.0.0.{source + begun % SOURCES}", 0))
            client.connect(("127.0.0.1", port))
            client.send(message)
            waiting[client.fileno()] = client
            epoll.register(client, select.EPOLLIN)
            begun += 1
        for fd, _ in epoll.poll(0.1, 64):
            client = waiting.pop(fd)
            first = client.recv(1)
            if not first or first[0] != HANDSHAKE:
                raise RuntimeError(f"the proxy refused a handshake: {first!r}")
            epoll.unregister(fd)
            client.close()
            answered += 1
    return answered


if __name__ == "__main__":
    raise_descriptor_limit()
    print(run(int(sys.argv[1]), float(sys.argv[2]), *(int(arg) for arg in sys.argv[3:])))
