//! Route configurations.

use std::sync::Arc;

use moorgate_protos::envoy::config::core::v3::RoutingPriority;
use moorgate_protos::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use moorgate_protos::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use moorgate_protos::envoy::config::route::v3::route::Action as ActionKind;
use moorgate_protos::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
    UpgradeConfig,
};
use moorgate_protos::envoy::config::route::v3::route_match::PathSpecifier;
use moorgate_protos::envoy::config::route::v3::virtual_host::TlsRequirementType;
use moorgate_protos::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier as WeightedHostRewrite;
use moorgate_protos::envoy::config::route::v3::{
    DirectResponseAction, QueryParameterMatcher, RedirectAction, RetryPolicy as RetryMessage,
    Route as RouteMessage, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost as VirtualHostMessage, WeightedCluster as WeightedMessage,
};
use moorgate_protos::envoy::r#type::v3::fractional_percent::DenominatorType;

use super::http::CONNECT;
use super::{Context, Outcome, data, headers, present, required, time};
use crate::config::FieldPath;
use crate::route::matcher::Fraction;
use crate::route::{
    Action, ClusterName, Direct, Forward, Matcher, NewRoute, PathMatch, PathRewrite,
    QueryCondition, QueryMatch, Redirect, RequireTls, RetryOn, RetryPolicy, RouteTable,
    StreamLimits, Target, VirtualHost, WeightedCluster,
};

/// `timeout` of a route where it is not set.
const TIMEOUT_MS: u64 = 15_000;
/// `max_direct_response_body_size_bytes` where it is not set.
const MAX_DIRECT_BODY: u32 = 4096;

/// What routes need to know of their table.
struct Table<'a> {
    context: &'a Context<'a>,
    validate_clusters: bool,
    max_direct_body: u32,
}

pub(super) fn build(
    message: &RouteConfiguration,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<RouteTable> {
    let table = Table {
        context,
        validate_clusters: message.validate_clusters.unwrap_or(true),
        max_direct_body: message
            .max_direct_response_body_size_bytes
            .unwrap_or(MAX_DIRECT_BODY),
    };
    let mut builder = RouteTable::builder(&message.name);
    builder
        .headers(
            headers::build(
                &message.request_headers_to_add,
                &message.request_headers_to_remove,
                &path.field("request_headers_to_add"),
                &path.field("request_headers_to_remove"),
            )?,
            headers::build(
                &message.response_headers_to_add,
                &message.response_headers_to_remove,
                &path.field("response_headers_to_add"),
                &path.field("response_headers_to_remove"),
            )?,
        )
        .most_specific_header_mutations_wins(message.most_specific_header_mutations_wins)
        .ignore_port_in_host_matching(message.ignore_port_in_host_matching);
    let path = path.field("virtual_hosts");
    for (index, message) in message.virtual_hosts.iter().enumerate() {
        let path = path.index(index);
        required(&message.name, &path.field("name"))?;
        let domains = path.field("domains");
        if message.domains.is_empty() {
            return Err(domains.error("is empty"));
        }
        let host = builder
            .virtual_host(virtual_host(message, &path)?, &message.domains)
            .map_err(|error| domains.error(error.to_string()))?;
        let path = path.field("routes");
        for (index, message) in message.routes.iter().enumerate() {
            let path = path.index(index);
            let (matcher, route) = table.route(message, &path)?;
            builder
                .route(host, matcher, route)
                .map_err(|error| path.error(error.to_string()))?;
        }
    }
    Ok(builder.build())
}

fn virtual_host(message: &VirtualHostMessage, path: &FieldPath<'_>) -> Outcome<VirtualHost> {
    Ok(VirtualHost {
        name: message.name.clone(),
        require_tls: match TlsRequirementType::try_from(message.require_tls) {
            Ok(TlsRequirementType::None) => RequireTls::None,
            Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
            Ok(TlsRequirementType::All) => RequireTls::All,
            Err(_) => return Err(path.field("require_tls").error("is not known")),
        },
        request_headers: headers::build(
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
            &path.field("request_headers_to_add"),
            &path.field("request_headers_to_remove"),
        )?,
        response_headers: headers::build(
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
            &path.field("response_headers_to_add"),
            &path.field("response_headers_to_remove"),
        )?,
        retry: retry(message.retry_policy.as_ref(), &path.field("retry_policy"))?,
        include_request_attempt_count: message.include_request_attempt_count,
        include_attempt_count_in_response: message.include_attempt_count_in_response,
    })
}

fn matcher(message: &RouteMatch, path: &FieldPath<'_>) -> Outcome<Matcher> {
    let ignore_case = !message.case_sensitive.unwrap_or(true);
    let specifier = message.path_specifier.as_ref();
    let condition = match specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix {
            prefix: prefix.clone(),
            ignore_case,
        },
        Some(PathSpecifier::Path(path)) => PathMatch::Exact {
            path: path.clone(),
            ignore_case,
        },
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::Separated {
            prefix: prefix.clone(),
            ignore_case,
        },
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatch::Regex(headers::pattern(regex, &path.field("safe_regex"))?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatch::Connect,
        _ => return Err(path.error("has to have a condition on the path")),
    };
    let mut matcher = Matcher::new(condition).map_err(|error| path.error(error.to_string()))?;
    for condition in headers::conditions(&message.headers, &path.field("headers"))? {
        matcher = matcher.header(condition);
    }
    let at = path.field("query_parameters");
    for (index, parameter) in message.query_parameters.iter().enumerate() {
        matcher = matcher.query(query(parameter, &at.index(index))?);
    }
    if let Some(fraction) = &message.runtime_fraction {
        let path = path.field("runtime_fraction");
        let path = path.field("default_value");
        let percent = present(fraction.default_value.as_ref(), &path)?;
        matcher = matcher.fraction(Fraction {
            numerator: percent.numerator,
            denominator: match DenominatorType::try_from(percent.denominator) {
                Ok(DenominatorType::Hundred) => 100,
                Ok(DenominatorType::TenThousand) => 10_000,
                Ok(DenominatorType::Million) => 1_000_000,
                Err(_) => return Err(path.field("denominator").error("is not known")),
            },
        });
    }
    Ok(matcher)
}

fn query(message: &QueryParameterMatcher, path: &FieldPath<'_>) -> Outcome<QueryMatch> {
    let name = required(&message.name, &path.field("name"))?;
    Ok(QueryMatch {
        name: name.to_owned(),
        condition: match &message.query_parameter_match_specifier {
            None => QueryCondition::Present(true),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => {
                QueryCondition::Present(*present)
            }
            Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
                QueryCondition::Value(headers::string(matcher, &path.field("string_match"))?)
            }
        },
    })
}

impl Table<'_> {
    fn route(&self, message: &RouteMessage, path: &FieldPath<'_>) -> Outcome<(Matcher, NewRoute)> {
        let at = path.field("match");
        let matcher = matcher(present(message.r#match.as_ref(), &at)?, &at)?;
        let action = match &message.action {
            Some(ActionKind::Route(action)) => {
                Action::Forward(self.forward(action, &path.field("route"))?)
            }
            Some(ActionKind::Redirect(action)) => {
                Action::Redirect(redirect(action, &path.field("redirect"))?)
            }
            Some(ActionKind::DirectResponse(action)) => {
                Action::Direct(self.direct(action, &path.field("direct_response"))?)
            }
            _ => {
                return Err(path.error("has to have a route, a redirect or a direct_response"));
            }
        };
        let route = NewRoute {
            name: message.name.clone(),
            action,
            request_headers: headers::build(
                &message.request_headers_to_add,
                &message.request_headers_to_remove,
                &path.field("request_headers_to_add"),
                &path.field("request_headers_to_remove"),
            )?,
            response_headers: headers::build(
                &message.response_headers_to_add,
                &message.response_headers_to_remove,
                &path.field("response_headers_to_add"),
                &path.field("response_headers_to_remove"),
            )?,
        };
        Ok((matcher, route))
    }

    fn cluster(&self, name: &str, path: &FieldPath<'_>) -> Outcome<ClusterName> {
        let name = required(name, path)?;
        if self.validate_clusters {
            self.context.known_cluster(name, path)
        } else {
            Ok(self.context.cluster_name(name))
        }
    }

    fn direct(&self, message: &DirectResponseAction, path: &FieldPath<'_>) -> Outcome<Direct> {
        let status = match u16::try_from(message.status) {
            Ok(status @ 200..=599) => status,
            _ => return Err(path.field("status").error("has to be between 200 and 599")),
        };
        let path = path.field("body");
        let body = match &message.body {
            Some(body) => data::bytes(body, &path)?,
            None => Vec::new(),
        };
        if body.len() > self.max_direct_body as usize {
            return Err(path.error(format!(
                "has {} bytes, and {} are allowed: see max_direct_response_body_size_bytes",
                body.len(),
                self.max_direct_body
            )));
        }
        Ok(Direct {
            status,
            body: body.into(),
        })
    }

    fn forward(&self, message: &RouteAction, path: &FieldPath<'_>) -> Outcome<Forward> {
        let (host_rewrite, auto_host_rewrite) = match &message.host_rewrite_specifier {
            None => (None, false),
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
                (host_rewrite(host, path)?, false)
            }
            Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => (None, *auto),
            Some(_) => return Err(path.error("has a host rewrite that is not supported")),
        };
        let path_rewrite = match (&*message.prefix_rewrite, &message.regex_rewrite) {
            ("", None) => PathRewrite::None,
            ("", Some(rewrite)) => {
                PathRewrite::Regex(headers::rewrite(rewrite, &path.field("regex_rewrite"))?)
            }
            (prefix, None) => {
                headers::check_text(prefix, &path.field("prefix_rewrite"))?;
                PathRewrite::Prefix(prefix.to_owned())
            }
            (_, Some(_)) => {
                return Err(path
                    .field("regex_rewrite")
                    .error("cannot be used together with prefix_rewrite"));
            }
        };
        let upgrades = upgrades(&message.upgrade_configs, &path.field("upgrade_configs"))?;
        Ok(Forward {
            target: self.target(message, path)?,
            cluster_not_found_status: match ClusterNotFoundResponseCode::try_from(
                message.cluster_not_found_response_code,
            ) {
                Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
                Ok(ClusterNotFoundResponseCode::NotFound) => 404,
                Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
                Err(_) => {
                    return Err(path
                        .field("cluster_not_found_response_code")
                        .error("is not known"));
                }
            },
            path_rewrite,
            host_rewrite,
            auto_host_rewrite,
            append_x_forwarded_host: message.append_x_forwarded_host,
            timeout_ms: time::or(message.timeout.as_ref(), TIMEOUT_MS, &path.field("timeout"))?,
            idle_timeout_ms: time::optional(
                message.idle_timeout.as_ref(),
                &path.field("idle_timeout"),
            )?,
            retry: retry(message.retry_policy.as_ref(), &path.field("retry_policy"))?,
            high_priority: match RoutingPriority::try_from(message.priority) {
                Ok(RoutingPriority::Default) => false,
                Ok(RoutingPriority::High) => true,
                Err(_) => return Err(path.field("priority").error("is not known")),
            },
            upgrades,
            terminate_connect: message
                .upgrade_configs
                .iter()
                .any(|config| config.connect_config.is_some()),
            limits: limits(message, path)?,
        })
    }

    fn target(&self, message: &RouteAction, path: &FieldPath<'_>) -> Outcome<Target> {
        match &message.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => {
                Ok(Target::Cluster(self.cluster(name, &path.field("cluster"))?))
            }
            Some(ClusterSpecifier::ClusterHeader(name)) => {
                let path = path.field("cluster_header");
                let name = required(name, &path)?.to_ascii_lowercase();
                headers::check_text(&name, &path)?;
                Ok(Target::Header(name))
            }
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                self.weighted(weighted, &path.field("weighted_clusters"))
            }
            _ => Err(path.error("has to have a cluster, a cluster_header or weighted_clusters")),
        }
    }

    fn weighted(&self, message: &WeightedMessage, path: &FieldPath<'_>) -> Outcome<Target> {
        let path = path.field("clusters");
        if message.clusters.is_empty() {
            return Err(path.error("is empty"));
        }
        let mut total = 0_u64;
        let mut clusters = Vec::new();
        for (index, message) in message.clusters.iter().enumerate() {
            let path = path.index(index);
            let weight = present(message.weight.as_ref(), &path.field("weight"))?;
            total += u64::from(*weight);
            let host_rewrite = match &message.host_rewrite_specifier {
                Some(WeightedHostRewrite::HostRewriteLiteral(host)) => host_rewrite(host, &path)?,
                None => None,
            };
            clusters.push(WeightedCluster {
                cluster: self.cluster(&message.name, &path.field("name"))?,
                cumulative_weight: total,
                request_headers: headers::build(
                    &message.request_headers_to_add,
                    &message.request_headers_to_remove,
                    &path.field("request_headers_to_add"),
                    &path.field("request_headers_to_remove"),
                )?,
                response_headers: headers::build(
                    &message.response_headers_to_add,
                    &message.response_headers_to_remove,
                    &path.field("response_headers_to_add"),
                    &path.field("response_headers_to_remove"),
                )?,
                host_rewrite,
            });
        }
        if total == 0 || total > u64::from(u32::MAX) {
            return Err(path.error(format!(
                "the weights sum to {total}; it has to be between 1 and {}",
                u32::MAX
            )));
        }
        Ok(Target::Weighted(clusters))
    }
}

fn host_rewrite(host: &str, path: &FieldPath<'_>) -> Outcome<Option<String>> {
    headers::check_text(host, &path.field("host_rewrite_literal"))?;
    Ok((!host.is_empty()).then(|| host.to_owned()))
}

/// (token in lower case, enabled).
fn upgrades(list: &[UpgradeConfig], path: &FieldPath<'_>) -> Outcome<Vec<(String, bool)>> {
    let mut upgrades: Vec<(String, bool)> = Vec::new();
    for (index, config) in list.iter().enumerate() {
        let path = path.index(index);
        let at = path.field("upgrade_type");
        let token = required(&config.upgrade_type, &at)?.to_ascii_lowercase();
        headers::check_text(&token, &at)?;
        if upgrades.iter().any(|(other, _)| *other == token) {
            return Err(at.error(format!("'{token}' is in the list already")));
        }
        if config.connect_config.is_some() && token != CONNECT {
            return Err(path
                .field("connect_config")
                .error("is for the upgrade type CONNECT"));
        }
        upgrades.push((token, config.enabled.unwrap_or(true)));
    }
    Ok(upgrades)
}

fn redirect(message: &RedirectAction, path: &FieldPath<'_>) -> Outcome<Redirect> {
    let text = |text: &str, name: &str| -> Outcome<String> {
        headers::check_text(text, &path.field(name))?;
        Ok(text.to_owned())
    };
    let (scheme, https) = match &message.scheme_rewrite_specifier {
        None => (None, false),
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (None, *https),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => {
            (Some(text(scheme, "scheme_redirect")?), false)
        }
    };
    let host = text(&message.host_redirect, "host_redirect")?;
    let port = match message.port_redirect {
        0 => None,
        port => Some(u16::try_from(port).map_err(|_| {
            path.field("port_redirect")
                .error(format!("{port} is no port"))
        })?),
    };
    Ok(Redirect {
        scheme,
        https,
        host: (!host.is_empty()).then_some(host),
        port,
        path: match &message.path_rewrite_specifier {
            None => PathRewrite::None,
            Some(PathRewriteSpecifier::PathRedirect(new)) if new.is_empty() => PathRewrite::None,
            Some(PathRewriteSpecifier::PathRedirect(new)) => {
                PathRewrite::Full(text(new, "path_redirect")?)
            }
            Some(PathRewriteSpecifier::PrefixRewrite(new)) if new.is_empty() => PathRewrite::None,
            Some(PathRewriteSpecifier::PrefixRewrite(new)) => {
                PathRewrite::Prefix(text(new, "prefix_rewrite")?)
            }
            Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
                PathRewrite::Regex(headers::rewrite(rewrite, &path.field("regex_rewrite"))?)
            }
            Some(PathRewriteSpecifier::PathRewrite(_)) => {
                return Err(path
                    .field("path_rewrite")
                    .error("is not supported by Moorgate"));
            }
        },
        status: match RedirectResponseCode::try_from(message.response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => 301,
            Ok(RedirectResponseCode::Found) => 302,
            Ok(RedirectResponseCode::SeeOther) => 303,
            Ok(RedirectResponseCode::TemporaryRedirect) => 307,
            Ok(RedirectResponseCode::PermanentRedirect) => 308,
            Err(_) => return Err(path.field("response_code").error("is not known")),
        },
        strip_query: message.strip_query,
        keep_port: false,
    })
}

fn retry(
    message: Option<&RetryMessage>,
    path: &FieldPath<'_>,
) -> Outcome<Option<Arc<RetryPolicy>>> {
    let Some(message) = message else {
        return Ok(None);
    };
    let (on, valid) = RetryOn::parse(message.retry_on.as_bytes());
    if !valid {
        return Err(path
            .field("retry_on")
            .error(format!("'{}' has an unknown condition", message.retry_on)));
    }
    let statuses = path.field("retriable_status_codes");
    let statuses =
        message.retriable_status_codes.iter().enumerate().map(
            |(index, status)| match u16::try_from(*status) {
                Ok(status @ 100..=999) => Ok(status),
                _ => Err(statuses
                    .index(index)
                    .error(format!("{status} is no status"))),
            },
        );
    let statuses = statuses.collect::<Outcome<Vec<_>>>()?;
    let (base_interval_ms, max_interval_ms) = match &message.retry_back_off {
        None => (25, 250),
        Some(back_off) => {
            let path = path.field("retry_back_off");
            let base = time::required(
                back_off.base_interval.as_ref(),
                &path.field("base_interval"),
            )?;
            let path = path.field("max_interval");
            let max = time::positive_or(
                back_off.max_interval.as_ref(),
                base.saturating_mul(10),
                &path,
            )?;
            if max < base {
                return Err(path.error("is less than base_interval"));
            }
            (base, max)
        }
    };
    Ok(Some(Arc::new(RetryPolicy {
        on,
        statuses,
        max_retries: message.num_retries.unwrap_or(1),
        per_try_timeout_ms: time::or(
            message.per_try_timeout.as_ref(),
            0,
            &path.field("per_try_timeout"),
        )?,
        per_try_idle_timeout_ms: time::or(
            message.per_try_idle_timeout.as_ref(),
            0,
            &path.field("per_try_idle_timeout"),
        )?,
        base_interval_ms,
        max_interval_ms,
        avoid_previous_hosts: avoid_previous_hosts(message, path)?,
        response_headers: headers::conditions(
            &message.retriable_headers,
            &path.field("retriable_headers"),
        )?,
        request_headers: headers::conditions(
            &message.retriable_request_headers,
            &path.field("retriable_request_headers"),
        )?,
    })))
}

/// How often another host is asked for, with the one predicate there is.
fn avoid_previous_hosts(message: &RetryMessage, path: &FieldPath<'_>) -> Outcome<u32> {
    let attempts = u32::try_from(message.host_selection_retry_max_attempts).map_err(|_| {
        path.field("host_selection_retry_max_attempts")
            .error("has to be 0 or more")
    })?;
    let path = path.field("retry_host_predicate");
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        let path = path.index(index);
        required(&predicate.name, &path.field("name"))?;
        present(predicate.config_type.as_ref(), &path.field("typed_config"))?;
    }
    if message.retry_host_predicate.is_empty() {
        return Ok(0);
    }
    Ok(attempts.max(1))
}

/// How long streams may live.
fn limits(message: &RouteAction, path: &FieldPath<'_>) -> Outcome<StreamLimits> {
    let own = message.max_stream_duration.as_ref();
    let nothing = MaxStreamDuration::default();
    let stream = own.unwrap_or(&nothing);
    let at = path.field("max_stream_duration");
    let optional = |value: &Option<_>, path: &FieldPath<'_>, name: &str| {
        time::optional(value.as_ref(), &path.field(name))
    };
    Ok(StreamLimits {
        bounds_stream: own.is_some(),
        max_stream_ms: optional(&stream.max_stream_duration, &at, "max_stream_duration")?,
        max_grpc_stream_ms: optional(
            &stream.grpc_timeout_header_max,
            &at,
            "grpc_timeout_header_max",
        )?,
        grpc_stream_offset_ms: optional(
            &stream.grpc_timeout_header_offset,
            &at,
            "grpc_timeout_header_offset",
        )?
        .unwrap_or(0),
        max_grpc_ms: optional(&message.max_grpc_timeout, path, "max_grpc_timeout")?,
        grpc_offset_ms: optional(&message.grpc_timeout_offset, path, "grpc_timeout_offset")?
            .unwrap_or(0),
    })
}
