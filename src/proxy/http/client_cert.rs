//! `x-forwarded-client-cert`: what the next hop is told of a client's certificate.
//!
//! Only a peer whose certificate was checked may speak for a certificate: from all others the field is
//! taken away, whatever the mode, unless it is forwarded always.

use std::fmt::Write as _;

use moorgate_codecs::Head;

use super::client_address::join;
use crate::telemetry::record::{self, PeerPart};
use crate::tls::PeerCertificate;
use crate::tls::x509::{self, AltName};

const CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// The mode, and `set_current_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertRules {
    /// What happens to the field.
    pub mode: Mode,
    /// `Cert`: the certificate.
    pub cert: bool,
    /// `Chain`: with its intermediates.
    pub chain: bool,
    /// `Subject`.
    pub subject: bool,
    /// `URI`: names of this kind.
    pub uri: bool,
    /// `DNS`: names of this kind.
    pub dns: bool,
}

/// The certificates of a connection on which the client showed one.
#[derive(Clone, Copy, Debug)]
pub struct Certificates<'a> {
    /// The client's.
    pub peer: &'a PeerCertificate,
    /// URI names of ours.
    pub own_uris: &'a [Box<str>],
}

/// Takes away, keeps, extends or sets the field. `present`: the head has it.
pub(super) fn apply(
    head: &mut Head,
    rules: ClientCertRules,
    certificates: Option<&Certificates<'_>>,
    present: bool,
    buffer: &mut Vec<u8>,
) {
    let certificates = match (rules.mode, certificates) {
        (Mode::AlwaysForwardOnly, _) | (Mode::ForwardOnly, Some(_)) => return,
        (Mode::Sanitize, _) | (_, None) => {
            if present {
                head.remove(CLIENT_CERT);
            }
            return;
        }
        (Mode::AppendForward | Mode::SanitizeSet, Some(certificates)) => certificates,
    };
    let text = element(rules, certificates);
    if rules.mode == Mode::SanitizeSet {
        head.set(CLIENT_CERT, text.as_bytes());
    } else {
        join(head, CLIENT_CERT, b",", present, buffer, |out| {
            out.extend_from_slice(text.as_bytes());
        });
    }
}

/// One element of the list, its parts in Envoy's order.
fn element(rules: ClientCertRules, certificates: &Certificates<'_>) -> String {
    let Certificates { peer, own_uris } = certificates;
    let mut out = String::new();
    for uri in *own_uris {
        let _ = write!(out, "By={uri};");
    }
    let _ = write!(out, "Hash={}", peer.sha256());
    if rules.cert {
        let _ = write!(out, ";Cert=\"{}\"", encoded(&peer.pem(false)));
    }
    if rules.chain {
        let _ = write!(out, ";Chain=\"{}\"", encoded(&peer.pem(true)));
    }
    let parts = peer.parts().unwrap_or_default();
    if rules.subject {
        let _ = write!(out, ";Subject=\"{}\"", x509::name(parts.subject));
    }
    let names = |kind: &str, of: fn(&AltName) -> Option<&str>| {
        let names = parts.alt_names.iter().filter_map(of);
        names.fold(String::new(), |out, name| format!("{out};{kind}={name}"))
    };
    if rules.uri {
        let uris = names("URI", |name| match name {
            AltName::Uri(uri) => Some(uri),
            _ => None,
        });
        out.push_str(if uris.is_empty() { ";URI=" } else { &uris });
    }
    if rules.dns {
        out.push_str(&names("DNS", |name| match name {
            AltName::Dns(name) => Some(name),
            _ => None,
        }));
    }
    out
}

impl record::PeerCertificate for PeerCertificate {
    fn part(&self, part: PeerPart) -> String {
        let parts = self.parts().unwrap_or_default();
        let names = |of: fn(&AltName) -> Option<&str>| {
            let names: Vec<_> = parts.alt_names.iter().filter_map(of).collect();
            names.join(",")
        };
        match part {
            PeerPart::Subject => x509::name(parts.subject),
            PeerPart::Issuer => x509::name(parts.issuer),
            PeerPart::Serial => {
                // A first byte of 0 only says that the number is not negative.
                let digits = parts.serial.strip_prefix(&[0]).unwrap_or(parts.serial);
                x509::hex(digits)
            }
            PeerPart::Fingerprint => self.sha256(),
            PeerPart::Uris => names(|name| match name {
                AltName::Uri(uri) => Some(uri),
                _ => None,
            }),
            PeerPart::DnsNames => names(|name| match name {
                AltName::Dns(name) => Some(name),
                _ => None,
            }),
            PeerPart::Pem => encoded(&self.pem(false)),
        }
    }
}

/// PEM as it can stand in a field.
fn encoded(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for char in pem.chars() {
        match char {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Authority;

    const ALL: ClientCertRules = ClientCertRules {
        mode: Mode::SanitizeSet,
        cert: true,
        chain: true,
        subject: true,
        uri: true,
        dns: true,
    };

    fn applied(mode: Mode, given: Option<&[u8]>, with_certificate: bool) -> Option<String> {
        let issued = Authority::new("root").issue(&["c.test", "uri:spiffe://a/b"], 3);
        let peer = PeerCertificate::from_der(&issued.der);
        let own_uris = ["spiffe://own".into()];
        let certificates = Certificates {
            peer: &peer,
            own_uris: &own_uris,
        };
        let mut head = Head::new();
        if let Some(given) = given {
            head.push(CLIENT_CERT, given);
        }
        let rules = ClientCertRules {
            mode,
            cert: false,
            chain: false,
            ..ALL
        };
        apply(
            &mut head,
            rules,
            with_certificate.then_some(&certificates),
            given.is_some(),
            &mut Vec::new(),
        );
        let hash = peer.sha256();
        head.get(CLIENT_CERT)
            .map(|value| String::from_utf8_lossy(value).replace(&hash, "<hash>"))
    }

    #[test]
    fn each_mode_does_what_envoys_does() {
        const GIVEN: Option<&[u8]> = Some(b"By=x");
        const OWN: &str = "By=spiffe://own;Hash=<hash>;Subject=\"CN=c.test,O=Moorgate\\, tests\";\
                           URI=spiffe://a/b;DNS=c.test";
        let text = |text: &str| Some(text.to_owned());
        for (mode, plain, mutual) in [
            (Mode::Sanitize, None, None),
            (Mode::ForwardOnly, None, text("By=x")),
            (Mode::AppendForward, None, Some(format!("By=x,{OWN}"))),
            (Mode::SanitizeSet, None, text(OWN)),
            (Mode::AlwaysForwardOnly, text("By=x"), text("By=x")),
        ] {
            assert_eq!(applied(mode, GIVEN, false), plain, "{mode:?} without one");
            assert_eq!(applied(mode, GIVEN, true), mutual, "{mode:?} with one");
        }
        assert_eq!(applied(Mode::AppendForward, None, true), text(OWN));
        assert_eq!(applied(Mode::ForwardOnly, None, true), None);
    }

    #[test]
    fn certificates_are_encoded() {
        let issued = Authority::new("root").issue(&["c.test"], 3);
        let peer = PeerCertificate::from_der(&issued.der);
        let certificates = Certificates {
            peer: &peer,
            own_uris: &[],
        };
        let text = element(ALL, &certificates);
        assert!(text.starts_with("Hash="), "{text}");
        assert!(
            text.contains(";Cert=\"-----BEGIN%20CERTIFICATE-----%0A"),
            "{text}"
        );
        assert!(
            text.contains(";Chain=\"-----BEGIN%20CERTIFICATE-----%0A"),
            "{text}"
        );
        assert!(text.ends_with(";URI=;DNS=c.test"), "{text}");
        assert!(!text.contains('\n') && !text.contains('+') && !text.contains("/"));
        // The PEM is the same as another implementation's, up to line ends.
        let pem = peer.pem(false);
        assert_eq!(pem, issued.chain.replace("\r\n", "\n"));
    }
}
