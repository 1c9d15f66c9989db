//! HTTP protocol options of a cluster.

use moorgate_codecs::{http1, http2};
use moorgate_protos::Name;
use moorgate_protos::envoy::config::cluster::v3::Cluster;
use moorgate_protos::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use moorgate_protos::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
    UpstreamHttpProtocolOptions,
};
use moorgate_protos::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use moorgate_protos::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use moorgate_protos::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;

use super::{Outcome, present, time};
use crate::cluster::AutoSni;
use crate::config::{FieldPath, unpack};

/// What a cluster's HTTP options say.
pub(super) struct Protocol {
    pub(super) idle_timeout_ms: u64,
    pub(super) max_connection_duration_ms: u64,
    pub(super) max_requests_per_connection: u32,
    pub(super) http1: http1::Settings,
    /// HTTP/2 is spoken instead.
    pub(super) http2: Option<http2::Settings>,
    /// Not instead: requests are sent by the protocol they came by.
    pub(super) as_downstream: bool,
    /// Names of requests are asked for in TLS.
    pub(super) auto_sni: Option<AutoSni>,
}

/// The options of a cluster: the typed ones, or the older fields of the cluster itself.
pub(super) fn build(cluster: &Cluster, secured: bool, path: &FieldPath<'_>) -> Outcome<Protocol> {
    let full_name = HttpProtocolOptions::full_name();
    let at = path.field("typed_extension_protocol_options");
    for key in cluster.typed_extension_protocol_options.keys() {
        if *key != full_name {
            return Err(at.key(key).error(format!("there is only '{full_name}'")));
        }
    }
    let old = [
        (
            cluster.common_http_protocol_options.is_some(),
            "common_http_protocol_options",
        ),
        (
            cluster.http_protocol_options.is_some(),
            "http_protocol_options",
        ),
        (
            cluster.http2_protocol_options.is_some(),
            "http2_protocol_options",
        ),
        (
            cluster.max_requests_per_connection.is_some(),
            "max_requests_per_connection",
        ),
        (
            cluster.upstream_http_protocol_options.is_some(),
            "upstream_http_protocol_options",
        ),
    ];
    let Some(any) = cluster.typed_extension_protocol_options.get(&full_name) else {
        let mut protocol = settings(
            cluster.common_http_protocol_options.as_ref(),
            &path.field("common_http_protocol_options"),
            cluster.http_protocol_options.as_ref(),
            cluster.http2_protocol_options.as_ref(),
            &path.field("http2_protocol_options"),
        )?;
        if let Some(max) = cluster.max_requests_per_connection {
            if protocol.max_requests_per_connection != 0 {
                return Err(path
                    .field("max_requests_per_connection")
                    .error("is in common_http_protocol_options already"));
            }
            protocol.max_requests_per_connection = max;
        }
        protocol.auto_sni = auto_sni(
            cluster.upstream_http_protocol_options.as_ref(),
            secured,
            &path.field("upstream_http_protocol_options"),
        )?;
        return Ok(protocol);
    };
    if let Some((_, name)) = old.iter().find(|(given, _)| *given) {
        return Err(path.field(name).error(format!(
            "cannot be used together with typed_extension_protocol_options[\"{full_name}\"]"
        )));
    }
    let path = at.key(&full_name);
    let options: HttpProtocolOptions = unpack(any, &path)?;
    let explicit = path.field("explicit_http_config");
    let downstream = path.field("use_downstream_protocol_config");
    // As in Envoy, both protocols are there whether or not they have options.
    let nothing = Http2ProtocolOptions::default();
    let (http1, http2, at) = match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(chosen)) => {
            let at = explicit.field("http_protocol_options");
            match present(chosen.protocol_config.as_ref(), &at)? {
                ProtocolConfig::HttpProtocolOptions(options) => (Some(options), None, &explicit),
                ProtocolConfig::Http2ProtocolOptions(options) => (None, Some(options), &explicit),
                ProtocolConfig::Http3ProtocolOptions(_) => {
                    return Err(at.error("is required: upstreams speak HTTP/1 or HTTP/2"));
                }
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both)) => {
            let http2 = both.http2_protocol_options.as_ref().unwrap_or(&nothing);
            (
                both.http_protocol_options.as_ref(),
                Some(http2),
                &downstream,
            )
        }
        _ => return Err(explicit.error("is required, or use_downstream_protocol_config")),
    };
    let mut protocol = settings(
        options.common_http_protocol_options.as_ref(),
        &path.field("common_http_protocol_options"),
        http1,
        http2,
        &at.field("http2_protocol_options"),
    )?;
    protocol.as_downstream = matches!(
        options.upstream_protocol_options,
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_))
    );
    protocol.auto_sni = auto_sni(
        options.upstream_http_protocol_options.as_ref(),
        secured,
        &path.field("upstream_http_protocol_options"),
    )?;
    Ok(protocol)
}

fn auto_sni(
    message: Option<&UpstreamHttpProtocolOptions>,
    secured: bool,
    path: &FieldPath<'_>,
) -> Outcome<Option<AutoSni>> {
    let Some(message) = message else {
        return Ok(None);
    };
    if message.auto_san_validation && !secured {
        return Err(path
            .field("auto_san_validation")
            .error("does nothing for a cluster without TLS"));
    }
    if message.auto_san_validation && !message.auto_sni {
        return Err(path
            .field("auto_san_validation")
            .error("is supported by Moorgate together with auto_sni alone"));
    }
    if !message.override_auto_sni_header.is_empty() && !message.auto_sni {
        return Err(path
            .field("override_auto_sni_header")
            .error("does nothing without auto_sni"));
    }
    if message.auto_sni && !secured {
        return Err(path
            .field("auto_sni")
            .error("does nothing for a cluster without TLS"));
    }
    let header = message.override_auto_sni_header.to_ascii_lowercase();
    let header = match header.as_str() {
        ":authority" | "host" => "",
        other if other.starts_with(':') => {
            return Err(path
                .field("override_auto_sni_header")
                .error("is no header that a request can bring"));
        }
        other => other,
    };
    Ok(message.auto_sni.then(|| AutoSni {
        header: header.as_bytes().into(),
        verify: message.auto_san_validation,
    }))
}

fn settings(
    common: Option<&CommonOptions>,
    path: &FieldPath<'_>,
    http1: Option<&Http1ProtocolOptions>,
    http2: Option<&Http2ProtocolOptions>,
    http2_path: &FieldPath<'_>,
) -> Outcome<Protocol> {
    let nothing = CommonOptions::default();
    let common = common.unwrap_or(&nothing);
    let defaults = http1::Settings::default();
    let max_head_bytes = head_bytes(
        common.max_response_headers_kb,
        &path.field("max_response_headers_kb"),
    )?;
    let max_fields = max_fields(common, path)?;
    let limits = (max_head_bytes, max_fields);
    let http2 = http2.map(|options| super::http2::settings(options, limits, http2_path));
    Ok(Protocol {
        idle_timeout_ms: time::or(
            common.idle_timeout.as_ref(),
            3_600_000,
            &path.field("idle_timeout"),
        )?,
        max_connection_duration_ms: time::or(
            common.max_connection_duration.as_ref(),
            0,
            &path.field("max_connection_duration"),
        )?,
        max_requests_per_connection: common.max_requests_per_connection.unwrap_or(0),
        http1: http1::Settings {
            max_head_bytes,
            max_fields,
            enable_trailers: http1.is_some_and(|options| options.enable_trailers),
            proper_case: proper_case(http1.and_then(|options| options.header_key_format.as_ref())),
            ..defaults
        },
        http2: http2.transpose()?,
        as_downstream: false,
        auto_sni: None,
    })
}

/// The size of heads in bytes, from one in KiB.
pub(super) fn head_bytes(kb: Option<u32>, path: &FieldPath<'_>) -> Outcome<usize> {
    match kb {
        None => Ok(http1::Settings::default().max_head_bytes),
        Some(kb @ 1..=8192) => Ok(kb as usize * 1024),
        Some(_) => Err(path.error("has to be between 1 and 8192")),
    }
}

/// `max_headers_count`.
pub(super) fn max_fields(common: &CommonOptions, path: &FieldPath<'_>) -> Outcome<usize> {
    match common.max_headers_count {
        None => Ok(http1::Settings::default().max_fields),
        Some(0) => Err(path.field("max_headers_count").error("has to be 1 or more")),
        Some(count) => Ok(count as usize),
    }
}

/// `header_key_format`, of which there is one.
pub(super) fn proper_case(format: Option<&HeaderKeyFormat>) -> bool {
    format.is_some_and(|format| format.header_format.is_some())
}
