//! What router and connection manager do to a response head before the client gets it.
//!
//! The order is the order of Envoy's output: the router's own field, then the route's operations
//! (see [`RouteTable::finalize_response`](crate::route::RouteTable::finalize_response)), the number of
//! tries, then what every response gets.

use moorgate_codecs::Head;

use super::client_address::join;
use crate::proxy::config::{Rules, ServerHeader};
use crate::text::{HTTP_DATE_LEN, push_decimal};

/// The router's field on an upstream's response: how long it took. `buffer` is overwritten.
pub fn from_upstream(head: &mut Head, rules: &Rules, service_time_ms: u64, buffer: &mut Vec<u8>) {
    if !rules.suppress_envoy_headers {
        buffer.clear();
        push_decimal(buffer, service_time_ms);
        head.set(b"x-envoy-upstream-service-time", buffer);
    }
}

/// Sets `x-envoy-attempt-count`, on requests or responses. `buffer` is overwritten.
pub fn set_attempt_count(head: &mut Head, attempts: u32, buffer: &mut Vec<u8>) {
    buffer.clear();
    push_decimal(buffer, u64::from(attempts));
    head.set(b"x-envoy-attempt-count", buffer);
}

/// The fields every response gets, from upstream or our own. `date` is kept by the caller for a
/// second; `request_id` is the request's, where [`wants_request_id`] says so. `buffer` is
/// overwritten.
pub fn finish(
    head: &mut Head,
    rules: &Rules,
    date: &[u8; HTTP_DATE_LEN],
    request_id: Option<&[u8]>,
    buffer: &mut Vec<u8>,
) {
    let (mut has_date, mut has_server, mut has_via) = (false, false, false);
    for (name, _) in head.fields() {
        match name {
            b"date" => has_date = true,
            b"server" => has_server = true,
            b"via" => has_via = true,
            _ => {}
        }
    }
    if !has_date {
        head.push(b"date", date);
    }
    let server = rules.server_name.as_bytes();
    match rules.server_header {
        ServerHeader::Overwrite if has_server => head.set(b"server", server),
        ServerHeader::Overwrite | ServerHeader::AppendIfAbsent if !has_server => {
            head.push(b"server", server);
        }
        _ => {}
    }
    if let Some(id) = request_id {
        head.set(b"x-request-id", id);
    }
    if !rules.via.is_empty() {
        join(head, b"via", b", ", has_via, buffer, |out| {
            out.extend_from_slice(rules.via.as_bytes());
        });
    }
}

/// The response carries the request's id: the request head (or its id) has to be kept.
/// `forced` is [`Prepared::wants_request_id`](super::request_rules::Prepared::wants_request_id).
#[must_use]
pub fn wants_request_id(rules: &Rules, forced: bool) -> bool {
    rules.always_set_request_id_in_response || forced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::http_date;

    fn text(head: &Head) -> String {
        head.fields()
            .map(|(name, value)| {
                let text = String::from_utf8_lossy;
                format!("{}={}", text(name), text(value))
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn finished(fields: &[(&str, &str)], rules: &Rules, request_id: Option<&[u8]>) -> String {
        let mut head = Head::new();
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        let date = http_date(0);
        finish(&mut head, rules, &date, request_id, &mut Vec::new());
        text(&head).replace("Thu, 01 Jan 1970 00:00:00 GMT", "NOW")
    }

    #[test]
    fn server_and_date() {
        let by = |server_header| Rules {
            server_header,
            server_name: "me".into(),
            ..Rules::default()
        };
        let theirs = [("server", "up"), ("date", "then")];
        for (transformation, with, without) in [
            (
                ServerHeader::Overwrite,
                "server=me date=then",
                "date=NOW server=me",
            ),
            (
                ServerHeader::AppendIfAbsent,
                "server=up date=then",
                "date=NOW server=me",
            ),
            (ServerHeader::PassThrough, "server=up date=then", "date=NOW"),
        ] {
            assert_eq!(finished(&theirs, &by(transformation), None), with);
            assert_eq!(finished(&[], &by(transformation), None), without);
        }
    }

    #[test]
    fn via_and_request_id() {
        let rules = Rules {
            via: "me".into(),
            server_header: ServerHeader::PassThrough,
            ..Rules::default()
        };
        assert_eq!(
            finished(&[("via", "up")], &rules, Some(b"7")),
            "via=up, me date=NOW x-request-id=7"
        );
        assert!(!wants_request_id(&rules, false));
        assert!(wants_request_id(&rules, true));
    }

    #[test]
    fn router_fields() {
        let mut head = Head::new();
        head.push(b"x-envoy-upstream-service-time", b"9");
        from_upstream(&mut head, &Rules::default(), 12, &mut Vec::new());
        set_attempt_count(&mut head, 2, &mut Vec::new());
        assert_eq!(
            text(&head),
            "x-envoy-upstream-service-time=12 x-envoy-attempt-count=2"
        );
        let quiet = Rules {
            suppress_envoy_headers: true,
            ..Rules::default()
        };
        let mut head = Head::new();
        from_upstream(&mut head, &quiet, 12, &mut Vec::new());
        assert!(head.is_empty());
    }
}
