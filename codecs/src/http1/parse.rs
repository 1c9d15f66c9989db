//! A complete head, from bytes to [`Head`]: start line, target, host, framing.
//!
//! Everything that could be read in two ways is refused here, before any of it is forwarded.

use super::body::Body;
use super::chars::{is_authority, is_authority_with_port, is_method, is_target};
use super::fields::{self, with_slots};
use super::{Refusal, Settings};
use crate::head::{Copied, Head, HeadKind, Version};

/// What the codec itself needs to know of a message; the rest is in the [`Head`].
#[derive(Debug)]
pub(super) struct Message {
    pub(super) body: Body,
    pub(super) http10: bool,
    /// The connection may carry another exchange after this one.
    pub(super) keep: bool,
    pub(super) is_head: bool,
    pub(super) is_connect: bool,
}

/// What the request was, as far as it decides how the response is framed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) head: bool,
    pub(super) connect: bool,
    pub(super) upgrade: bool,
}

/// The start line names an HTTP version of the right form that is neither 1.0 nor 1.1.
fn other_version(section: &[u8]) -> bool {
    let line = section.split(|byte| *byte == b'\r').next();
    let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
    match (words.nth(2), words.next()) {
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) => {
            major.is_ascii_digit() && minor.is_ascii_digit()
        }
        _ => false,
    }
}

fn version(minor: Option<u8>, head: &mut Head) -> bool {
    let http10 = minor == Some(0);
    head.version = if http10 {
        Version::Http10
    } else {
        Version::Http11
    };
    http10
}

/// Parses a request head, empty line included. The refusal of an unwanted HTTP/1.0 comes after all
/// that is malformed.
pub(super) fn request(
    section: &[u8],
    settings: &Settings,
    head: &mut Head,
) -> Result<Message, Refusal> {
    with_slots(settings, section, |slots| {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(section, slots) {
            Ok(httparse::Status::Complete(length)) if length == section.len() => {}
            Ok(_) => return Err(Refusal::new(400, "http1.invalid_line_end")),
            Err(httparse::Error::Version) if !settings.accept_http_10 && other_version(section) => {
                return Err(Refusal::new(426, "low_version"));
            }
            Err(error) => return Err(fields::refusal(error)),
        }
        let method = request.method.unwrap_or_default().as_bytes();
        let target = request.path.unwrap_or_default().as_bytes();
        head.kind = HeadKind::Request;
        let http10 = version(request.version, head);
        if !settings.custom_methods && !is_method(method) {
            return Err(Refusal::new(400, "http1.invalid_method"));
        }
        let copied = head.copy_section(section);
        head.set_method_in(copied, method);
        let mut control = fields::take(request.headers, copied, head)?;
        let is_connect = method == b"CONNECT";

        if http10 && control.chunked {
            // 1.0 has no transfer codings: whoever sent this framed it otherwise.
            return Err(Refusal::new(400, "http1.transfer_encoding_not_allowed"));
        }
        if is_connect {
            if control.chunked {
                return Err(Refusal::new(501, "http1.invalid_transfer_encoding"));
            }
            if control
                .content_length
                .take()
                .is_some_and(|length| length > 0)
            {
                return Err(Refusal::new(400, "http1.body_disallowed"));
            }
        }
        set_target(method, target, &control, http10, settings, copied, head)?;
        if http10 && !settings.accept_http_10 {
            return Err(Refusal::new(426, "low_version"));
        }
        head.expect_continue = control.expect_continue && !http10;
        head.content_length = control.content_length;
        if is_connect {
            head.upgrade = true;
        } else if let Some(token) = control.upgrade
            && !http10
        {
            head.upgrade = true;
            head.push(b"upgrade", token);
        }
        Ok(Message {
            body: match control.content_length {
                _ if control.chunked => Body::ChunkLine,
                Some(length) if length > 0 => Body::Length(length),
                _ => Body::Done,
            },
            http10,
            keep: !control.close && (!http10 || control.keep_alive),
            is_head: method == b"HEAD",
            is_connect,
        })
    })
}

/// Sets authority, path and scheme from the request target and the host (RFC 9112 section 3.2).
fn set_target(
    method: &[u8],
    target: &[u8],
    control: &fields::Control<'_>,
    http10: bool,
    settings: &Settings,
    copied: Copied<'_>,
    head: &mut Head,
) -> Result<(), Refusal> {
    let invalid_url = Refusal::new(400, "http1.invalid_url");
    let host = match control.host {
        Some(host) if is_authority(host) => Some(host),
        Some(_) => return Err(Refusal::new(400, "http.invalid_authority")),
        None if http10 => settings
            .default_host_for_http_10
            .as_ref()
            .map(String::as_bytes),
        None => return Err(Refusal::new(400, "missing_host_header")),
    };
    if !is_target(target) {
        let part = target
            .split(|byte| *byte == b'#')
            .next()
            .unwrap_or_default();
        if part.len() < target.len() && is_target(part) {
            // A fragment is the client's own; Envoy gives this refusal the same name.
            return Err(Refusal::new(400, "path_normalization_failed"));
        }
        return Err(invalid_url);
    }
    let authority = if method == b"CONNECT" {
        if !is_authority_with_port(target) {
            return Err(invalid_url);
        }
        head.set_path_in(copied, target);
        Some(target)
    } else if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
        head.set_path_in(copied, target);
        host
    } else {
        if !settings.allow_absolute_url {
            return Err(invalid_url);
        }
        let (scheme, authority, path) = absolute(target).ok_or(invalid_url)?;
        if scheme == b"https" && !settings.over_tls {
            // Nobody encrypted it on its way here.
            return Err(Refusal::new(403, "http1.https_url_on_plaintext_connection"));
        }
        head.set_scheme(scheme);
        match path {
            // "OPTIONS http://host" is about the server, not about its root (section 3.2.4).
            b"" if method == b"OPTIONS" => head.set_path(b"*"),
            b"" => head.set_path(b"/"),
            [b'?', ..] => head.set_path_after_slash(path),
            _ => head.set_path_in(copied, path),
        }
        Some(authority)
    };
    match authority {
        Some(authority) => head.set_authority_in(copied, authority),
        None => return Err(Refusal::new(400, "missing_host_header")),
    }
    Ok(())
}

/// Takes an absolute-form target apart: scheme in lower case, authority, path with query.
fn absolute(target: &[u8]) -> Option<(&'static [u8], &[u8], &[u8])> {
    const SCHEMES: [(&[u8], &[u8]); 2] = [(b"http://", b"http"), (b"https://", b"https")];
    SCHEMES.iter().find_map(|(prefix, scheme)| {
        let start = target.get(..prefix.len())?;
        if !start.eq_ignore_ascii_case(prefix) {
            return None;
        }
        let rest = &target[prefix.len()..];
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
        let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
        is_authority(authority).then_some((*scheme, authority, path))
    })
}

/// Parses a response head, empty line included. Every refusal here is a bad gateway.
pub(super) fn response(
    section: &[u8],
    settings: &Settings,
    asked: Asked,
    head: &mut Head,
) -> Result<Message, Refusal> {
    with_slots(settings, section, |slots| {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, section, slots) {
            Ok(httparse::Status::Complete(length)) if length == section.len() => {}
            Ok(_) => return Err(Refusal::new(502, "http1.invalid_line_end")),
            Err(error) => return Err(fields::refusal(error)),
        }
        let status = response.code.unwrap_or_default();
        if !(100..1000).contains(&status) {
            return Err(Refusal::new(502, "http1.invalid_status"));
        }
        head.kind = HeadKind::Response;
        head.status = status;
        let http10 = version(response.version, head);
        let copied = head.copy_section(section);
        let control = fields::take(response.headers, copied, head)?;
        let interim = (100..200).contains(&status) && status != 101;
        let tunnel = asked.connect && (200..300).contains(&status);

        if http10 && control.chunked {
            return Err(Refusal::new(502, "http1.transfer_encoding_not_allowed"));
        }
        if status < 200 || status == 204 {
            if control.chunked {
                return Err(Refusal::new(502, "http1.transfer_encoding_not_allowed"));
            }
            if control.content_length.is_some_and(|length| length > 0) {
                return Err(Refusal::new(502, "http1.content_length_not_allowed"));
            }
        }
        if status == 101 {
            let Some(token) = control.upgrade.filter(|_| asked.upgrade && !http10) else {
                return Err(Refusal::new(502, "http1.unexpected_switch"));
            };
            head.upgrade = true;
            head.push(b"upgrade", token);
        }
        head.upgrade |= tunnel;
        let bodiless = asked.head || tunnel || status < 200 || matches!(status, 204 | 304);
        if !tunnel && status >= 200 && status != 204 {
            head.content_length = control.content_length;
        }
        let body = match control.content_length {
            _ if bodiless => Body::Done,
            _ if control.chunked => Body::ChunkLine,
            Some(0) => Body::Done,
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        };
        Ok(Message {
            keep: interim
                || (!control.close && (!http10 || control.keep_alive) && body != Body::UntilClose),
            body,
            http10,
            is_head: false,
            is_connect: false,
        })
    })
}
