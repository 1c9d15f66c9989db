//! Finds where a head (or a trailer section) ends before anything is parsed.
//!
//! A head that arrives in pieces is scanned once: the caller remembers how far. Lines end in CRLF and
//! nothing else; a bare LF is where two parsers come to disagree, so it is refused here, once for all.

use memchr::memchr;

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The section, its empty line included, is this many bytes.
    Complete(usize),
    /// It is not all there yet; every byte given was looked at.
    Partial,
    /// A line feed that no carriage return precedes.
    BareLineFeed,
    /// It does not end within the limit.
    TooLong,
}

/// Looks for the empty line at the start or after a line. `scanned` bytes were looked at before. The
/// outcome does not depend on how the bytes were split over calls.
pub(super) fn section_end(input: &[u8], scanned: usize, max: usize) -> Scan {
    let window = &input[..input.len().min(max)];
    let mut at = scanned.min(window.len());
    while let Some(offset) = memchr(b'\n', &window[at..]) {
        let feed = at + offset;
        if feed == 0 || window[feed - 1] != b'\r' {
            return Scan::BareLineFeed;
        }
        if feed == 1 || window[feed - 2] == b'\n' {
            return Scan::Complete(feed + 1);
        }
        at = feed + 1;
    }
    if input.len() >= max {
        Scan::TooLong
    } else {
        Scan::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_split_agrees() {
        for (text, found) in [
            (&b"a: b\r\n\r\nrest\n"[..], Scan::Complete(8)),
            (b"\r\nrest", Scan::Complete(2)),
            (b"a\n\r\n", Scan::BareLineFeed),
            (b"a\r\n\n", Scan::BareLineFeed),
            (b"\n", Scan::BareLineFeed),
            (b"aaaaaaaaaaaa\r\n\r\n", Scan::TooLong),
            (b"aaaaaaaaaaaa\n", Scan::TooLong),
            (b"aaaaaaaa\r\n\r\n", Scan::Complete(12)),
            (b"a: b\r\n\r", Scan::Partial),
        ] {
            assert_eq!(section_end(text, 0, 12), found);
            let mut scanned = 0;
            for end in 0..=text.len() {
                match section_end(&text[..end], scanned, 12) {
                    Scan::Partial => scanned = end,
                    other => {
                        assert_eq!(other, found);
                        break;
                    }
                }
            }
        }
    }
}
