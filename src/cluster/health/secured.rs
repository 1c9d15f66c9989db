//! TLS between the socket of a check and its probe.
//!
//! The same client TLS that traffic has, with buffers of its own: the control thread has no arena. It
//! offers no protocol that the probe does not speak.

use super::source::flush;
use crate::cluster::{HealthCheck, HealthCheckKind, Host, UpstreamTls};
use crate::tls::{Asked, Opened, Session, TlsError};

/// TLS of one connection.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) session: Session,
    /// What came, and was not opened yet; at most one record but for the turn in which it came.
    pub(super) unread: Vec<u8>,
    /// What is to be written.
    pub(super) wire: Vec<u8>,
}

impl Secured {
    pub(super) fn new(
        tls: &UpstreamTls,
        host: &Host,
        check: &HealthCheck,
    ) -> Result<Self, TlsError> {
        let mut wire = Vec::new();
        let alpn = match &check.kind {
            _ if !check.alpn.is_empty() => Some(check.alpn.as_slice()),
            // The cluster may offer HTTP/2 because its traffic speaks it; checks do not.
            HealthCheckKind::Http { .. } if tls.alpn_is_implied => Some(&[][..]),
            _ => None,
        };
        let asked = Asked {
            name: tls.server_name(host),
            alpn,
            ..Asked::default()
        };
        let session = Session::client(&tls.context.get(), &asked, &mut wire)?;
        Ok(Self {
            session,
            unread: Vec::new(),
            wire,
        })
    }

    /// Takes what came. The plaintext is at the start of `unread`, until the caller drains what was
    /// consumed.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Opened {
        self.unread.extend_from_slice(bytes);
        let opened = self.session.open(&mut self.unread, &mut self.wire);
        if opened.plain == 0 {
            self.unread.drain(..opened.consumed);
            return Opened {
                consumed: 0,
                ..opened
            };
        }
        opened
    }

    /// Seals what the probe has to say, once that can be sealed.
    pub(super) fn seal(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        if !out.is_empty() && !self.session.is_shaking() {
            let slices = std::iter::once(out.as_slice());
            self.session.seal(0, slices, usize::MAX, &mut self.wire)?;
            out.clear();
        }
        Ok(())
    }

    /// Says that this ends, if the socket takes it at once.
    pub(super) fn close(&mut self, fd: i32) {
        if self.wire.is_empty() {
            self.session.close(&mut self.wire);
            // Nobody waits for the outcome.
            let _ = flush(fd, &mut self.wire);
        }
    }
}
