//! Numbers, addresses and dates as bytes, appended to buffers that are reused.
//!
//! Header fields are written for every request, so nothing here allocates beyond the growth of the
//! buffer it is given, and nothing looks at a clock.

use std::net::{IpAddr, SocketAddr};

/// Appends a decimal number.
pub fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a decimal number with leading zeros; digits beyond `width` are cut off on the left.
pub fn push_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = value;
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Appends an IP address without port or brackets.
pub fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            // Written for most requests: one buffer on the stack, one copy.
            let mut text = [b'.'; 16];
            let mut at = 0;
            for octet in v4.octets() {
                if octet >= 100 {
                    text[at] = b'0' + octet / 100;
                    at += 1;
                }
                if octet >= 10 {
                    text[at] = b'0' + octet / 10 % 10;
                    at += 1;
                }
                text[at] = b'0' + octet % 10;
                at += 2;
            }
            out.extend_from_slice(&text[..at - 1]);
        }
        IpAddr::V6(v6) => {
            use std::io::Write as _;
            // Writing to a vector cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Appends `address:port`, with brackets around IPv6.
pub fn push_socket_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    if addr.is_ipv6() {
        out.push(b'[');
        push_ip(out, addr.ip());
        out.push(b']');
    } else {
        push_ip(out, addr.ip());
    }
    out.push(b':');
    push_decimal(out, u64::from(addr.port()));
}

/// Reads a decimal number of digits only; `None` when empty, not a number, or too large.
#[must_use]
pub fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Cuts spaces and tabs off both ends.
#[must_use]
pub fn trim(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The non-empty elements of a comma-separated list, trimmed.
pub fn list(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|byte| *byte == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// A UTC time of day and date (proleptic Gregorian calendar).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    pub year: i64,
    /// 1–12.
    pub month: u8,
    /// 1–31.
    pub day: u8,
    /// 0 is Sunday.
    pub weekday: u8,
    /// 1–366.
    pub day_of_year: u16,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
}

/// Names of weekdays, abbreviated, Sunday first.
pub const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/// Names of months, abbreviated.
pub const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

impl Utc {
    /// The UTC date of a Unix time in seconds.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let time = seconds.rem_euclid(86_400);
        // Days counted from 1 March of year 0, so that a leap day ends its year.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let day_of_year = before[(month - 1) as usize] + day + i64::from(leap && month > 2);
        Self {
            year,
            month: month as u8,
            day: day as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
            day_of_year: day_of_year as u16,
            hour: (time / 3600) as u8,
            minute: (time / 60 % 60) as u8,
            second: (time % 60) as u8,
        }
    }
}

/// Length of an HTTP date.
pub const HTTP_DATE_LEN: usize = 29;

/// The `date` field value of a Unix time (RFC 9110 section 5.6.7). Callers keep it for a second.
#[must_use]
pub fn http_date(seconds: i64) -> [u8; HTTP_DATE_LEN] {
    let utc = Utc::from_unix(seconds);
    let mut date = *b"Sun, 00 Jan 0000 00:00:00 GMT";
    let two = |value: u8| [b'0' + value / 10 % 10, b'0' + value % 10];
    date[..3].copy_from_slice(WEEKDAYS[usize::from(utc.weekday % 7)].as_bytes());
    date[5..7].copy_from_slice(&two(utc.day));
    date[8..11].copy_from_slice(MONTHS[usize::from((utc.month - 1) % 12)].as_bytes());
    let year = utc.year.clamp(0, 9999);
    date[12..14].copy_from_slice(&two((year / 100) as u8));
    date[14..16].copy_from_slice(&two((year % 100) as u8));
    date[17..19].copy_from_slice(&two(utc.hour));
    date[20..22].copy_from_slice(&two(utc.minute));
    date[23..25].copy_from_slice(&two(utc.second));
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, text) in [
            (0, "0"),
            (9, "9"),
            (10, "10"),
            (65_535, "65535"),
            (u64::MAX, "18446744073709551615"),
        ] {
            let mut out = Vec::new();
            push_decimal(&mut out, value);
            assert_eq!(out, text.as_bytes());
            assert_eq!(parse_decimal(&out), Some(value));
        }
        assert_eq!(parse_decimal(b""), None);
        assert_eq!(parse_decimal(b"18446744073709551616"), None);
        assert_eq!(parse_decimal(b"1x"), None);
        assert_eq!(parse_decimal(b"-1"), None);
        let mut out = Vec::new();
        push_padded(&mut out, 7, 3);
        push_padded(&mut out, 1234, 3);
        assert_eq!(out, b"007234");
    }

    #[test]
    fn addresses() {
        let mut out = Vec::new();
        push_socket_addr(&mut out, "10.0.200.1:80".parse().unwrap());
        out.push(b' ');
        push_socket_addr(&mut out, "[2001:db8::1]:443".parse().unwrap());
        assert_eq!(out, b"10.0.200.1:80 [2001:db8::1]:443");
    }

    #[test]
    fn dates() {
        assert_eq!(&http_date(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&http_date(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&http_date(951_782_400), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(&http_date(1_735_689_599), b"Tue, 31 Dec 2024 23:59:59 GMT");
        assert_eq!(Utc::from_unix(1_735_689_599).day_of_year, 366);
        assert_eq!(Utc::from_unix(951_782_400).day_of_year, 60);
        assert_eq!(Utc::from_unix(1_700_000_000).weekday, 2);
    }

    #[test]
    fn lists() {
        let elements: Vec<_> = list(b" a, ,b ,\tc,").collect();
        assert_eq!(elements, [b"a", b"b", b"c"]);
    }
}
