//! Heads, chunks and trailers as bytes.
//!
//! Nothing goes out that could not have come in: a line break in a name, value or target would let
//! whoever set it write messages of their own.

use super::Settings;
use super::chars::{is_token, is_value};
use super::fields::forbidden_in_trailers;
use crate::codec::{Out, SendError};
use crate::head::Head;

/// How the message that is being sent is framed, and how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// No message.
    Idle,
    /// Its head is to be sent.
    Head,
    /// It has no body on the wire whatever is said (HEAD, 204, 304): payload is dropped.
    Nothing,
    /// So many more bytes.
    Length(u64),
    Chunked,
    UntilClose,
    /// It was sent.
    Done,
    /// The connection left HTTP.
    Upgraded,
}

impl Sending {
    /// A body is being sent.
    pub(super) fn in_body(self) -> bool {
        matches!(
            self,
            Self::Nothing | Self::Length(_) | Self::Chunked | Self::UntilClose
        )
    }

    /// Frames `len` bytes. After an error the connection cannot be used any more: what was promised in
    /// the head can no longer be kept.
    pub(super) fn data(&mut self, len: usize, end: bool, out: &mut Out) -> Result<(), SendError> {
        match self {
            Self::Nothing => {}
            Self::Length(left) => {
                let too_long = SendError::Unencodable("http1.body_longer_than_declared");
                *left = left.checked_sub(len as u64).ok_or(too_long)?;
                if end && *left > 0 {
                    return Err(SendError::Unencodable("http1.body_shorter_than_declared"));
                }
                out.payload(0..len);
            }
            Self::Chunked => {
                // An empty chunk would end the message.
                if len > 0 {
                    hexadecimal(len as u64, &mut out.bytes);
                    out.bytes.extend_from_slice(b"\r\n");
                    out.payload(0..len);
                    out.bytes.extend_from_slice(b"\r\n");
                }
                if end {
                    out.bytes.extend_from_slice(b"0\r\n\r\n");
                }
            }
            Self::UntilClose => out.payload(0..len),
            Self::Idle | Self::Head | Self::Done | Self::Upgraded => {
                return Err(SendError::UnknownStream);
            }
        }
        if end {
            *self = Self::Done;
        }
        Ok(())
    }

    /// Ends the message with trailers, where its framing has room for them.
    pub(super) fn trailers(
        &mut self,
        trailers: &Head,
        settings: &Settings,
        out: &mut Out,
    ) -> Result<(), SendError> {
        if *self != Self::Chunked || !settings.enable_trailers {
            return self.data(0, true, out);
        }
        let start = out.bytes.len();
        out.bytes.extend_from_slice(b"0\r\n");
        let mut writer = Writer::new(settings, &mut out.bytes);
        for (name, value) in trailers.fields() {
            if !forbidden_in_trailers(name)
                && let Err(error) = writer.checked_field(name, value)
            {
                out.bytes.truncate(start);
                return Err(error);
            }
        }
        out.bytes.extend_from_slice(b"\r\n");
        *self = Self::Done;
        Ok(())
    }
}

/// Appends fields in the spelling that is configured.
pub(super) struct Writer<'a> {
    proper_case: bool,
    pub(super) bytes: &'a mut Vec<u8>,
}

/// Options of the `connection` field.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(settings: &Settings, bytes: &'a mut Vec<u8>) -> Self {
        Self {
            proper_case: settings.proper_case,
            bytes,
        }
    }

    /// A field whose name and value are known to be good.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.name(name);
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn name(&mut self, name: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name);
        if self.proper_case {
            let mut first = true;
            for byte in &mut self.bytes[start..] {
                if first {
                    byte.make_ascii_uppercase();
                }
                first = !byte.is_ascii_alphanumeric();
            }
        }
        self.bytes.extend_from_slice(b": ");
    }

    fn checked_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), SendError> {
        if !is_token(name) {
            return Err(SendError::Unencodable("http1.invalid_header_name"));
        }
        if !is_value(value) {
            return Err(SendError::Unencodable("http1.invalid_characters"));
        }
        self.field(name, value);
        Ok(())
    }

    /// The ordinary fields of a head, then `connection` and `upgrade`.
    pub(super) fn fields(&mut self, head: &Head, options: Options) -> Result<(), SendError> {
        let mut te = false;
        for (name, value, read) in head.fields_read() {
            if is_hop(name) {
                te |= name == b"te" && value == b"trailers";
                continue;
            }
            // Said by the head's own flag; other expectations are the origin's to judge.
            if name == b"expect" && value.eq_ignore_ascii_case(b"100-continue") {
                continue;
            }
            if read {
                self.field(name, value);
            } else {
                self.checked_field(name, value)?;
            }
        }
        if head.expect_continue {
            self.field(b"expect", b"100-continue");
        }
        if te {
            self.field(b"te", b"trailers");
        }
        if options.upgrade {
            match head.get(b"upgrade") {
                Some(token) => self.checked_field(b"upgrade", token)?,
                None => return Err(SendError::Unencodable("http1.upgrade_without_protocol")),
            }
        }
        self.connection(options, te);
        Ok(())
    }

    fn connection(&mut self, options: Options, te: bool) {
        let list = [
            (options.close, &b"close"[..]),
            (options.keep_alive && !options.close, b"keep-alive"),
            (options.upgrade, b"upgrade"),
            (te, b"te"),
        ];
        let mut first = true;
        for (_, option) in list.into_iter().filter(|(on, _)| *on) {
            if first {
                self.name(b"connection");
                first = false;
            } else {
                self.bytes.extend_from_slice(b", ");
            }
            self.bytes.extend_from_slice(option);
        }
        if !first {
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn content_length(&mut self, length: u64) {
        self.name(b"content-length");
        decimal(length, self.bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(super) fn chunked(&mut self) {
        self.field(b"transfer-encoding", b"chunked");
    }
}

/// Names (in lower case) that only the codec itself writes.
fn is_hop(name: &[u8]) -> bool {
    match name.len() {
        2 => name == b"te",
        4 => name == b"host",
        7 => name == b"upgrade",
        10 => name == b"connection" || name == b"keep-alive",
        14 => name == b"content-length" || name == b"http2-settings",
        16 => name == b"proxy-connection",
        17 => name == b"transfer-encoding",
        _ => false,
    }
}

/// Appends a number in decimal.
pub(crate) fn decimal(number: u64, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(decimal_in(number, &mut [0; 20]));
}

/// A number in decimal, written into `digits`.
pub(crate) fn decimal_in(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    &digits[at..]
}

/// Appends a number in lower-case hexadecimal, without leading zeros.
fn hexadecimal(number: u64, bytes: &mut Vec<u8>) {
    let digits = 16 - (number | 1).leading_zeros() / 4;
    for place in (0..digits).rev() {
        bytes.push(b"0123456789abcdef"[(number >> (place * 4)) as usize & 15]);
    }
}

/// The reason phrase of a status (RFC 9110 section 15 and the IANA registry), or what Envoy calls the
/// others.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        599 => "Last Unassigned Server Error Code",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 4095, 4096, u64::MAX] {
            let mut bytes = Vec::new();
            decimal(number, &mut bytes);
            assert_eq!(bytes, number.to_string().into_bytes());
            bytes.clear();
            hexadecimal(number, &mut bytes);
            assert_eq!(bytes, format!("{number:x}").into_bytes());
        }
    }
}
