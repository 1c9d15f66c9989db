//! Header sections: fields as they come out of HPACK, judged and put into a [`Head`] (RFC 9113
//! section 8.2 and 8.3).
//!
//! The table of HPACK has to follow whatever is wrong with a section, so the first fault is kept and
//! the rest is looked at no more. Nothing is stored beyond the limits.

use crate::head::{Head, HeadKind, Version};
use crate::http1::chars::{
    decimal, is_authority, is_authority_with_port, is_lower_token, is_target, is_token, is_value,
};
use crate::http1::fields::forbidden_in_trailers;

/// What is wrong with a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It breaks the rules (section 8.1.1).
    Malformed(&'static str),
    /// It is beyond our limits.
    TooLarge(&'static str),
}

/// Pseudo-header fields, as bits.
mod pseudo {
    pub(super) const METHOD: u8 = 1;
    pub(super) const SCHEME: u8 = 2;
    pub(super) const AUTHORITY: u8 = 4;
    pub(super) const PATH: u8 = 8;
    pub(super) const PROTOCOL: u8 = 16;
    pub(super) const STATUS: u8 = 32;
}

/// What every field counts besides its octets (section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// A section that is being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    head: &'a mut Head,
    max_bytes: usize,
    max_fields: usize,
    bytes: usize,
    fields: usize,
    wrong: Option<Wrong>,
    seen: u8,
    regular: bool,
    host: Option<Vec<u8>>,
    protocol: Vec<u8>,
    /// All crumbs of a cookie, from the second on.
    cookie: Vec<u8>,
}

/// What the codec needs to know besides the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) connect: bool,
    pub(super) extended: bool,
    pub(super) head: bool,
}

impl<'a> Section<'a> {
    pub(super) fn new(head: &'a mut Head, kind: HeadKind, limits: (usize, usize)) -> Self {
        head.kind = kind;
        head.version = Version::Http2;
        Self {
            head,
            max_bytes: limits.0,
            max_fields: limits.1,
            bytes: 0,
            fields: 0,
            wrong: None,
            seen: 0,
            regular: false,
            host: None,
            protocol: Vec::new(),
            cookie: Vec::new(),
        }
    }

    /// The next field.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        if self.wrong.is_some() {
            return;
        }
        self.bytes += name.len() + value.len() + FIELD_OVERHEAD;
        self.fields += 1;
        let judged = if self.bytes > self.max_bytes {
            Err(Wrong::TooLarge("http2.headers_too_large"))
        } else if self.fields > self.max_fields {
            Err(Wrong::TooLarge("http2.too_many_headers"))
        } else if !is_value(value) || matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            Err(Wrong::Malformed("http2.invalid_header_value"))
        } else if let Some(name) = name.strip_prefix(b":") {
            self.pseudo(name, value).map_err(Wrong::Malformed)
        } else {
            self.regular = true;
            self.ordinary(name, value).map_err(Wrong::Malformed)
        };
        self.wrong = judged.err();
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let bit = match (self.head.kind, name) {
            (HeadKind::Request, b"method") => pseudo::METHOD,
            (HeadKind::Request, b"scheme") => pseudo::SCHEME,
            (HeadKind::Request, b"authority") => pseudo::AUTHORITY,
            (HeadKind::Request, b"path") => pseudo::PATH,
            (HeadKind::Request, b"protocol") => pseudo::PROTOCOL,
            (HeadKind::Response, b"status") => pseudo::STATUS,
            _ => return Err("http2.unknown_pseudo_header"),
        };
        if self.regular {
            return Err("http2.pseudo_header_after_field");
        }
        if self.seen & bit != 0 {
            return Err("http2.duplicate_pseudo_header");
        }
        self.seen |= bit;
        match bit {
            pseudo::METHOD if is_token(value) => self.head.set_method(value),
            pseudo::METHOD => return Err("http2.invalid_method"),
            pseudo::SCHEME if is_scheme(value) => self.head.set_scheme(value),
            pseudo::SCHEME => return Err("http2.invalid_scheme"),
            pseudo::AUTHORITY if is_authority(value) => self.head.set_authority(value),
            pseudo::AUTHORITY => return Err("http2.invalid_authority"),
            pseudo::PATH if is_target(value) => self.head.set_path(value),
            pseudo::PATH => return Err("http2.invalid_path"),
            pseudo::PROTOCOL if is_token(value) => self.protocol = value.to_vec(),
            pseudo::PROTOCOL => return Err("http2.invalid_protocol"),
            _ => self.head.status = status(value).ok_or("http2.invalid_status")?,
        }
        Ok(())
    }

    fn ordinary(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if !is_lower_token(name) {
            return Err("http2.invalid_header_name");
        }
        match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => return Err("http2.connection_header_rejected"),
            b"te" if value != b"trailers" => return Err("http2.connection_header_rejected"),
            _ if self.head.kind == HeadKind::Trailers => {
                if !forbidden_in_trailers(name) {
                    self.head.push_read(name, value);
                }
            }
            b"host" => {
                if self.host.replace(value.to_vec()).is_some() {
                    return Err("http2.duplicate_host");
                }
            }
            b"content-length" => {
                let length = decimal(value).ok_or("http2.invalid_content_length")?;
                if self.head.content_length.replace(length).is_some() {
                    return Err("http2.multiple_content_lengths");
                }
            }
            b"expect" if value.eq_ignore_ascii_case(b"100-continue") => {
                self.head.expect_continue = self.head.kind == HeadKind::Request;
            }
            // Servers that turn names into variables cannot tell these from the real ones.
            b"content_length" | b"transfer_encoding" | b"http2-settings" => {}
            b"cookie" => self.crumb(value),
            _ => self.head.push_read(name, value),
        }
        Ok(())
    }

    /// A cookie may come in crumbs; elsewhere it is one field (section 8.2.3).
    fn crumb(&mut self, value: &[u8]) {
        let first = self.head.get(b"cookie");
        match first {
            None => self.head.push_read(b"cookie", value),
            Some(first) => {
                if self.cookie.is_empty() {
                    self.cookie.extend_from_slice(first);
                }
                self.cookie.extend_from_slice(b"; ");
                self.cookie.extend_from_slice(value);
            }
        }
    }

    /// The section is complete.
    pub(super) fn finish(mut self, allow_connect: bool) -> Result<Facts, Wrong> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if !self.cookie.is_empty() {
            self.head.set(b"cookie", &self.cookie);
        }
        match self.head.kind {
            HeadKind::Request => self.request(allow_connect).map_err(Wrong::Malformed),
            HeadKind::Response if self.seen == 0 => {
                Err(Wrong::Malformed("http2.missing_pseudo_header"))
            }
            HeadKind::Response | HeadKind::Trailers => Ok(Facts::default()),
        }
    }

    fn request(&mut self, allow_connect: bool) -> Result<Facts, &'static str> {
        let head = &mut *self.head;
        let has = |bits: u8| self.seen & bits == bits;
        if !has(pseudo::METHOD) {
            return Err("http2.missing_pseudo_header");
        }
        let connect = head.method() == b"CONNECT";
        let extended = has(pseudo::PROTOCOL);
        if extended && !(connect && allow_connect && has(pseudo::AUTHORITY)) {
            return Err("http2.unexpected_protocol");
        }
        if let Some(host) = &self.host {
            if !has(pseudo::AUTHORITY) {
                if !is_authority(host) {
                    return Err("http2.invalid_authority");
                }
                head.set_authority(host);
            } else if !head.authority().eq_ignore_ascii_case(host) {
                // Two names for whom the request is for: the next hop may believe the other one.
                return Err("http2.host_differs_from_authority");
            }
        }
        if head.authority().is_empty() {
            return Err("http2.missing_authority");
        }
        if connect && !extended {
            if self.seen & (pseudo::SCHEME | pseudo::PATH) != 0
                || !is_authority_with_port(head.authority())
            {
                return Err("http2.invalid_connect");
            }
            if head.content_length.is_some() {
                return Err("http2.body_disallowed");
            }
            let target = head.authority().to_vec();
            head.set_path(&target);
            head.upgrade = true;
            return Ok(Facts {
                connect: true,
                ..Facts::default()
            });
        }
        if !has(pseudo::SCHEME | pseudo::PATH) {
            return Err("http2.missing_pseudo_header");
        }
        let form = head.path().first() == Some(&b'/')
            || head.path() == b"*" && head.method() == b"OPTIONS";
        if !form {
            return Err("http2.invalid_path");
        }
        if extended {
            head.set_method(b"GET");
            head.upgrade = true;
            head.push(b"upgrade", &self.protocol);
        }
        Ok(Facts {
            connect: false,
            extended,
            head: head.method() == b"HEAD",
        })
    }
}

/// `ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )`, in lower case as everybody writes it.
fn is_scheme(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.')
        })
}

fn status(bytes: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = bytes else {
        return None;
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    Some(digit(a) * 100 + digit(b) * 10 + digit(c))
}
