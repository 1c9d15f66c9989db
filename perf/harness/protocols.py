"""What each proxy is told so that it speaks a row's protocols: the parts of its configuration in which
the kinds of work differ. All that is common to them is in perf/configs.
"""

import os
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Wire:
    """The protocols of one kind of work. `tls` names the certificate: "ecdsa" or "rsa"."""

    http2: bool = False
    tls: str = ""
    upstream_http2: bool = False
    websocket: bool = False

    @property
    def scheme(self):
        return "https" if self.tls else "http"


KINDS = {
    "http": Wire(),
    "tls": Wire(tls="ecdsa"),
    "tls-rsa": Wire(tls="rsa"),
    "h2": Wire(http2=True),
    "h2tls": Wire(http2=True, tls="ecdsa"),
    "h2h2": Wire(http2=True, upstream_http2=True),
    "grpc": Wire(http2=True, upstream_http2=True),
    "ws": Wire(websocket=True),
}

# The most streams a client may have, everywhere: more than any row opens.
STREAMS = 128

# The clients' own choice, so that every proxy does the same cryptography: TLS 1.3, AES-128-GCM, X25519.
# wrk and h2load have no option for all of it, but OpenSSL reads it from a file.
CLIENT_TLS = """openssl_conf = default
[default]
ssl_conf = ssl
[ssl]
system_default = clients
[clients]
MinProtocol = TLSv1.3
MaxProtocol = TLSv1.3
Ciphersuites = TLS_AES_128_GCM_SHA256
Groups = X25519
"""


def client_environment(directory):
    """Environment for OpenSSL clients that makes them offer CLIENT_TLS and nothing else."""
    path = directory / "clients.cnf"
    path.write_text(CLIENT_TLS)
    return {**os.environ, "OPENSSL_CONF": str(path)}


def certificate(directory, kind):
    """A self-signed certificate of that kind in `directory`: cert.pem, key.pem, and both.pem."""
    key = {
        "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        "rsa": ["-newkey", "rsa:2048"],
    }[kind]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-nodes", "-days", "2", "-subj", "/CN=perf.example",
         "-addext", "subjectAltName=DNS:perf.example",
         "-keyout", directory / "key.pem", "-out", directory / "cert.pem"],
        check=True, capture_output=True,
    )
    both = (directory / "cert.pem").read_text() + (directory / "key.pem").read_text()
    (directory / "both.pem").write_text(both)


def placeholders(kind, directory, upstream, nginx_buffering):
    """The values that perf/configs want for this kind of work."""
    wire = KINDS.get(kind, KINDS["http"])
    if wire.tls:
        certificate(directory, wire.tls)
    return {
        "scheme": wire.scheme,
        **_envoy(wire, directory),
        **_haproxy(wire, directory),
        **_nginx(wire, directory, nginx_buffering),
        **_nghttpx(wire, directory, upstream),
    }


def _indented(text, columns):
    return "".join("\n" + " " * columns + line for line in text.strip().splitlines())


def _envoy(wire, directory):
    alpn = "h2" if wire.http2 else "http/1.1"
    transport = _indented(f"""
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    common_tls_context:
      alpn_protocols: ["{alpn}"]
      tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
      tls_certificates:
        - certificate_chain: {{ filename: "{directory}/cert.pem" }}
          private_key: {{ filename: "{directory}/key.pem" }}""", 10)
    options = _indented(f"""
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options: {{ max_concurrent_streams: {STREAMS} }}""", 6)
    limits = _indented(f"http2_protocol_options: {{ max_concurrent_streams: {STREAMS} }}", 16)
    upgrades = _indented("upgrade_configs: [{ upgrade_type: websocket }]", 16)
    return {
        "envoy_codec": "HTTP2" if wire.http2 else "HTTP1",
        "envoy_http2": limits if wire.http2 else "",
        "envoy_transport": transport if wire.tls else "",
        "envoy_upgrades": upgrades if wire.websocket else "",
        "envoy_upstream": options if wire.upstream_http2 else "",
    }


def _haproxy(wire, directory):
    bind = ""
    if wire.tls:
        alpn = "h2" if wire.http2 else "http/1.1"
        bind = f" ssl crt {directory}/both.pem alpn {alpn} ssl-min-ver TLSv1.3"
    elif wire.http2:
        bind = " proto h2"
    return {
        "haproxy_bind": bind,
        "haproxy_server": " proto h2" if wire.upstream_http2 else "",
        "streams": STREAMS,
    }


def _nginx(wire, directory, buffering):
    tls = f"""
        ssl_certificate {directory}/cert.pem;
        ssl_certificate_key {directory}/key.pem;
        ssl_protocols TLSv1.3;"""
    connection = '$http_connection' if wire.websocket else '""'
    only_proxy = f"""
            proxy_http_version 1.1;
            proxy_buffering {buffering};
            proxy_set_header Connection {connection};"""
    if wire.websocket:
        only_proxy += """
            proxy_set_header Upgrade $http_upgrade;"""
    return {
        "nginx_listen": (" ssl" if wire.tls else "") + (" http2" if wire.http2 else ""),
        "nginx_tls": tls if wire.tls else "",
        # The gRPC module is nginx's only way to speak HTTP/2 to an upstream.
        "nginx_module": "grpc" if wire.upstream_http2 else "proxy",
        "nginx_pass": "grpc_pass grpc://origin" if wire.upstream_http2
        else "proxy_pass http://origin",
        "nginx_proxy": "" if wire.upstream_http2 else only_proxy,
    }


def _nghttpx(wire, directory, upstream):
    tls = f"\nprivate-key-file={directory}/key.pem\ncertificate-file={directory}/cert.pem" \
          "\ntls-min-proto-version=TLSv1.3"
    return {
        "nghttpx_frontend": ("" if wire.tls else ";no-tls"),
        "nghttpx_backend": f"127.0.0.1,{upstream};" + (";proto=h2" if wire.upstream_http2 else ""),
        "nghttpx_tls": tls if wire.tls else "",
    }
