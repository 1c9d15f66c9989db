//! What a request may ask of the router by `x-envoy-*` headers, and what the router tells the
//! upstream.
//!
//! Only requests from inside still have such headers when they come here; see
//! [`request_rules`](super::request_rules).

use moorgate_codecs::Head;

use crate::grpc;
use crate::proxy::config::Rules;
use crate::route::{Forward, RetryPolicy, StreamLimits};
use crate::text::{parse_decimal, push_decimal};

const EXPECTED: &[u8] = b"x-envoy-expected-rq-timeout-ms";
const TIMEOUT: &[u8] = b"x-envoy-upstream-rq-timeout-ms";
const PER_TRY: &[u8] = b"x-envoy-upstream-rq-per-try-timeout-ms";
const ALT_RESPONSE: &[u8] = b"x-envoy-upstream-rq-timeout-alt-response";
const STREAM_DURATION: &[u8] = b"x-envoy-upstream-stream-duration-ms";

/// Timeouts of one request, in ms; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all tries together.
    pub global_ms: u64,
    /// The same for one try; always below the global one.
    pub per_try_ms: u64,
    /// Nothing comes from a try for so long.
    pub per_try_idle_ms: u64,
    /// The whole life of the upstream's stream.
    pub max_stream_ms: u64,
    /// The whole life of the client's stream.
    pub stream_ms: u64,
    /// The request wants 204 without body where it would get 504.
    pub alt_response: bool,
}

impl Timeouts {
    /// From the route, its retry policy and the request's headers. `envoy_headers`: the request has
    /// any ([`Prepared::envoy_headers`](super::request_rules::Prepared::envoy_headers)). `http_ms`: the
    /// connection manager's longest life of a stream, 0 is none.
    #[must_use]
    pub fn of(
        head: &Head,
        rules: &Rules,
        forward: &Forward,
        policy: Option<&RetryPolicy>,
        envoy_headers: bool,
        http_ms: u64,
    ) -> Self {
        let limits = &forward.limits;
        let global_ms = match limits.max_grpc_ms {
            // Who bounds the stream bounds its response with it.
            _ if limits.bounds_stream => 0,
            Some(most) if grpc::is_grpc(head) => {
                let asked = grpc::timeout_ms(head).unwrap_or(0);
                capped(less(asked, limits.grpc_offset_ms), most)
            }
            _ => forward.timeout_ms,
        };
        let mut timeouts = Self {
            global_ms,
            stream_ms: stream_ms(head, forward, http_ms),
            per_try_ms: policy.map_or(0, |policy| policy.per_try_timeout_ms),
            per_try_idle_ms: policy.map_or(0, |policy| policy.per_try_idle_timeout_ms),
            ..Self::default()
        };
        if envoy_headers {
            let number = |name| head.get(name).and_then(parse_decimal);
            let name = if rules.respect_expected_rq_timeout && head.get(EXPECTED).is_some() {
                EXPECTED
            } else {
                TIMEOUT
            };
            if let Some(given) = number(name) {
                timeouts.global_ms = given;
            }
            if let Some(given) = number(PER_TRY) {
                timeouts.per_try_ms = given;
            }
            timeouts.max_stream_ms = number(STREAM_DURATION).unwrap_or(0);
            timeouts.alt_response = head.get(ALT_RESPONSE).is_some();
        }
        // A try that may take as long as all of them needs no limit of its own.
        if timeouts.global_ms != 0 && timeouts.per_try_ms >= timeouts.global_ms {
            timeouts.per_try_ms = 0;
        }
        timeouts
    }

    /// What the upstream is told in `x-envoy-expected-rq-timeout-ms` when `elapsed_ms` of the global
    /// timeout are over; `None` when there is no limit.
    #[must_use]
    pub fn expected_ms(&self, elapsed_ms: u64) -> Option<u64> {
        let wanted = if self.per_try_ms == 0 {
            self.global_ms
        } else {
            self.per_try_ms
        };
        if wanted == 0 {
            return None;
        }
        if self.global_ms == 0 {
            return Some(wanted);
        }
        // 0 would mean no limit to the upstream.
        Some(wanted.min(self.global_ms.saturating_sub(elapsed_ms)).max(1))
    }
}

/// How long the client's stream may live: what the route says, for gRPC within what the request asks,
/// else what the connection manager says. 0 is for ever.
fn stream_ms(head: &Head, forward: &Forward, http_ms: u64) -> u64 {
    let limits = &forward.limits;
    if let Some(most) = limits.max_grpc_stream_ms
        && let Some(asked) = grpc::timeout_ms(head)
    {
        let limit = less(capped(asked, most), limits.grpc_stream_offset_ms);
        // A client that gives no time at all gets none.
        return limit.max(1);
    }
    limits.max_stream_ms.unwrap_or(http_ms)
}

/// Tells a gRPC upstream how long the stream may live, if the route has a say in it.
pub fn set_stream_limit(
    head: &mut Head,
    limits: &StreamLimits,
    timeouts: &Timeouts,
    buffer: &mut Vec<u8>,
) {
    if limits.bounds_stream
        && timeouts.stream_ms > 0
        && grpc::is_grpc(head)
        // Who asks for nothing is not told otherwise.
        && grpc::timeout_ms(head) != Some(0)
    {
        buffer.clear();
        grpc::push_timeout(buffer, timeouts.stream_ms);
        head.set(b"grpc-timeout", buffer);
    }
}

/// A time that may be unlimited (0), at most another that may be so.
fn capped(ms: u64, most: u64) -> u64 {
    match (ms, most) {
        (ms, 0) => ms,
        (0, most) => most,
        (ms, most) => ms.min(most),
    }
}

/// A time less an offset, unless nothing would be left.
fn less(ms: u64, offset: u64) -> u64 {
    if offset < ms { ms - offset } else { ms }
}

/// Tells the upstream how long its answer may take, before each try. `buffer` is overwritten.
pub fn set_expected_timeout(
    head: &mut Head,
    rules: &Rules,
    timeouts: &Timeouts,
    limits: Option<&StreamLimits>,
    elapsed_ms: u64,
    buffer: &mut Vec<u8>,
) {
    let Some(expected) = timeouts.expected_ms(elapsed_ms) else {
        return;
    };
    if !rules.suppress_envoy_headers {
        buffer.clear();
        push_decimal(buffer, expected);
        head.set(EXPECTED, buffer);
    }
    if let Some(limits) = limits
        && limits.max_grpc_ms.is_some()
        && !limits.bounds_stream
        && grpc::is_grpc(head)
    {
        buffer.clear();
        grpc::push_timeout(buffer, expected);
        head.set(b"grpc-timeout", buffer);
    }
}

/// Takes away the headers that only this router was asked by, once
/// [`Timeouts::of`] and [`RetryState::new`](super::retry::RetryState::new) have read them.
pub fn strip_controls(head: &mut Head, rules: &Rules) {
    let keep_timeout = rules.respect_expected_rq_timeout && head.get(EXPECTED).is_some();
    head.retain(|name, _| match name.strip_prefix(b"x-envoy-") {
        Some(
            b"upstream-rq-per-try-timeout-ms"
            | b"upstream-rq-timeout-alt-response"
            | b"upstream-stream-duration-ms"
            | b"upstream-alt-stat-name"
            | b"hedge-on-per-try-timeout"
            | b"retry-on"
            | b"retry-grpc-on"
            | b"max-retries"
            | b"retriable-status-codes"
            | b"retriable-header-names",
        ) => false,
        Some(b"upstream-rq-timeout-ms") => keep_timeout,
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterId;
    use crate::route::{ClusterName, PathRewrite, StreamLimits, Target};

    fn forward(timeout_ms: u64) -> Forward {
        Forward {
            target: Target::Cluster(ClusterName {
                id: ClusterId(1),
                name: "c".into(),
            }),
            cluster_not_found_status: 503,
            path_rewrite: PathRewrite::None,
            host_rewrite: None,
            auto_host_rewrite: false,
            append_x_forwarded_host: false,
            timeout_ms,
            idle_timeout_ms: None,
            retry: None,
            high_priority: false,
            upgrades: Vec::new(),
            terminate_connect: false,
            limits: StreamLimits::default(),
        }
    }

    fn of(fields: &[(&[u8], &str)], rules: &Rules, per_try_timeout_ms: u64) -> (Timeouts, Head) {
        let mut head = Head::new();
        for (name, value) in fields {
            head.push(name, value.as_bytes());
        }
        let policy = RetryPolicy {
            per_try_timeout_ms,
            ..RetryPolicy::default()
        };
        let timeouts = Timeouts::of(&head, rules, &forward(15_000), Some(&policy), true, 0);
        strip_controls(&mut head, rules);
        set_expected_timeout(&mut head, rules, &timeouts, None, 8, &mut Vec::new());
        (timeouts, head)
    }

    #[test]
    fn timeouts() {
        let rules = Rules::default();
        // (headers, per try of the policy, global, per try, told)
        type Case<'a> = (&'a [(&'a [u8], &'a str)], u64, u64, u64, &'a str);
        let cases: &[Case<'_>] = &[
            (&[], 0, 15_000, 0, "14992"),
            (&[], 30, 15_000, 30, "30"),
            (&[], 15_000, 15_000, 0, "14992"),
            (&[(TIMEOUT, "500")], 0, 500, 0, "492"),
            (&[(TIMEOUT, "500"), (PER_TRY, "30")], 0, 500, 30, "30"),
            (&[(TIMEOUT, "500"), (PER_TRY, "600")], 0, 500, 0, "492"),
            (&[(TIMEOUT, "abc"), (PER_TRY, "x")], 40, 15_000, 40, "40"),
            (&[(TIMEOUT, "5")], 0, 5, 0, "1"),
            (&[(TIMEOUT, "0"), (PER_TRY, "7")], 0, 0, 7, "7"),
            (&[(EXPECTED, "77")], 0, 15_000, 0, "14992"),
        ];
        for case in cases {
            let (fields, policy, global, per_try, told) = *case;
            let (timeouts, head) = of(fields, &rules, policy);
            assert_eq!(timeouts.global_ms, global, "{case:?}");
            assert_eq!(timeouts.per_try_ms, per_try, "{case:?}");
            assert_eq!(head.get(EXPECTED), Some(told.as_bytes()), "{case:?}");
            assert!(head.get(TIMEOUT).is_none() && head.get(PER_TRY).is_none());
        }
        let (timeouts, head) = of(&[(TIMEOUT, "0")], &rules, 0);
        assert_eq!(timeouts.expected_ms(100), None);
        assert!(head.is_empty());
    }

    #[test]
    fn expected_timeout_of_the_proxy_before_us() {
        let rules = Rules {
            respect_expected_rq_timeout: true,
            ..Rules::default()
        };
        let (timeouts, head) = of(&[(EXPECTED, "777"), (TIMEOUT, "50")], &rules, 0);
        assert_eq!(timeouts.global_ms, 777);
        assert_eq!(head.get(EXPECTED), Some(&b"769"[..]));
        assert_eq!(head.get(TIMEOUT), Some(&b"50"[..]));
        let (timeouts, head) = of(&[(TIMEOUT, "50")], &rules, 0);
        assert_eq!(timeouts.global_ms, 50);
        assert_eq!(head.get(TIMEOUT), None);
    }

    #[test]
    fn further_controls() {
        let fields: &[(&[u8], &str)] = &[
            (STREAM_DURATION, "9"),
            (ALT_RESPONSE, "1"),
            (b"x-envoy-retry-on", "5xx"),
            (b"x-envoy-ip-tags", "a"),
        ];
        let quiet = Rules {
            suppress_envoy_headers: true,
            ..Rules::default()
        };
        let (timeouts, head) = of(fields, &quiet, 0);
        assert_eq!(timeouts.max_stream_ms, 9);
        assert!(timeouts.alt_response);
        assert_eq!(head.len(), 1);
        assert!(head.get(b"x-envoy-ip-tags").is_some());
    }

    fn limited(limits: StreamLimits, fields: &[(&[u8], &str)]) -> (Timeouts, Head) {
        let mut head = Head::new();
        for (name, value) in fields {
            head.push(name, value.as_bytes());
        }
        let forward = Forward {
            limits,
            ..forward(15_000)
        };
        let timeouts = Timeouts::of(&head, &Rules::default(), &forward, None, false, 70_000);
        let rules = Rules::default();
        set_expected_timeout(
            &mut head,
            &rules,
            &timeouts,
            Some(&limits),
            0,
            &mut Vec::new(),
        );
        (timeouts, head)
    }

    #[test]
    fn life_of_a_stream() {
        let bounds = StreamLimits {
            bounds_stream: true,
            ..StreamLimits::default()
        };
        let own = |ms| StreamLimits {
            max_stream_ms: Some(ms),
            ..bounds
        };
        let grpc = |most, offset| StreamLimits {
            max_grpc_stream_ms: Some(most),
            grpc_stream_offset_ms: offset,
            ..own(9000)
        };
        for (limits, asked, stream_ms, global_ms) in [
            (StreamLimits::default(), None, 70_000, 15_000),
            (bounds, None, 70_000, 0),
            (own(5000), None, 5000, 0),
            (own(0), None, 0, 0),
            // The header says nothing unless the route listens to it.
            (own(5000), Some("1S"), 5000, 0),
            (grpc(0, 0), None, 9000, 0),
            (grpc(0, 0), Some("bad"), 9000, 0),
            (grpc(0, 0), Some("20S"), 20_000, 0),
            (grpc(3000, 0), Some("20S"), 3000, 0),
            (grpc(3000, 0), Some("2S"), 2000, 0),
            (grpc(3000, 500), Some("2S"), 1500, 0),
            (grpc(3000, 500), Some("400m"), 400, 0),
            (grpc(3000, 0), Some("0m"), 3000, 0),
            (grpc(0, 0), Some("0m"), 1, 0),
        ] {
            let field = asked.map(|asked| (&b"grpc-timeout"[..], asked));
            let (timeouts, head) = limited(limits, field.as_slice());
            assert_eq!(
                (timeouts.stream_ms, timeouts.global_ms),
                (stream_ms, global_ms),
                "{limits:?} {asked:?}"
            );
            assert_eq!(head.get(b"grpc-timeout"), asked.map(str::as_bytes));
            // What a gRPC upstream is told.
            let mut fields = vec![(&b"content-type"[..], "application/grpc")];
            fields.extend(field);
            let (timeouts, mut head) = limited(limits, &fields);
            set_stream_limit(&mut head, &limits, &timeouts, &mut Vec::new());
            let told = match asked {
                Some("0m") => Some("0m".to_owned()),
                _ if !limits.bounds_stream || stream_ms == 0 => asked.map(str::to_owned),
                _ => Some(format!("{stream_ms}m")),
            };
            assert_eq!(
                head.get(b"grpc-timeout"),
                told.as_deref().map(str::as_bytes)
            );
        }
    }

    #[test]
    fn older_timeout_of_grpc() {
        let limits = |most, offset| StreamLimits {
            max_grpc_ms: Some(most),
            grpc_offset_ms: offset,
            ..StreamLimits::default()
        };
        let grpc = (&b"content-type"[..], "application/grpc");
        for (limits, asked, global_ms, told) in [
            (limits(0, 0), Some("2S"), 2000, Some("2000m")),
            (limits(0, 0), None, 0, None),
            (limits(1000, 0), None, 1000, Some("1000m")),
            (limits(1000, 0), Some("2S"), 1000, Some("1000m")),
            (limits(1000, 0), Some("100m"), 100, Some("100m")),
            (limits(1000, 40), Some("100m"), 60, Some("60m")),
            (limits(1000, 400), Some("100m"), 100, Some("100m")),
        ] {
            let mut fields = vec![grpc];
            fields.extend(asked.map(|asked| (&b"grpc-timeout"[..], asked)));
            let (timeouts, head) = limited(limits, &fields);
            assert_eq!(
                (timeouts.global_ms, timeouts.stream_ms),
                (global_ms, 70_000)
            );
            assert_eq!(
                head.get(b"grpc-timeout"),
                told.map(str::as_bytes),
                "{asked:?}"
            );
        }
        // Not for others.
        let (timeouts, head) = limited(limits(1000, 0), &[(b"grpc-timeout", "2S")]);
        assert_eq!(
            (timeouts.global_ms, head.get(b"grpc-timeout")),
            (15_000, Some(&b"2S"[..]))
        );
    }
}
