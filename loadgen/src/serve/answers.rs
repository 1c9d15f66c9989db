//! What the servers say: heads made once, bodies generated from a pattern.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorgate_codecs::http1::Settings;
use moorgate_codecs::http2;
use moorgate_codecs::{Head, HeadKind};

use crate::cli::{ServeOptions, Service};

/// Bytes of a generated body that are ready at a time; a multiple of the pattern's period.
const BLOCK_BYTES: usize = 64 * 1024;
/// Period of a generated body: byte `n` is the one at `n` modulo this.
const PATTERN: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\n";
/// Bytes of a body when nothing is said.
const DEFAULT_SIZE: u64 = 100;
/// Time before a long poll is answered when nothing is said.
const LONG_POLL: Duration = Duration::from_secs(30);

/// What one worker answers.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// Of the codec.
    pub(super) settings: Arc<Settings>,
    /// Of the codec of HTTP/2.
    pub(super) http2: Arc<http2::Settings>,
    /// What is spoken.
    pub(super) service: Service,
    /// The body that repeats.
    block: Arc<[u8]>,
    /// Bytes of a body.
    pub(super) size: u64,
    /// The request's body comes back.
    pub(super) echo: bool,
    /// Milliseconds before an answer.
    pub(super) delay_ms: u64,
    /// Share of requests that fail.
    error_rate: f64,
    error_status: u16,
    /// Milliseconds between events; `None` after the first when silent.
    pub(super) interval_ms: Option<u64>,
}

impl Answers {
    /// As the command line says.
    pub(super) fn new(options: &ServeOptions) -> Self {
        let (block, size): (Arc<[u8]>, u64) = match &options.body {
            Some(text) => (text.as_bytes().into(), text.len() as u64),
            None => (
                PATTERN.repeat(BLOCK_BYTES / PATTERN.len()).into(),
                options.size.unwrap_or(DEFAULT_SIZE),
            ),
        };
        let delay = options.delay.unwrap_or(match options.service {
            Service::LongPoll => LONG_POLL,
            _ => Duration::ZERO,
        });
        Self {
            settings: Arc::new(Settings {
                accept_http_10: true,
                default_host_for_http_10: Some("localhost".to_owned()),
                upgrades: match options.service {
                    Service::Ws => vec!["websocket".to_owned()],
                    _ => Vec::new(),
                },
                over_tls: options.cert.is_some(),
                detect_http2: options.service.is_http2(),
                ..Settings::default()
            }),
            http2: Arc::default(),
            service: options.service,
            block,
            size,
            echo: options.echo,
            delay_ms: millis(delay),
            error_rate: options.error_rate,
            error_status: options.error_status,
            interval_ms: (!options.silent_after_first).then(|| millis(options.interval).max(1)),
        }
    }

    /// Status of the next answer; `random` is any number.
    #[allow(clippy::cast_precision_loss)] // A share of 2^53.
    pub(super) fn status(&self, random: u64) -> u16 {
        let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
        if share < self.error_rate {
            self.error_status
        } else {
            200
        }
    }

    /// Makes `head` a response head.
    pub(super) fn head(&self, head: &mut Head, status: u16, length: Option<u64>) {
        head.clear();
        head.kind = HeadKind::Response;
        head.status = status;
        head.content_length = length;
        if self.service == Service::Sse && status == 200 {
            head.push(b"content-type", b"text/event-stream");
            head.push(b"cache-control", b"no-cache");
        } else {
            head.push(b"content-type", b"text/plain");
        }
    }

    /// The next bytes of a body of which `left` are missing; as many as lie ready.
    pub(super) fn body(&self, left: u64) -> &[u8] {
        let at = ((self.size - left) % self.block.len().max(1) as u64) as usize;
        let ready = &self.block[at.min(self.block.len())..];
        let take = usize::try_from(left).map_or(ready.len(), |left| left.min(ready.len()));
        &ready[..take]
    }

    /// Makes `text` the event of this number: its data are the microseconds since 1970 by this
    /// machine's clock, so that a client on it can tell how long the event took.
    pub(super) fn event(number: u32, text: &mut Vec<u8>) {
        use std::io::Write as _;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        text.clear();
        // A vector takes everything.
        let _ = write!(text, "id: {number}\ndata: {}\n\n", now.as_micros());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn answers(line: &str) -> Answers {
        let words = format!("moorgate-load serve {line}");
        match Cli::parse_from(words.split(' ')).command {
            Command::Serve(options) => Answers::new(&options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_generated_body_repeats_its_pattern() {
        let answers = answers("http --size 200000");
        let mut left = 200_000;
        let mut whole = Vec::new();
        while left > 0 {
            // As a socket takes it: in pieces.
            let piece = answers.body(left);
            let take = piece.len().min(7777);
            whole.extend_from_slice(&piece[..take]);
            left -= take as u64;
        }
        assert_eq!(whole.len(), 200_000);
        assert!(
            whole
                .iter()
                .enumerate()
                .all(|(at, b)| *b == PATTERN[at % 64])
        );
    }

    #[test]
    fn a_body_that_was_given() {
        let answers = answers("http --body hello");
        assert_eq!(answers.size, 5);
        assert_eq!(answers.body(5), b"hello");
        assert_eq!(answers.body(2), b"lo");
    }

    #[test]
    fn the_share_of_errors() {
        let answers = answers("http --error-rate 0.25 --error-status 500");
        assert_eq!(answers.status(0), 500);
        assert_eq!(answers.status(u64::MAX / 4 - (1 << 12)), 500);
        assert_eq!(answers.status(u64::MAX / 4 + (1 << 12)), 200);
        assert_eq!(answers.status(u64::MAX), 200);
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let mut text = Vec::new();
        Answers::event(3, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("id: 3\ndata: 1"), "{text}");
        assert!(text.ends_with("\n\n"), "{text}");
    }
}
