//! Whether a try that failed is tried again, and when.
//!
//! Decides on policy, request headers and outcome alone. Circuit breakers, timers and the choice of
//! a host belong to the caller; so does the rule that nothing is retried once a byte of a response
//! went to the client or the request is no longer at hand.

use std::sync::Arc;

use moorgate_codecs::Head;

use super::local_reply::UpstreamFailure;
use crate::route::{RetryOn, RetryPolicy};
use crate::text::{list, parse_decimal};

/// How a try ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// A response head came.
    Response(&'a Head),
    /// No response came. `sent`: some of the request had been sent. A per-try timeout is
    /// [`UpstreamFailure::LocalReset`].
    Failed {
        failure: UpstreamFailure,
        sent: bool,
    },
}

/// What follows from an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The outcome goes to the client.
    No,
    /// Try again after so many ms. A retry that the circuit breaker then refuses is used up too.
    Retry { backoff_ms: u64 },
    /// It would have been tried again, but retries are used up (flag `URX`).
    LimitExceeded,
}

/// Retries of one request.
#[derive(Clone, Debug)]
pub struct RetryState {
    policy: Option<Arc<RetryPolicy>>,
    on: RetryOn,
    remaining: u32,
    next_interval_ms: u64,
    max_interval_ms: u64,
    /// What only the request asked for, which few do.
    asked: Option<Box<Asked>>,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    statuses: Vec<u16>,
    header_names: Vec<Vec<u8>>,
}

impl RetryState {
    /// From the route's policy and the request's headers; `None` when nothing is ever retried.
    /// `envoy_headers`: the request has `x-envoy-*` fields.
    #[must_use]
    pub fn new(
        policy: Option<&Arc<RetryPolicy>>,
        head: &Head,
        envoy_headers: bool,
    ) -> Option<Box<Self>> {
        let mut on = policy.map(|policy| policy.on).unwrap_or_default();
        if envoy_headers {
            for name in [&b"x-envoy-retry-on"[..], b"x-envoy-retry-grpc-on"] {
                if let Some(value) = head.get(name) {
                    on.0 |= RetryOn::parse(value).0.0;
                }
            }
        }
        if let Some(policy) = policy
            && !policy.request_headers.is_empty()
            && !policy.request_headers.iter().any(|one| one.matches(head))
        {
            return None;
        }
        if on == RetryOn::default() {
            return None;
        }
        let default = RetryPolicy::default();
        let values = policy.map_or(&default, |policy| policy);
        let base = values.base_interval_ms.max(1);
        let mut state = Self {
            on,
            remaining: values.max_retries,
            next_interval_ms: base,
            max_interval_ms: values.max_interval_ms.max(base),
            policy: policy.map(Arc::clone),
            asked: None,
        };
        if envoy_headers {
            state.ask(head);
        }
        Some(Box::new(state))
    }

    fn ask(&mut self, head: &Head) {
        if let Some(given) = head.get(b"x-envoy-max-retries").and_then(parse_decimal) {
            self.remaining = u32::try_from(given).unwrap_or(u32::MAX);
        }
        let mut asked = Asked::default();
        if let Some(value) = head.get(b"x-envoy-retriable-status-codes") {
            let statuses = list(value).filter_map(parse_decimal);
            asked.statuses = statuses
                .filter_map(|status| u16::try_from(status).ok())
                .collect();
        }
        if let Some(value) = head.get(b"x-envoy-retriable-header-names") {
            asked.header_names = list(value).map(<[u8]>::to_ascii_lowercase).collect();
        }
        if !asked.statuses.is_empty() || !asked.header_names.is_empty() {
            self.asked = Some(Box::new(asked));
        }
    }

    /// How often another host is asked for when one comes up that was tried (the previous_hosts
    /// predicate); 0 when it does not matter.
    #[must_use]
    pub fn host_attempts(&self) -> u32 {
        self.policy
            .as_ref()
            .map_or(0, |policy| policy.avoid_previous_hosts)
    }

    /// Decides on an outcome. `random` spreads the back-off, which is fully jittered: anywhere
    /// below an interval that doubles with each retry up to its ceiling.
    pub fn decide(&mut self, outcome: Outcome<'_>, random: u64) -> Decision {
        let retriable = match outcome {
            Outcome::Response(head) => self.response_is_retriable(head),
            Outcome::Failed { failure, sent } => self.failure_is_retriable(failure, sent),
        };
        if !retriable {
            return Decision::No;
        }
        if self.remaining == 0 {
            return Decision::LimitExceeded;
        }
        self.remaining -= 1;
        let backoff_ms = random % self.next_interval_ms;
        self.next_interval_ms = self
            .next_interval_ms
            .saturating_mul(2)
            .min(self.max_interval_ms);
        Decision::Retry { backoff_ms }
    }

    fn response_is_retriable(&self, head: &Head) -> bool {
        let on = self.on;
        if head.get(b"x-envoy-ratelimited").is_some() {
            return on.has(RetryOn::ENVOY_RATELIMITED);
        }
        let status = head.status;
        let asked = self.asked.as_deref();
        let policy = self.policy.as_deref();
        let by_status = match status {
            502..=504 => on.has(RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR),
            500..=599 => on.has(RetryOn::SERVER_ERROR),
            409 => on.has(RetryOn::RETRIABLE_4XX),
            _ => false,
        };
        let by_list = || {
            on.has(RetryOn::STATUS_CODES)
                && (policy.is_some_and(|policy| policy.statuses.contains(&status))
                    || asked.is_some_and(|asked| asked.statuses.contains(&status)))
        };
        let by_header = || {
            on.has(RetryOn::HEADERS)
                && (policy.is_some_and(|policy| {
                    policy.response_headers.iter().any(|one| one.matches(head))
                }) || asked.is_some_and(|asked| {
                    let mut names = asked.header_names.iter();
                    names.any(|name| head.get(name).is_some())
                }))
        };
        by_status || by_list() || by_header() || self.grpc_status_is_retriable(head)
    }

    fn grpc_status_is_retriable(&self, head: &Head) -> bool {
        const GRPC: u16 = RetryOn::GRPC_CANCELLED
            | RetryOn::GRPC_DEADLINE_EXCEEDED
            | RetryOn::GRPC_RESOURCE_EXHAUSTED
            | RetryOn::GRPC_INTERNAL
            | RetryOn::GRPC_UNAVAILABLE;
        if !self.on.has(GRPC) {
            return false;
        }
        match head.get(b"grpc-status") {
            Some(b"1") => self.on.has(RetryOn::GRPC_CANCELLED),
            Some(b"4") => self.on.has(RetryOn::GRPC_DEADLINE_EXCEEDED),
            Some(b"8") => self.on.has(RetryOn::GRPC_RESOURCE_EXHAUSTED),
            Some(b"13") => self.on.has(RetryOn::GRPC_INTERNAL),
            Some(b"14") => self.on.has(RetryOn::GRPC_UNAVAILABLE),
            _ => false,
        }
    }

    fn failure_is_retriable(&self, failure: UpstreamFailure, sent: bool) -> bool {
        let on = self.on;
        // More load is no cure for too much of it.
        if failure == UpstreamFailure::Overflow {
            return false;
        }
        let connecting = matches!(
            failure,
            UpstreamFailure::Connect
                | UpstreamFailure::ConnectTimeout
                | UpstreamFailure::LocalConnect
        );
        on.has(RetryOn::RESET | RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR)
            || (connecting && on.has(RetryOn::CONNECT_FAILURE))
            || (!sent && on.has(RetryOn::RESET_BEFORE_REQUEST))
            || (failure == UpstreamFailure::Refused && on.has(RetryOn::REFUSED_STREAM))
    }
}

/// The request may be sent again without asking anybody when a reused connection turns out to be
/// dead: its method is idempotent (RFC 9110 section 9.2.2), so that an upstream that did see it does
/// nothing twice.
#[must_use]
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::HeaderMatch;
    use crate::route::matcher::ValueMatch;

    fn policy(on: &str) -> Arc<RetryPolicy> {
        let (on, valid) = RetryOn::parse(on.as_bytes());
        assert!(valid);
        Arc::new(RetryPolicy {
            on,
            ..RetryPolicy::default()
        })
    }

    fn state(policy: RetryPolicy, fields: &[(&str, &str)]) -> Option<Box<RetryState>> {
        RetryState::new(Some(&Arc::new(policy)), &head(0, fields), true)
    }

    fn head(status: u16, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::new();
        head.status = status;
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn retried(policy: &Arc<RetryPolicy>, outcome: Outcome<'_>) -> bool {
        let mut state = RetryState::new(Some(policy), &Head::new(), false).unwrap();
        state.decide(outcome, 0) != Decision::No
    }

    #[test]
    fn responses() {
        for (on, status, expected) in [
            ("5xx", 500, true),
            ("5xx", 503, true),
            ("5xx", 599, true),
            ("5xx", 404, false),
            ("gateway-error", 500, false),
            ("gateway-error", 502, true),
            ("gateway-error", 504, true),
            ("gateway-error", 505, false),
            ("retriable-4xx", 409, true),
            ("retriable-4xx", 404, false),
            ("reset", 503, false),
            ("connect-failure", 503, false),
            ("retriable-status-codes", 503, false),
            ("connect-failure, 5xx", 503, true),
        ] {
            let outcome = head(status, &[]);
            assert_eq!(
                retried(&policy(on), Outcome::Response(&outcome)),
                expected,
                "{on} {status}"
            );
        }
    }

    #[test]
    fn failures() {
        use UpstreamFailure::*;
        for (on, failure, sent, expected) in [
            ("5xx", Terminated, true, true),
            ("5xx", Overflow, false, false),
            ("gateway-error", Connect, false, true),
            ("reset", RemoteReset, true, true),
            ("reset", LocalReset, true, true),
            ("connect-failure", Connect, false, true),
            ("connect-failure", ConnectTimeout, false, true),
            ("connect-failure", LocalConnect, false, true),
            ("connect-failure", Terminated, true, false),
            ("refused-stream", Refused, true, true),
            ("refused-stream", RemoteReset, true, false),
            ("reset-before-request", Terminated, false, true),
            ("reset-before-request", Terminated, true, false),
            ("retriable-4xx", Terminated, true, false),
        ] {
            assert_eq!(
                retried(&policy(on), Outcome::Failed { failure, sent }),
                expected,
                "{on} {failure:?}"
            );
        }
    }

    #[test]
    fn listed_statuses_and_headers() {
        let by_config = RetryPolicy {
            on: RetryOn(RetryOn::STATUS_CODES | RetryOn::HEADERS),
            statuses: vec![429],
            response_headers: vec![
                HeaderMatch::new("x-retry", ValueMatch::Present(true), false, false).unwrap(),
            ],
            max_retries: 9,
            ..RetryPolicy::default()
        };
        let fields = &[
            ("x-envoy-retriable-status-codes", "418, x,404"),
            ("x-envoy-retriable-header-names", "X-Again,x-more"),
        ];
        let mut state = state(by_config, fields).unwrap();
        let mut goes = |status, fields: &[(&str, &str)]| {
            let outcome = head(status, fields);
            state.decide(Outcome::Response(&outcome), 0) != Decision::No
        };
        assert!(goes(429, &[]) && goes(418, &[]) && goes(404, &[]));
        assert!(goes(200, &[("x-retry", "")]) && goes(200, &[("x-again", "")]));
        assert!(!goes(200, &[]) && !goes(500, &[]));
    }

    #[test]
    fn grpc_statuses() {
        let policy = policy("cancelled,unavailable");
        let goes = |status| {
            let outcome = head(200, &[("grpc-status", status)]);
            retried(&policy, Outcome::Response(&outcome))
        };
        assert!(goes("1") && goes("14"));
        assert!(!goes("0") && !goes("4") && !goes("8") && !goes("13"));
    }

    #[test]
    fn rate_limited_responses() {
        let limited = head(503, &[("x-envoy-ratelimited", "true")]);
        assert!(!retried(&policy("5xx"), Outcome::Response(&limited)));
        let asked = policy("envoy-ratelimited");
        assert!(retried(&asked, Outcome::Response(&limited)));
    }

    #[test]
    fn request_headers() {
        assert!(RetryState::new(None, &Head::new(), true).is_none());
        let request = head(
            0,
            &[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "2")],
        );
        assert!(RetryState::new(None, &request, false).is_none());
        let mut state = RetryState::new(None, &request, true).unwrap();
        let error = head(500, &[]);
        let mut next = || state.decide(Outcome::Response(&error), 0);
        assert_eq!(next(), Decision::Retry { backoff_ms: 0 });
        assert_eq!(next(), Decision::Retry { backoff_ms: 0 });
        assert_eq!(next(), Decision::LimitExceeded);
        let grpc = head(0, &[("x-envoy-retry-grpc-on", "internal")]);
        assert!(RetryState::new(None, &grpc, true).is_some());
        let unknown = head(0, &[("x-envoy-retry-on", "sometimes")]);
        assert!(RetryState::new(None, &unknown, true).is_none());

        let only_marked = RetryPolicy {
            on: RetryOn(RetryOn::SERVER_ERROR),
            request_headers: vec![
                HeaderMatch::new("x-safe", ValueMatch::Present(true), false, false).unwrap(),
            ],
            ..RetryPolicy::default()
        };
        assert!(super::tests::state(only_marked.clone(), &[("x-safe", "")]).is_some());
        assert!(super::tests::state(only_marked, &[]).is_none());
    }

    #[test]
    fn back_off() {
        let mut state = state(
            RetryPolicy {
                on: RetryOn(RetryOn::RESET),
                max_retries: 6,
                ..RetryPolicy::default()
            },
            &[],
        )
        .unwrap();
        let outcome = Outcome::Failed {
            failure: UpstreamFailure::RemoteReset,
            sent: true,
        };
        // One below a multiple of every interval gives the longest wait of each.
        let random = 25 * 2 * 2 * 2 * 10 - 1;
        for longest in [24, 49, 99, 199, 249, 249] {
            let backoff_ms = longest;
            let random = if longest == 249 { 249 } else { random };
            assert_eq!(
                state.decide(outcome, random),
                Decision::Retry { backoff_ms }
            );
        }
        assert_eq!(state.decide(outcome, 0), Decision::LimitExceeded);
    }

    #[test]
    fn idempotent_methods() {
        assert!(is_idempotent(b"GET") && is_idempotent(b"DELETE"));
        assert!(!is_idempotent(b"POST") && !is_idempotent(b"PATCH") && !is_idempotent(b"get"));
    }
}
