//! Our own certificates and their keys, and which of them a peer gets.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ocsp::{self, StaplePolicy};
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
    serial: Box<[u8]>,
    must_staple: bool,
    policy: StaplePolicy,
    /// The same with an OCSP response, and until when that is good.
    stapled: Option<(Arc<CertifiedKey>, i64)>,
}

/// Why a certificate cannot have this OCSP response, or cannot be without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstapled {
    /// It is none that can be read, or one that was not successful.
    Malformed,
    /// It is for another certificate.
    Other,
    /// The certificate, or the policy, asks for one.
    Missing,
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
        let (serial, must_staple) = (parts.serial.into(), parts.must_staple);
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
            serial,
            must_staple,
            policy: StaplePolicy::default(),
            stapled: None,
        })
    }

    /// When the certificate ends to be valid, seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires
    }

    /// Takes an OCSP response, or none, under this policy.
    ///
    /// # Errors
    /// Why it is not to be used so.
    pub fn staple(
        mut self,
        response: Option<Vec<u8>>,
        policy: StaplePolicy,
    ) -> Result<Self, Unstapled> {
        self.policy = if self.must_staple {
            StaplePolicy::Must
        } else {
            policy
        };
        let Some(response) = response else {
            return match self.policy {
                StaplePolicy::Must => Err(Unstapled::Missing),
                _ => Ok(self),
            };
        };
        let parsed = ocsp::parse(&response).ok_or(Unstapled::Malformed)?;
        if *parsed.serial != *self.serial {
            return Err(Unstapled::Other);
        }
        let until = parsed.next_update.unwrap_or(i64::MIN);
        let mut stapled = CertifiedKey::clone(&self.certified);
        stapled.ocsp = Some(response);
        self.stapled = Some((Arc::new(stapled), until));
        Ok(self)
    }

    /// The certificate as it may be shown now.
    fn shown(&self) -> Option<&Arc<CertifiedKey>> {
        let good = self.stapled.as_ref().filter(|(_, until)| {
            let now = UnixTime::now().as_secs();
            i64::try_from(now).is_ok_and(|now| now <= *until)
        });
        match (good, self.policy) {
            (Some((stapled, _)), _) => Some(stapled),
            (None, StaplePolicy::Must) => None,
            (None, StaplePolicy::Strict) if self.stapled.is_some() => None,
            (None, _) => Some(&self.certified),
        }
    }

    /// Names it has, for what has to tell contexts apart.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(String::as_str);
        names.chain(self.uris.iter().map(|uri| &**uri))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.certified.key.algorithm()
    }

    fn usable(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }
}

/// Chooses by the name the client asked for, then by what it can verify: an ECDSA certificate before an RSA
/// one. Without a name the best for its abilities, with one that no certificate has the first, as in Envoy.
#[derive(Debug)]
pub(super) struct ByName {
    pub(super) list: Vec<Identity>,
    /// Clients without a name get none.
    pub(super) require_name: bool,
    /// Look for the best also where the client gave a name.
    pub(super) full_scan: bool,
}

impl ByName {
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Identity> {
        let fitting = |matches: &dyn Fn(&Identity) -> bool| {
            let candidates = || {
                self.list
                    .iter()
                    .filter(|one| matches(one) && one.usable(schemes))
            };
            candidates()
                .find(|one| one.algorithm() == SignatureAlgorithm::ECDSA)
                .or_else(|| candidates().next())
        };
        if name.is_none() && self.require_name {
            return None;
        }
        by_name(name, fitting)
            .or_else(|| {
                let scan = name.is_none() || self.full_scan;
                scan.then(|| fitting(&|_| true)).flatten()
            })
            .or_else(|| self.list.first())
    }

    /// URI names of the certificate for this name, whatever its key is.
    pub(super) fn uris(&self, name: Option<&str>) -> &[Box<str>] {
        let first = |matches: &dyn Fn(&Identity) -> bool| self.list.iter().find(|one| matches(one));
        let chosen = by_name(name, first).or_else(|| self.list.first());
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
        let chosen = self.choose(hello.server_name(), hello.signature_schemes())?;
        chosen.shown().map(Arc::clone)
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
