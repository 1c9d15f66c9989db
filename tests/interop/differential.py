#!/usr/bin/env python3
"""The same configuration and the same bytes through a real Envoy and through Moorgate.

Status, reason, headers, body, trailers, framing and whether the connection stays open must agree,
and so must every request the upstream saw. Values that differ between two runs of Envoy itself
(dates, request ids, timings) are reduced to their form. Ends with 1 if anything differs.

    MOORGATE_BIN=... [ENVOY_BIN=...] tests/interop/differential.py [PART OF A CASE'S NAME]
"""

import re
import sys
import time

from gateway import Gateway, Scratch, closed_port, envoy_binary, moorgate_binary
from http1 import Client, request
from upstream import MALFORMED, Upstream


class Case:
    """`sends`: one bytes object for each request of the connection. `listener`: which port.

    `may_refuse`: two servers could read this differently, so Moorgate may refuse what Envoy accepts
    (docs/smuggling.md). It then has to answer 4xx and to forward nothing.
    """

    def __init__(self, name, *sends, listener="http", method="GET", may_refuse=False):
        self.name, self.sends, self.listener, self.method = name, sends, listener, method
        self.may_refuse = may_refuse


def get(target, *headers, host="gateway.example"):
    return request("GET", target, headers, host=host)


def grpc(target, *headers, method="POST"):
    headers = ["Content-Type: application/grpc+proto", "TE: trailers", *headers]
    return request(method, target, headers, body=b"" if method == "GET" else b"\0\0\0\0\1x")


def web(target, kind, *headers, body):
    return request("POST", target, [f"Content-Type: application/grpc-web{kind}", *headers], body)


def raw(text):
    return text.encode("latin-1")


CHUNKED = ["Transfer-Encoding: chunked"]
H = "Host: gateway.example\r\n"

CASES = [
    # The ordinary.
    Case("get", get("/")),
    Case("get with a query", get("/a/b?c=d&e")),
    Case("head", request("HEAD", "/"), method="HEAD"),
    Case("post with a length", request("POST", "/echo", body=b"abc")),
    Case("post, empty, no length", request("POST", "/echo")),
    Case("post, length 0", request("POST", "/echo", ["Content-Length: 0"])),
    Case("post chunked", request("POST", "/echo", CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n"),
    Case("post chunked with trailers",
         request("POST", "/echo", CHUNKED) + b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"),
    Case("get with a body", request("GET", "/echo", body=b"abc")),
    Case("delete with a body", request("DELETE", "/echo", body=b"abc")),
    Case("options asterisk", raw(f"OPTIONS * HTTP/1.1\r\n{H}\r\n")),
    Case("extension method", request("PROPFIND", "/")),
    Case("unknown method", request("BREW", "/")),
    Case("trace", request("TRACE", "/")),
    Case("two on one connection", get("/"), get("/echo")),
    Case("connection close", get("/", "Connection: close")),
    Case("connection keep-alive", get("/", "Connection: keep-alive"), get("/")),
    Case("proxy-connection", get("/", "Proxy-Connection: keep-alive"), get("/")),
    # Answers.
    *(Case(f"status {code}", get(f"/status/{code}"))
      for code in (200, 201, 204, 206, 301, 304, 400, 404, 418, 429, 500, 502, 503, 599)),
    Case("head of 304", request("HEAD", "/status/304"), method="HEAD"),
    Case("chunked answer with trailers", get("/chunked")),
    Case("chunked answer, trailers wanted", get("/chunked", "TE: trailers")),
    Case("answer until close", get("/until-close")),
    Case("answer of HTTP/1.0", get("/http10")),
    Case("early hints", get("/hints")),
    Case("many headers", get("/headers/30")),
    Case("event stream", get("/sse/2")),
    # Headers on the way in.
    Case("hop-by-hop", get("/", "Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: 5",
                           "TE: trailers, gzip", "X-Stays: 1")),
    Case("te trailers", get("/", "TE: trailers", "Connection: TE")),
    Case("upgrade not configured", get("/", "Connection: Upgrade", "Upgrade: h2c",
                                       "HTTP2-Settings: AAMAAABk")),
    Case("upgrade without connection", get("/", "Upgrade: websocket")),
    Case("x-forwarded-for given", get("/", "X-Forwarded-For: 203.0.113.7, 10.0.0.1")),
    Case("x-forwarded-proto given", get("/", "X-Forwarded-Proto: https")),
    Case("x-forwarded-host given", get("/", "X-Forwarded-Host: a.example")),
    Case("x-request-id given", get("/", "X-Request-Id: mine")),
    Case("x-envoy headers given", get("/", "X-Envoy-Internal: true", "X-Envoy-Foo: 1",
                                      "X-Envoy-Original-Path: /x")),
    Case("x-envoy timeouts given", get("/", "X-Envoy-Upstream-Rq-Timeout-Ms: 900",
                                       "X-Envoy-Max-Retries: 1")),
    Case("duplicate headers", get("/", "X-A: 1", "X-A: 2", "Cookie: a=1", "Cookie: b=2")),
    Case("empty header value", get("/", "X-A:")),
    Case("spaces around a value", get("/", "X-A: \t b \t ")),
    Case("obs-text in a value", raw(f"GET / HTTP/1.1\r\n{H}X-A: caf\xe9\r\n\r\n")),
    Case("method in lower case", request("get", "/")),
    *(Case(f"method {method}", request(method, "/"))
      for method in ("PURGE", "MSEARCH", "M-SEARCH", "MKCOL", "QUERY", "PATCH", "PUT")),
    Case("query", request("QUERY", "/echo", ["Content-Type: text/plain"], b"abc")),
    Case("folded header", raw(f"GET / HTTP/1.1\r\n{H}X-A: b\r\n  c\r\n\r\n"), may_refuse=True),
    Case("user-agent and accept", get("/", "User-Agent: t/1", "Accept: */*")),
    Case("expect 100-continue", request("POST", "/echo", ["Expect: 100-continue"], b"abc")),
    Case("expect something", get("/", "Expect: something")),
    Case("path with dots", get("/a/../b/./c")),
    Case("path with two slashes", get("//a//b")),
    Case("path with escapes", get("/a%2fb%20c%zz")),
    Case("path with a fragment", get("/a#b")),
    Case("path with a quote", get("/a\"b<c>")),
    # Hosts and targets.
    Case("other host", get("/", host="other.example")),
    Case("other host with a port", get("/", host="other.example:8080")),
    Case("other host in capitals", get("/", host="OTHER.example")),
    Case("subdomain of other", get("/", host="a.b.other.example")),
    Case("host of IPv6", get("/", host="[::1]:80")),
    Case("absolute-form", raw(f"GET http://other.example/ HTTP/1.1\r\n{H}\r\n")),
    Case("absolute-form with port and query",
         raw(f"GET http://gateway.example:81/a?b HTTP/1.1\r\n{H}\r\n")),
    Case("absolute-form of https", raw(f"GET https://gateway.example/ HTTP/1.1\r\n{H}\r\n")),
    Case("connect", raw("CONNECT gateway.example:443 HTTP/1.1\r\nHost: gateway.example:443\r\n"
                        "\r\n")),
    # The second request of each is what goes through the tunnel.
    Case("connect that ends here", raw("CONNECT tunnel.example:443 HTTP/1.1\r\n"
                                       "Host: tunnel.example:443\r\n\r\n"), get("/"),
         method="CONNECT"),
    Case("connect that ends here, payload at once",
         raw("CONNECT tunnel.example:443 HTTP/1.1\r\nHost: tunnel.example:443\r\n\r\n") + get("/"),
         b"", method="CONNECT"),
    *(Case(f"upgrade, {how}", get(target, "Connection: Upgrade", "Upgrade: websocket"), b"abc")
      for how, target in (("client leaves", "/upgrade"), ("upstream leaves", "/upgrade/3"),
                          ("upstream refuses", "/"), ("upstream redirects", "/status/301"),
                          ("upstream fails", "/status/500"), ("chunked", "/chunked"),
                          ("upstream cannot be reached", "/dead"))),
    Case("connect that ends here, upstream leaves",
         raw("CONNECT tunnel.example:443 HTTP/1.1\r\nHost: tunnel.example:443\r\n\r\n"),
         get("/until-close"), method="CONNECT"),
    Case("connect to a cluster that refuses", raw("CONNECT tunnel.example:444 HTTP/1.1\r\n"
                                                  "Host: tunnel.example:444\r\n\r\n")),
    # Routes.
    Case("direct response", get("/direct")),
    Case("direct response to head", request("HEAD", "/direct"), method="HEAD"),
    Case("direct response with a query", get("/direct?x=1")),
    Case("direct path is exact", get("/direct/more")),
    Case("direct response to a post", request("POST", "/direct", body=b"abc"), get("/")),
    Case("redirect host", get("/redirect/host/a?b=c")),
    Case("redirect path", get("/redirect/path?b=c")),
    Case("redirect https", get("/redirect/https/a", host="gateway.example:80")),
    Case("redirect prefix", get("/redirect/prefix/a?b=c")),
    Case("prefix rewrite", get("/rewrite/a?b=c")),
    Case("host rewrite", get("/hostrewrite")),
    Case("regex matches", get("/regex/12")),
    Case("regex is anchored", get("/regex/12x")),
    Case("regex ignores the query", get("/regex/12?x")),
    Case("header exact", get("/match", "X-Kind: special")),
    Case("header prefix", get("/match", "X-Kind: spectrum")),
    Case("header present", get("/match", "X-Kind: x", "X-Present: ")),
    Case("header absent", get("/match")),
    Case("no header matches", get("/match", "X-Absent: 1")),
    Case("edit headers", get("/edit", "X-Gone: 1", "X-Over: old", "X-More: first", "X-Once: mine")),
    Case("edit headers, none there", get("/edit")),
    Case("weighted", get("/weighted")),
    Case("cluster not found", get("/nowhere")),
    Case("redirect scheme and port", get("/redirect/scheme/a?b")),
    Case("redirect port", get("/redirect/port/a?b", host="gateway.example:81")),
    Case("redirect path with a query of its own", get("/redirect/query?b=c")),
    Case("redirect that strips the query", get("/redirect/strip/a?b=c")),
    Case("redirect regex", get("/redirect/regex/a/b/c?d=e")),
    Case("redirect regex that does not match", get("/redirect/regex/a")),
    Case("redirect https, another port", get("/redirect/https/a", host="gateway.example:8080")),
    Case("redirect of a post", request("POST", "/redirect/host", body=b"abc")),
    Case("regex rewrite", get("/regex-rewrite/a/b?c=d")),
    # What the route says of headers, and the number of tries, on answers of every origin.
    *(Case(f"told: {name}", get(target, host="told.example")) for name, target in (
        ("upstream", "/"),
        ("direct response", "/direct"),
        ("redirect", "/redirect"),
        ("retries", "/flaky/3"),
        ("retries run out", "/flaky/9"),
        ("connection refused", "/dead"),
        ("no endpoint", "/empty-cluster"),
        ("breaker open", "/full"),
        ("no cluster", "/nowhere"),
        ("route timeout", "/slow/1500"),
        ("try timeout", "/try/slow/1500"),
        ("try idle timeout", "/try-idle/slow/1500"),
        ("try idle timeout within the answer", "/try-idle/stall"),
        ("stream idle timeout", "/idle/slow/1500"),
        ("stream idle timeout within the answer", "/idle/stall"),
        ("own attempt count", "/own-field"),
        ("malformed answer", "/malformed/not-http"),
    )),
    # What goes wrong upstream.
    Case("connection refused", get("/dead")),
    Case("no endpoint", get("/empty-cluster")),
    Case("breaker open", get("/full")),
    Case("route timeout", get("/slow/1500")),
    Case("upstream resets", get("/reset")),
    Case("upstream closes at once", get("/empty")),
    Case("upstream breaks off", get("/truncated")),
    Case("retry succeeds", get("/flaky/3")),
    Case("retries run out", get("/flaky/9")),
    Case("retries with a body", request("POST", "/flaky/3", body=b"abc")),
    Case("retry of a large body", request("POST", "/flaky/3", body=b"x" * 1_200_000)),
    Case("early answer", request("POST", "/early", body=b"x" * 200_000)),
    *(Case(f"malformed answer: {kind}", get(f"/malformed/{kind}")) for kind in MALFORMED),
    # What is wrong with the request.
    Case("not http", raw("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n")),
    Case("no host", raw("GET / HTTP/1.1\r\n\r\n")),
    Case("empty host", raw("GET / HTTP/1.1\r\nHost:\r\n\r\n"), may_refuse=True),
    Case("two hosts", raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), may_refuse=True),
    Case("bad version", raw(f"GET / HTTP/3.7\r\n{H}\r\n")),
    Case("version 1.2", raw(f"GET / HTTP/1.2\r\n{H}\r\n")),
    Case("both lengths", raw(f"POST / HTTP/1.1\r\n{H}Content-Length: 3\r\n"
                             "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")),
    Case("two lengths", raw(f"POST / HTTP/1.1\r\n{H}Content-Length: 3\r\nContent-Length: 4\r\n"
                            "\r\nabcd")),
    Case("unknown coding", raw(f"POST / HTTP/1.1\r\n{H}Transfer-Encoding: gzip\r\n\r\n")),
    Case("control in a value", raw(f"GET / HTTP/1.1\r\n{H}X-A: \x01\r\n\r\n")),
    Case("space in a name", raw(f"GET / HTTP/1.1\r\n{H}X A: 1\r\n\r\n")),
    Case("header line without colon", raw(f"GET / HTTP/1.1\r\n{H}nonsense\r\n\r\n")),
    Case("underscore in a name", get("/", "X_A: 1")),
    Case("headers of 59 KiB", get("/", "X-A: " + "a" * 59 * 1024)),
    Case("headers of 61 KiB", get("/", "X-A: " + "a" * 61 * 1024)),
    Case("target of 61 KiB", get("/" + "a" * 61 * 1024)),
    Case("100 headers", get("/direct", *(f"X-{n}: 1" for n in range(99)))),
    Case("101 headers", get("/direct", *(f"X-{n}: 1" for n in range(100)))),
    Case("bad chunk size", request("POST", "/", CHUNKED) + b"zz\r\n", may_refuse=True),
    Case("bad chunk size to a direct answer", request("POST", "/direct", CHUNKED) + b"zz\r\n"),
    # What takes too long.
    Case("head that does not end", raw(f"GET / HTTP/1.1\r\n{H}"), listener="limits"),
    Case("body that does not come", request("POST", "/echo", ["Content-Length: 3"]),
         listener="limits"),
    Case("body that does not end", request("POST", "/echo", ["Content-Length: 3"]) + b"a",
         listener="limits"),
    Case("stream that lasts too long", get("/large/slow/1500"), listener="limits"),
    Case("answer that lasts too long", get("/stall"), listener="limits"),
    Case("custom method", request("BREW", "/"), listener="limits"),
    # gRPC.
    *(Case(f"grpc: {name}", grpc(target, *fields, method=method), method=method, listener="grpc")
      for name, method, target, *fields in (
        ("answer", "POST", "/known/grpc/0"),
        ("answer with an error", "POST", "/known/grpc/5"),
        ("answer with a status that is none", "POST", "/known/grpc/99"),
        ("trailers only", "POST", "/known/grpc/16/only"),
        ("answer without a status", "POST", "/known/echo"),
        ("http error of the upstream", "POST", "/known/status/503"),
        ("no route", "POST", "/"),
        ("direct response", "POST", "/direct"),
        ("redirect", "POST", "/redirect"),
        ("connection refused", "POST", "/dead"),
        ("no endpoint", "POST", "/empty-cluster"),
        ("breaker open", "GET", "/full"),
        ("no cluster", "POST", "/nowhere"),
        ("upstream resets", "POST", "/known/reset"),
        ("malformed answer", "POST", "/known/malformed/not-http"),
        ("upgrade refused", "POST", "/known/", "Connection: upgrade", "Upgrade: websocket"),
        ("bad path", "POST", "/known/%00"),
        ("route timeout", "POST", "/timeout/slow/1500"),
        ("stream duration", "POST", "/lasts/slow/1500"),
        ("stream duration in the answer", "POST", "/lasts/stall"),
        ("time asked for", "POST", "/asked/slow/1500", "grpc-timeout: 200m"),
        ("time asked for, above the most", "POST", "/asked/slow/1500", "grpc-timeout: 1H"),
        ("time asked for, none", "POST", "/asked/slow/300"),
        ("time asked for, nothing", "POST", "/asked/slow/1500", "grpc-timeout: 0m"),
        ("time asked for, malformed", "POST", "/asked/slow/300", "grpc-timeout: 20"),
        ("older timeout", "POST", "/older/slow/1500", "grpc-timeout: 200000u"),
        ("older timeout, above the most", "POST", "/older/slow/1500", "grpc-timeout: 9S"),
        ("older timeout, none", "POST", "/older/slow/1500"),
        ("retried, trailers only", "POST", "/retried/grpc/14/only"),
        ("not retried", "POST", "/retried/grpc/3/only"),
        ("not retried, trailers", "POST", "/retried/grpc/14"),
      )),
    Case("grpc: stream duration of all", grpc("/large/echo"), listener="limits"),
    Case("not grpc: time asked for", request("POST", "/asked/slow/1500", ["grpc-timeout: 200m"]),
         listener="grpc"),
    Case("not grpc: older timeout", request("POST", "/older/slow/600", ["grpc-timeout: 200m"]),
         listener="grpc"),
    *(Case(f"grpc-web: {name}", web(target, kind, *fields, body=body), listener="grpc_web")
      for name, kind, target, body, *fields in (
        ("answer", "", "/known/grpc/0", b"\0\0\0\0\1x"),
        ("answer, proto", "+proto", "/known/grpc/5", b"\0\0\0\0\1x"),
        ("answer in text", "", "/known/grpc/0", b"\0\0\0\0\1x", "Accept: application/grpc-web-text"),
        ("text both ways", "-text", "/known/grpc/0", b"AAAAAAF4",
         "Accept: application/grpc-web-text+proto"),
        ("text, two messages", "-text+proto", "/known/grpc/0", b"AAAAAAF4AAAAAAF4"),
        ("trailers only", "", "/known/grpc/5/only", b"\0\0\0\0\1x"),
        ("no trailers", "", "/known/status/200", b"\0\0\0\0\1x"),
        ("http error", "", "/known/status/503", b"\0\0\0\0\1x"),
        ("http error without body", "", "/known/flaky/9", b"\0\0\0\0\1x"),
        ("http error in chunks", "", "/known/give/5/chunked", b"\0\0\0\0\1x"),
        ("large answer that is none", "", "/known/give/50000", b"\0\0\0\0\1x"),
        ("no route", "", "/", b"\0\0\0\0\1x"),
        ("direct response", "", "/direct", b"\0\0\0\0\1x"),
        ("connection refused", "", "/dead", b"\0\0\0\0\1x"),
        ("route timeout", "", "/timeout/slow/1500", b"\0\0\0\0\1x"),
        ("stream duration", "", "/asked/slow/1500", b"\0\0\0\0\1x", "grpc-timeout: 200m"),
        ("unknown kind", "+thrift", "/known/grpc/0", b"\0\0\0\0\1x"),
        ("retried", "", "/retried/grpc/14/only", b"\0\0\0\0\1x"),
      )),
    Case("grpc-web: other requests pass", request("POST", "/known/echo", body=b"abc"),
         listener="grpc_web"),
    Case("grpc-web: grpc passes", grpc("/known/grpc/0"), listener="grpc_web"),
    Case("grpc-web is not grpc", request("POST", "/", ["content-type: application/grpc-web"]),
         listener="grpc"),
    # HTTP/1.0.
    Case("1.0 refused", raw("GET / HTTP/1.0\r\nHost: gateway.example\r\n\r\n")),
    Case("1.0 without host", raw("GET / HTTP/1.0\r\n\r\n"), listener="http10"),
    Case("1.0 with host", raw(f"GET / HTTP/1.0\r\n{H}\r\n"), listener="http10"),
    Case("1.0 keep-alive", raw(f"GET / HTTP/1.0\r\n{H}Connection: keep-alive\r\n\r\n"),
         raw(f"GET / HTTP/1.0\r\n{H}\r\n"), listener="http10"),
    Case("1.0 of a chunked answer", raw(f"GET /chunked HTTP/1.0\r\n{H}\r\n"), listener="http10"),
    Case("1.0 chunked request", raw(f"POST /echo HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n"
                                    "3\r\nabc\r\n0\r\n\r\n"), listener="http10", may_refuse=True),
    Case("1.0 post", raw(f"POST /echo HTTP/1.0\r\n{H}Content-Length: 3\r\n\r\nabc"),
         listener="http10"),
]

# Header values that no two runs share, and the form they are reduced to.
FORMS = {
    "date": (r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$", "<date>"),
    "x-request-id": (r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", "<uuid>"),
    "x-envoy-upstream-service-time": (r"^\d+$", "<ms>"),
    # What is left of the 15 s of the route, less when a retry is sent.
    "x-envoy-expected-rq-timeout-ms": (r"^(14\d{3}|15000)$", "<15 s>"),
}


def reduced(headers):
    """Header pairs without order among different names, run-dependent values by their form."""
    out = []
    for name, value in headers:
        pattern, form = FORMS.get(name, (None, None))
        out.append((name, form if pattern and re.match(pattern, value) else value))
    return sorted(out, key=lambda pair: pair[0])


def run(case, gateway, upstream, log):
    """What the client got, what the upstream saw and what the access log says, as comparable lines."""
    upstream.take()
    logged = log.read_text().count("\n") if log.exists() else 0
    lines, answer = [], None
    with Client(gateway.port(case.listener), timeout=4.0) as client:
        for number, data in enumerate(case.sends):
            try:
                client.send(data)
                if not data and not client.buffer:
                    client.fill()
                if answer and answer.status == 101:
                    # It left HTTP: what comes back is bytes.
                    while len(client.buffer) < len(data) and client.fill():
                        pass
                    # Who leaves first is what the log tells: the client waits if it is the upstream.
                    while case.name == "upgrade, upstream leaves" and client.fill():
                        pass
                    lines.append(f"tunnel {client.buffer!r}")
                    break
                # What comes out of a tunnel is an ordinary answer.
                answer = client.read(case.method if number == 0 else "GET")
            except TimeoutError:
                lines.append(f"answer {number}: none in time")
                break
            except (OSError, ValueError) as error:
                lines.append(f"answer {number}: {type(error).__name__}")
                break
            if answer is None:
                lines.append(f"answer {number}: closed without one")
                break
            lines.append(f"answer {number}: {answer.version} {answer.status} {answer.reason}, "
                         f"interim {answer.interim}, framing {answer.framing}, "
                         f"{'complete' if answer.complete else 'broken off'}")
            lines += [f"answer {number} header {name}: {value}"
                      for name, value in reduced(answer.headers)]
            lines += [f"answer {number} trailer {pair}" for pair in answer.trailers]
            lines.append(f"answer {number} body {answer.body[:2000]!r}")
            if answer.framing == "close":
                break
        else:
            # Envoy delays some closes by a second (delayed_close_timeout): ask the header instead,
            # and the socket only where it closes at once.
            lines.append("left open" if answer.get("connection") != "close"
                         and not client.closed_within(0.05) else "closing")
    for number, seen in enumerate(upstream.take()):
        lines.append(f"upstream {number}: {seen.method} {seen.target} {seen.version}, "
                     f"body {seen.body()}, framing {seen.framing}")
        # RFC 9110 section 10.1.4 wants the connection to name "te"; Envoy does not.
        # Nor is a connection option's spelling of interest.
        lines += [f"upstream {number} header {name}: {value.lower() if name == 'connection' else value}"
                  for name, value in reduced(seen.headers)
                  if (name, value) != ("connection", "te")]
        lines += [f"upstream {number} trailer {pair}" for pair in seen.trailers]
    answers = sum(1 for line in lines if re.match(r"answer \d+: (HTTP|[A-Z])", line))
    return lines + [f"logged {plain(line)}" for line in new_lines(log, logged, max(answers, 1))]


def plain(line):
    """A line of the access log without what is one implementation's own wording."""
    # Moorgate names the breach, and has looked no further when the head is one.
    line = re.sub(r" http1\.\w+ ", " http1.(breach) ", line)
    line = re.sub(r"^GET \S+ (HTTP/1.1 400 - (missing_host_header|path_norm))", r"- - \1", line)
    # The text of the system's error.
    return re.sub(r"\|delayed_connect_error:[^}]*", "", line)


def new_lines(log, old, wanted):
    """The lines after the first `old` ones, once there are `wanted` of them or no more come."""
    deadline = time.monotonic() + 3.0
    while True:
        lines = log.read_text().splitlines()[old:] if log.exists() else []
        if len(lines) >= wanted or time.monotonic() > deadline:
            return lines
        time.sleep(0.01)


def refused(lines):
    """Whether the only answer is a 4xx and nothing reached the upstream."""
    return (
        re.match(r"answer 0: HTTP/1\.[01] 4\d\d ", lines[0]) is not None
        and not any(line.startswith(("upstream", "answer 1")) for line in lines)
    )


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = [case for case in CASES if wanted in case.name]
    upstream, closed, differing = Upstream(), closed_port(), 0
    with Scratch() as scratch:
        pairs = []
        for name, binary in (("envoy", envoy_binary()), ("moorgate", moorgate_binary())):
            log = scratch.path / f"{name}.access"
            pairs.append((Gateway(scratch, binary=binary, upstream=upstream.port, closed=closed,
                                  log=log), log))
        for case in cases:
            theirs, ours = (run(case, gateway, upstream, log) for gateway, log in pairs)
            if theirs == ours:
                continue
            if case.may_refuse and refused(ours):
                print(f"refused, as it may be: {case.name}")
                continue
            differing += 1
            print(f"DIFFERS: {case.name}")
            for line in theirs:
                if line not in ours:
                    print(f"    envoy     {line[:300]}")
            for line in ours:
                if line not in theirs:
                    print(f"    moorgate  {line[:300]}")
    upstream.close()
    print(f"differential: {len(cases) - differing} of {len(cases)} cases agree")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
