//! Answers that the proxy gives by itself: status, body and details as Envoy words them.
//!
//! A reply is a plain value until [`LocalReply::to_reply`] makes bytes of it. What a client reads here
//! never contains anything it sent, but for the path it is redirected to.

use moorgate_codecs::Head;

use crate::filter::Reply;
use crate::grpc;
use crate::telemetry::flags;

/// Why an upstream gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// The connection could not be made.
    Connect,
    /// It was not made in time.
    ConnectTimeout,
    /// It could not be made because of something on our side.
    LocalConnect,
    /// It ended before the response began.
    Terminated,
    /// The upstream reset the stream.
    RemoteReset,
    /// The upstream refused the stream before working on it.
    Refused,
    /// We reset the stream.
    LocalReset,
    /// A circuit breaker was open.
    Overflow,
    /// What the upstream sent was not its protocol.
    Protocol,
}

impl UpstreamFailure {
    /// What the client reads as reset reason.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Connect => "remote connection failure",
            Self::ConnectTimeout => "connection timeout",
            Self::LocalConnect => "local connection failure",
            Self::Terminated => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::Refused => "remote refused stream reset",
            Self::LocalReset => "local reset",
            Self::Overflow => "overflow",
            Self::Protocol => "protocol error",
        }
    }

    /// Response flag (see [`flags`]).
    #[must_use]
    pub fn flags(self) -> u64 {
        match self {
            Self::Connect | Self::ConnectTimeout | Self::LocalConnect => {
                flags::UPSTREAM_CONNECT_FAILURE
            }
            Self::Terminated => flags::UPSTREAM_TERMINATION,
            Self::RemoteReset | Self::Refused => flags::UPSTREAM_RESET,
            Self::LocalReset => flags::LOCAL_RESET,
            Self::Overflow => flags::UPSTREAM_OVERFLOW,
            Self::Protocol => flags::UPSTREAM_PROTOCOL_ERROR,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`: before or after the response had begun.
    #[must_use]
    pub fn details(self, started: bool) -> &'static str {
        macro_rules! details {
            ($reason:literal) => {
                if started {
                    concat!("upstream_reset_after_response_started{", $reason, "}")
                } else {
                    concat!("upstream_reset_before_response_started{", $reason, "}")
                }
            };
        }
        match self {
            Self::Connect => details!("remote_connection_failure"),
            Self::ConnectTimeout => details!("connection_timeout"),
            Self::LocalConnect => details!("local_connection_failure"),
            Self::Terminated => details!("connection_termination"),
            Self::RemoteReset => details!("remote_reset"),
            Self::Refused => details!("remote_refused_stream_reset"),
            Self::LocalReset => details!("local_reset"),
            Self::Overflow => details!("overflow"),
            Self::Protocol => details!("protocol_error"),
        }
    }
}

/// An answer of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalReply {
    /// The codec found a breach of protocol.
    Codec { status: u16, detail: &'static str },
    /// The path cannot be brought into normal form, or may not be what it is.
    BadPath,
    /// The client is sent to the path in normal form.
    NormalizedPath,
    /// A request without a path.
    MissingPath,
    /// A target that is not a path.
    AbsolutePath,
    /// No route matched.
    NoRoute,
    /// The route's cluster does not exist.
    NoCluster { status: u16 },
    /// An upgrade or CONNECT that is not configured.
    UpgradeRefused,
    /// The cluster has no host that may be used.
    NoHealthyUpstream,
    /// The upstream gave no response; `retried`: this was not the first try.
    Upstream {
        failure: UpstreamFailure,
        retried: bool,
    },
    /// The route's timeout passed; `alt`: the request wants 204 then.
    UpstreamTimeout { alt: bool },
    /// The last try's timeout passed.
    PerTryTimeout { alt: bool },
    /// Nothing came from the last try for its idle timeout.
    PerTryIdleTimeout,
    /// The upstream stream's maximum duration passed.
    UpstreamMaxDuration,
    /// Nothing moved for the stream idle timeout. `complete`: the request had arrived.
    StreamIdle { complete: bool },
    /// The request did not arrive within its time.
    RequestTimeout { complete: bool },
    /// The request head did not arrive within its time.
    RequestHeadersTimeout,
    /// The stream's maximum duration passed.
    MaxDuration { complete: bool },
    /// The body is larger than a filter wants to buffer.
    PayloadTooLarge,
    /// A response body is larger than a filter wants to buffer.
    ResponseTooLarge,
    /// The memory budget is used up.
    Overload,
    /// The rest of the body came while the request waited for its next try, and is too large to be
    /// kept for it.
    RetryBufferExceeded,
}

impl LocalReply {
    /// Status.
    #[must_use]
    pub fn status(self) -> u16 {
        let timeout = |complete| if complete { 504 } else { 408 };
        match self {
            Self::Codec { status, .. } | Self::NoCluster { status } => status,
            Self::BadPath => 400,
            Self::NormalizedPath => 307,
            Self::MissingPath | Self::AbsolutePath | Self::NoRoute => 404,
            Self::UpgradeRefused => 403,
            Self::NoHealthyUpstream | Self::Overload => 503,
            Self::Upstream {
                failure: UpstreamFailure::Protocol,
                ..
            } => 502,
            Self::Upstream { .. } => 503,
            Self::UpstreamTimeout { alt: true } | Self::PerTryTimeout { alt: true } => 204,
            Self::UpstreamTimeout { .. }
            | Self::PerTryTimeout { .. }
            | Self::PerTryIdleTimeout
            | Self::UpstreamMaxDuration => 504,
            Self::StreamIdle { complete }
            | Self::RequestTimeout { complete }
            | Self::MaxDuration { complete } => timeout(complete),
            Self::RequestHeadersTimeout => 408,
            Self::PayloadTooLarge => 413,
            Self::ResponseTooLarge => 500,
            Self::RetryBufferExceeded => 507,
        }
    }

    /// The status that a gRPC call ends with.
    #[must_use]
    pub fn grpc_status(self) -> u8 {
        match self {
            Self::MaxDuration { .. } => grpc::DEADLINE_EXCEEDED,
            _ => grpc::status_of_http(self.status()),
        }
    }

    /// The body in up to three parts, to be sent one after the other.
    #[must_use]
    pub fn body(self) -> [&'static str; 3] {
        let whole = match self {
            Self::Codec {
                detail:
                    "missing_host_header" | "path_normalization_failed" | "query_missing_content_type",
                ..
            } => "",
            Self::Codec { status, .. } => reason_phrase(status),
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::Upstream { failure, retried } => {
                let between = if retried {
                    "retried and the latest reset reason: "
                } else {
                    "reset reason: "
                };
                return [
                    "upstream connect error or disconnect/reset before headers. ",
                    between,
                    failure.text(),
                ];
            }
            Self::UpstreamTimeout { alt: false }
            | Self::PerTryTimeout { alt: false }
            | Self::PerTryIdleTimeout => "upstream request timeout",
            Self::UpstreamMaxDuration => "upstream max stream duration reached",
            Self::StreamIdle { .. } => "stream timeout",
            Self::RequestTimeout { .. } => "request timeout",
            Self::RequestHeadersTimeout => "request header timeout",
            Self::MaxDuration { .. } => "downstream duration timeout",
            Self::PayloadTooLarge => "Payload Too Large",
            Self::ResponseTooLarge => "Internal Server Error",
            Self::Overload => "envoy overloaded",
            Self::RetryBufferExceeded => "exceeded request buffer limit while retrying upstream",
            _ => "",
        };
        [whole, "", ""]
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub fn details(self) -> &'static str {
        match self {
            Self::Codec { detail, .. } => detail,
            Self::BadPath | Self::NormalizedPath => "path_normalization_failed",
            Self::MissingPath => "missing_path_rejected",
            Self::AbsolutePath => "absolute_path_rejected",
            Self::NoRoute => "route_not_found",
            Self::NoCluster { .. } => "cluster_not_found",
            Self::UpgradeRefused => "upgrade_failed",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::Upstream { failure, .. } => failure.details(false),
            Self::UpstreamTimeout { .. } => "response_timeout",
            Self::PerTryTimeout { .. } => "upstream_per_try_timeout",
            Self::PerTryIdleTimeout => "upstream_per_try_idle_timeout",
            Self::UpstreamMaxDuration => "upstream_max_stream_duration_reached",
            Self::StreamIdle { .. } => "stream_idle_timeout",
            Self::RequestTimeout { .. } => "request_overall_timeout",
            Self::RequestHeadersTimeout => "request_header_timeout",
            Self::MaxDuration { .. } => "max_duration_timeout",
            Self::PayloadTooLarge => "request_payload_too_large",
            Self::ResponseTooLarge => "response_payload_too_large",
            Self::Overload => "overload",
            Self::RetryBufferExceeded => "request_payload_exceeded_retry_buffer_limit",
        }
    }

    /// An HTTP/1 connection is closed after it: the request broke the protocol, so where the next one
    /// begins cannot be trusted. (Replies before the request has ended close it too; who sends the
    /// reply knows that.)
    #[must_use]
    pub fn closes(self) -> bool {
        matches!(self, Self::Codec { .. } | Self::UpgradeRefused) || self.status() == 400
    }

    /// The router gives it: what the route says of response headers holds for it.
    #[must_use]
    pub fn by_router(self) -> bool {
        matches!(
            self,
            Self::NoCluster { .. }
                | Self::NoHealthyUpstream
                | Self::Upstream { .. }
                | Self::UpstreamTimeout { .. }
                | Self::PerTryTimeout { .. }
                | Self::PerTryIdleTimeout
                | Self::UpstreamMaxDuration
                | Self::RetryBufferExceeded
        )
    }

    /// Response flags (see [`flags`]).
    #[must_use]
    pub fn flags(self) -> u64 {
        match self {
            Self::Codec {
                detail:
                    "missing_host_header" | "path_normalization_failed" | "query_missing_content_type",
                ..
            } => 0,
            Self::Codec { .. } => flags::DOWNSTREAM_PROTOCOL_ERROR,
            Self::NoRoute => flags::NO_ROUTE,
            Self::NoCluster { .. } => flags::NO_CLUSTER,
            Self::NoHealthyUpstream => flags::NO_HEALTHY_UPSTREAM,
            Self::Upstream { failure, .. } => failure.flags(),
            Self::UpstreamTimeout { .. } | Self::PerTryTimeout { .. } | Self::PerTryIdleTimeout => {
                flags::UPSTREAM_TIMEOUT
            }
            Self::UpstreamMaxDuration => flags::UPSTREAM_MAX_DURATION,
            Self::StreamIdle { .. } => flags::STREAM_IDLE,
            Self::Overload => flags::OVERLOAD,
            Self::BadPath
            | Self::NormalizedPath
            | Self::MissingPath
            | Self::AbsolutePath
            | Self::UpgradeRefused
            | Self::RequestTimeout { .. }
            | Self::RequestHeadersTimeout
            | Self::MaxDuration { .. }
            | Self::PayloadTooLarge
            | Self::ResponseTooLarge
            | Self::RetryBufferExceeded => 0,
        }
    }

    /// The answer as the pipeline sends it. `request` gives [`NormalizedPath`](Self::NormalizedPath)
    /// its location.
    #[must_use]
    pub fn to_reply(self, request: Option<&Head>, suppress_envoy_headers: bool) -> Reply {
        let mut headers = Vec::new();
        if !suppress_envoy_headers
            && let Self::Upstream {
                failure: UpstreamFailure::Overflow,
                ..
            } = self
        {
            headers.push((b"x-envoy-overloaded".to_vec(), b"true".to_vec()));
        }
        if self == Self::NormalizedPath
            && let Some(request) = request
        {
            headers.push((b"location".to_vec(), request.path().to_vec()));
        }
        if matches!(self, Self::MaxDuration { .. }) && request.is_some_and(grpc::is_grpc) {
            let status = grpc::DEADLINE_EXCEEDED.to_string();
            headers.push((b"grpc-status".to_vec(), status.into_bytes()));
        }
        Reply {
            status: self.status(),
            body: self.body().concat().into_bytes(),
            headers,
            details: self.details(),
        }
    }
}

/// The head of our own answer. To a gRPC request it says everything: status 200, and in `grpc-status` and
/// `grpc-message` what the status and the body would have said (trailers-only, as Envoy does it).
/// `was_grpc`: the request came as gRPC, whatever a filter made of it. Returns whether the body is to follow.
pub fn write_head(reply: &Reply, request: Option<&Head>, was_grpc: bool, head: &mut Head) -> bool {
    head.status = reply.status;
    let grpc = request.filter(|request| was_grpc || grpc::is_grpc(request));
    let content_type: &[u8] = match grpc {
        Some(_) => grpc::CONTENT_TYPE,
        None if reply.body.is_empty() => b"",
        None => b"text/plain",
    };
    if !content_type.is_empty() {
        head.push(b"content-type", content_type);
    }
    for (name, value) in &reply.headers {
        head.set(name, value);
    }
    let Some(request) = grpc else {
        head.content_length = Some(reply.body.len() as u64);
        return !reply.body.is_empty();
    };
    head.status = 200;
    head.set(b"content-type", grpc::CONTENT_TYPE);
    if head.get(b"grpc-status").is_none() {
        let status = grpc::status_of_http(reply.status).to_string();
        head.push(b"grpc-status", status.as_bytes());
    }
    if !reply.body.is_empty() && request.method() != b"HEAD" {
        let mut message = Vec::new();
        grpc::push_message(&mut message, &reply.body);
        head.push(b"grpc-message", &message);
    }
    false
}

/// The reason phrase of a status that a codec can give.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        408 => "Request Timeout",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: LocalReply) -> (u16, usize, String) {
        let reply = reply.to_reply(None, false);
        let body = String::from_utf8(reply.body).unwrap();
        (reply.status, body.len(), body)
    }

    #[test]
    fn replies_as_envoy_words_them() {
        let upstream = |failure, retried| LocalReply::Upstream { failure, retried };
        let codec = |status, detail| LocalReply::Codec { status, detail };
        for (reply, status, length, body) in [
            (
                upstream(UpstreamFailure::Connect, false),
                503,
                98,
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 remote connection failure",
            ),
            (
                upstream(UpstreamFailure::Terminated, true),
                503,
                118,
                "upstream connect error or disconnect/reset before headers. retried and the \
                 latest reset reason: connection termination",
            ),
            (
                upstream(UpstreamFailure::Protocol, false),
                502,
                87,
                "upstream connect error or disconnect/reset before headers. reset reason: \
                 protocol error",
            ),
            (
                LocalReply::NoHealthyUpstream,
                503,
                19,
                "no healthy upstream",
            ),
            (
                LocalReply::UpstreamTimeout { alt: false },
                504,
                24,
                "upstream request timeout",
            ),
            (
                LocalReply::StreamIdle { complete: true },
                504,
                14,
                "stream timeout",
            ),
            (
                LocalReply::RequestTimeout { complete: false },
                408,
                15,
                "request timeout",
            ),
            (
                LocalReply::RequestHeadersTimeout,
                408,
                22,
                "request header timeout",
            ),
            (
                LocalReply::MaxDuration { complete: true },
                504,
                27,
                "downstream duration timeout",
            ),
            (
                LocalReply::UpstreamMaxDuration,
                504,
                36,
                "upstream max stream duration reached",
            ),
            (codec(426, "low_version"), 426, 16, "Upgrade Required"),
            (
                codec(431, "http1.headers_too_large"),
                431,
                31,
                "Request Header Fields Too Large",
            ),
        ] {
            assert_eq!(written(reply), (status, length, body.into()), "{reply:?}");
        }
        for (reply, status) in [
            (LocalReply::NoRoute, 404),
            (LocalReply::NoCluster { status: 503 }, 503),
            (LocalReply::BadPath, 400),
            (LocalReply::UpgradeRefused, 403),
            (LocalReply::AbsolutePath, 404),
            (codec(400, "missing_host_header"), 400),
        ] {
            assert_eq!(written(reply), (status, 0, String::new()), "{reply:?}");
        }
    }

    #[test]
    fn further_fields() {
        let mut request = Head::new();
        request.set_path(b"/a/b");
        let reply = LocalReply::NormalizedPath.to_reply(Some(&request), false);
        assert_eq!(reply.headers, [(b"location".to_vec(), b"/a/b".to_vec())]);
        let overflow = LocalReply::Upstream {
            failure: UpstreamFailure::Overflow,
            retried: false,
        };
        let reply = overflow.to_reply(None, false);
        assert_eq!(reply.headers[0].0, b"x-envoy-overloaded");
        assert!(overflow.to_reply(None, true).headers.is_empty());
        let alt = LocalReply::UpstreamTimeout { alt: true };
        assert_eq!(written(alt), (204, 0, String::new()));
    }

    #[test]
    fn flags_and_details() {
        let connect = LocalReply::Upstream {
            failure: UpstreamFailure::Connect,
            retried: false,
        };
        for (reply, flag, details) in [
            (
                connect,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure}",
            ),
            (LocalReply::NoRoute, "NR", "route_not_found"),
            (
                LocalReply::NoCluster { status: 404 },
                "NC",
                "cluster_not_found",
            ),
            (LocalReply::NoHealthyUpstream, "UH", "no_healthy_upstream"),
            (
                LocalReply::PerTryIdleTimeout,
                "UT",
                "upstream_per_try_idle_timeout",
            ),
            (
                LocalReply::UpstreamMaxDuration,
                "UMSDR",
                "upstream_max_stream_duration_reached",
            ),
            (
                LocalReply::StreamIdle { complete: true },
                "SI",
                "stream_idle_timeout",
            ),
        ] {
            assert_eq!(Some(reply.flags()), flags::by_short_name(flag));
            assert_eq!(reply.details(), details);
        }
        for (reply, details) in [
            (
                LocalReply::MaxDuration { complete: true },
                "max_duration_timeout",
            ),
            (LocalReply::BadPath, "path_normalization_failed"),
            (LocalReply::AbsolutePath, "absolute_path_rejected"),
            (LocalReply::UpgradeRefused, "upgrade_failed"),
        ] {
            assert_eq!((reply.flags(), reply.details()), (0, details));
        }
    }

    #[test]
    fn closing() {
        assert!(LocalReply::BadPath.closes());
        assert!(
            LocalReply::Codec {
                status: 431,
                detail: ""
            }
            .closes()
        );
        assert!(!LocalReply::NoRoute.closes());
        assert!(!LocalReply::NormalizedPath.closes());
    }

    #[test]
    fn grpc_clients_are_answered_in_their_terms() {
        let request = |method: &[u8]| {
            let mut head = Head::new();
            head.set_method(method);
            head.push(b"content-type", b"application/grpc+proto");
            head
        };
        let written = |reply: LocalReply, request: &Head| {
            let mut head = Head::new();
            let reply = reply.to_reply(Some(request), false);
            assert!(!write_head(&reply, Some(request), false, &mut head));
            assert_eq!((head.status, head.content_length), (200, None));
            assert_eq!(head.get(b"content-type"), Some(&b"application/grpc"[..]));
            let text = |name| {
                head.get(name)
                    .map(|value| String::from_utf8_lossy(value).into_owned())
            };
            (text(b"grpc-status"), text(b"grpc-message"))
        };
        let post = request(b"POST");
        for (reply, status, message) in [
            (LocalReply::NoRoute, "12", None),
            (
                LocalReply::NoHealthyUpstream,
                "14",
                Some("no healthy upstream"),
            ),
            (LocalReply::UpgradeRefused, "7", None),
            (LocalReply::PayloadTooLarge, "2", Some("Payload Too Large")),
            (
                LocalReply::UpstreamTimeout { alt: false },
                "14",
                Some("upstream request timeout"),
            ),
            (
                LocalReply::MaxDuration { complete: true },
                "4",
                Some("downstream duration timeout"),
            ),
        ] {
            let (got, text) = written(reply, &post);
            assert_eq!(
                (got.as_deref(), text.as_deref()),
                (Some(status), message),
                "{reply:?}"
            );
        }
        assert_eq!(
            written(LocalReply::NoHealthyUpstream, &request(b"HEAD")).1,
            None
        );
    }
}
