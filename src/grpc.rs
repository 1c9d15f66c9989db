//! What gRPC says in HTTP heads: who speaks it, statuses, messages, timeouts.
//!
//! Pure functions over heads, shared by the proxy, its filters and the logs. Nothing here looks into
//! a message.

use moorgate_codecs::Head;

/// Content type of gRPC over HTTP/2, and the beginning of its variants.
pub const CONTENT_TYPE: &[u8] = b"application/grpc";

/// Status `DEADLINE_EXCEEDED`.
pub const DEADLINE_EXCEEDED: u8 = 4;

/// Status `UNAVAILABLE`.
pub const UNAVAILABLE: u8 = 14;

/// Names as Envoy's `CAMEL_STRING` and as the specification writes them, by status.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The head is of a gRPC message: its content type is `application/grpc`, alone or with a suffix.
/// gRPC-Web is another type.
#[must_use]
pub fn is_grpc(head: &Head) -> bool {
    let rest = head
        .get(b"content-type")
        .and_then(|value| value.strip_prefix(CONTENT_TYPE));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The gRPC status that a client is to make of an HTTP status (the specification's mapping, without
/// 429, as Envoy has it).
#[must_use]
pub fn status_of_http(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// The status that a head (or trailers) says, also one that gRPC gives no name: `None` when it says
/// none, `Some(None)` when it is no number.
#[must_use]
pub fn status(head: &Head) -> Option<Option<u64>> {
    let value = head.get(b"grpc-status").filter(|value| !value.is_empty())?;
    Some(crate::text::parse_decimal(value))
}

/// Name of a status: `(CamelCase, SNAKE_CASE)`.
#[must_use]
pub fn name(status: u64) -> Option<(&'static str, &'static str)> {
    NAMES.get(usize::try_from(status).ok()?).copied()
}

/// Appends a `grpc-message`: what is not printable, and `%` and `~`, percent-encoded.
pub fn push_message(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text {
        if (b' '..b'~').contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend([
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
}

/// `grpc-timeout` in milliseconds, rounded up; `None` when there is none or it is malformed.
#[must_use]
pub fn timeout_ms(head: &Head) -> Option<u64> {
    let (unit, digits) = head.get(b"grpc-timeout")?.split_last()?;
    // The specification has at most eight digits.
    let number = crate::text::parse_decimal(digits).filter(|_| digits.len() <= 8)?;
    Some(match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    })
}

/// Appends a `grpc-timeout`: milliseconds, or a coarser unit where eight digits are not enough.
pub fn push_timeout(out: &mut Vec<u8>, ms: u64) {
    const MOST: u64 = 99_999_999;
    let mut time = ms;
    let mut unit = b'm';
    for (next, factor) in [(b'S', 1000), (b'M', 60), (b'H', 60)] {
        if time <= MOST {
            break;
        }
        time /= factor;
        unit = next;
    }
    crate::text::push_decimal(out, time.min(MOST));
    out.push(unit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &[u8], value: &str) -> Head {
        let mut head = Head::new();
        head.push(name, value.as_bytes());
        head
    }

    #[test]
    fn who_speaks_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(&head(b"content-type", value)), expected, "{value}");
        }
        assert!(!is_grpc(&Head::new()));
    }

    #[test]
    fn statuses_and_their_names() {
        for (value, expected) in [
            ("0", Some(Some(0))),
            ("16", Some(Some(16))),
            ("17", Some(Some(17))),
            ("-1", Some(None)),
            ("x", Some(None)),
            ("", None),
        ] {
            assert_eq!(status(&head(b"grpc-status", value)), expected, "{value}");
        }
        assert_eq!(name(1), Some(("Canceled", "CANCELLED")));
        assert_eq!(name(16), Some(("Unauthenticated", "UNAUTHENTICATED")));
        assert_eq!(name(17), None);
        for (http, grpc) in [
            (200, 2),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (408, 2),
        ] {
            assert_eq!(status_of_http(http), grpc);
        }
        for http in [429, 502, 503, 504] {
            assert_eq!(status_of_http(http), 14);
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let mut out = Vec::new();
        push_message(&mut out, "a 50% of ~\u{e9}\n".as_bytes());
        assert_eq!(out, b"a 50%25 of %7E%C3%A9%0A");
    }

    #[test]
    fn timeouts_both_ways() {
        for (value, expected) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("4m", Some(4)),
            ("0m", Some(0)),
            ("1001u", Some(2)),
            ("1n", Some(1)),
            ("99999999H", Some(359_999_996_400_000)),
            ("100000000m", None),
            ("m", None),
            ("1", None),
            ("-1m", None),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(
                timeout_ms(&head(b"grpc-timeout", value)),
                expected,
                "{value}"
            );
        }
        for (ms, expected) in [
            (1, "1m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (u64::MAX, "99999999H"),
        ] {
            let mut out = Vec::new();
            push_timeout(&mut out, ms);
            assert_eq!(out, expected.as_bytes());
        }
    }
}
