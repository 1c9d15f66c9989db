//! One check on one connection: what is sent, and what the answer is worth.
//!
//! Sans-IO. Bytes from the network never grow anything without bound and never panic.

use std::sync::Arc;

use moorgate_codecs::{Codec, Event, Events, Head, HeadKind, Millis, Out, Why, http1};

use super::verdict::Outcome;
use crate::cluster::{HealthCheck, HealthCheckKind};

/// Bytes of a TCP answer that are searched; more without a match is a failure.
const MAX_TCP_ANSWER: usize = 64 * 1024;
/// Bytes of an HTTP body that are searched: Envoy's `response_buffer_size`.
const MAX_HTTP_BODY: usize = 1024;

/// What a probe wants after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes.
    Wait,
    /// The check is over. Without `keep` the connection is closed.
    Done { outcome: Outcome, keep: bool },
}

/// The checking side of one connection.
#[derive(Debug)]
pub(super) enum Probe {
    Tcp(TcpProbe),
    Http(Box<HttpProbe>),
}

impl Probe {
    /// A probe for a new connection. `authority` is the host of HTTP checks.
    pub(super) fn new(
        check: &HealthCheck,
        authority: &str,
        settings: &Arc<http1::Settings>,
    ) -> Self {
        match &check.kind {
            HealthCheckKind::Tcp { .. } => Self::Tcp(TcpProbe::default()),
            HealthCheckKind::Http { .. } => Self::Http(Box::new(HttpProbe {
                codec: http1::Client::new(Arc::clone(settings)),
                authority: authority.to_owned(),
                events: Events::default(),
                input: Vec::new(),
                response: None,
                body: Vec::new(),
            })),
        }
    }

    /// Begins a check; appends what is to be sent. False when this connection cannot serve.
    pub(super) fn begin(&mut self, check: &HealthCheck, out: &mut Vec<u8>) -> bool {
        match (self, &check.kind) {
            (Self::Tcp(probe), HealthCheckKind::Tcp { send, receive }) => {
                probe.input.clear();
                // A plain connect says nothing, as Envoy's.
                if !receive.is_empty() {
                    out.extend_from_slice(send);
                }
                true
            }
            (Self::Http(probe), HealthCheckKind::Http { .. }) => probe.begin(check, out),
            _ => false,
        }
    }

    /// The connection is there.
    pub(super) fn connected(&mut self, check: &HealthCheck) -> Step {
        match &check.kind {
            HealthCheckKind::Tcp { receive, .. } if receive.is_empty() => Step::Done {
                outcome: Outcome::Success { degraded: false },
                keep: false,
            },
            _ => Step::Wait,
        }
    }

    /// Bytes came while a check is under way.
    pub(super) fn received(
        &mut self,
        check: &HealthCheck,
        bytes: &[u8],
        now: Millis,
        out: &mut Vec<u8>,
    ) -> Step {
        match self {
            Self::Tcp(probe) => probe.received(check, bytes),
            Self::Http(probe) => probe.received(check, bytes, now, out),
        }
    }

    /// The peer closed while a check is under way.
    pub(super) fn closed(&mut self, check: &HealthCheck) -> Step {
        match self {
            Self::Tcp(_) => failed(),
            Self::Http(probe) => probe.closed(check),
        }
    }

    /// What it means that the peer closed between two checks: Envoy counts it for TCP only.
    pub(super) fn closed_while_idle(&self) -> Option<Outcome> {
        match self {
            Self::Tcp(_) => Some(Outcome::Network),
            Self::Http(_) => None,
        }
    }
}

fn failed() -> Step {
    Step::Done {
        outcome: Outcome::Network,
        keep: false,
    }
}

/// Every segment is in the bytes, in this order and without overlap.
fn matches(bytes: &[u8], segments: &[Vec<u8>]) -> bool {
    let mut rest = bytes;
    segments.iter().all(|segment| {
        if segment.is_empty() {
            return true;
        }
        let Some(place) = rest
            .windows(segment.len())
            .position(|window| window == segment)
        else {
            return false;
        };
        rest = &rest[place + segment.len()..];
        true
    })
}

/// A TCP check.
#[derive(Debug, Default)]
pub(super) struct TcpProbe {
    input: Vec<u8>,
}

impl TcpProbe {
    fn received(&mut self, check: &HealthCheck, bytes: &[u8]) -> Step {
        let HealthCheckKind::Tcp { receive, .. } = &check.kind else {
            return failed();
        };
        self.input.extend_from_slice(bytes);
        if matches(&self.input, receive) {
            self.input.clear();
            return Step::Done {
                outcome: Outcome::Success { degraded: false },
                keep: check.reuse_connection,
            };
        }
        if self.input.len() > MAX_TCP_ANSWER {
            return failed();
        }
        Step::Wait
    }
}

/// An HTTP/1 check.
#[derive(Debug)]
pub(super) struct HttpProbe {
    codec: http1::Client,
    authority: String,
    events: Events,
    input: Vec<u8>,
    response: Option<Response>,
    body: Vec<u8>,
}

/// What is kept of a response head.
#[derive(Clone, Copy, Debug)]
struct Response {
    status: u16,
    degraded: bool,
    excluded: bool,
}

impl HttpProbe {
    fn begin(&mut self, check: &HealthCheck, out: &mut Vec<u8>) -> bool {
        let HealthCheckKind::Http {
            path,
            method,
            headers,
            ..
        } = &check.kind
        else {
            return false;
        };
        self.response = None;
        self.body.clear();
        let Some(stream) = self.codec.open() else {
            return false;
        };
        let mut head = Head::new();
        head.kind = HeadKind::Request;
        head.set_method(method.as_bytes());
        head.set_scheme(b"http");
        head.set_authority(self.authority.as_bytes());
        head.set_path(path.as_bytes());
        head.push(b"user-agent", b"Moorgate/HC");
        for (name, value) in headers {
            head.push(name.as_bytes(), value.as_bytes());
        }
        let mut message = Out::default();
        let sent = self.codec.send_head(stream, &head, true, &mut message);
        out.extend_from_slice(&message.bytes);
        sent.is_ok()
    }

    fn received(
        &mut self,
        check: &HealthCheck,
        bytes: &[u8],
        now: Millis,
        out: &mut Vec<u8>,
    ) -> Step {
        self.input.extend_from_slice(bytes);
        let mut message = Out::default();
        let consumed = self
            .codec
            .decode(now, &self.input, &mut self.events, &mut message);
        out.extend_from_slice(&message.bytes);
        let step = self.take_events(check);
        self.input.drain(..consumed.bytes.min(self.input.len()));
        match (step, consumed.why) {
            (Step::Wait, Why::NeedMore) => Step::Wait,
            (Step::Done { outcome, keep }, Why::NeedMore) => Step::Done {
                outcome,
                // Bytes behind the answer belong to nothing.
                keep: keep && self.input.is_empty(),
            },
            (Step::Wait, _) => failed(),
            (Step::Done { outcome, .. }, _) => Step::Done {
                outcome,
                keep: false,
            },
        }
    }

    fn closed(&mut self, check: &HealthCheck) -> Step {
        let error = self.codec.eof(self.input.len(), &mut self.events);
        match self.take_events(check) {
            Step::Done { outcome, .. } if error.is_none() => Step::Done {
                outcome,
                keep: false,
            },
            _ => failed(),
        }
    }

    fn take_events(&mut self, check: &HealthCheck) -> Step {
        let mut ended = false;
        let mut broken = false;
        for event in std::mem::take(&mut self.events.list) {
            match event {
                Event::Head { head, end, .. } => {
                    if head.status >= 200 {
                        self.response = Some(Response {
                            status: head.status,
                            degraded: head.get(b"x-envoy-degraded").is_some(),
                            excluded: head.get(b"x-envoy-immediate-health-check-fail").is_some(),
                        });
                        ended |= end;
                    }
                    self.events.give_head(head);
                }
                Event::Data { range, end, .. } => {
                    let room = MAX_HTTP_BODY - self.body.len().min(MAX_HTTP_BODY);
                    let data = self.input.get(range).unwrap_or_default();
                    self.body.extend_from_slice(&data[..data.len().min(room)]);
                    ended |= end;
                }
                Event::Trailers { head, .. } => {
                    self.events.give_head(head);
                    ended = true;
                }
                Event::Reset { .. } => broken = true,
                Event::Writable { .. } | Event::GoAway { .. } | Event::Settled => {}
            }
        }
        match self.response {
            _ if broken => failed(),
            Some(response) if ended => Step::Done {
                outcome: judge(check, response, &self.body),
                keep: check.reuse_connection && !self.codec.finished(),
            },
            _ => Step::Wait,
        }
    }
}

fn judge(check: &HealthCheck, response: Response, body: &[u8]) -> Outcome {
    let HealthCheckKind::Http {
        expected,
        retriable,
        receive,
        ..
    } = &check.kind
    else {
        return Outcome::Network;
    };
    let within = |ranges: &[std::ops::Range<u16>]| {
        ranges.iter().any(|range| range.contains(&response.status))
    };
    let excluded = response.excluded;
    if !matches(body, receive) {
        return Outcome::Wrong {
            retriable: false,
            excluded,
        };
    }
    let good = if expected.is_empty() {
        response.status == 200
    } else {
        within(expected)
    };
    if good {
        Outcome::Success {
            degraded: response.degraded,
        }
    } else {
        Outcome::Wrong {
            retriable: within(retriable),
            excluded,
        }
    }
}

#[cfg(test)]
mod tests;
