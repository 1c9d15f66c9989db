//! OCSP responses that are stapled to our certificates (RFC 6960, RFC 6066 section 8).
//!
//! Read as far as it takes to say whose certificate a response is for and how long it is good. Whether its
//! signature is good is the client's to judge, as is what it says.

use super::x509::{Der, SEQUENCE, time};

/// Envoy's `ocsp_staple_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StaplePolicy {
    /// A response that is not there or not good any more is left out.
    #[default]
    Lenient,
    /// With one that is not good any more the certificate is not used.
    Strict,
    /// Without a good one the certificate is not used.
    Must,
}

/// What a response says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response<'a> {
    /// Serial number of the certificate it is for.
    pub(super) serial: &'a [u8],
    /// Until when it is good, seconds since 1970; without that it never is.
    pub(super) next_update: Option<i64>,
}

/// Takes a response apart; `None` when it is none, was not successful, or is for several certificates.
pub(super) fn parse(der: &[u8]) -> Option<Response<'_>> {
    const ENUMERATED: u8 = 0x0a;
    const OCTETS: u8 = 0x04;
    const OID: u8 = 0x06;
    const INTEGER: u8 = 0x02;
    /// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1
    const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let mut response = Der(Der(der).expect(SEQUENCE)?);
    if response.expect(ENUMERATED)? != [0] {
        return None;
    }
    let mut bytes = Der(Der(response.expect(0xa0)?).expect(SEQUENCE)?);
    if bytes.expect(OID)? != BASIC {
        return None;
    }
    let mut basic = Der(Der(bytes.expect(OCTETS)?).expect(SEQUENCE)?);
    let mut data = Der(basic.expect(SEQUENCE)?);
    let _version = data.optional(0xa0);
    let _responder = data.next()?;
    let _produced = time(data.next()?)?;
    let mut responses = Der(data.expect(SEQUENCE)?);
    let mut single = Der(responses.expect(SEQUENCE)?);
    if responses.next().is_some() {
        return None;
    }
    let mut id = Der(single.expect(SEQUENCE)?);
    let _algorithm = id.expect(SEQUENCE)?;
    let _name_hash = id.expect(OCTETS)?;
    let _key_hash = id.expect(OCTETS)?;
    let serial = id.expect(INTEGER)?;
    let _status = single.next()?;
    let _this_update = time(single.next()?)?;
    let next_update = match single.optional(0xa0) {
        Some(explicit) => Some(time(Der(explicit).next()?)?),
        None => None,
    };
    Some(Response {
        serial,
        next_update,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        let len = content.len();
        if len < 0x80 {
            out.push(len as u8);
        } else {
            out.extend([0x82, (len >> 8) as u8, len as u8]);
        }
        out.extend(content);
        out
    }

    /// A response for the certificate of this serial number, good until a time like `20300101000000Z`.
    pub(crate) fn response(serial: &[u8], until: Option<&str>) -> Vec<u8> {
        let produced = element(0x18, &[b"20240101000000Z"]);
        let id = element(
            SEQUENCE,
            &[
                &element(SEQUENCE, &[]),
                &element(4, &[b"n"]),
                &element(4, &[b"k"]),
                &element(2, &[serial]),
            ],
        );
        let until = until.map(|until| element(0xa0, &[&element(0x18, &[until.as_bytes()])]));
        let until = until.unwrap_or_default();
        let single = element(SEQUENCE, &[&id, &element(0x80, &[]), &produced, &until]);
        let data = element(
            SEQUENCE,
            &[
                &element(0xa2, &[b"who"]),
                &produced,
                &element(SEQUENCE, &[&single]),
            ],
        );
        let basic = element(SEQUENCE, &[&data, &element(SEQUENCE, &[])]);
        let id = element(6, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]]);
        let bytes = element(SEQUENCE, &[&id, &element(4, &[&basic])]);
        element(
            SEQUENCE,
            &[&element(0x0a, &[&[0]]), &element(0xa0, &[&bytes])],
        )
    }

    #[test]
    fn a_response_names_its_certificate_and_its_end() {
        let whole = response(&[7, 1], Some("20300101000000Z"));
        let parsed = parse(&whole).expect("a response");
        assert_eq!(parsed.serial, [7, 1]);
        assert_eq!(parsed.next_update, Some(1_893_456_000));
        assert_eq!(
            parse(&response(&[1], None)).map(|parsed| parsed.next_update),
            Some(None)
        );
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        let refused = element(SEQUENCE, &[&element(0x0a, &[&[6]])]);
        assert_eq!(parse(&refused), None);
    }
}
