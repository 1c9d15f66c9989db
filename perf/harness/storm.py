"""A storm of clients that come back all at once, and all begin a TLS handshake.

    python3 -m harness.storm PORT SECONDS CLIENTS FIRST_SOURCE

Every half second that many clients connect, and when all of them have they send their hellos, one after the
other without a pause. Each waits for the proxy's flight, for which it has agreed on a key and signed, and then
resets its connection. All send the same hello, so that the storm costs the machine little beside what it
costs the proxy, and every proxy gets the same storm. Prints how long the last of a storm waited, in
milliseconds: the median of all storms. What the hello offers is for OPENSSL_CONF to say.
"""

import select
import socket
import ssl
import statistics
import sys
import time

from harness.handshakes import AT_ONCE, IP_BIND_ADDRESS_NO_PORT, SOURCES, context
from harness.process import raise_descriptor_limit

HANDSHAKE = 0x16
PERIOD = 0.5  # seconds from one storm to the next


def hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context("http/1.1").wrap_bio(incoming, outgoing, server_hostname="perf.example")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake without a peer")


def connected(port, source):
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    client.bind((f"127.0.0.{source}", 0))
    client.connect(("127.0.0.1", port))
    return client


def storm(port, message, clients, source):
    """One storm; returns how long the last client waited, in seconds."""
    epoll, waiting = select.epoll(), {}
    for number in range(clients):
        client = connected(port, source + number % SOURCES)
        waiting[client.fileno()] = client
        epoll.register(client, select.EPOLLIN)
    begun = time.monotonic()
    for client in waiting.values():
        client.send(message)
    while waiting:
        events = epoll.poll(10)
        if not events:
            raise RuntimeError(f"{len(waiting)} of {clients} got no answer within 10 s")
        for fd, _ in events:
            client = waiting.pop(fd)
            first = client.recv(1)
            if not first or first[0] != HANDSHAKE:
                raise RuntimeError(f"the proxy refused a handshake: {first!r}")
            epoll.unregister(fd)
            client.close()
    return time.monotonic() - begun


def run(port, seconds, clients, source):
    message, lasted = hello(), []
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        lasted.append(storm(port, message, clients, source))
        time.sleep(max(0, begun + len(lasted) * PERIOD - time.monotonic()))
    return statistics.median(lasted) * 1000


if __name__ == "__main__":
    raise_descriptor_limit()
    print(run(int(sys.argv[1]), float(sys.argv[2]), *(int(arg) for arg in sys.argv[3:])))
