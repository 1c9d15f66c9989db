//! Paths and authorities in normal form, as the connection manager is told to make them.
//!
//! Only the path is touched, never the query. A target that is in normal form already, which nearly
//! all are, is recognised in one pass and not copied.

use crate::proxy::config::{EscapedSlashes, Rules, StripPort};
use crate::route::table::port_start;
use crate::text::parse_decimal;
use moorgate_codecs::Head;

/// What becomes of a request because of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathVerdict {
    /// It goes on, with the path it has now.
    Continue,
    /// It is answered 400.
    Reject,
    /// It is answered 307 with the path it has now.
    Redirect,
}

/// Brings the path into the form that is asked for. `buffer` is overwritten.
pub fn normalize_path(head: &mut Head, rules: &Rules, buffer: &mut Vec<u8>) -> PathVerdict {
    if head.path().contains(&b'#') {
        // Fragments are not sent; one that was would hide a part of the path from some and not
        // from others.
        return PathVerdict::Reject;
    }
    let unescape = rules.escaped_slashes != EscapedSlashes::Keep;
    if !unescape && !rules.normalize_path && !rules.merge_slashes {
        return PathVerdict::Continue;
    }
    let mut verdict = PathVerdict::Continue;
    if unescape && rewrite(head, buffer, unescape_slashes) {
        match rules.escaped_slashes {
            EscapedSlashes::Reject => return PathVerdict::Reject,
            EscapedSlashes::UnescapeAndRedirect => verdict = PathVerdict::Redirect,
            EscapedSlashes::Keep | EscapedSlashes::UnescapeAndForward => {}
        }
    }
    if rules.normalize_path && needs_canonical(path_of(head.path())) {
        let mut valid = true;
        rewrite(head, buffer, |path, out| {
            valid = canonicalize(path, out);
            true
        });
        if !valid {
            return PathVerdict::Reject;
        }
    }
    // Last, so that what the steps before it uncover is merged too.
    if rules.merge_slashes {
        rewrite(head, buffer, merge_slashes);
    }
    verdict
}

fn path_of(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| *byte == b'?');
    &target[..end.unwrap_or(target.len())]
}

/// Replaces the path by what `change` appends, when it says that there is a change.
fn rewrite(
    head: &mut Head,
    buffer: &mut Vec<u8>,
    change: impl FnOnce(&[u8], &mut Vec<u8>) -> bool,
) -> bool {
    let target = head.path();
    let path = path_of(target);
    buffer.clear();
    if !change(path, buffer) {
        return false;
    }
    buffer.extend_from_slice(&target[path.len()..]);
    head.set_path(buffer);
    true
}

fn unescape_slashes(path: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    let mut rest = path;
    while let Some(percent) = rest.iter().position(|byte| *byte == b'%') {
        out.extend_from_slice(&rest[..percent]);
        rest = &rest[percent..];
        let (byte, taken) = match rest {
            [_, b'2', b'f' | b'F', ..] => (b'/', 3),
            [_, b'5', b'c' | b'C', ..] => (b'\\', 3),
            _ => (b'%', 1),
        };
        found |= taken == 3;
        out.push(byte);
        rest = &rest[taken..];
    }
    out.extend_from_slice(rest);
    found
}

fn merge_slashes(path: &[u8], out: &mut Vec<u8>) -> bool {
    if !path.windows(2).any(|pair| pair == b"//") {
        return false;
    }
    for byte in path {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    true
}

/// What canonical form does with a byte of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stays as it is, and stays escaped when it was.
    Pass,
    /// Unreserved (RFC 3986 section 2.3): stays, and loses its escape when it had one.
    Unescape,
    /// Is escaped.
    Escape,
    /// Cannot be in a path, escaped or not.
    Invalid,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Escape; 256];
    classes[0] = Class::Invalid;
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => Class::Unescape,
            b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                Class::Escape
            }
            _ => Class::Pass,
        };
        byte += 1;
    }
    classes
};

/// Canonical form may differ from the path: there is an escape, a byte to escape, or a dot that
/// begins a segment.
fn needs_canonical(path: &[u8]) -> bool {
    let mut before = 0;
    for byte in path {
        let class = CLASSES[usize::from(*byte)];
        if *byte == b'%'
            || matches!(class, Class::Escape | Class::Invalid)
            || (*byte == b'.' && before == b'/')
        {
            return true;
        }
        before = *byte;
    }
    false
}

/// Appends the canonical form of an absolute path (RFC 3986 section 6.2.2): dot segments resolved,
/// backslashes as slashes, unreserved bytes unescaped, bytes that paths cannot have escaped. False
/// when the path has a NUL.
fn canonicalize(path: &[u8], out: &mut Vec<u8>) -> bool {
    let base = out.len();
    let mut valid = true;
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let dot = dot_len(&path[at..]);
        if dot > 0 {
            at += dot;
            let segment_starts = out.len() > base && out.last() == Some(&b'/');
            match after_dot(&path[at..]) {
                AfterDot::Current(taken) if segment_starts => at += taken,
                AfterDot::Parent(taken) if segment_starts => {
                    at += taken;
                    back_up(out, base);
                }
                _ => out.push(b'.'),
            }
            continue;
        }
        at += 1;
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => match escaped(&path[at..]) {
                Some(value) if CLASSES[usize::from(value)] == Class::Unescape => {
                    out.push(value);
                    at += 2;
                }
                Some(value) => {
                    valid &= CLASSES[usize::from(value)] != Class::Invalid;
                    out.push(byte);
                    out.extend_from_slice(&path[at..at + 2]);
                    at += 2;
                }
                // Not an escape at all; it is passed on as it came.
                None => out.push(byte),
            },
            _ => match CLASSES[usize::from(byte)] {
                Class::Pass | Class::Unescape => out.push(byte),
                class => {
                    const HEX: &[u8; 16] = b"0123456789ABCDEF";
                    valid &= class != Class::Invalid;
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    out.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
                }
            },
        }
    }
    valid
}

fn escaped(rest: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    match rest {
        [high, low, ..] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// Length of a dot, plain or escaped, at the front; 0 when there is none.
fn dot_len(rest: &[u8]) -> usize {
    match rest {
        [b'.', ..] => 1,
        [b'%', b'2', b'e' | b'E', ..] => 3,
        _ => 0,
    }
}

enum AfterDot {
    /// The segment is `.`; so many bytes end it.
    Current(usize),
    /// The segment is `..`; so many bytes end it.
    Parent(usize),
    /// The segment goes on.
    Name,
}

fn after_dot(rest: &[u8]) -> AfterDot {
    let ends = |rest: &[u8]| match rest {
        [] => Some(0),
        [b'/' | b'\\', ..] => Some(1),
        _ => None,
    };
    if let Some(taken) = ends(rest) {
        return AfterDot::Current(taken);
    }
    let second = dot_len(rest);
    match ends(&rest[second..]) {
        Some(taken) if second > 0 => AfterDot::Parent(second + taken),
        _ => AfterDot::Name,
    }
}

/// Drops the last segment; the path ends with a slash before and after.
fn back_up(out: &mut Vec<u8>, base: usize) {
    let parent = out[base..out.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'/');
    out.truncate(base + parent.unwrap_or(0) + 1);
}

/// Brings the authority into the form that is asked for: without trailing dot, without port.
/// `local_port` is what [`StripPort::Matching`] compares with. `buffer` is overwritten.
pub fn normalize_authority(
    head: &mut Head,
    rules: &Rules,
    local_port: Option<u16>,
    buffer: &mut Vec<u8>,
) {
    if !rules.strip_trailing_host_dot && rules.strip_port == StripPort::Keep {
        return;
    }
    let authority = head.authority();
    let port = port_start(authority);
    let (mut host, mut port) = authority.split_at(port.unwrap_or(authority.len()));
    let before = authority.len();
    if rules.strip_trailing_host_dot
        && let [name @ .., b'.'] = host
    {
        host = name;
    }
    // The target of CONNECT needs its port (RFC 9110 section 9.3.6).
    if head.method() != b"CONNECT"
        && let Some(number) = port.get(1..).and_then(parse_decimal)
        && match rules.strip_port {
            StripPort::Keep => false,
            StripPort::Matching => local_port.map(u64::from) == Some(number),
            StripPort::Any => number <= u64::from(u16::MAX),
        }
    {
        port = b"";
    }
    if host.len() + port.len() != before {
        buffer.clear();
        buffer.extend_from_slice(host);
        buffer.extend_from_slice(port);
        head.set_authority(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(rules: &Rules, target: &str) -> (PathVerdict, String) {
        let mut head = Head::new();
        head.set_method(b"GET");
        head.set_path(target.as_bytes());
        let verdict = normalize_path(&mut head, rules, &mut Vec::new());
        (verdict, String::from_utf8(head.path().to_vec()).unwrap())
    }

    #[test]
    fn canonical_paths() {
        let rules = Rules {
            normalize_path: true,
            merge_slashes: true,
            ..Rules::default()
        };
        for (target, expected) in [
            ("/", "/"),
            ("/a/b.c/.d", "/a/b.c/.d"),
            ("/a/../b", "/b"),
            ("/a/./b//c", "/a/b/c"),
            ("/../a", "/a"),
            ("/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../..", "/"),
            ("/a/..b/c..", "/a/..b/c.."),
            ("/%2e%2e/a", "/a"),
            ("/%2E/a/%2e%2E/b", "/b"),
            ("/a%2eb", "/a.b"),
            ("/a%2fb", "/a%2fb"),
            ("/a%5cb", "/a%5cb"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/%41%7e", "/A~"),
            ("/%zz", "/%zz"),
            ("/%", "/%"),
            ("/%4", "/%4"),
            ("/a//b?c//d", "/a/b?c//d"),
            ("/a/../b?/c/../d", "/b?/c/../d"),
            ("/%e4", "/%e4"),
            ("/a/%7f%C3", "/a/%7f%C3"),
            ("/a|b{c}\"<>^`", "/a%7Cb%7Bc%7D%22%3C%3E%5E%60"),
            ("/a;p=1/b:c@d!$&'()*+,=[]", "/a;p=1/b:c@d!$&'()*+,=[]"),
        ] {
            let (verdict, path) = normalized(&rules, target);
            assert_eq!(verdict, PathVerdict::Continue, "{target}");
            assert_eq!(path, expected, "{target}");
            assert_eq!(normalized(&rules, &path).1, path, "{target}: stable");
        }
        assert_eq!(normalized(&rules, "/a%00b").0, PathVerdict::Reject);
        assert_eq!(normalized(&rules, "/a#b").0, PathVerdict::Reject);
        assert_eq!(
            normalized(&Rules::default(), "/a?b#c").0,
            PathVerdict::Reject
        );
        let untouched = normalized(&Rules::default(), "/a/../b//%41");
        assert_eq!(untouched, (PathVerdict::Continue, "/a/../b//%41".into()));
    }

    #[test]
    fn escaped_slashes() {
        let by = |escaped_slashes, normalize_path| Rules {
            escaped_slashes,
            normalize_path,
            ..Rules::default()
        };
        let reject = by(EscapedSlashes::Reject, false);
        let redirect = by(EscapedSlashes::UnescapeAndRedirect, true);
        let forward = by(EscapedSlashes::UnescapeAndForward, false);
        for target in ["/a%2fb", "/a%5Cb/../c", "/a%2Fb?q%2f"] {
            assert_eq!(normalized(&reject, target).0, PathVerdict::Reject);
        }
        for (rules, target, verdict, expected) in [
            (&redirect, "/a%2fb", PathVerdict::Redirect, "/a/b"),
            (&redirect, "/a%5cb/../c", PathVerdict::Redirect, "/a/c"),
            (&redirect, "/a%2Fb?q%2f", PathVerdict::Redirect, "/a/b?q%2f"),
            (&redirect, "/a/../b", PathVerdict::Continue, "/b"),
            (&forward, "/a%2fb", PathVerdict::Continue, "/a/b"),
            (&forward, "/a%5cb/../c", PathVerdict::Continue, "/a\\b/../c"),
            (&forward, "/a%2", PathVerdict::Continue, "/a%2"),
            (&reject, "/a?%2f", PathVerdict::Continue, "/a?%2f"),
        ] {
            assert_eq!(
                normalized(rules, target),
                (verdict, expected.into()),
                "{target}"
            );
        }
    }

    #[test]
    fn authorities() {
        let by = |strip_trailing_host_dot, strip_port| Rules {
            strip_trailing_host_dot,
            strip_port,
            ..Rules::default()
        };
        for (rules, authority, expected) in [
            (by(false, StripPort::Keep), "a.:80", "a.:80"),
            (by(true, StripPort::Keep), "a.", "a"),
            (by(true, StripPort::Keep), "a.:80", "a:80"),
            (by(true, StripPort::Any), "a.:8080", "a"),
            (by(false, StripPort::Any), "a:8080", "a"),
            (by(false, StripPort::Any), "a:x", "a:x"),
            (by(false, StripPort::Any), "[::1]:80", "[::1]"),
            (by(false, StripPort::Any), "[::1]", "[::1]"),
            (by(false, StripPort::Matching), "a:80", "a"),
            (by(false, StripPort::Matching), "a:81", "a:81"),
        ] {
            let mut head = Head::new();
            head.set_method(b"GET");
            head.set_authority(authority.as_bytes());
            normalize_authority(&mut head, &rules, Some(80), &mut Vec::new());
            assert_eq!(head.authority(), expected.as_bytes(), "{authority}");
            head.set_method(b"CONNECT");
            head.set_authority(b"a:80");
            normalize_authority(&mut head, &rules, Some(80), &mut Vec::new());
            assert_eq!(head.authority(), b"a:80");
        }
    }
}
