//! Field sections: what belongs to the hop is taken out, what frames the message is understood.
//!
//! Nothing that decides where a message ends may pass through as an ordinary field.

use std::mem::MaybeUninit;

use httparse::Header;

use super::chars::{decimal, is_token, is_token_byte, members, trim};
use super::{Refusal, Settings};
use crate::head::{Copied, Head, HeadKind};

/// Field slots on the stack. Configurations with a higher limit allocate.
const SLOTS: usize = 128;

/// Options of `connection` that may name a field for removal, in one message.
const MAX_NOMINATED: usize = 10;

/// What a head says about its connection and its body.
#[derive(Debug, Default)]
pub(super) struct Control<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// First token of `upgrade`, when `connection: upgrade` stands beside it.
    pub(super) upgrade: Option<&'a [u8]>,
    pub(super) expect_continue: bool,
}

/// Runs a parser with room for as many fields as are allowed.
pub(super) fn with_slots<'b, R>(
    settings: &Settings,
    section: &'b [u8],
    parse: impl FnOnce(&mut [MaybeUninit<Header<'b>>]) -> R,
) -> R {
    if settings.max_fields <= SLOTS {
        let mut slots = [const { MaybeUninit::uninit() }; SLOTS];
        return parse(&mut slots[..settings.max_fields]);
    }
    let lines = memchr::memchr_iter(b'\n', section).count();
    let mut slots = Vec::new();
    slots.resize_with(lines.min(settings.max_fields), MaybeUninit::uninit);
    parse(&mut slots)
}

/// What a parse error is called.
pub(super) fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::new(431, "http1.too_many_headers"),
        httparse::Error::HeaderName => Refusal::new(400, "http1.invalid_header_name"),
        httparse::Error::HeaderValue => Refusal::new(400, "http1.invalid_characters"),
        httparse::Error::Version => Refusal::new(400, "http1.invalid_version"),
        httparse::Error::Status => Refusal::new(400, "http1.invalid_status"),
        httparse::Error::Token => Refusal::new(400, "http1.invalid_start_line"),
        httparse::Error::NewLine => Refusal::new(400, "http1.invalid_line_end"),
    }
}

/// A protocol name, with or without version: `token [ "/" token ]`.
fn is_protocol(bytes: &[u8]) -> bool {
    bytes
        .split(|&b| b == b'/')
        .enumerate()
        .all(|(index, part)| index < 2 && is_token(part))
}

/// Sorts the fields of a request or response: ordinary ones go to `head`, the rest is said in
/// [`Control`].
pub(super) fn take<'a>(
    headers: &[Header<'a>],
    copied: Copied<'_>,
    head: &mut Head,
) -> Result<Control<'a>, Refusal> {
    let mut control = Control::default();
    let mut lengths = 0;
    let mut codings = 0;
    let mut has_connection = false;
    let mut upgrade = None;
    for header in headers {
        let name = header.name.as_bytes();
        let value = header.value;
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is(b"te") => {
                // Whether trailers are wanted is of interest to the origin; the rest is the hop's.
                if members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")) {
                    head.set(b"te", b"trailers");
                }
                continue;
            }
            4 if is(b"host") => {
                if control.host.is_some() {
                    return Err(Refusal::new(400, "http1.duplicate_host"));
                }
                control.host = Some(value);
                continue;
            }
            6 if is(b"expect") && value.eq_ignore_ascii_case(b"100-continue") => {
                control.expect_continue = true;
                continue;
            }
            7 if is(b"upgrade") => {
                upgrade = upgrade.or_else(|| {
                    members(value)
                        .find(|token| is_protocol(token) && !token.eq_ignore_ascii_case(b"h2c"))
                });
                continue;
            }
            10 if is(b"connection") => {
                has_connection = true;
                continue;
            }
            10 if is(b"keep-alive") => continue,
            14 if is(b"content-length") => {
                lengths += 1;
                let length = decimal(value);
                let invalid = Refusal::new(400, "http1.invalid_content_length");
                control.content_length = Some(length.ok_or(invalid)?);
                continue;
            }
            14 if is(b"http2-settings") => continue,
            // Servers that turn names into variables cannot tell these from the real ones.
            14 if is(b"content_length") => continue,
            17 if is(b"transfer_encoding") => continue,
            16 if is(b"proxy-connection") => continue,
            17 if is(b"transfer-encoding") => {
                codings += 1;
                control.chunked = value.eq_ignore_ascii_case(b"chunked");
                continue;
            }
            _ => head.push_in(copied, name, value),
        }
    }
    if lengths > 1 {
        return Err(Refusal::new(400, "http1.multiple_content_lengths"));
    }
    if codings > 0 {
        if lengths > 0 {
            return Err(Refusal::new(
                400,
                "http1.content_length_and_chunked_not_allowed",
            ));
        }
        if codings > 1 || !control.chunked {
            return Err(Refusal::new(501, "http1.invalid_transfer_encoding"));
        }
    }
    if has_connection {
        let mut asked = false;
        let mut nominated = 0;
        for header in headers {
            if !header.name.eq_ignore_ascii_case("connection") {
                continue;
            }
            for option in members(header.value) {
                let is = |other: &[u8]| option.eq_ignore_ascii_case(other);
                if is(b"close") {
                    control.close = true;
                } else if is(b"keep-alive") {
                    control.keep_alive = true;
                } else if is(b"upgrade") {
                    asked = true;
                } else if !is(b"te") {
                    nominated += 1;
                    if nominated > MAX_NOMINATED || !is_token(option) {
                        return Err(Refusal::new(400, "http1.connection_header_rejected"));
                    }
                    if !is_end_to_end(option) {
                        head.retain(|name, _| !name.eq_ignore_ascii_case(option));
                    }
                }
            }
        }
        if asked {
            control.upgrade = upgrade;
        }
    }
    Ok(control)
}

/// Fields that the `connection` field cannot have removed: doing so would change whom the message is
/// for, what it is, or what a hop before this one vouched for.
fn is_end_to_end(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 16] = [
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"forwarded",
        b"location",
        b"range",
        b"set-cookie",
        b"vary",
        b"via",
        b"x-request-id",
    ];
    let starts = |prefix: &[u8]| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    starts(b"x-forwarded-")
        || starts(b"x-envoy-")
        || NAMES.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Fields that must not come after the body: framing, routing, authentication, and what would change
/// how the content is read (RFC 9110 section 6.5.1). `name` in lower case.
pub(crate) fn forbidden_in_trailers(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 24] = [
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
    ];
    NAMES.contains(&name)
}

/// Parses a trailer section that is complete, empty line included. Forbidden fields are dropped.
pub(super) fn trailers(
    section: &[u8],
    settings: &Settings,
    head: &mut Head,
) -> Result<(), Refusal> {
    head.kind = HeadKind::Trailers;
    let mut rest = section;
    let mut fields = 0;
    while let Some(feed) = memchr::memchr(b'\n', rest) {
        // The scan saw to it that every line feed has its carriage return.
        let line = rest[..feed].strip_suffix(b"\r").unwrap_or_default();
        rest = &rest[feed + 1..];
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > settings.max_fields {
            return Err(Refusal::new(431, "http1.too_many_trailers"));
        }
        let invalid = Refusal::new(400, "http1.invalid_trailer");
        let colon = line.iter().position(|&b| !is_token_byte(b));
        let colon = colon
            .filter(|&at| at > 0 && line[at] == b':')
            .ok_or(invalid)?;
        let value = trim(&line[colon + 1..]);
        if !super::chars::is_value(value) {
            return Err(invalid);
        }
        head.push(&line[..colon], value);
    }
    head.retain(|name, _| !forbidden_in_trailers(name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::chars::is_value;
    use super::*;

    /// Fields that were read are written without another look: what the parser takes must be what the
    /// writer would take.
    #[test]
    fn what_is_read_may_be_written() {
        let mut taken = 0;
        for byte in 0..=u8::MAX {
            for (before, after) in [(&b"x"[..], &b"y: v\r\n\r\n"[..]), (b"x: v", b"w\r\n\r\n")] {
                let section = [before, &[byte], after].concat();
                let mut slots = [httparse::EMPTY_HEADER; 2];
                let Ok(httparse::Status::Complete((_, headers))) =
                    httparse::parse_headers(&section, &mut slots)
                else {
                    continue;
                };
                for header in headers {
                    taken += 1;
                    assert!(is_token(header.name.as_bytes()), "{byte}");
                    assert!(is_value(header.value), "{byte}");
                }
            }
        }
        assert!(taken > 256, "the parser takes fields at all");
    }
}
