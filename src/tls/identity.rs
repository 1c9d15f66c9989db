//! Our own certificates and their keys, and which of them a peer gets.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::verify::dns_matches;
use super::x509::{self, AltName};

/// Why a certificate and key are of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// No certificate in PEM.
    Chain,
    /// No private key in PEM, or of an unknown kind, or encrypted.
    Key,
    /// The key is not that of the certificate.
    Mismatch,
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    uris: Vec<Box<str>>,
    /// As it was read, for the admin interface and a reload.
    expires: i64,
}

impl Identity {
    /// Reads a chain and a key in PEM.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| Unusable::Chain)?;
        let first = chain.first().ok_or(Unusable::Chain)?;
        let parts = x509::parts(first).ok_or(Unusable::Chain)?;
        let names = parts.alt_names.iter().filter_map(|name| match name {
            AltName::Dns(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let names = names.collect();
        let uris = parts.alt_names.iter().filter_map(|name| match name {
            AltName::Uri(uri) => Some(uri.clone()),
            _ => None,
        });
        let uris = uris.collect();
        let expires = parts.validity.1;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::Key)?;
        let key =
            rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| Unusable::Key)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(Unusable::Mismatch),
        }
        Ok(Self {
            certified: Arc::new(certified),
            names,
            uris,
            expires,
        })
    }

    /// When the certificate ends to be valid, seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.certified.key.algorithm()
    }

    fn usable(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }
}

/// Chooses by the name the client asked for, then by what it can verify: an ECDSA certificate before an RSA
/// one, and the first when nothing fits better, as in Envoy.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Vec<Identity>);

impl ByName {
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Identity> {
        let fitting = |matches: &dyn Fn(&Identity) -> bool| {
            let candidates = || {
                self.0
                    .iter()
                    .filter(|one| matches(one) && one.usable(schemes))
            };
            candidates()
                .find(|one| one.algorithm() == SignatureAlgorithm::ECDSA)
                .or_else(|| candidates().next())
        };
        by_name(name, fitting)
            .or_else(|| fitting(&|_| true))
            .or_else(|| self.0.first())
    }

    /// URI names of the certificate for this name, whatever its key is.
    pub(super) fn uris(&self, name: Option<&str>) -> &[Box<str>] {
        let first = |matches: &dyn Fn(&Identity) -> bool| self.0.iter().find(|one| matches(one));
        let chosen = by_name(name, first).or_else(|| self.0.first());
        chosen.map_or(&[], |one| &one.uris)
    }
}

/// The one for this very name, or else one with a wildcard.
fn by_name<'a>(
    name: Option<&str>,
    find: impl Fn(&dyn Fn(&Identity) -> bool) -> Option<&'a Identity>,
) -> Option<&'a Identity> {
    let name = name?;
    find(&|one| one.names.iter().any(|own| own.eq_ignore_ascii_case(name)))
        .or_else(|| find(&|one| one.names.iter().any(|own| dns_matches(own, name))))
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = self.choose(hello.server_name(), hello.signature_schemes());
        chosen.map(|one| Arc::clone(&one.certified))
    }
}

/// The certificate we show to servers that ask for one.
#[derive(Debug)]
pub(super) struct Own(pub(super) Vec<Identity>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let chosen = self.0.iter().find(|one| one.usable(schemes));
        chosen.map(|one| Arc::clone(&one.certified))
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Whether the provider can use what these parameters leave; a context needs at least one of each.
pub(super) fn has_common_ground(provider: &CryptoProvider) -> bool {
    !provider.cipher_suites.is_empty() && !provider.kx_groups.is_empty()
}
