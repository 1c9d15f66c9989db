#!/usr/bin/env python3
"""Request-smuggling shapes over raw sockets: what each proxy makes of them, as a markdown table.

A shape is unsafe when the upstream was sent something two servers could read differently: more
requests than the client's own framing says, both lengths at once, a length that is not one plain
number, a transfer coding other than exactly `chunked`, a bare CR or LF, NUL or other controls,
whitespace before a colon, or a folded line. Refusing is safe, and so is normalising.

Ends with 1 if MOORGATE_BIN (the first column) does anything unsafe.
"""

import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from gateway import (Gateway, Scratch, closed_port, envoy_binary, free_port, moorgate_binary,
                     tool)
from http1 import Client
from upstream import Upstream

H = "Host: gateway.example\r\n"
HIDDEN = "GET /hidden HTTP/1.1\r\nHost: hidden.example\r\n\r\n"
SMUGGLED = f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"


def post(headers, body="", start="POST /first HTTP/1.1"):
    return f"{start}\r\n{H}{headers}\r\n{body}"


CHUNK_BODY = "3\r\nabc\r\n0\r\n\r\n"
TE = "Transfer-Encoding: chunked\r\n"

# name -> the bytes. Whatever follows the first request's own framing must not become a request
# that the client's framing does not have.
SHAPES = {
    "CL then TE": post(f"Content-Length: 4\r\n{TE}", SMUGGLED),
    "TE then CL": post(f"{TE}Content-Length: 4\r\n", SMUGGLED),
    "CL.TE, body ends by TE": post(f"Content-Length: {5 + len(HIDDEN)}\r\n{TE}",
                                   "0\r\n\r\n" + HIDDEN),
    "two CL, different": post("Content-Length: 3\r\nContent-Length: 6\r\n", "abcdef"),
    "two CL, same": post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    "CL list, different": post("Content-Length: 3, 6\r\n", "abcdef"),
    "CL list, same": post("Content-Length: 3, 3\r\n", "abc"),
    "CL with plus": post("Content-Length: +3\r\n", "abc"),
    "CL negative": post("Content-Length: -3\r\n", "abc"),
    "CL hexadecimal": post("Content-Length: 0x3\r\n", "abc"),
    "CL with a space inside": post("Content-Length: 3 0\r\n", "abc"),
    "CL empty": post("Content-Length:\r\n", HIDDEN),
    "CL over 64 bits": post("Content-Length: 18446744073709551619\r\n", "abc"),
    "CL with trailing garbage": post("Content-Length: 3a\r\n", "abc"),
    "CL underscore": post("Content_Length: 3\r\nContent-Length: 0\r\n"),
    "TE: xchunked": post("Transfer-Encoding: xchunked\r\n", CHUNK_BODY),
    "TE: identity": post("Transfer-Encoding: identity\r\nContent-Length: 3\r\n", "abc"),
    "TE: chunked, identity": post("Transfer-Encoding: chunked, identity\r\n", CHUNK_BODY),
    "TE: identity, chunked": post("Transfer-Encoding: identity, chunked\r\n", CHUNK_BODY),
    "TE: gzip, chunked": post("Transfer-Encoding: gzip, chunked\r\n", CHUNK_BODY),
    "TE: chunked, chunked": post("Transfer-Encoding: chunked, chunked\r\n", CHUNK_BODY),
    "TE twice": post(TE + TE, CHUNK_BODY),
    "TE twice, second unknown": post(TE + "Transfer-Encoding: x\r\n", CHUNK_BODY),
    "TE in other case": post("tRANSFER-ENCODING: cHUNKED\r\n", CHUNK_BODY),
    "TE with tab": post("Transfer-Encoding:\tchunked\r\n", CHUNK_BODY),
    "TE with vertical tab": post("Transfer-Encoding: \x0bchunked\r\n", CHUNK_BODY),
    "TE with trailing space": post("Transfer-Encoding: chunked \r\n", CHUNK_BODY),
    "TE quoted": post('Transfer-Encoding: "chunked"\r\n', CHUNK_BODY),
    "TE with a parameter": post("Transfer-Encoding: chunked;q=1\r\n", CHUNK_BODY),
    "TE empty with CL": post("Transfer-Encoding:\r\nContent-Length: 3\r\n", "abc"),
    "TE, space before colon": post("Transfer-Encoding : chunked\r\nContent-Length: 3\r\n", "abc"),
    "CL, space before colon": post("Content-Length : 3\r\n", "abc"),
    "TE, leading space": post(" Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "abc"),
    "TE on a folded line": post("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                                "abc"),
    "TE value folded": post("Transfer-Encoding:\r\n chunked\r\n", CHUNK_BODY),
    "TE after a bare LF": post("X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                               "abc"),
    "TE after a bare CR": post("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                               "abc"),
    "TE with NUL": post("Transfer-Encoding: chunked\0\r\nContent-Length: 3\r\n", "abc"),
    "TE with HTTP/1.0": post(TE, CHUNK_BODY, "POST /first HTTP/1.0"),
    "TE named in Connection": post(f"Connection: Transfer-Encoding\r\n{TE}", CHUNK_BODY),
    "CL named in Connection": post("Connection: Content-Length\r\nContent-Length: 3\r\n", "abc"),
    "header folded": post("X-A: b\r\n c\r\n"),
    "header name with a space": post("X A: b\r\n"),
    "header name empty": post(": b\r\n"),
    "header without a colon": post("nonsense\r\n"),
    "header name with NUL": post("X-\0A: b\r\n"),
    "header value with NUL": post("X-A: b\0c\r\n"),
    "header value with DEL": post("X-A: b\x7fc\r\n"),
    "header value with a control": post("X-A: b\x01c\r\n"),
    "header value with obs-text": post("X-A: caf\xe9\r\n"),
    "bare LF after a header": f"GET /first HTTP/1.1\r\n{H[:-2]}\n\r\n",
    "bare LF everywhere": "GET /first HTTP/1.1\nHost: gateway.example\n\n",
    "bare CR in a value": post("X-A: b\rc\r\n"),
    "chunk size with plus": post(TE, "+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size 0x3": post(TE, "0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size over 64 bits": post(TE, "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk size empty": post(TE, "\r\nabc\r\n0\r\n\r\n"),
    "chunk size with spaces": post(TE, "3  \r\nabc\r\n0\r\n\r\n"),
    "chunk size with leading space": post(TE, " 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size, leading zeros": post(TE, "0000000003\r\nabc\r\n0\r\n\r\n"),
    "chunk extension": post(TE, "3;a=b\r\nabc\r\n0\r\n\r\n"),
    "chunk extension with bare LF": post(TE, "3;a\nabc\r\n0\r\n\r\n"),
    "chunk extension with bare CR": post(TE, "3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "chunk extension of 64 KiB": post(TE, f"3;{'a' * 65536}\r\nabc\r\n0\r\n\r\n"),
    "chunk ended by bare LF": post(TE, "3\nabc\n0\n\n"),
    "chunk data too long": post(TE, "3\r\nabcd\r\n0\r\n\r\n"),
    "chunk data without CRLF": post(TE, "3\r\nabc0\r\n\r\n"),
    "trailer with CL": post(TE, "3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"),
    "trailer with TE": post(TE, "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "two Host": "GET /first HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
    "no Host": "GET /first HTTP/1.1\r\n\r\n",
    "empty Host": "GET /first HTTP/1.1\r\nHost:\r\n\r\n",
    "Host with a path": "GET /first HTTP/1.1\r\nHost: a.example/b\r\n\r\n",
    "Host with userinfo": "GET /first HTTP/1.1\r\nHost: u@a.example\r\n\r\n",
    "absolute-form, other Host": f"GET http://other.invalid/first HTTP/1.1\r\n{H}\r\n",
    "absolute-form with userinfo": f"GET http://u:p@gateway.example/first HTTP/1.1\r\n{H}\r\n",
    "two spaces in the line": f"GET  /first HTTP/1.1\r\n{H}\r\n",
    "tab in the line": f"GET\t/first HTTP/1.1\r\n{H}\r\n",
    "space in the target": f"GET /first second HTTP/1.1\r\n{H}\r\n",
    "NUL in the target": f"GET /first\0 HTTP/1.1\r\n{H}\r\n",
    "fragment in the target": f"GET /first#x HTTP/1.1\r\n{H}\r\n",
    "target without a slash": f"GET first HTTP/1.1\r\n{H}\r\n",
    "method in lower case": f"get /first HTTP/1.1\r\n{H}\r\n",
    "method with a control": f"GE\x01T /first HTTP/1.1\r\n{H}\r\n",
    "HTTP/1.2": f"GET /first HTTP/1.2\r\n{H}\r\n",
    "HTTP/2.0 in text": f"GET /first HTTP/2.0\r\n{H}\r\n",
    "HTTP/0.9": "GET /first\r\n\r\n",
    "h2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blank lines first": f"\r\n\r\nGET /first HTTP/1.1\r\n{H}\r\n",
    "leading space on the first header": f"GET /first HTTP/1.1\r\n {H}\r\n",
    "GET with a body": f"GET /first HTTP/1.1\r\n{H}Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "Upgrade: h2c": post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
                         "HTTP2-Settings: AAMAAABk\r\n"),
    "Expect unknown": post("Expect: something\r\n"),
}


def outcome(port, upstream, text):
    """Sends one shape; returns (what came of it, what is unsafe about it or None)."""
    upstream.take()
    statuses = []
    with Client(port, timeout=1.0) as client:
        try:
            client.send(text)
            while (answer := client.read()) is not None:
                statuses.append(str(answer.status))
                client.sock.settimeout(0.25)  # enough for what else the same bytes bring about
        except TimeoutError:
            if not statuses:
                statuses.append("silence")
            if upstream.unfinished():
                return " ".join(statuses), "head without an end"
        except (OSError, ValueError) as error:
            statuses.append(type(error).__name__)
    time.sleep(0.02)
    seen = upstream.take()
    described = " ".join(statuses) or "closed"
    if not seen:
        return described, None
    framing = ", ".join(describe(one) for one in seen)
    return f"{described}; upstream: {framing}", unsafe(seen, text)


def describe(seen):
    parts = [seen.method]
    for name in ("content-length", "transfer-encoding"):
        parts += [f"{name}={value}" for key, value in seen.headers if key == name]
    return " ".join(parts)


def unsafe(seen, text):
    """Why what the upstream was sent is unsafe, or None."""
    if len(seen) > 1 and not ends_before_hidden(text):
        return "more than one request"
    for one in seen:
        lengths = [value for name, value in one.headers if name == "content-length"]
        codings = [value for name, value in one.headers if name == "transfer-encoding"]
        if lengths and codings:
            return "CL and TE"
        if len(lengths) > 1 or any(not re.fullmatch(r"[0-9]{1,19}", value) for value in lengths):
            return "ambiguous CL"
        if len(codings) > 1 or any(value.lower() != "chunked" for value in codings):
            return "ambiguous TE"
        if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", one.head):
            return "control byte"
        if re.search(rb"(?<!\r)\n|\r(?!\n)", one.head):
            return "bare CR or LF"
        if re.search(rb"\r\n[ \t]", one.head):
            return "folded line"
        if re.search(rb"\r\n[^:\r]*[ \t]:", one.head):
            return "space before colon"
    return None


def ends_before_hidden(text):
    """Whether the client's own, unambiguous framing ends before the hidden request: an empty or
    absent length and no coding. Then it is pipelined, not smuggled."""
    head = text.split("\r\n\r\n")[0].lower()
    return "transfer-encoding" not in head and not re.search(r"content-length: *\S", head)


def start_nginx(scratch, upstream):
    """nginx with its own defaults in front of `upstream`."""
    directory = scratch.path / "nginx"
    directory.mkdir(mode=0o755)
    port = free_port()
    (directory / "nginx.conf").write_text(f"""
        worker_processes 1; pid {directory}/pid; daemon off; error_log {directory}/log crit;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
            fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u;
            scgi_temp_path {directory}/s;
            upstream origin {{ server 127.0.0.1:{upstream}; keepalive 16; }}
            server {{ listen 127.0.0.1:{port}; location / {{
                proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_request_buffering off; }} }}
        }}""")
    scratch.start("nginx", [tool("nginx"), "-e", directory / "start", "-p", directory,
                            "-c", directory / "nginx.conf"], port)
    return port


def start(scratch, binary):
    """One proxy in front of an upstream of its own; None as the binary means nginx."""
    upstream = Upstream()
    if not binary:
        return start_nginx(scratch, upstream.port), upstream
    gateway = Gateway(scratch, binary=binary, upstream=upstream.port, closed=closed_port())
    return gateway.port(), upstream


def main():
    proxies = {"moorgate": moorgate_binary(), "envoy": envoy_binary(), "nginx": None}
    with Scratch() as scratch, ThreadPoolExecutor(len(proxies)) as pool:
        started = [start(scratch, binary) for binary in proxies.values()]
        results = pool.map(
            lambda pair: {shape: outcome(*pair, text) for shape, text in SHAPES.items()}, started
        )
        rows = dict(zip(proxies, results))
    print("| shape | " + " | ".join(rows) + " |\n|---|" + "---|" * len(rows))
    for shape in SHAPES:
        cells = []
        for row in rows.values():
            what, why = row[shape]
            cells.append(f"**{why}**: {what}" if why else what)
        print(f"| {shape} | " + " | ".join(cells) + " |")
    bad = [shape for shape, (_, why) in rows["moorgate"].items() if why]
    print(f"\n{len(SHAPES)} shapes; unsafe: "
          + ", ".join(f"{name} {sum(1 for _, why in row.values() if why)}"
                      for name, row in rows.items()))
    if bad:
        print("moorgate is unsafe with: " + "; ".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
