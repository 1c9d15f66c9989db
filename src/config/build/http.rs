//! `HttpConnectionManager`.

use std::collections::HashSet;
use std::sync::Arc;

use moorgate_codecs::http1;
use moorgate_codecs::http2::Role;
use moorgate_protos::Name;
use moorgate_protos::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use moorgate_protos::envoy::config::core::v3::scheme_header_transformation::Transformation;
use moorgate_protos::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions,
};
use moorgate_protos::envoy::extensions::filters::http::grpc_http1_reverse_bridge::v3::FilterConfig as ReverseBridgeConfig;
use moorgate_protos::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStatsConfig;
use moorgate_protos::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use moorgate_protos::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use moorgate_protos::envoy::extensions::filters::http::router::v3::Router;
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation, SetCurrentClientCertDetails, StripPortMode,
};
use moorgate_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;

use super::{
    Context, Outcome, access_log, address, headers, present, required, route, time, upstream,
};
use crate::cluster::CodecFactory;
use crate::config::{FieldPath, packed_type, unpack};
use crate::filter::{FilterFactory, grpc_stats, grpc_web, reverse_bridge};
use crate::proxy::config::{
    EscapedSlashes, Http, Network, Rules, ServerHeader, StripPort, Underscores,
};
use crate::proxy::http::client_cert::{ClientCertRules, Mode};
use crate::proxy::http2::Http2;
use crate::route::{Action, RouteTable};
use crate::telemetry::stats::{Http2Stats, HttpStats};

/// The upgrade type that stands for CONNECT.
pub(super) const CONNECT: &str = "connect";

pub(super) fn build(
    message: &HttpConnectionManager,
    is_tls: bool,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Http> {
    let stat_prefix = required(&message.stat_prefix, &path.field("stat_prefix"))?;
    let routes = match &message.route_specifier {
        Some(RouteSpecifier::RouteConfig(routes)) => {
            route::build(routes, context, &path.field("route_config"))?
        }
        _ => return Err(path.field("route_config").error("is required")),
    };
    let upgrades = upgrades(message, path)?;
    let (filters, router) = filters(message, context, path)?;
    let nothing = HttpProtocolOptions::default();
    let common = message.common_http_protocol_options.as_ref();
    let common = common.unwrap_or(&nothing);
    let common_path = path.field("common_http_protocol_options");
    let http1 = message.http_protocol_options.clone().unwrap_or_default();
    let mut http1 = settings(message, &http1, common, &upgrades, &routes, path)?;
    let http2 = http2_codec(message, &http1, context, path)?;
    let (codec, http2) = match CodecType::try_from(message.codec_type) {
        Ok(CodecType::Auto) => (None, Some(http2)),
        Ok(CodecType::Http2) => (Some(http2), None),
        Ok(CodecType::Http1) => (None, None),
        _ => return Err(path.field("codec_type").error("is not known")),
    };
    http1.detect_http2 = http2.is_some();
    http1.over_tls = is_tls;
    let limit = |value: &Option<_>, default, name: &str| {
        time::or(value.as_ref(), default, &path.field(name))
    };
    let common_limit = |value: &Option<_>, default, name: &str| {
        time::or(value.as_ref(), default, &common_path.field(name))
    };
    Ok(Http {
        stat_prefix: stat_prefix.to_owned(),
        http1: Arc::new(http1),
        codec,
        http2,
        filters,
        rules: rules(message, common, router, path)?,
        idle_timeout_ms: common_limit(&common.idle_timeout, 3_600_000, "idle_timeout")?,
        max_connection_duration_ms: common_limit(
            &common.max_connection_duration,
            0,
            "max_connection_duration",
        )?,
        max_requests_per_connection: common.max_requests_per_connection.unwrap_or(0),
        request_headers_timeout_ms: limit(
            &message.request_headers_timeout,
            0,
            "request_headers_timeout",
        )?,
        request_timeout_ms: limit(&message.request_timeout, 0, "request_timeout")?,
        stream_idle_timeout_ms: limit(
            &message.stream_idle_timeout,
            300_000,
            "stream_idle_timeout",
        )?,
        max_stream_duration_ms: common_limit(
            &common.max_stream_duration,
            0,
            "max_stream_duration",
        )?,
        delayed_close_timeout_ms: limit(
            &message.delayed_close_timeout,
            1_000,
            "delayed_close_timeout",
        )?,
        proxy_100_continue: message.proxy_100_continue,
        upgrades,
        access_logs: access_log::build(&message.access_log, context, &path.field("access_log"))?,
        stats: HttpStats::new(&**context.builder.names, &format!("http.{stat_prefix}.")),
        routes: Arc::new(routes),
    })
}

/// What makes the HTTP/2 codecs of clients.
fn http2_codec(
    message: &HttpConnectionManager,
    http1: &http1::Settings,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Arc<dyn CodecFactory>> {
    let nothing = Http2ProtocolOptions::default();
    let options = message.http2_protocol_options.as_ref().unwrap_or(&nothing);
    let limits = (http1.max_head_bytes, http1.max_fields);
    let path = path.field("http2_protocol_options");
    Ok(Arc::new(Http2 {
        role: Role::Server,
        settings: Arc::new(super::http2::settings(options, limits, &path)?),
        stats: Http2Stats::new(&**context.builder.names, "http2."),
    }))
}

/// `upgrade_configs`: (token in lower case, enabled).
fn upgrades(message: &HttpConnectionManager, path: &FieldPath<'_>) -> Outcome<Vec<(String, bool)>> {
    let path = path.field("upgrade_configs");
    let mut upgrades: Vec<(String, bool)> = Vec::new();
    for (index, config) in message.upgrade_configs.iter().enumerate() {
        let path = path.index(index);
        let path = path.field("upgrade_type");
        let token = required(&config.upgrade_type, &path)?.to_ascii_lowercase();
        headers::check_text(&token, &path)?;
        if upgrades.iter().any(|(other, _)| *other == token) {
            return Err(path.error(format!("'{token}' is in the list already")));
        }
        upgrades.push((token, config.enabled.unwrap_or(true)));
    }
    Ok(upgrades)
}

fn settings(
    message: &HttpConnectionManager,
    http1: &Http1ProtocolOptions,
    common: &HttpProtocolOptions,
    upgrades: &[(String, bool)],
    routes: &RouteTable,
    path: &FieldPath<'_>,
) -> Outcome<http1::Settings> {
    // What any route may switch, the codec has to understand.
    let by_routes = routes.routes().filter_map(|route| match &route.action {
        Action::Forward(forward) => Some(&forward.upgrades),
        _ => None,
    });
    let mut tokens: Vec<String> = upgrades
        .iter()
        .chain(by_routes.flatten())
        .filter(|(_, enabled)| *enabled)
        .map(|(token, _)| token.clone())
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    let allow_connect = tokens.iter().any(|token| token == CONNECT);
    tokens.retain(|token| token != CONNECT);
    let default_host = http1.default_host_for_http_10.as_str();
    let at = path.field("http_protocol_options");
    headers::check_text(default_host, &at.field("default_host_for_http_10"))?;
    Ok(http1::Settings {
        max_head_bytes: upstream::head_bytes(
            message.max_request_headers_kb,
            &path.field("max_request_headers_kb"),
        )?,
        max_fields: upstream::max_fields(common, &path.field("common_http_protocol_options"))?,
        accept_http_10: http1.accept_http_10,
        default_host_for_http_10: (!default_host.is_empty()).then(|| default_host.to_owned()),
        custom_methods: http1.allow_custom_methods,
        allow_absolute_url: http1.allow_absolute_url.unwrap_or(true),
        enable_trailers: http1.enable_trailers,
        upgrades: tokens,
        allow_connect,
        detect_http2: false,
        proper_case: upstream::proper_case(http1.header_key_format.as_ref()),
        over_tls: false,
    })
}

/// The HTTP filters, of which the last and no other is the router.
fn filters(
    message: &HttpConnectionManager,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<(Vec<Arc<dyn FilterFactory>>, Router)> {
    let path = path.field("http_filters");
    let mut filters: Vec<Arc<dyn FilterFactory>> = Vec::new();
    let mut router = None;
    for (index, filter) in message.http_filters.iter().enumerate() {
        let path = path.index(index);
        if router.is_some() {
            return Err(path.error("comes after the router, which is the last filter"));
        }
        required(&filter.name, &path.field("name"))?;
        let path = path.field("typed_config");
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            return Err(path.error("is required"));
        };
        let kind = packed_type(any, &path)?;
        if kind == GrpcWeb::full_name() {
            let GrpcWeb {} = unpack(any, &path)?;
            filters.push(Arc::new(grpc_web::GrpcWeb));
        } else if kind == GrpcStatsConfig::full_name() {
            filters.push(Arc::new(grpc_stats(unpack(any, &path)?, context)));
        } else if kind == ReverseBridgeConfig::full_name() {
            filters.push(Arc::new(reverse_bridge(unpack(any, &path)?, &path)?));
        } else {
            router = Some(unpack(any, &path)?);
        }
    }
    match router {
        Some(router) => Ok((filters, router)),
        None => Err(path.error("has to end with the router")),
    }
}

/// Without a list no method has counters of its own, as in Envoy.
fn grpc_stats(message: GrpcStatsConfig, context: &Context<'_>) -> grpc_stats::GrpcStats {
    let methods = match message.per_method_stat_specifier {
        Some(PerMethodStatSpecifier::StatsForAllMethods(true)) => grpc_stats::Methods::All,
        Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
            let services = list.services.into_iter();
            let these = services.flat_map(|service| {
                let methods = service.method_names.into_iter();
                methods.map(move |method| (service.name.clone(), method))
            });
            grpc_stats::Methods::These(these.collect())
        }
        _ => grpc_stats::Methods::These(HashSet::new()),
    };
    grpc_stats::GrpcStats::new(
        methods,
        message.enable_upstream_stats,
        message.replace_dots_in_grpc_service_name,
        Arc::clone(context.builder.names),
    )
}

fn reverse_bridge(
    message: ReverseBridgeConfig,
    path: &FieldPath<'_>,
) -> Outcome<reverse_bridge::ReverseBridges> {
    let content_type = required(&message.content_type, &path.field("content_type"))?;
    let size = message.response_size_header.to_ascii_lowercase();
    if !size.is_empty() && !crate::route::matcher::is_token(&size) {
        return Err(path.field("response_size_header").error("is no field name"));
    }
    Ok(reverse_bridge::ReverseBridges::new(
        reverse_bridge::ReverseBridge {
            content_type: content_type.as_bytes().to_vec(),
            withhold_grpc_frames: message.withhold_grpc_frames,
            response_size_header: Some(size.into_bytes()).filter(|name| !name.is_empty()),
        },
    ))
}

fn rules(
    message: &HttpConnectionManager,
    common: &HttpProtocolOptions,
    router: Router,
    path: &FieldPath<'_>,
) -> Outcome<Rules> {
    let defaults = Rules::default();
    headers::check_text(&message.server_name, &path.field("server_name"))?;
    headers::check_text(&message.via, &path.field("via"))?;
    let scheme_overwrite = match &message.scheme_header_transformation {
        None => None,
        Some(change) => {
            let path = path.field("scheme_header_transformation");
            let path = path.field("scheme_to_overwrite");
            let Transformation::SchemeToOverwrite(scheme) =
                present(change.transformation.as_ref(), &path)?;
            match scheme.as_str() {
                "http" | "https" => Some(scheme.clone()),
                _ => return Err(path.error("has to be http or https")),
            }
        }
    };
    Ok(Rules {
        use_remote_address: message.use_remote_address.unwrap_or(false),
        xff_num_trusted_hops: message.xff_num_trusted_hops,
        skip_xff_append: message.skip_xff_append,
        via: message.via.clone(),
        generate_request_id: message.generate_request_id.unwrap_or(true),
        preserve_external_request_id: message.preserve_external_request_id,
        always_set_request_id_in_response: message.always_set_request_id_in_response,
        normalize_path: message.normalize_path.unwrap_or(false),
        merge_slashes: message.merge_slashes,
        escaped_slashes: escaped_slashes(message, path)?,
        strip_port: strip_port(message, path)?,
        strip_trailing_host_dot: message.strip_trailing_host_dot,
        underscores: underscores(common, path)?,
        scheme_overwrite,
        client_cert: client_cert(message),
        suppress_envoy_headers: router.suppress_envoy_headers,
        respect_expected_rq_timeout: router.respect_expected_rq_timeout,
        server_name: match message.server_name.as_str() {
            "" => defaults.server_name,
            name => name.to_owned(),
        },
        server_header: server_header(message, path)?,
        internal_networks: internal_networks(message, path)?,
        unix_sockets_internal: message
            .internal_address_config
            .as_ref()
            .is_some_and(|config| config.unix_sockets),
        append_x_forwarded_port: message.append_x_forwarded_port,
    })
}

fn client_cert(message: &HttpConnectionManager) -> ClientCertRules {
    let nothing = SetCurrentClientCertDetails::default();
    let details = message.set_current_client_cert_details.as_ref();
    let details = details.unwrap_or(&nothing);
    ClientCertRules {
        mode: match message.forward_client_cert_details() {
            ForwardClientCertDetails::Sanitize => Mode::Sanitize,
            ForwardClientCertDetails::ForwardOnly => Mode::ForwardOnly,
            ForwardClientCertDetails::AppendForward => Mode::AppendForward,
            ForwardClientCertDetails::SanitizeSet => Mode::SanitizeSet,
            ForwardClientCertDetails::AlwaysForwardOnly => Mode::AlwaysForwardOnly,
        },
        cert: details.cert,
        chain: details.chain,
        subject: details.subject.unwrap_or(false),
        uri: details.uri,
        dns: details.dns,
    }
}

fn internal_networks(
    message: &HttpConnectionManager,
    path: &FieldPath<'_>,
) -> Outcome<Vec<Network>> {
    let path = path.field("internal_address_config");
    let path = path.field("cidr_ranges");
    let ranges = message.internal_address_config.iter();
    let ranges = ranges.flat_map(|config| &config.cidr_ranges).enumerate();
    let ranges = ranges.map(|(index, range)| address::network(range, &path.index(index)));
    ranges.collect()
}

fn escaped_slashes(
    message: &HttpConnectionManager,
    path: &FieldPath<'_>,
) -> Outcome<EscapedSlashes> {
    use PathWithEscapedSlashesAction as Action;
    let path = path.field("path_with_escaped_slashes_action");
    match Action::try_from(message.path_with_escaped_slashes_action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => {
            Ok(EscapedSlashes::Keep)
        }
        Ok(Action::RejectRequest) => Ok(EscapedSlashes::Reject),
        Ok(Action::UnescapeAndRedirect) => Ok(EscapedSlashes::UnescapeAndRedirect),
        Ok(Action::UnescapeAndForward) => Ok(EscapedSlashes::UnescapeAndForward),
        Err(_) => Err(path.error("is not known")),
    }
}

fn strip_port(message: &HttpConnectionManager, path: &FieldPath<'_>) -> Outcome<StripPort> {
    let any = matches!(
        message.strip_port_mode,
        Some(StripPortMode::StripAnyHostPort(true))
    );
    match (any, message.strip_matching_host_port) {
        (true, true) => Err(path
            .field("strip_any_host_port")
            .error("cannot be used together with strip_matching_host_port")),
        (true, false) => Ok(StripPort::Any),
        (false, true) => Ok(StripPort::Matching),
        (false, false) => Ok(StripPort::Keep),
    }
}

fn underscores(common: &HttpProtocolOptions, path: &FieldPath<'_>) -> Outcome<Underscores> {
    use HeadersWithUnderscoresAction as Action;
    match Action::try_from(common.headers_with_underscores_action) {
        Ok(Action::Allow) => Ok(Underscores::Allow),
        Ok(Action::RejectRequest) => Ok(Underscores::RejectRequest),
        Ok(Action::DropHeader) => Ok(Underscores::DropHeader),
        Err(_) => Err(path
            .field("common_http_protocol_options")
            .field("headers_with_underscores_action")
            .error("is not known")),
    }
}

fn server_header(message: &HttpConnectionManager, path: &FieldPath<'_>) -> Outcome<ServerHeader> {
    use ServerHeaderTransformation as Change;
    match Change::try_from(message.server_header_transformation) {
        Ok(Change::Overwrite) => Ok(ServerHeader::Overwrite),
        Ok(Change::AppendIfAbsent) => Ok(ServerHeader::AppendIfAbsent),
        Ok(Change::PassThrough) => Ok(ServerHeader::PassThrough),
        Err(_) => Err(path
            .field("server_header_transformation")
            .error("is not known")),
    }
}
