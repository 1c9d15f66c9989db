//! HTTP protocol options of clusters: which protocols are spoken, and what is refused.

use super::{built, cluster, refusal};

const AT: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn options(fields: &str) -> String {
    cluster(&format!(
        "typed_extension_protocol_options: {{{AT}: {{\"@type\": type.googleapis.com/{AT}, {fields}}}}}"
    ))
}

/// HTTP/2 for all requests, and for those that came by it.
fn spoken(yaml: &str) -> (bool, bool) {
    let built = built(yaml);
    let config = &built.definitions[0].config;
    (config.codec.is_some(), config.http2.is_some())
}

#[test]
fn which_protocols_a_cluster_speaks() {
    assert_eq!(spoken(&cluster("connect_timeout: 1s")), (false, false));
    assert_eq!(
        spoken(&cluster("http2_protocol_options: {}")),
        (true, false)
    );
    for (fields, expected) in [
        (
            "explicit_http_config: {http_protocol_options: {}}",
            (false, false),
        ),
        (
            "explicit_http_config: {http2_protocol_options: {}}",
            (true, false),
        ),
        ("use_downstream_protocol_config: {}", (false, true)),
        (
            "use_downstream_protocol_config: {http_protocol_options: {enable_trailers: true}}",
            (false, true),
        ),
        (
            "use_downstream_protocol_config: {http2_protocol_options: {max_concurrent_streams: 5}}",
            (false, true),
        ),
    ] {
        assert_eq!(spoken(&options(fields)), expected, "{fields}");
    }
    let trailers =
        "use_downstream_protocol_config: {http_protocol_options: {enable_trailers: true}}";
    let built = built(&options(trailers));
    assert!(built.definitions[0].config.http1.enable_trailers);
}

#[test]
fn what_protocol_options_are_refused() {
    for (fields, why) in [
        (
            "common_http_protocol_options: {}",
            "explicit_http_config: is required, or use_downstream_protocol_config",
        ),
        ("auto_config: {}", "auto_config: is not supported"),
        (
            "use_downstream_protocol_config: {http3_protocol_options: {}}",
            "use_downstream_protocol_config.http3_protocol_options: is not supported",
        ),
        (
            "use_downstream_protocol_config: {http2_protocol_options: {max_concurrent_streams: 0}}",
            "use_downstream_protocol_config.http2_protocol_options.max_concurrent_streams: has to be",
        ),
    ] {
        let said = refusal(&options(fields));
        assert!(said.contains(why), "{said}");
    }
}
