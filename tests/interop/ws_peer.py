"""A WebSocket server and client of PyPI's `websockets`, run by test_websocket.py with the peers' Python.

    ws_peer.py serve [DIR]              prints its port; echoes, and closes with 4001 when told "close"; with
                                        the certificate that is in DIR it speaks TLS
    ws_peer.py talk URL WHAT [CA]       what a client does; prints "ok"
"""

import asyncio
import ssl
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


# Whom a client trusts; no more than its URL asks for.
TLS = ssl.create_default_context(cafile=sys.argv[4]) if len(sys.argv) > 4 else None


# How the last session of the server ended.
last = None


async def echo(socket):
    global last
    try:
        async for message in socket:
            if message == "how the last ended":
                await socket.send(str(last))
                continue
            if message == "close":
                await socket.close(4001, "as you wish")
                return
            if message == "fragments":
                await socket.send(["a", "b", "\u20ac"])
                continue
            await socket.send(message)
    except websockets.ConnectionClosed:
        pass
    finally:
        last = socket.protocol.close_rcvd and socket.protocol.close_rcvd.code


async def serving(directory=None):
    context = None
    if directory:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/web.pem", f"{directory}/web.key")
    # Short pings: silent clients are asked, too.
    async with serve(echo, "127.0.0.1", 0, max_size=1 << 24, ping_interval=0.2, ssl=context) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.wait_closed()


async def talk(url, compression):
    async with connect(url, compression=compression, max_size=1 << 24, proxy=None, ssl=TLS) as socket:
        agreed = socket.response.headers.get("Sec-WebSocket-Extensions")
        for message in ("text", "caf\u00e9 \u20ac", "", b"", bytes(range(256)) * 4096, "x" * 70_000):
            await socket.send(message)
            assert await socket.recv() == message, message[:20]
        await socket.send(["in ", "several ", "frames"])
        assert await socket.recv() == "in several frames"
        pong = await socket.ping(b"are you there")
        await asyncio.wait_for(pong, 5)
        # Silent for longer than the server waits between its pings.
        await asyncio.sleep(0.7)
        await socket.send("still there")
        assert await socket.recv() == "still there"
    assert socket.close_code == 1000, socket.close_code
    return agreed


async def told_to_leave(url):
    async with connect(url, proxy=None, ssl=TLS) as socket:
        await socket.send("fragments")
        assert await socket.recv() == "ab\u20ac"
        await socket.send("close")
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed


async def stay(url):
    """Silent between two messages until the gateway leaves."""
    async with connect(url, proxy=None, ssl=TLS, ping_interval=None) as socket:
        await socket.send("here")
        assert await socket.recv() == "here"
        print("here", flush=True)
        try:
            await asyncio.wait_for(socket.recv(), 30)
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd and closed.rcvd.code == 1001, closed


async def last_code(url):
    """The server's last session ended with 1001, too."""
    async with connect(url, proxy=None, ssl=TLS) as socket:
        for _ in range(100):
            await socket.send("how the last ended")
            if await socket.recv() == "1001":
                return
            await asyncio.sleep(0.05)
        raise AssertionError("the server was not told")


async def many(url):
    """A hundred at once, of which each has its own messages."""
    async def one(number):
        async with connect(url, proxy=None, ssl=TLS) as socket:
            for turn in range(5):
                await socket.send(f"{number}.{turn}")
                assert await socket.recv() == f"{number}.{turn}"
    await asyncio.gather(*(one(number) for number in range(100)))


async def main():
    if sys.argv[1] == "serve":
        await serving(*sys.argv[2:])
        return
    url, what = sys.argv[2], sys.argv[3]
    if what == "talk":
        await talk(url, None)
    elif what == "deflate":
        agreed = await talk(url, "deflate")
        assert agreed and "permessage-deflate" in agreed, agreed
    elif what == "leave":
        await told_to_leave(url)
    elif what == "stay":
        await stay(url)
    elif what == "last":
        await last_code(url)
    else:
        await many(url)
    print("ok")


asyncio.run(main())
