//! Whether a peer's certificate is good: chain, revocation, names, digests.
//!
//! As in Envoy's validation context each part is checked only when it was configured: without
//! `trusted_ca` any chain will do, without name matchers any name. Signatures are always checked.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use webpki::{CertRevocationList, EndEntityCert, KeyUsage};

use super::x509::{self, AltName};

/// What a certificate was refused for, beside its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No subject alternative name matches.
    AltName,
    /// Neither its digest nor that of its key is in the lists.
    Hash,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AltName => "no subject alternative name matches",
            Self::Hash => "the certificate's digest is not among those that are trusted",
        })
    }
}

impl std::error::Error for Refused {}

/// Kinds of subject alternative names that a matcher is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AltNameKind {
    /// `DNS`
    Dns,
    /// `URI`
    Uri,
    /// `EMAIL`
    Email,
    /// `IP_ADDRESS`
    Ip,
}

/// One of `match_typed_subject_alt_names`.
pub struct AltNameMatcher {
    /// Which names are looked at.
    pub kind: AltNameKind,
    /// The value has to be this; a DNS name of the certificate may begin with `*.`.
    pub exact: Option<String>,
    /// What else decides.
    pub matches: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl fmt::Debug for AltNameMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AltNameMatcher({:?}, {:?})", self.kind, self.exact)
    }
}

impl AltNameMatcher {
    fn matches(&self, name: &AltName) -> bool {
        match (self.kind, name) {
            (AltNameKind::Dns, AltName::Dns(pattern)) => match &self.exact {
                Some(wanted) => dns_matches(pattern, wanted),
                None => (self.matches)(pattern),
            },
            (AltNameKind::Uri, AltName::Uri(text)) | (AltNameKind::Email, AltName::Email(text)) => {
                (self.matches)(text)
            }
            (AltNameKind::Ip, AltName::Ip(ip)) => (self.matches)(&ip.to_string()),
            _ => false,
        }
    }
}

/// A certificate's DNS name stands for this host (RFC 6125 section 6.4): without regard to case, and with
/// `*` for one whole first label.
#[must_use]
pub fn dns_matches(pattern: &str, host: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix("*.") {
        return host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix));
    }
    pattern.eq_ignore_ascii_case(host)
}

/// Envoy's `CertificateValidationContext`.
#[derive(Debug, Default)]
pub struct Validation {
    /// `trusted_ca`; `None` when any will do.
    pub anchors: Option<Vec<TrustAnchor<'static>>>,
    /// `crl`.
    pub revoked: Vec<CertRevocationList<'static>>,
    /// `only_verify_leaf_cert_crl`.
    pub leaf_revocation_only: bool,
    /// `match_typed_subject_alt_names`; one of them is enough.
    pub alt_names: Vec<AltNameMatcher>,
    /// SHA-256 of certificates, `verify_certificate_hash`.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of keys, `verify_certificate_spki`.
    pub keys: Vec<[u8; 32]>,
    /// `allow_expired_certificate`.
    pub allow_expired: bool,
    /// The peer may show no certificate, or one that is not good (`ACCEPT_UNTRUSTED`).
    pub accept_untrusted: bool,
}

/// Judges peers for one context; both as server and as client.
#[derive(Debug)]
pub struct Verifier {
    validation: Arc<Validation>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Names of the anchors, as hints for clients.
    subjects: Vec<DistinguishedName>,
    required: bool,
    /// The name that was asked for has to be in the certificate (`auto_san_validation`), whatever else was
    /// to be.
    match_server_name: bool,
}

impl Verifier {
    pub(super) fn new(
        validation: Arc<Validation>,
        algorithms: WebPkiSupportedAlgorithms,
        required: bool,
        match_server_name: bool,
    ) -> Arc<Self> {
        let anchors = validation.anchors.iter().flatten();
        let subjects = anchors
            .map(|anchor| DistinguishedName::in_sequence(anchor.subject.as_ref()))
            .collect();
        Arc::new(Self {
            validation,
            algorithms,
            subjects,
            required,
            match_server_name,
        })
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
        server_name: Option<&ServerName<'_>>,
    ) -> Result<(), rustls::Error> {
        if self.validation.accept_untrusted {
            return Ok(());
        }
        if let Some(anchors) = &self.validation.anchors {
            self.judge_chain(anchors, end_entity, intermediates, now, usage)?;
        }
        let context = &self.validation;
        let by_name = !context.alt_names.is_empty() || server_name.is_some();
        if !by_name && context.hashes.is_empty() && context.keys.is_empty() {
            return Ok(());
        }
        let parts = x509::parts(end_entity).ok_or(CertificateError::BadEncoding)?;
        if !context.alt_names.is_empty() && server_name.is_none() {
            let found = (parts.alt_names.iter()).any(|name| {
                context
                    .alt_names
                    .iter()
                    .any(|matcher| matcher.matches(name))
            });
            if !found {
                return Err(refused(Refused::AltName));
            }
        }
        if let Some(wanted) = server_name {
            let found = parts.alt_names.iter().any(|name| match (wanted, name) {
                (ServerName::DnsName(wanted), AltName::Dns(name)) => {
                    dns_matches(name, wanted.as_ref())
                }
                (ServerName::IpAddress(wanted), AltName::Ip(ip)) => {
                    std::net::IpAddr::from(*wanted) == *ip
                }
                _ => false,
            });
            if !found {
                return Err(refused(Refused::AltName));
            }
        }
        if !context.hashes.is_empty() || !context.keys.is_empty() {
            let is_in = |list: &[[u8; 32]], bytes: &[u8]| {
                let found = digest(&SHA256, bytes);
                list.iter().any(|one| one.as_slice() == found.as_ref())
            };
            // Either list is enough, as in Envoy.
            if !is_in(&context.hashes, end_entity) && !is_in(&context.keys, parts.spki) {
                return Err(refused(Refused::Hash));
            }
        }
        Ok(())
    }

    fn judge_chain(
        &self,
        anchors: &[TrustAnchor<'static>],
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let context = &self.validation;
        let certificate =
            EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let lists: Vec<&CertRevocationList<'_>> = context.revoked.iter().collect();
        let mut options = None;
        if !lists.is_empty() {
            let builder = webpki::RevocationOptionsBuilder::new(&lists)
                .map_err(|_| CertificateError::UnknownRevocationStatus)?;
            let depth = if context.leaf_revocation_only {
                webpki::RevocationCheckDepth::EndEntity
            } else {
                webpki::RevocationCheckDepth::Chain
            };
            options = Some(builder.with_depth(depth).build());
        }
        let verify = |now: UnixTime| {
            certificate.verify_for_usage(
                self.algorithms.all,
                anchors,
                intermediates,
                now,
                usage,
                options,
                None,
            )
        };
        match verify(now) {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { time, not_after })
                if context.allow_expired && not_after < time =>
            {
                verify(not_after)
                    .map(drop)
                    .map_err(|_| CertificateError::Expired.into())
            }
            Err(webpki::Error::CertExpired { .. }) => Err(CertificateError::Expired.into()),
            Err(webpki::Error::CertNotValidYet { .. }) => Err(CertificateError::NotValidYet.into()),
            Err(webpki::Error::CertRevoked) => Err(CertificateError::Revoked.into()),
            Err(webpki::Error::UnknownIssuer) => Err(CertificateError::UnknownIssuer.into()),
            Err(webpki::Error::InvalidSignatureForPublicKey) => {
                Err(CertificateError::BadSignature.into())
            }
            Err(error) => Err(CertificateError::Other(OtherError(Arc::new(error))).into()),
        }
    }
}

fn refused(why: Refused) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let usage = KeyUsage::client_auth();
        self.judge(end_entity, intermediates, now, usage, None)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usage = KeyUsage::server_auth();
        let server_name = self.match_server_name.then_some(server_name);
        self.judge(end_entity, intermediates, now, usage, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
