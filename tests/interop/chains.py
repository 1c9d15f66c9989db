#!/usr/bin/env python3
"""Which filter chain takes a connection, by Envoy and by Moorgate: the same listeners, the same first bytes.

Every chain is a TCP proxy to an upstream of its own, which answers with its name and what it received.
Ends with 1 if an answer or a counter differs.

    MOORGATE_BIN=... [ENVOY_BIN=...] tests/interop/chains.py [PART OF A CASE'S NAME]
"""

import json
import socket
import ssl
import sys
import threading
import time
import urllib.request

from gateway import Scratch, envoy_binary, free_port, moorgate_binary

FILTERS = "type.googleapis.com/envoy.extensions.filters.listener."
TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
V2 = b"\r\n\r\n\0\r\nQUIT\n"
END = b"--end--"


def hello(name=None, protocols=()):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(into, out, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def records(handshake, size):
    """The same hello in smaller records."""
    body = handshake[5:]
    parts = (body[at:at + size] for at in range(0, len(body), size))
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def v1(source, destination="192.0.2.10", from_port=40000, to_port=443):
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {from_port} {to_port}\r\n".encode()


def v2(command, family, body):
    return V2 + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def v2_tcp4(source, destination="192.0.2.10", from_port=40000, to_port=443, more=b""):
    body = socket.inet_aton(source) + socket.inet_aton(destination)
    return v2(0x21, 0x11, body + from_port.to_bytes(2, "big") + to_port.to_bytes(2, "big") + more)


class Case:
    """`sends`: pieces, with a pause between them. `leave`: the client sends nothing more."""

    def __init__(self, name, listener, *sends, source="127.0.0.1"):
        self.name, self.listener, self.sends, self.source = name, listener, sends, source


def net(*ranges):
    pairs = (text.split("/") for text in ranges)
    return [{"address_prefix": prefix, "prefix_len": int(bits)} for prefix, bits in pairs]


PROXY_OPTIONAL = ("proxy_protocol.v3.ProxyProtocol", {"allow_requests_without_proxy_protocol": True})
TLS = ("tls_inspector.v3.TlsInspector", {})
HTTP = ("http_inspector.v3.HttpInspector", {})

# name: (listener filters, further fields, [conditions], whether there is a default chain)
LISTENERS = {
    "names": ([TLS], {}, [
        {"server_names": ["www.example.com"]},
        {"server_names": ["*.example.com"]},
        {"server_names": ["*.com"], "application_protocols": ["h2"]},
        {"server_names": ["upper.EXAMPLE.org"]},
        {"transport_protocol": "tls", "application_protocols": ["http/1.1", "h2"]},
        {"transport_protocol": "tls"},
        {"transport_protocol": "raw_buffer"},
    ], False),
    "inspect": ([TLS, HTTP], {"listener_filters_timeout": "1s"}, [
        {"application_protocols": ["http/1.1"]},
        {"application_protocols": ["http/1.0"]},
        {"application_protocols": ["h2c"]},
        {"application_protocols": ["h2"], "transport_protocol": "tls"},
        {"server_names": ["only.example"], "source_ports": [1]},
    ], True),
    "no_inspector": ([], {}, [
        {"server_names": ["www.example.com"]}, {"transport_protocol": "tls"},
        {"transport_protocol": "raw_buffer"}, {"application_protocols": ["h2"]},
    ], False),
    "goes_on": ([TLS, HTTP], {"listener_filters_timeout": "1s",
                              "continue_on_listener_filters_timeout": True}, [
        {"transport_protocol": "tls"},
        {"transport_protocol": "raw_buffer"},
    ], False),
    "sources": ([PROXY_OPTIONAL], {}, [
        {"destination_port": 443, "prefix_ranges": net("192.0.2.0/24")},
        {"destination_port": 443, "prefix_ranges": net("192.0.2.128/25"), "source_ports": [7]},
        {"destination_port": 444},
        {"source_type": "SAME_IP_OR_LOOPBACK"},
        {"source_type": "EXTERNAL", "source_prefix_ranges": net("203.0.113.0/24")},
        {"source_type": "EXTERNAL", "source_prefix_ranges": net("203.0.113.64/26"),
         "source_ports": [40001, 40002]},
        {"source_prefix_ranges": net("198.51.100.0/24", "2001:db8::/32")},
        {"direct_source_prefix_ranges": net("127.0.0.2/32")},
        {"direct_source_prefix_ranges": net("127.0.0.3/32"), "source_ports": [1]},
    ], True),
    "proxy": ([("proxy_protocol.v3.ProxyProtocol", {})], {"listener_filters_timeout": "1s"}, [{}],
              False),
    "no_v1": ([("proxy_protocol.v3.ProxyProtocol", {"disallowed_versions": ["V1"]})], {}, [{}],
              False),
    "no_v2": ([("proxy_protocol.v3.ProxyProtocol", {"disallowed_versions": ["V2"]})], {}, [{}],
              False),
    "no_v1_optional": ([("proxy_protocol.v3.ProxyProtocol", {
        "disallowed_versions": ["V1"], "allow_requests_without_proxy_protocol": True})], {}, [{}],
        False),
    "nobody": ([PROXY_OPTIONAL], {}, [{"destination_port": 443}], False),
}

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WWW = hello("www.example.com")
PLAIN = b"plain bytes, and enough of them"

CASES = [
    *(Case(f"name {name}", "names", hello(name)) for name in (
        "www.example.com", "x.example.com", "a.b.example.com", "example.com", "b.com",
        "upper.example.org", "WWW.Example.COM", "localhost", "elsewhere.net")),
    Case("name with a protocol", "names", hello("b.com", ["h2"])),
    Case("name with another protocol", "names", hello("b.com", ["http/1.1"])),
    Case("no name", "names", hello()),
    Case("no name, protocols", "names", hello(None, ["h2", "http/1.1"])),
    Case("no name, unknown protocol", "names", hello(None, ["spdy/1"])),
    Case("name in small records", "names", records(WWW, 100)),
    Case("name in tiny pieces", "names", *(WWW[at:at + 60] for at in range(0, len(WWW), 60))),
    Case("no TLS", "names", PLAIN),
    Case("a record of another kind", "names", b"\x17\x03\x01\x00\x02\x01\x00" + PLAIN),
    Case("a hello that nobody looks at", "no_inspector", WWW),
    Case("http/1.1", "inspect", GET),
    Case("http/1.1 in pieces", "inspect", *(GET[at:at + 3] for at in range(0, len(GET), 3))),
    Case("http/1.0", "inspect", b"GET / HTTP/1.0\r\n\r\n"),
    Case("h2c", "inspect", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Case("h2c in pieces", "inspect", b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n"),
    Case("unknown method", "inspect", b"BREW / HTTP/1.1\r\n\r\n"),
    Case("no http", "inspect", PLAIN),
    Case("h2 over TLS", "inspect", hello("x", ["h2"])),
    Case("no way back to another name", "inspect", hello("only.example", ["h2"])),
    Case("http/1.1 over TLS", "inspect", hello("x", ["http/1.1"])),
    Case("half a hello", "inspect", WWW[:80]),
    Case("half a request line", "inspect", b"GET / HT"),
    Case("nothing", "inspect"),
    Case("half a hello, goes on", "goes_on", WWW[:80]),
    Case("nothing, goes on", "goes_on"),
    Case("loopback", "sources", PLAIN),
    Case("direct source", "sources", PLAIN, source="127.0.0.2"),
    Case("direct source without way back", "sources", PLAIN, source="127.0.0.3"),
    Case("told port and prefix", "sources", v1("203.0.113.7") + PLAIN),
    Case("told longer prefix", "sources", v1("203.0.113.7", "192.0.2.200") + PLAIN),
    Case("told longer prefix, source port", "sources",
         v1("203.0.113.7", "192.0.2.200", from_port=7) + PLAIN),
    Case("told port without prefix", "sources", v1("203.0.113.7", "192.0.3.1") + PLAIN),
    Case("told other port", "sources", v1("203.0.113.7", to_port=444) + PLAIN),
    *(Case(f"told {source}:{port}", "sources", v1(source, to_port=80, from_port=port) + PLAIN)
      for source, port in (("203.0.113.7", 1), ("203.0.113.70", 40001), ("203.0.113.70", 40003),
                           ("198.51.100.1", 1), ("192.0.2.10", 1), ("127.9.9.9", 1),
                           ("9.9.9.9", 1))),
    Case("told IPv6", "sources", v1("2001:db8::1", "2001:db8::2", to_port=80) + PLAIN),
    Case("v2", "sources", v2_tcp4("203.0.113.7", to_port=444) + PLAIN),
    Case("v2 in pieces", "sources", V2, v2_tcp4("203.0.113.7", to_port=444)[12:20],
         v2_tcp4("203.0.113.7", to_port=444)[20:] + PLAIN),
    Case("v2 with fields", "sources",
         v2_tcp4("203.0.113.7", to_port=444, more=b"\x04\x00\x03abc\xee\x00\x00") + PLAIN),
    Case("v2 local", "sources", v2(0x20, 0, b"") + PLAIN),
    Case("v2 datagram", "sources", v2(0x21, 0x12, bytes([9, 9, 9, 9, 8, 8, 8, 8, 0, 1, 1, 188])) + PLAIN),
    Case("proxy in pieces", "proxy", b"PRO", b"XY TCP4 203.0.", b"113.7 192.0.2.1 1 2\r", b"\n" + PLAIN),
    Case("unknown", "proxy", b"PROXY UNKNOWN\r\n" + PLAIN),
    Case("unknown with more", "proxy", b"PROXY UNKNOWN ::1 ::1 1 2\r\n" + PLAIN),
    Case("no header", "proxy", PLAIN),
    Case("half a header", "proxy", b"PROXY TCP4 1.1.1.1"),
    *(Case(f"malformed {number}", "proxy", bad + PLAIN) for number, bad in enumerate([
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", b"PROXY TCP4 0.0.0.0 2.2.2.2 1 2\r\n",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n", b"PROXY UNKNOWN " + b"a" * 200 + b"\r\n",
        v2(0x31, 0x11, bytes(12)), v2(0x21, 0x11, bytes(11)), v2(0x22, 0x11, b"\1" * 12),
        v2(0x21, 0x41, b"\1" * 12), v2(0x21, 0x11, b"\1" * 13), v2(0x21, 0x11, b"\xe0" * 12)])),
    Case("v1 disallowed", "no_v1", v1("9.9.9.9") + PLAIN),
    Case("v2 disallowed", "no_v2", v2_tcp4("9.9.9.9") + PLAIN),
    Case("v2 allowed", "no_v1", v2_tcp4("9.9.9.9") + PLAIN),
    Case("v1 disallowed but optional", "no_v1_optional", v1("9.9.9.9") + PLAIN),
    Case("fits no chain", "nobody", PLAIN),
    Case("fits by its header", "nobody", v1("9.9.9.9") + PLAIN),
]

# What counts connections of ours that Envoy counts as well.
COUNTERS = ("no_filter_chain_match", "downstream_pre_cx_timeout", "downstream_pre_cx_active",
            "tls_inspector.", "http_inspector.", "proxy_proto")
# How much Envoy had in its buffer.
EXCEPT = ("bytes_processed",)


class Upstream:
    """Answers each connection with its name and the bytes it got until the end mark."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            peer, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer:
            got = b""
            try:
                while not got.endswith(END):
                    more = peer.recv(65536)
                    if not more:
                        return
                    got += more
                peer.sendall(self.name.encode() + b": " + got)
            except OSError:
                pass


def typed(kind, fields):
    return {"@type": kind, **fields}


def bootstrap(ports, admin, upstreams):
    listeners = []
    for name, (filters, fields, matches, default) in LISTENERS.items():
        def chain(number, conditions, name=name):
            cluster = f"{name}-{number}"
            proxy = {"name": "tcp", "typed_config": typed(TCP, {"stat_prefix": "s", "cluster": cluster})}
            return {"name": cluster, "filters": [proxy],
                    **({"filter_chain_match": conditions} if conditions else {})}
        listeners.append({
            "name": name,
            "stat_prefix": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": ports[name]}},
            "listener_filters": [{"name": kind.split(".")[0], "typed_config": typed(FILTERS + kind, of)}
                                 for kind, of in filters],
            "filter_chains": [chain(number, of) for number, of in enumerate(matches)],
            **({"default_filter_chain": chain("default", None)} if default else {}),
            **fields,
        })
    clusters = [{
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": up.port}}}}]}]},
    } for name, up in upstreams.items()]
    return {"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
            "static_resources": {"listeners": listeners, "clusters": clusters}}


def ask(case, port):
    try:
        with socket.create_connection(("127.0.0.1", port), 10, (case.source, 0)) as client:
            client.settimeout(10)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in case.sends:
                client.sendall(piece)
                time.sleep(0.003)
            # A timeout of the listener comes before this when it waits for more.
            slow = LISTENERS[case.listener][1].get("listener_filters_timeout")
            time.sleep(0.03 if slow is None or len(b"".join(case.sends)) > 100 else 1.4)
            client.sendall(END)
            return client.recv(65536)
    except (ConnectionError, BrokenPipeError):
        return b""


def counters(admin):
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats").read().decode()
    pairs = (line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return {name: value for name, value in pairs
            if any(part in name for part in COUNTERS) and not any(part in name for part in EXCEPT)
            and not name.startswith("listener.admin")}


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = [case for case in CASES if wanted in case.name]
    upstreams = {}
    for name, (_, _, matches, default) in LISTENERS.items():
        for number in [*range(len(matches)), *(["default"] if default else [])]:
            upstreams[f"{name}-{number}"] = Upstream(f"{name}-{number}")
    differing = 0
    with Scratch() as scratch:
        found = []
        for name, binary in (("envoy", envoy_binary()), ("moorgate", moorgate_binary())):
            ports = {listener: free_port() for listener in LISTENERS}
            admin = free_port()
            path = scratch.path / f"{name}-chains.json"
            path.write_text(json.dumps(bootstrap(ports, admin, upstreams)))
            argv = [binary, "-c", path, "--concurrency", "2", "--disable-hot-restart", "-l", "error"]
            scratch.start(f"{name}-chains", argv, admin)
            time.sleep(0.3)
            before = counters(admin)
            answers = [ask(case, ports[case.listener]) for case in cases]
            time.sleep(0.2)
            after = counters(admin)
            # What the harness' own look at the ports counted is not of the cases.
            moved = {of: int(value) - int(before.get(of, 0)) for of, value in after.items()}
            found.append((answers, moved))
    (theirs, their_counters), (ours, our_counters) = found
    for case, envoy, moorgate in zip(cases, theirs, ours):
        if envoy != moorgate:
            differing += 1
            print(f"DIFFERS: {case.name}\n    envoy     {envoy[:100]}\n    moorgate  {moorgate[:100]}")
    for name in sorted(set(their_counters) | set(our_counters)):
        envoy, moorgate = their_counters.get(name), our_counters.get(name)
        if envoy != moorgate:
            differing += 1
            print(f"DIFFERS: counter {name}: envoy {envoy}, moorgate {moorgate}")
    print(f"chains: {len(cases)} cases, {len(their_counters)} counters, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
