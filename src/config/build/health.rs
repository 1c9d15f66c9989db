//! Active health checks.

use std::ops::Range;

use moorgate_protos::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use moorgate_protos::envoy::config::core::v3::health_check::payload::Payload as Content;
use moorgate_protos::envoy::config::core::v3::health_check::{
    HealthChecker, HttpHealthCheck, Payload,
};
use moorgate_protos::envoy::config::core::v3::{
    HeaderValueOption, HealthCheck as Message, RequestMethod,
};
use moorgate_protos::envoy::r#type::v3::Int64Range;

use super::{Outcome, headers, present, time};
use crate::cluster::{HealthCheck, HealthCheckKind};
use crate::config::FieldPath;

/// The checks of a cluster, of which there is at most one.
pub(super) fn checks(list: &[Message], path: &FieldPath<'_>) -> Outcome<Vec<HealthCheck>> {
    if list.len() > 1 {
        return Err(path.index(1).error("a cluster has one health check"));
    }
    let list = list.iter().enumerate();
    list.map(|(index, message)| check(message, &path.index(index)))
        .collect()
}

fn check(message: &Message, path: &FieldPath<'_>) -> Outcome<HealthCheck> {
    let defaults = HealthCheck::default();
    let threshold =
        |value: Option<u32>, name: &str| present(value.as_ref(), &path.field(name)).copied();
    let interval = |value, name: &str| match time::optional(value, &path.field(name))? {
        Some(0) => Err(path.field(name).error("has to be greater than 0 s")),
        value => Ok(value.unwrap_or(0)),
    };
    Ok(HealthCheck {
        timeout_ms: time::required(message.timeout.as_ref(), &path.field("timeout"))?,
        interval_ms: time::required(message.interval.as_ref(), &path.field("interval"))?,
        initial_jitter_ms: time::or(
            message.initial_jitter.as_ref(),
            0,
            &path.field("initial_jitter"),
        )?,
        interval_jitter_ms: time::or(
            message.interval_jitter.as_ref(),
            0,
            &path.field("interval_jitter"),
        )?,
        interval_jitter_percent: message.interval_jitter_percent,
        unhealthy_threshold: threshold(message.unhealthy_threshold, "unhealthy_threshold")?,
        healthy_threshold: threshold(message.healthy_threshold, "healthy_threshold")?,
        no_traffic_interval_ms: time::positive_or(
            message.no_traffic_interval.as_ref(),
            defaults.no_traffic_interval_ms,
            &path.field("no_traffic_interval"),
        )?,
        no_traffic_healthy_interval_ms: interval(
            message.no_traffic_healthy_interval.as_ref(),
            "no_traffic_healthy_interval",
        )?,
        unhealthy_interval_ms: interval(message.unhealthy_interval.as_ref(), "unhealthy_interval")?,
        unhealthy_edge_interval_ms: interval(
            message.unhealthy_edge_interval.as_ref(),
            "unhealthy_edge_interval",
        )?,
        healthy_edge_interval_ms: interval(
            message.healthy_edge_interval.as_ref(),
            "healthy_edge_interval",
        )?,
        reuse_connection: message.reuse_connection.unwrap_or(true),
        alpn: message
            .tls_options
            .iter()
            .flat_map(|options| &options.alpn_protocols)
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect(),
        kind: kind(message, path)?,
    })
}

fn kind(message: &Message, path: &FieldPath<'_>) -> Outcome<HealthCheckKind> {
    match &message.health_checker {
        Some(HealthChecker::TcpHealthCheck(check)) => {
            let path = path.field("tcp_health_check");
            Ok(HealthCheckKind::Tcp {
                send: match &check.send {
                    Some(send) => payload(send, &path.field("send"))?,
                    None => Vec::new(),
                },
                receive: payloads(&check.receive, &path.field("receive"))?,
            })
        }
        Some(HealthChecker::HttpHealthCheck(check)) => {
            http(check, &path.field("http_health_check"))
        }
        _ => Err(path.error("has to have an http_health_check or a tcp_health_check")),
    }
}

fn http(check: &HttpHealthCheck, path: &FieldPath<'_>) -> Outcome<HealthCheckKind> {
    let at = path.field("path");
    if !super::required(&check.path, &at)?.starts_with('/') {
        return Err(at.error("has to start with a slash"));
    }
    headers::check_text(&check.path, &at)?;
    headers::check_text(&check.host, &path.field("host"))?;
    Ok(HealthCheckKind::Http {
        host: check.host.clone(),
        path: check.path.clone(),
        method: method(check.method, &path.field("method"))?.to_owned(),
        expected: statuses(&check.expected_statuses, &path.field("expected_statuses"))?,
        retriable: statuses(&check.retriable_statuses, &path.field("retriable_statuses"))?,
        headers: fields(
            &check.request_headers_to_add,
            &path.field("request_headers_to_add"),
        )?,
        receive: payloads(&check.receive, &path.field("receive"))?,
    })
}

fn method(method: i32, path: &FieldPath<'_>) -> Outcome<&'static str> {
    Ok(match RequestMethod::try_from(method) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => "GET",
        Ok(RequestMethod::Head) => "HEAD",
        Ok(RequestMethod::Post) => "POST",
        Ok(RequestMethod::Put) => "PUT",
        Ok(RequestMethod::Delete) => "DELETE",
        Ok(RequestMethod::Options) => "OPTIONS",
        Ok(RequestMethod::Trace) => "TRACE",
        Ok(RequestMethod::Patch) => "PATCH",
        Ok(RequestMethod::Connect) | Err(_) => {
            return Err(path.error("cannot be used for a health check"));
        }
    })
}

fn statuses(ranges: &[Int64Range], path: &FieldPath<'_>) -> Outcome<Vec<Range<u16>>> {
    let ranges = ranges.iter().enumerate();
    let ranges =
        ranges.map(
            |(index, range)| match (u16::try_from(range.start), u16::try_from(range.end)) {
                (Ok(start), Ok(end)) if start >= 100 && start < end && end <= 600 => Ok(start..end),
                _ => Err(path
                    .index(index)
                    .error("has to be a range of statuses: 100 <= start < end <= 600")),
            },
        );
    ranges.collect()
}

/// Fields of the request of a check: they cannot refer to a request that they were made for.
fn fields(options: &[HeaderValueOption], path: &FieldPath<'_>) -> Outcome<Vec<(String, String)>> {
    // Checked as those of routes are.
    headers::build(options, &[], path, path)?;
    let options = options.iter().enumerate();
    let options = options.map(|(index, option)| {
        let path = path.index(index);
        if headers::action(option, &path)? != HeaderAppendAction::AppendIfExistsOrAdd {
            return Err(path
                .field("append_action")
                .error("fields of a health check are only added"));
        }
        let header = present(option.header.as_ref(), &path.field("header"))?;
        let path = path.field("header");
        let value = headers::value(header, &path)?;
        let literal = value.replace("%%", "");
        if literal.contains('%') {
            return Err(path
                .field("value")
                .error("operators cannot be used in a health check"));
        }
        Ok((header.key.to_ascii_lowercase(), value.replace("%%", "%")))
    });
    options.collect()
}

fn payloads(list: &[Payload], path: &FieldPath<'_>) -> Outcome<Vec<Vec<u8>>> {
    let list = list.iter().enumerate();
    list.map(|(index, message)| payload(message, &path.index(index)))
        .collect()
}

/// The bytes of a payload, whose text is hexadecimal.
fn payload(message: &Payload, path: &FieldPath<'_>) -> Outcome<Vec<u8>> {
    match &message.payload {
        Some(Content::Text(text)) => {
            let path = path.field("text");
            hex(super::required(text, &path)?)
                .ok_or_else(|| path.error("is not an even number of hexadecimal digits"))
        }
        Some(Content::Binary(bytes)) => Ok(bytes.to_vec()),
        None => Err(path.error("has to have a text or a binary")),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let (pairs, []) = digits.as_deref()?.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_text_is_hexadecimal() {
        assert_eq!(hex("00fF10"), Some(vec![0, 255, 16]));
        assert_eq!(hex("0"), None);
        assert_eq!(hex("zz"), None);
    }
}
