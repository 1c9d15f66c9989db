//! An open connection: its two halves, and the messages that come behind the handshake.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::TlsError;
use super::record::{Alert, Half, content};

/// Most bytes of a message that comes in parts after the handshake: a ticket, at most.
const MAX_PARTIAL: usize = 68 * 1024;
/// Records without content that may follow each other.
pub(super) const MAX_EMPTY: u8 = 32;

pub(super) enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

pub(super) struct Open {
    pub(super) kernel: Kernel,
    pub(super) read: Half,
    pub(super) write: Half,
    pub(super) tls13: bool,
    /// Unfinished handshake message of the peer.
    pub(super) partial: Vec<u8>,
    pub(super) empty: u8,
    pub(super) key_updates: u8,
}

impl Open {
    /// A handshake message behind the handshake: a ticket, or new keys (RFC 8446 section 4.6).
    pub(super) fn handshake(
        &mut self,
        bytes: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Option<Alert>> {
        if !self.tls13 {
            // A wish to negotiate again, which is never done.
            return Err(Alert::NoRenegotiation.into());
        }
        if self.partial.len() + bytes.len() > MAX_PARTIAL {
            return Err(Alert::UnexpectedMessage.into());
        }
        let mut gathered = std::mem::take(&mut self.partial);
        let mut rest = if gathered.is_empty() {
            bytes
        } else {
            gathered.extend_from_slice(bytes);
            &gathered
        };
        while let Some(([kind, a, b, c], behind)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if len > MAX_PARTIAL {
                return Err(Alert::UnexpectedMessage.into());
            }
            let Some((message, behind)) = behind.split_at_checked(len) else {
                break;
            };
            match (*kind, message, &mut self.kernel) {
                (4, message, Kernel::Client(kernel)) => kernel
                    .handle_new_session_ticket(message)
                    .map_err(|_| Alert::DecodeError)?,
                // New keys begin with a record (RFC 8446 section 5.1).
                (24, [ask @ (0 | 1)], _) if behind.is_empty() => self.update_read(*ask, wire)?,
                _ => return Err(Alert::UnexpectedMessage.into()),
            }
            rest = behind;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn update_read(&mut self, ask: u8, wire: &mut Vec<u8>) -> Result<(), Option<Alert>> {
        self.key_updates += 1;
        if self.key_updates > MAX_EMPTY {
            return Err(Alert::UnexpectedMessage.into());
        }
        let secrets = match &mut self.kernel {
            Kernel::Server(kernel) => kernel.update_rx_secret(),
            Kernel::Client(kernel) => kernel.update_rx_secret(),
        };
        let secrets = secrets.map_err(|_| Alert::InternalError)?;
        self.read = Half::new(secrets, true).ok_or(Alert::InternalError)?;
        if ask == 1 {
            self.update_write(0, wire)
                .map_err(|_| Alert::InternalError)?;
        }
        Ok(())
    }

    pub(super) fn update_write(&mut self, ask: u8, wire: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = self.write.begin(wire);
        wire.extend_from_slice(&[24, 0, 0, 1, ask]);
        let sealed = self.write.finish(content::HANDSHAKE, start, wire);
        sealed.ok_or(TlsError::Protocol)?;
        let secrets = match &mut self.kernel {
            Kernel::Server(kernel) => kernel.update_tx_secret(),
            Kernel::Client(kernel) => kernel.update_tx_secret(),
        };
        let secrets = secrets.map_err(|error| TlsError::of(&error))?;
        self.write = Half::new(secrets, true).ok_or(TlsError::Protocol)?;
        Ok(())
    }

    /// Takes new keys when the old ones have sealed what they may.
    pub(super) fn renew(&mut self, wire: &mut Vec<u8>) -> Result<(), TlsError> {
        if !self.write.is_spent() {
            return Ok(());
        }
        if !self.tls13 {
            return Err(TlsError::Exhausted);
        }
        self.update_write(0, wire)
    }
}
