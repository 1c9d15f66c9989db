//! An authority and what it issues.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DistinguishedName, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::tls::identity::Identity;

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) der: Vec<u8>,
}

impl Issued {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("an identity")
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub(crate) fn anchors(&self) -> Vec<TrustAnchor<'static>> {
        let der = CertificateDer::from(self.0.der().to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&der).expect("an anchor");
        vec![anchor.to_owned()]
    }

    /// `names` are DNS names, or addresses, or `uri:` or `email:` and what follows.
    pub(crate) fn issue(&self, names: &[&str], serial: u64) -> Issued {
        let key = KeyPair::generate().expect("a key");
        self.issue_for(names, serial, &key, (2020, 2120))
    }

    /// One that is not to be used without a good OCSP response.
    pub(crate) fn issue_must_staple(&self, name: &str) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        let oid = [1, 3, 6, 1, 5, 5, 7, 1, 24];
        // SEQUENCE of the INTEGER 5, status_request.
        let value = vec![0x30, 3, 2, 1, 5];
        let extension = CustomExtension::from_oid_content(&oid, value);
        params.custom_extensions.push(extension);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    pub(crate) fn issue_for(
        &self,
        names: &[&str],
        serial: u64,
        key: &KeyPair,
        years: (i32, i32),
    ) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(serial));
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Moorgate, tests");
        params.distinguished_name.push(
            DnType::CommonName,
            names.first().copied().unwrap_or("nobody"),
        );
        for name in names {
            let text = |text: &str| text.to_owned().try_into().expect("ASCII");
            let name = if let Some(uri) = name.strip_prefix("uri:") {
                SanType::URI(text(uri))
            } else if let Some(email) = name.strip_prefix("email:") {
                SanType::Rfc822Name(text(email))
            } else if let Ok(ip) = name.parse() {
                SanType::IpAddress(ip)
            } else {
                SanType::DnsName(text(name))
            };
            params.subject_alt_names.push(name);
        }
        let certificate = params.signed_by(key, &self.0).expect("a certificate");
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    pub(crate) fn revoke(&self, serial: u64) -> CertRevocationList<'static> {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.0).expect("a list");
        OwnedCertRevocationList::from_der(list.der())
            .expect("a list")
            .into()
    }
}
