//! What is read from a certificate beside its chain: names, subject, digests.
//!
//! A reader of DER (X.690) that knows the few structures of RFC 5280 it needs. It judges nothing:
//! whether a certificate is good is `verify`'s business. What is malformed reads as absent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

/// A subject alternative name (RFC 5280 section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    /// `dNSName`.
    Dns(Box<str>),
    /// `uniformResourceIdentifier`, such as a SPIFFE id.
    Uri(Box<str>),
    /// `rfc822Name`.
    Email(Box<str>),
    /// `iPAddress`.
    Ip(IpAddr),
}

/// A certificate's parts.
#[derive(Clone, Debug, Default)]
pub struct Parts<'a> {
    /// Serial number, as it is encoded.
    pub serial: &'a [u8],
    /// Content of the issuer's and the subject's name.
    pub issuer: &'a [u8],
    /// As above.
    pub subject: &'a [u8],
    /// The whole `SubjectPublicKeyInfo`.
    pub spki: &'a [u8],
    /// Seconds since 1970 between which it is valid.
    pub validity: (i64, i64),
    /// Subject alternative names.
    pub alt_names: Vec<AltName>,
    /// It is not to be used without a good OCSP response (RFC 7633).
    pub must_staple: bool,
}

/// A reader of one level of DER.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// Tag, content, and the whole element.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        // Tags of more than one byte do not occur where we look.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (first, mut rest) = rest.split_first()?;
        let len = match first {
            0..=0x7f => usize::from(*first),
            0x81..=0x83 => {
                let (bytes, behind) = rest.split_at_checked(usize::from(first - 0x80))?;
                rest = behind;
                bytes
                    .iter()
                    .fold(0, |len, byte| len << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - behind.len()];
        self.0 = behind;
        Some((*tag, content, whole))
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(tag, ..)| *tag == wanted)
            .map(|(_, content, _)| content)
    }

    /// The next element when it has this tag; else nothing is taken.
    pub(super) fn optional(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let before = *self;
        let found = self.expect(wanted);
        if found.is_none() {
            *self = before;
        }
        found
    }
}

pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 1.3.6.1.5.5.7.1.24, and in it the number of the extension that is asked for: status_request.
const TLS_FEATURE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 0x18];
const STATUS_REQUEST: &[u8] = &[5];

/// Takes a certificate apart.
#[must_use]
pub fn parts(certificate: &[u8]) -> Option<Parts<'_>> {
    let mut outer = Der(Der(certificate).expect(SEQUENCE)?);
    let mut tbs = Der(outer.expect(SEQUENCE)?);
    let _version = tbs.optional(0xa0);
    let serial = tbs.expect(INTEGER)?;
    let _algorithm = tbs.expect(SEQUENCE)?;
    let issuer = tbs.expect(SEQUENCE)?;
    let mut validity = Der(tbs.expect(SEQUENCE)?);
    let validity = (time(validity.next()?)?, time(validity.next()?)?);
    let subject = tbs.expect(SEQUENCE)?;
    let (tag, _, spki) = tbs.next()?;
    if tag != SEQUENCE {
        return None;
    }
    let _issuer_id = tbs.optional(0x81);
    let _subject_id = tbs.optional(0x82);
    let mut alt_names = Vec::new();
    let mut must_staple = false;
    if let Some(extensions) = tbs.optional(0xa3) {
        let mut extensions = Der(Der(extensions).expect(SEQUENCE)?);
        while let Some(extension) = extensions.optional(SEQUENCE) {
            let mut extension = Der(extension);
            let id = extension.expect(OID)?;
            let _critical = extension.optional(BOOLEAN);
            let value = extension.expect(OCTETS)?;
            if id == TLS_FEATURE {
                let mut features = Der(Der(value).expect(SEQUENCE)?);
                while let Some(feature) = features.optional(INTEGER) {
                    must_staple |= feature == STATUS_REQUEST;
                }
            }
            if id == SUBJECT_ALT_NAME {
                let mut names = Der(Der(value).expect(SEQUENCE)?);
                while let Some((tag, content, _)) = names.next() {
                    alt_names.extend(alt_name(tag, content));
                }
            }
        }
    }
    Some(Parts {
        serial,
        issuer,
        subject,
        spki,
        validity,
        alt_names,
        must_staple,
    })
}

fn alt_name(tag: u8, content: &[u8]) -> Option<AltName> {
    let text = || {
        let text = std::str::from_utf8(content).ok()?;
        // Nothing that a header or a log could be split with.
        (!text.bytes().any(|byte| byte.is_ascii_control())).then(|| text.into())
    };
    match tag {
        0x81 => text().map(AltName::Email),
        0x82 => text().map(AltName::Dns),
        0x86 => text().map(AltName::Uri),
        0x87 => match content.len() {
            4 => <[u8; 4]>::try_from(content)
                .ok()
                .map(|ip| AltName::Ip(Ipv4Addr::from(ip).into())),
            16 => <[u8; 16]>::try_from(content)
                .ok()
                .map(|ip| AltName::Ip(Ipv6Addr::from(ip).into())),
            _ => None,
        },
        _ => None,
    }
}

/// `UTCTime` or `GeneralizedTime` in the form of RFC 5280 section 4.1.2.5.
pub(super) fn time((tag, content, _): (u8, &[u8], &[u8])) -> Option<i64> {
    let digits = content.strip_suffix(b"Z")?;
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        std::str::from_utf8(digits.get(range)?).ok()?.parse().ok()
    };
    let (year, rest) = match (tag, digits.len()) {
        (0x17, 12) => {
            let year = number(0..2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (0x18, 14) => (number(0..4)?, 4),
        _ => return None,
    };
    let field = |index: usize| number(rest + 2 * index..rest + 2 * index + 2);
    let (month, day) = (field(0)?, field(1)?);
    // Days since 1970-01-01 of a date in the Gregorian calendar.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 1
            - 719_468;
    Some(days * 86_400 + field(2)? * 3600 + field(3)? * 60 + field(4)?)
}

/// A distinguished name as RFC 2253 writes it: the last part first.
#[must_use]
pub fn name(content: &[u8]) -> String {
    let mut sets = Vec::new();
    let mut reader = Der(content);
    while let Some(set) = reader.optional(SET) {
        let mut parts = Vec::new();
        let mut set = Der(set);
        while let Some(part) = set.optional(SEQUENCE) {
            let mut part = Der(part);
            let (Some(id), Some((_, value, _))) = (part.expect(OID), part.next()) else {
                break;
            };
            parts.push(format!("{}={}", attribute(id), escaped(value)));
        }
        sets.push(parts.join("+"));
    }
    sets.reverse();
    sets.join(",")
}

fn attribute(id: &[u8]) -> String {
    let short = match id {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        _ => return dotted(id),
    };
    short.to_owned()
}

fn dotted(id: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0u64;
    for byte in id {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.push(first.to_string());
                number -= first * 40;
            }
            numbers.push(number.to_string());
            number = 0;
        }
    }
    numbers.join(".")
}

fn escaped(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let mut out = String::with_capacity(text.len());
    for (index, char) in text.char_indices() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', char]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index + 1 == text.len() => out.push_str("\\ "),
            char if char.is_control() => {
                out.extend(char.to_string().bytes().map(|byte| format!("\\{byte:02X}")));
            }
            char => out.push(char),
        }
    }
    out
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is kept of a peer's certificate: for `x-forwarded-client-cert` and the access log.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// The certificates as they came, the peer's own first.
    chain: Vec<CertificateDer<'static>>,
}

impl PeerCertificate {
    pub(super) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Arc<Self>> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        Some(Arc::new(Self { chain }))
    }

    #[cfg(test)]
    pub(crate) fn from_der(der: &[u8]) -> Self {
        Self {
            chain: vec![CertificateDer::from(der.to_vec())],
        }
    }

    /// The certificate itself in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.chain.first().map_or(&[], |first| first.as_ref())
    }

    /// The parts of the certificate.
    #[must_use]
    pub fn parts(&self) -> Option<Parts<'_>> {
        parts(self.der())
    }

    /// SHA-256 of the certificate in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(digest(&SHA256, self.der()).as_ref())
    }

    /// The certificate in PEM, or the whole chain.
    #[must_use]
    pub fn pem(&self, whole_chain: bool) -> String {
        let count = if whole_chain { self.chain.len() } else { 1 };
        let chain = self.chain.iter().take(count);
        chain.map(|one| pem(one.as_ref())).collect()
    }
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group
                .iter()
                .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for place in 0..4 {
                if place <= group.len() {
                    let digit = (bits >> (18 - 6 * place)) & 63;
                    out.push(char::from(ALPHABET[digit as usize]));
                } else {
                    out.push('=');
                }
            }
        }
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}
