//! Session tickets under keys that the configuration gives (RFC 8446 section 4.6.1, RFC 5077).
//!
//! With the same keys on several machines a client resumes on any of them. The first key seals, all open,
//! so that keys can be exchanged one after the other.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use rustls::TicketRotator;
use rustls::crypto::GetRandomFailed;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::TlsError;

/// Bytes of a key in the configuration: 16 of a name, 32 and 32 of secrets, as OpenSSL and Envoy have it.
pub(crate) const KEY_BYTES: usize = 80;
const NAME: usize = 16;
const SCOPE: usize = 32;
/// Envoy's `session_timeout` where it is not set: BoringSSL's two hours.
pub(super) const LIFETIME_S: u32 = 7200;

/// A key for tickets.
pub struct TicketKey {
    name: [u8; NAME],
    key: LessSafeKey,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

impl TicketKey {
    /// `None` when it is not [`KEY_BYTES`] long.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(digest(&SHA256, secret).as_ref());
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).ok()?;
        Some(Self {
            name: *name,
            key: LessSafeKey::new(key),
        })
    }
}

/// Tickets under keys of our own, of which a new one takes over with each lifetime: what was said under a
/// key that is gone can never be read again.
pub(super) fn rotating(lifetime_s: u32) -> Result<TicketRotator, TlsError> {
    TicketRotator::new(lifetime_s.max(1), fresh).map_err(|error| TlsError::of(&error))
}

fn fresh() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
    let bytes = super::random::<KEY_BYTES>().map_err(|_| GetRandomFailed)?;
    let key = TicketKey::new(&Zeroizing::new(bytes)[..]).ok_or(GetRandomFailed)?;
    // The key is this context's alone: nothing else has to be told apart.
    Ok(Box::new(Tickets {
        keys: vec![key],
        lifetime_s: LIFETIME_S,
        scope: [0; SCOPE],
    }))
}

#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) keys: Vec<TicketKey>,
    pub(super) lifetime_s: u32,
    /// Which contexts take each other's tickets. A client whose certificate was judged by one must not be
    /// taken for judged by another that has the same keys.
    pub(super) scope: [u8; SCOPE],
}

impl Tickets {
    /// What is authenticated beside the session itself.
    fn bound_to(&self, name: &[u8; NAME]) -> [u8; NAME + SCOPE] {
        let mut bound = [0; NAME + SCOPE];
        bound[..NAME].copy_from_slice(name);
        bound[NAME..].copy_from_slice(&self.scope);
        bound
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_s
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let nonce = super::random::<NONCE_LEN>().ok()?;
        let mut out = Vec::with_capacity(NAME + NONCE_LEN + plain.len() + 16);
        out.extend_from_slice(&key.name);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = &mut out[NAME + NONCE_LEN..];
        let tag = key
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(self.bound_to(&key.name)), sealed)
            .ok()?;
        out.extend_from_slice(tag.as_ref());
        Some(out)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut plain = sealed.to_vec();
        let len = key
            .key
            .open_in_place(nonce, Aad::from(self.bound_to(&key.name)), &mut plain)
            .ok()?
            .len();
        plain.truncate(len);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_under_any_of_the_keys() {
        let old = [7; KEY_BYTES];
        let new = [9; KEY_BYTES];
        let key = |bytes: &[u8]| TicketKey::new(bytes).expect("80 bytes");
        let before = Tickets {
            keys: vec![key(&old)],
            lifetime_s: 1,
            scope: [1; SCOPE],
        };
        let after = Tickets {
            keys: vec![key(&new), key(&old)],
            lifetime_s: 1,
            scope: [1; SCOPE],
        };
        let mut ticket = before.encrypt(b"session").expect("sealed");
        assert_eq!(after.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_ne!(before.encrypt(b"session"), before.encrypt(b"session"));
        let newer = after.encrypt(b"session").expect("sealed");
        assert_eq!(before.decrypt(&newer), None);
        let stricter = Tickets {
            keys: vec![key(&old)],
            lifetime_s: 1,
            scope: [2; SCOPE],
        };
        assert_eq!(stricter.decrypt(&ticket), None);
        *ticket.last_mut().expect("a byte") ^= 1;
        assert_eq!(after.decrypt(&ticket), None);
        assert_eq!(after.decrypt(b"short"), None);
        assert!(TicketKey::new(&[0; 79]).is_none());
    }
}
