//! Heads and trailers as header blocks (RFC 9113 section 8.2 and 8.3).
//!
//! Everything is judged before the first field is encoded: the table of HPACK must never know of a
//! field that did not go out.

use super::connection::{Connection, Role};
use super::frame::{FrameHeader, HEADER, flag, kind};
use crate::codec::{Out, SendError, StreamId};
use crate::head::{Head, HeadKind};
use crate::http1::chars::{is_authority, is_target, is_token, is_value};
use crate::http1::fields::forbidden_in_trailers;

/// What a head is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// A CONNECT: no scheme, no path.
    Connect,
    /// An upgrade, said as extended CONNECT, or its 101, said as 200.
    Extended,
}

/// A name (in lower case) that never goes out as a field of its own.
fn is_left_out(name: &[u8], value: &[u8], kind: HeadKind) -> bool {
    match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
        | b"http2-settings" | b"host" | b"content-length" => true,
        b"te" => value != b"trailers",
        b"expect" => value.eq_ignore_ascii_case(b"100-continue"),
        _ => kind == HeadKind::Trailers && forbidden_in_trailers(name),
    }
}

/// Whether a head can be said at all.
pub(super) fn judge(head: &Head, form: Form) -> Result<(), SendError> {
    let check = |fine: bool, name: &'static str| {
        if fine {
            Ok(())
        } else {
            Err(SendError::Unencodable(name))
        }
    };
    match head.kind {
        HeadKind::Request => {
            check(is_token(head.method()), "http2.invalid_method")?;
            check(is_authority(head.authority()), "http2.invalid_authority")?;
            if form != Form::Connect {
                let path = head.path();
                let form = path.first() == Some(&b'/') || path == b"*";
                check(form && is_target(path), "http2.invalid_path")?;
            }
        }
        HeadKind::Response => {
            let good = (100..1000).contains(&head.status);
            check(good, "http2.invalid_status")?;
        }
        HeadKind::Trailers => {}
    }
    for (name, value, read) in head.fields_read() {
        check(read || is_token(name), "http2.invalid_header_name")?;
        check(read || is_value(value), "http2.invalid_header_value")?;
    }
    Ok(())
}

impl Connection {
    /// Appends HEADERS, and CONTINUATION where the block is longer than a frame may be.
    pub(super) fn section(
        &mut self,
        stream: StreamId,
        head: &Head,
        form: Form,
        end: bool,
        out: &mut Out,
    ) {
        let start = out.bytes.len();
        let flags = if end { flag::END_STREAM } else { 0 };
        self.frame(out, 0, kind::HEADERS, flags | flag::END_HEADERS, stream);
        self.block(head, form, &mut out.bytes);
        let len = out.bytes.len() - start - HEADER;
        let most = self.peer_frame as usize;
        if len <= most {
            let [_, a, b, c] = (len as u32).to_be_bytes();
            out.bytes[start..start + 3].copy_from_slice(&[a, b, c]);
            return;
        }
        let block = out.bytes.split_off(start + HEADER);
        out.bytes.truncate(start);
        let count = block.chunks(most).count();
        for (index, piece) in block.chunks(most).enumerate() {
            let mut flags = if index == 0 { flags } else { 0 };
            if index + 1 == count {
                flags |= flag::END_HEADERS;
            }
            let header = FrameHeader {
                len: piece.len() as u32,
                kind: if index == 0 {
                    kind::HEADERS
                } else {
                    kind::CONTINUATION
                },
                flags,
                stream,
            };
            header.write(&mut out.bytes);
            out.bytes.extend_from_slice(piece);
        }
        self.queued = self.queued.saturating_add(count as u32 - 1);
    }

    fn block(&mut self, head: &Head, form: Form, bytes: &mut Vec<u8>) {
        let encoder = &mut self.encoder;
        encoder.begin(bytes);
        match head.kind {
            HeadKind::Request => {
                let method = if form == Form::Extended {
                    b"CONNECT"
                } else {
                    head.method()
                };
                encoder.encode(b":method", method, false, bytes);
                if form != Form::Connect {
                    let scheme = match head.scheme() {
                        b"" => b"http",
                        scheme => scheme,
                    };
                    encoder.encode(b":scheme", scheme, false, bytes);
                }
                encoder.encode(b":authority", head.authority(), false, bytes);
                if form != Form::Connect {
                    encoder.encode(b":path", head.path(), false, bytes);
                }
                if form == Form::Extended {
                    let protocol = head.get(b"upgrade").unwrap_or_default();
                    encoder.encode(b":protocol", protocol, false, bytes);
                }
            }
            HeadKind::Response => {
                let status = if form == Form::Extended {
                    200
                } else {
                    head.status
                };
                let digit = |n: u16| b'0' + (n % 10) as u8;
                let text = [digit(status / 100), digit(status / 10), digit(status)];
                encoder.encode(b":status", &text, false, bytes);
            }
            HeadKind::Trailers => {}
        }
        for (name, value) in head.fields() {
            if is_left_out(name, value, head.kind) {
                continue;
            }
            // White space around a value is HTTP/1's; here it would be malformed.
            encoder.encode(name, value.trim_ascii(), false, bytes);
        }
        if form == Form::Plain
            && let Some(length) = head.content_length
        {
            let mut digits = [0; 20];
            let digits = crate::http1::encode::decimal_in(length, &mut digits);
            encoder.encode(b"content-length", digits, false, bytes);
        }
        if head.expect_continue {
            encoder.encode(b"expect", b"100-continue", false, bytes);
        }
    }

    /// How a head is said, by what its message is.
    pub(super) fn form(&self, head: &Head, extended: bool) -> Result<Form, SendError> {
        match head.kind {
            HeadKind::Request if head.method() == b"CONNECT" => Ok(Form::Connect),
            HeadKind::Request if head.upgrade => {
                let websocket = head
                    .get(b"upgrade")
                    .is_some_and(|token| token.eq_ignore_ascii_case(b"websocket"));
                let known = self.phase == super::connection::Phase::Open;
                if !websocket || known && !self.peer_connect {
                    return Err(SendError::Unencodable("http2.upgrade_not_supported"));
                }
                Ok(Form::Extended)
            }
            HeadKind::Response if head.status == 101 => {
                if extended && self.role == Role::Server {
                    Ok(Form::Extended)
                } else {
                    Err(SendError::Unencodable("http2.unexpected_switch"))
                }
            }
            _ => Ok(Form::Plain),
        }
    }
}
