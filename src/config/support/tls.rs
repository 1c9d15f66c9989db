//! TLS: transport sockets, certificates, validation.

use super::Rule::{Off, Types, Values, Yes};
use super::Support;

/// Transport sockets of filter chains.
pub(super) const DOWNSTREAM: &[&str] = &[
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
];

/// Transport sockets of clusters.
pub(super) const UPSTREAM: &[&str] = &[
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
];

/// Transport sockets behind a PROXY header.
const BEHIND_HEADER: &[&str] = &[
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
];

pub(super) static TABLES: &[Support] = &[
    Support {
        message: "envoy.config.core.v3.TransportSocket",
        // Where it stands decides what may be in it.
        fields: &[("name", Yes), ("typed_config", Types(&[]))],
    },
    Support {
        message: "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        fields: &[],
    },
    Support {
        message: "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        fields: &[
            ("config", Yes),
            ("transport_socket", Types(BEHIND_HEADER)),
            ("tlv_as_pool_key", Off),
        ],
    },
    Support {
        message: "envoy.config.core.v3.ProxyProtocolConfig",
        fields: &[("version", Yes), ("added_tlvs", Yes)],
    },
    Support {
        message: "envoy.config.core.v3.TlvEntry",
        fields: &[("type", Yes), ("value", Yes)],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        fields: &[
            ("common_tls_context", Yes),
            ("require_client_certificate", Yes),
            ("require_sni", Yes),
            ("full_scan_certs_on_sni_mismatch", Yes),
            ("prefer_client_ciphers", Yes),
            ("session_ticket_keys", Yes),
            ("disable_stateless_session_resumption", Yes),
            ("disable_stateful_session_resumption", Yes),
            ("session_timeout", Yes),
            ("ocsp_staple_policy", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        fields: &[
            ("common_tls_context", Yes),
            ("sni", Yes),
            ("auto_host_sni", Yes),
            ("auto_sni_san_validation", Yes),
            ("allow_renegotiation", Off),
            ("max_session_keys", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        fields: &[
            ("tls_params", Yes),
            ("tls_certificates", Yes),
            ("validation_context", Yes),
            ("alpn_protocols", Yes),
            ("key_log", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        fields: &[
            (
                "tls_minimum_protocol_version",
                Values(&["TLS_AUTO", "TLSv1_2", "TLSv1_3"]),
            ),
            (
                "tls_maximum_protocol_version",
                Values(&["TLS_AUTO", "TLSv1_2", "TLSv1_3"]),
            ),
            ("cipher_suites", Yes),
            ("ecdh_curves", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        fields: &[
            ("certificate_chain", Yes),
            ("private_key", Yes),
            ("watched_directory", Yes),
            ("ocsp_staple", Yes),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsKeyLog",
        fields: &[
            ("path", Yes),
            ("local_address_range", Yes),
            ("remote_address_range", Yes),
        ],
    },
    Support {
        message: "envoy.config.core.v3.WatchedDirectory",
        fields: &[("path", Yes)],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys",
        fields: &[("keys", Yes)],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        fields: &[
            ("trusted_ca", Yes),
            ("watched_directory", Yes),
            ("verify_certificate_spki", Yes),
            ("verify_certificate_hash", Yes),
            ("match_typed_subject_alt_names", Yes),
            ("crl", Yes),
            ("only_verify_leaf_cert_crl", Yes),
            ("allow_expired_certificate", Yes),
            (
                "trust_chain_verification",
                Values(&["VERIFY_TRUST_CHAIN", "ACCEPT_UNTRUSTED"]),
            ),
            ("require_signed_certificate_timestamp", Off),
        ],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        fields: &[
            ("san_type", Values(&["EMAIL", "DNS", "URI", "IP_ADDRESS"])),
            ("matcher", Yes),
        ],
    },
];
