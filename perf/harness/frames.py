"""Just enough of HTTP/2, gRPC and WebSocket for connections that say little: fixed heads, whole frames."""

import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def split(data):
    """The whole frames of `data`, and what is left of it."""
    whole, at = [], 0
    while len(data) - at >= 9:
        length = int.from_bytes(data[at:at + 3], "big")
        if len(data) - at < 9 + length:
            break
        kind, flags, stream = struct.unpack(">BBI", data[at + 3:at + 9])
        whole.append((kind, flags, stream & 0x7FFFFFFF, data[at + 9:at + 9 + length]))
        at += 9 + length
    return whole, data[at:]


def control_answer(kind, flags, payload):
    """What must be said to a frame of the connection, if anything."""
    if kind == SETTINGS and not flags & ACK:
        return frame(SETTINGS, ACK, 0)
    if kind == PING and not flags & ACK:
        return frame(PING, ACK, 0, payload)
    return b""


def _settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


WINDOW = (1 << 30) - 1
# What h2load begins with: no pushes, and windows that never fill.
CLIENT_SETTINGS = _settings((2, 0), (4, WINDOW)) + frame(
    WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65535)
)
# 100 streams at once, as gRPC servers often say.
SERVER_SETTINGS = _settings((3, 100), (4, WINDOW)) + frame(
    WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65535)
)


def _text(value):
    return bytes([len(value)]) + value


# Heads as h2load encodes them, without its Huffman coding, which leaves the same table behind: what the
# static table has whole is one octet, authority and user agent are put into the dynamic table.
_AUTHORITY = b"\x41" + _text(b"perf.example")
_AGENT = b"\x7a" + _text(b"h2load nghttp2/1.52.0")
GET_FIRST = b"\x82\x84\x86" + _AUTHORITY + _AGENT
GET_AGAIN = b"\x82\x84\x86\xbf\xbe"
# The size that RFC 7541 section 4.1 gives these two entries.
TABLE_OCTETS = sum(len(name) + len(value) + 32 for name, value in (
    (b":authority", b"perf.example"), (b"user-agent", b"h2load nghttp2/1.52.0")))

# A call as gRPC clients make it; path, content type and te are entries too.
CALL_FIRST = b"".join((
    b"\x83\x86", _AUTHORITY, b"\x44", _text(b"/perf.Echo/Stream"), _AGENT,
    b"\x5f", _text(b"application/grpc"), b"\x40", _text(b"te"), _text(b"trailers"),
))
CALL_AGAIN = b"\x83\x86\xc2\xc1\xc0\xbf\xbe"
# :status 200 and content-type, the second not for the table.
GRPC_HEAD = b"\x88\x0f\x10" + _text(b"application/grpc")
GRPC_MESSAGE = struct.pack(">BI", 0, 20) + b"m" * 20

WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A text message of 100 bytes; the client's is masked, with zeros.
CLIENT_MESSAGE = b"\x81" + bytes([0x80 | 100]) + bytes(4) + b"w" * 100
SERVER_MESSAGE = b"\x81" + bytes([100]) + b"w" * 100
