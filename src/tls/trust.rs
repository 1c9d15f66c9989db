//! What is trusted, as it stands in files: authorities and revocation lists.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// The authorities of a file in PEM; `None` when there is none, or one cannot be read.
#[must_use]
pub fn anchors(pem: &[u8]) -> Option<Vec<TrustAnchor<'static>>> {
    let mut anchors = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.ok()?;
        anchors.push(
            webpki::anchor_from_trusted_cert(&certificate)
                .ok()?
                .to_owned(),
        );
    }
    (!anchors.is_empty()).then_some(anchors)
}

/// The revocation lists of a file in PEM; `None` when there is none, or one cannot be read.
#[must_use]
pub fn revocation_lists(pem: &[u8]) -> Option<Vec<CertRevocationList<'static>>> {
    let mut lists = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        lists.push(OwnedCertRevocationList::from_der(&list.ok()?).ok()?.into());
    }
    (!lists.is_empty()).then_some(lists)
}
