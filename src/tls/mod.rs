//! TLS: sessions without sockets, and what they are made from.
//!
//! `rustls` shakes hands and keeps the key schedule, `ring` seals and opens; nothing outside of this room
//! names a type of theirs on the data path. A [`Session`] works in the caller's buffers and keeps none
//! (`session`, `record`); contexts are built once from the configuration and shared by all connections
//! (`server`, `client`); `verify` judges peers, `x509` reads what else is in a certificate.
//!
//! This room knows no connection, stream, counter or file.

pub mod client;
mod hello;
pub mod identity;
mod key_log;
mod live;
pub mod ocsp;
mod open;
mod record;
pub mod server;
mod session;
mod tickets;
pub mod trust;
pub mod verify;
pub mod x509;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::{CertificateError, Error};

pub use client::ClientContext;
pub use key_log::KeyLog;
pub use live::Live;
pub use server::ServerContext;
pub use session::{Agreed, Asked, Opened, Session};
pub use tickets::TicketKey;
pub use x509::PeerCertificate;

/// Why a connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The peer, or what it sent, does not follow the protocol, or there is nothing both can do.
    Protocol,
    /// The peer said that something is wrong.
    PeerAlert,
    /// The keys have sealed as much as they may (TLS 1.2, which cannot change them).
    Exhausted,
    /// The peer showed no certificate and had to.
    NoCertificate,
    /// The peer's certificate is not good.
    Certificate,
    /// No subject alternative name of the peer's certificate matches.
    AltName,
    /// The digest of the peer's certificate or key is not among those that are trusted.
    Hash,
}

impl TlsError {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::AlertReceived(_) => Self::PeerAlert,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<verify::Refused>() {
                    Some(verify::Refused::AltName) => Self::AltName,
                    Some(verify::Refused::Hash) => Self::Hash,
                    None => Self::Certificate,
                }
            }
            Error::InvalidCertificate(_) => Self::Certificate,
            _ => Self::Protocol,
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol error",
            Self::PeerAlert => "alert from the peer",
            Self::Exhausted => "keys are used up",
            Self::NoCertificate => "the peer showed no certificate",
            Self::Certificate => "the peer's certificate is not good",
            Self::AltName => "no subject alternative name matches",
            Self::Hash => "the peer's certificate is not one that is trusted",
        })
    }
}

impl std::error::Error for TlsError {}

/// Protocol versions, cipher suites and curves (Envoy's `TlsParameters`).
#[derive(Clone, Debug)]
pub struct Parameters {
    /// TLS 1.2 is allowed.
    pub tls12: bool,
    /// TLS 1.3 is allowed.
    pub tls13: bool,
    /// Cipher suites of TLS 1.2 by IANA number, in order of preference; all when empty.
    pub suites: Vec<u16>,
    /// Key exchange groups by IANA number, in order of preference; all when empty.
    pub groups: Vec<u16>,
}

/// Suites where nothing is said of their order, as Envoy has them: AES of 128 bits is the cheapest of those
/// that are good enough.
const PREFERENCE: [u16; 9] = [
    0x1301, 0x1302, 0x1303, 0xc02b, 0xcca9, 0xc02f, 0xcca8, 0xc02c, 0xc030,
];

impl Parameters {
    fn provider(&self) -> CryptoProvider {
        let mut provider = provider::default_provider();
        provider.cipher_suites.sort_by_key(|suite| {
            PREFERENCE
                .iter()
                .position(|one| *one == u16::from(suite.suite()))
        });
        if !self.suites.is_empty() {
            let all = std::mem::take(&mut provider.cipher_suites);
            let (chosen, others): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|suite| suite.tls13().is_some());
            // Those of TLS 1.3 cannot be chosen, as in Envoy.
            provider.cipher_suites = chosen;
            let wanted = self.suites.iter().filter_map(|number| {
                others
                    .iter()
                    .find(|suite| u16::from(suite.suite()) == *number)
            });
            provider.cipher_suites.extend(wanted.copied());
        }
        if !self.groups.is_empty() {
            let all = std::mem::take(&mut provider.kx_groups);
            let wanted = self.groups.iter().filter_map(|number| {
                all.iter()
                    .find(|group| u16::from(group.name()) == *number)
                    .copied()
            });
            provider.kx_groups = wanted.collect();
        }
        provider
    }

    fn versions(&self) -> Vec<&'static rustls::SupportedProtocolVersion> {
        let mut versions = Vec::new();
        if self.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if self.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        versions
    }
}

/// Cipher suites of TLS 1.2 as Envoy (OpenSSL) and IANA name them, of TLS 1.3 too: number, OpenSSL's name,
/// IANA's name.
pub const SUITES: [(u16, &str, &str); 9] = [
    (0x1301, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (
        0x1303,
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
    (
        0xc02b,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        0xc02c,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        0xc02f,
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    ),
    (
        0xc030,
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    ),
    (
        0xcca8,
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        0xcca9,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
];

/// Name of a cipher suite in statistics and logs, as Envoy has it.
#[must_use]
pub fn suite_name(number: u16) -> &'static str {
    let found = SUITES.iter().find(|(suite, ..)| *suite == number);
    found.map_or("", |(_, name, _)| name)
}

/// Key exchange groups that can be named: IANA number and Envoy's name.
pub const GROUPS: [(u16, &str); 3] = [(29, "X25519"), (23, "P-256"), (24, "P-384")];

/// A number of bytes that nobody can guess; for secrets.
///
/// # Errors
/// The system has no randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], TlsError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| TlsError::Protocol)?;
    Ok(bytes)
}

/// A digest by which the contents of files are told apart.
#[must_use]
pub(crate) fn fingerprint<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

pub(crate) fn shared_provider(parameters: &Parameters) -> Arc<CryptoProvider> {
    Arc::new(parameters.provider())
}

#[cfg(test)]
pub(crate) use record::seals;

#[cfg(test)]
pub(crate) mod tests;
