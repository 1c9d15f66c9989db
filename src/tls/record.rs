//! The record layer of an open connection: one direction's key, sequence number and AEAD.
//!
//! Keys come from the handshake (`rustls`) and the AEAD from its provider (`ring`); this file only frames
//! (RFC 8446 section 5, RFC 5246 section 6.2). It works where the bytes are: a record is opened in place
//! and sealed at the end of the caller's buffer.
//!
//! It must never use a pair of key and sequence number twice: a [`Half`] cannot be copied, its number goes
//! up before the AEAD is asked, and parking drops the expanded key but never the number.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// Most bytes of plaintext in one record (RFC 8446 section 5.1).
pub(super) const MAX_PLAIN: usize = 1 << 14;
/// Most bytes behind the header of a TLS 1.2 record, which allows more than TLS 1.3.
const MAX_WIRE: usize = MAX_PLAIN + 2048;
/// Bytes of every supported AEAD's tag.
const TAG: usize = 16;
/// Explicit nonce of AES-GCM in TLS 1.2 (RFC 5288 section 3).
const EXPLICIT: usize = 8;
/// Records that one key may seal with AES-GCM (RFC 8446 section 5.5), with a margin.
const MAX_SEALED: u64 = 1 << 24;

/// Content types (RFC 8446 section 5.1).
pub(super) mod content {
    pub(in crate::tls) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(in crate::tls) const ALERT: u8 = 21;
    pub(in crate::tls) const HANDSHAKE: u8 = 22;
    pub(in crate::tls) const DATA: u8 = 23;
}

/// Alerts that the record layer sends (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    DecodeError = 50,
    InternalError = 80,
    NoRenegotiation = 100,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// One direction of an open connection.
pub(super) struct Half {
    /// What the AEAD needs beside the key, of which the first `key_len` bytes are in use.
    key: Zeroizing<[u8; 32]>,
    iv: [u8; 12],
    aead: Aead,
    tls13: bool,
    /// Of the next record.
    sequence: u64,
    /// The key as the AEAD wants it; made when first used, and given up while parked.
    expanded: Option<Box<LessSafeKey>>,
}

impl std::fmt::Debug for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Half({:?}, record {})", self.aead, self.sequence)
    }
}

impl Half {
    /// `None` for an AEAD that is not known here.
    pub(super) fn new(
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        tls13: bool,
    ) -> Option<Self> {
        let (aead, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Aead::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Aead::ChaCha20Poly1305, key, iv)
            }
            _ => return None,
        };
        let mut bytes = Zeroizing::new([0; 32]);
        bytes
            .get_mut(..key.as_ref().len())?
            .copy_from_slice(key.as_ref());
        Some(Self {
            key: bytes,
            iv: iv.as_ref().try_into().ok()?,
            aead,
            tls13,
            sequence,
            expanded: None,
        })
    }

    /// Gives up what can be made again.
    pub(super) fn park(&mut self) {
        self.expanded = None;
    }

    /// The key has sealed as much as it may.
    pub(super) fn is_spent(&self) -> bool {
        self.aead != Aead::ChaCha20Poly1305 && self.sequence >= MAX_SEALED
    }

    /// Number of the next record.
    #[cfg(test)]
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    fn explicit(&self) -> usize {
        if self.tls13 || self.aead == Aead::ChaCha20Poly1305 {
            0
        } else {
            EXPLICIT
        }
    }

    /// Bytes that a record is longer than what is in it.
    pub(super) fn overhead(&self) -> usize {
        HEADER + self.explicit() + TAG + usize::from(self.tls13)
    }

    /// Takes the next number. It is used up whatever becomes of the record.
    fn next(&mut self) -> Option<u64> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1)?;
        Some(sequence)
    }

    fn nonce(&self, sequence: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= other;
        }
        nonce
    }

    fn expanded(&mut self) -> Option<&LessSafeKey> {
        if self.expanded.is_none() {
            let algorithm = match self.aead {
                Aead::Aes128Gcm => &AES_128_GCM,
                Aead::Aes256Gcm => &AES_256_GCM,
                Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            };
            let key = self.key.get(..algorithm.key_len())?;
            let key = UnboundKey::new(algorithm, key).ok()?;
            self.expanded = Some(Box::new(LessSafeKey::new(key)));
        }
        self.expanded.as_deref()
    }

    /// The additional data of a TLS 1.2 record (RFC 5246 section 6.2.3.3).
    fn aad12(sequence: u64, kind: u8, len: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&sequence.to_be_bytes());
        aad[8] = kind;
        aad[9..11].copy_from_slice(&[3, 3]);
        // At most 2^14.
        #[allow(clippy::cast_possible_truncation)]
        aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
        aad
    }

    /// Begins a record at the end of `out`: what is appended from here on is its content. Gives where it
    /// began, for [`finish`](Self::finish).
    pub(super) fn begin(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.resize(start + HEADER + self.explicit(), 0);
        start
    }

    /// Seals the record that began at `start`. `None` when it cannot be sealed; what was appended is gone
    /// then.
    pub(super) fn finish(&mut self, kind: u8, start: usize, out: &mut Vec<u8>) -> Option<()> {
        let sealed = self.seal(kind, start, out);
        if sealed.is_none() {
            out.truncate(start);
        }
        sealed
    }

    fn seal(&mut self, kind: u8, start: usize, out: &mut Vec<u8>) -> Option<()> {
        let body = start + HEADER + self.explicit();
        let plain = out.len().checked_sub(body)?;
        if plain > MAX_PLAIN {
            return None;
        }
        let sequence = self.next()?;
        #[cfg(test)]
        seals::note(*self.key, self.iv, sequence);
        let nonce = self.nonce(sequence);
        let tls13 = self.tls13;
        if tls13 {
            out.push(kind);
        }
        let length = out.len() - start - HEADER + TAG;
        let outer = if tls13 { content::DATA } else { kind };
        // At most 2^14 + 25.
        #[allow(clippy::cast_possible_truncation)]
        let [high, low] = (length as u16).to_be_bytes();
        let header = [outer, 3, 3, high, low];
        out[start..start + HEADER].copy_from_slice(&header);
        if body > start + HEADER {
            out[start + HEADER..body].copy_from_slice(&nonce[4..]);
        }
        let key = self.expanded()?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let content = &mut out[body..];
        let tag = if tls13 {
            key.seal_in_place_separate_tag(nonce, Aad::from(header), content)
        } else {
            let aad = Aad::from(Self::aad12(sequence, kind, plain));
            key.seal_in_place_separate_tag(nonce, aad, content)
        };
        out.extend_from_slice(tag.ok()?.as_ref());
        Some(())
    }

    /// Opens a whole record, header included, in place. Gives its content type and where in it the
    /// content is.
    pub(super) fn open(
        &mut self,
        record: &mut [u8],
    ) -> Result<(u8, std::ops::Range<usize>), Alert> {
        let header: [u8; HEADER] = *record.first_chunk().ok_or(Alert::DecodeError)?;
        let outer = header[0];
        if self.tls13 && outer != content::DATA {
            return Err(Alert::UnexpectedMessage);
        }
        let start = HEADER + self.explicit();
        let plain = (record.len())
            .checked_sub(start + TAG)
            .ok_or(Alert::BadRecordMac)?;
        let sequence = self.next().ok_or(Alert::InternalError)?;
        let mut nonce = self.nonce(sequence);
        if start > HEADER {
            nonce[..4].copy_from_slice(&self.iv[..4]);
            nonce[4..].copy_from_slice(&record[HEADER..start]);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tls13 = self.tls13;
        let key = self.expanded().ok_or(Alert::InternalError)?;
        let sealed = &mut record[start..];
        let content = if tls13 {
            key.open_in_place(nonce, Aad::from(header), sealed)
        } else {
            let aad = Aad::from(Self::aad12(sequence, outer, plain));
            key.open_in_place(nonce, aad, sealed)
        };
        let content = content.map_err(|_| Alert::BadRecordMac)?;
        if !tls13 {
            let range = start..start + content.len();
            return if content.len() > MAX_PLAIN {
                Err(Alert::RecordOverflow)
            } else {
                Ok((outer, range))
            };
        }
        // RFC 8446 section 5.4: the last byte that is not zero is the type; what follows is padding.
        if content.len() > MAX_PLAIN + 1 {
            return Err(Alert::RecordOverflow);
        }
        let at = content.iter().rposition(|byte| *byte != 0);
        let at = at.ok_or(Alert::UnexpectedMessage)?;
        Ok((content[at], start..start + at))
    }
}

/// Length of the record that `bytes` begin with, header included. `None` while the header is not whole.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, Alert> {
    let Some([kind, major, _, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    if !(content::CHANGE_CIPHER_SPEC..=content::DATA).contains(kind) || *major != 3 {
        return Err(Alert::DecodeError);
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_WIRE {
        return Err(Alert::RecordOverflow);
    }
    Ok(Some(HEADER + len))
}

/// Remembers what was sealed with, so that a test can tell that nothing was twice.
#[cfg(test)]
pub(crate) mod seals {
    use std::cell::RefCell;
    use std::collections::HashSet;

    type Seal = ([u8; 32], [u8; 12], u64);

    thread_local! {
        static SEEN: RefCell<Option<HashSet<Seal>>> = const { RefCell::new(None) };
    }

    /// As long as it lives every seal of this thread is remembered.
    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn begin() -> Self {
            SEEN.set(Some(HashSet::new()));
            Self
        }

        /// Records that were sealed so far.
        pub(crate) fn count(&self) -> usize {
            SEEN.with_borrow(|seen| seen.as_ref().map_or(0, HashSet::len))
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            SEEN.set(None);
        }
    }

    pub(super) fn note(key: [u8; 32], iv: [u8; 12], sequence: u64) {
        SEEN.with_borrow_mut(|seen| {
            if let Some(seen) = seen {
                assert!(
                    seen.insert((key, iv, sequence)),
                    "record {sequence} sealed twice"
                );
            }
        });
    }
}
