//! Which bytes may stand where (RFC 9110 section 5.6.2, RFC 9112 section 3.2, RFC 3986).
//!
//! Everything that the codec reads or writes goes through these tests, so that a byte refused on the
//! way in can never be made on the way out.

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;
/// A token byte that is no capital letter: names in HTTP/2.
const LOWER: u8 = 8;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() {
            table[byte] |= TOKEN | HOST;
        }
        if matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        ) {
            table[byte] |= TOKEN;
        }
        if table[byte] & TOKEN != 0 && !b.is_ascii_uppercase() {
            table[byte] |= LOWER;
        }
        // reg-name: unreserved, pct-encoded and sub-delims, without userinfo's "@".
        if matches!(
            b,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        ) {
            table[byte] |= HOST;
        }
        // A fragment never travels: Envoy refuses targets with one.
        if b > b' ' && b < 0x7f && b != b'#' {
            table[byte] |= TARGET;
        }
        byte += 1;
    }
    table
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&b| CLASS[b as usize] & class != 0)
}

/// A byte of a method or field name.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

/// A method or field name.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// A field name as HTTP/2 has it, without capital letters (RFC 9113 section 8.2.1).
pub(crate) fn is_lower_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, LOWER)
}

/// A method that Envoy's codec knows: the registered ones and those of a few protocols beside HTTP.
pub(super) fn is_method(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        b"GET"
            | b"POST"
            | b"HEAD"
            | b"PUT"
            | b"DELETE"
            | b"OPTIONS"
            | b"PATCH"
            | b"CONNECT"
            | b"TRACE"
            | b"ACL"
            | b"BIND"
            | b"CHECKOUT"
            | b"COPY"
            | b"LINK"
            | b"LOCK"
            | b"MERGE"
            | b"MKACTIVITY"
            | b"MKCALENDAR"
            | b"MKCOL"
            | b"MOVE"
            | b"MSEARCH"
            | b"NOTIFY"
            | b"PROPFIND"
            | b"PROPPATCH"
            | b"PURGE"
            | b"QUERY"
            | b"REBIND"
            | b"REPORT"
            | b"SEARCH"
            | b"SOURCE"
            | b"SUBSCRIBE"
            | b"UNBIND"
            | b"UNLINK"
            | b"UNLOCK"
            | b"UNSUBSCRIBE"
    )
}

/// Bytes that may stand in a request target.
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TARGET)
}

/// A field value: no control character but the tab. Eight bytes at a time, for it is asked of every
/// field that is written; only where a word has a control character each byte is looked at.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    let suspect = match bytes {
        [] => return true,
        [_, _, _, _, _, _, _, _, ..] => {
            let last = bytes.last_chunk::<8>().copied().unwrap_or_default();
            let (words, _) = bytes.as_chunks::<8>();
            words
                .iter()
                .any(|word| maybe_control(u64::from_ne_bytes(*word)))
                || maybe_control(u64::from_ne_bytes(last))
        }
        _ => {
            // A word whose unused bytes are good ones.
            let mut word = [b' '; 8];
            for (into, byte) in word.iter_mut().zip(bytes) {
                *into = *byte;
            }
            maybe_control(u64::from_ne_bytes(word))
        }
    };
    !suspect || bytes.iter().all(is_value_byte)
}

fn is_value_byte(byte: &u8) -> bool {
    (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t'
}

/// True when one of eight bytes is a control character; a tab is one, too.
fn maybe_control(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    // A byte below 0x20 borrows from its high bit; what had it set before is not meant. A borrow from
    // the byte below can only come where that one is meant itself.
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    let delete = delete.wrapping_sub(ONES) & !delete;
    (below | delete) & HIGH != 0
}

/// `uri-host [ ":" port ]` with a host that is not empty.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    let (host, rest) = match bytes {
        [b'[', inner @ ..] => {
            let Some(close) = inner.iter().position(|&b| b == b']') else {
                return false;
            };
            let (host, rest) = (&inner[..close], &inner[close + 1..]);
            if !host
                .iter()
                .all(|&b| CLASS[b as usize] & HOST != 0 || b == b':')
            {
                return false;
            }
            (host, rest)
        }
        _ => {
            let end = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
            let (host, rest) = bytes.split_at(end);
            if !all(host, HOST) {
                return false;
            }
            (host, rest)
        }
    };
    let port = match rest {
        [] => return !host.is_empty(),
        [b':', port @ ..] => port,
        _ => return false,
    };
    !host.is_empty() && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// `uri-host ":" port`, the target of CONNECT.
pub(crate) fn is_authority_with_port(bytes: &[u8]) -> bool {
    is_authority(bytes) && bytes.last().is_some_and(u8::is_ascii_digit) && {
        let colon = bytes.iter().rposition(|&b| b == b':');
        colon.is_some_and(|colon| !bytes[colon..].contains(&b']'))
    }
}

/// Optional white space around list members and values.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma-separated list, empty ones left out (RFC 9110 section 5.6.1).
pub(super) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// `1*DIGIT` within 64 bits: no sign, no space, no list.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, &b| {
        if !b.is_ascii_digit() {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

/// `1*HEXDIG` within 64 bits and 16 digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, &b| {
        let digit = char::from(b).to_digit(16)?;
        Some(number << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        for good in [
            "a",
            "a:80",
            "a:",
            "[::1]",
            "[::1]:80",
            "a.b-c_d:65535",
            "%41",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:b", "a:80:80", "a b", "a@b", "a/b", "[::1", "[::1]x", "[]", "a:123456",
            "a\t", "a#", "a?b", "\u{e9}", "::1",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
        assert!(is_authority_with_port(b"a:80"));
        assert!(is_authority_with_port(b"[::1]:80"));
        assert!(!is_authority_with_port(b"a"));
        assert!(!is_authority_with_port(b"a1"));
        assert!(!is_authority_with_port(b"a:"));
        assert!(!is_authority_with_port(b"[::1]"));
    }

    #[test]
    fn numbers() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "18446744073709551616",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1,1",
            "0x1",
            "1e3",
        ] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(hexadecimal(b"fF"), Some(255));
        assert_eq!(hexadecimal(b"ffffffffffffffff"), Some(u64::MAX));
        for bad in [
            "",
            "0x1",
            "10000000000000000",
            "00000000000000001",
            "g",
            "-1",
            " 1",
            "1_0",
        ] {
            assert_eq!(hexadecimal(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn lists_and_values() {
        assert_eq!(
            members(b" a ,, b\t,").collect::<Vec<_>>(),
            [&b"a"[..], &b"b"[..]]
        );
        for place in 0..20 {
            for byte in 0..=u8::MAX {
                let mut text = [b'a'; 20];
                text[place] = byte;
                let control = byte < b' ' && byte != b'\t' || byte == 0x7f;
                assert_eq!(is_value(&text), !control, "{byte} at {place}");
            }
        }
        assert!(is_value(b"a\tb \xff"));
        for bad in [&b"a\0"[..], b"a\r", b"\n", b"\x7f", b"\x1b["] {
            assert!(!is_value(bad));
        }
        assert!(is_target(b"/a?b=c"));
        for bad in [&b""[..], b"/a b", b"/a#b", b"/\xff", b"/\x7f", b"/\t"] {
            assert!(!is_target(bad));
        }
    }
}
