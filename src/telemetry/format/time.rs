//! Dates by strftime-like patterns, in UTC, as Envoy's formatter takes them.
//!
//! A pattern is compiled once; an unknown specifier is an error then, so writing cannot fail.

use std::time::Duration;

use super::Out;

/// A date and time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: u32,
    pub(crate) day: u32,
    /// Day of the year, from 1.
    pub(crate) year_day: u32,
    /// 0 is Sunday.
    pub(crate) week_day: u32,
    pub(crate) hour: u32,
    pub(crate) minute: u32,
    pub(crate) second: u32,
}

impl Civil {
    /// The date of seconds since the Unix epoch.
    pub(crate) fn new(seconds: u64) -> Self {
        let days = (seconds / 86_400) as i64;
        let rest = (seconds % 86_400) as u32;
        // Counted in years that begin with March, whose last day may be a leap day, and in eras of
        // 400 years, which are all of the same length.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let year_day = before[month as usize - 1] + day + u32::from(leap && month > 2);
        Self {
            year,
            month,
            day,
            year_day,
            week_day: (days + 4).rem_euclid(7) as u32,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// A specifier of one letter.
    Field(u8),
    /// `%3f`: that many digits of the fraction of the second.
    Fraction(u8),
    /// `%E3S`: seconds with that many digits of the fraction.
    Seconds(u8),
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat(Vec<Part>);

/// Specifiers that are made of others.
fn expand(field: u8) -> Option<&'static str> {
    Some(match field {
        b'T' | b'X' => "%H:%M:%S",
        b'R' => "%H:%M",
        b'F' => "%Y-%m-%d",
        b'D' | b'x' => "%m/%d/%y",
        b'c' => "%a %b %e %H:%M:%S %Y",
        b'r' => "%I:%M:%S %p",
        _ => return None,
    })
}

impl TimeFormat {
    /// `%Y-%m-%dT%H:%M:%E3SZ`
    #[must_use]
    pub fn iso() -> Self {
        let field = |field| Part::Field(field);
        let text = |text: &str| Part::Text(text.into());
        Self(vec![
            field(b'Y'),
            text("-"),
            field(b'm'),
            text("-"),
            field(b'd'),
            text("T"),
            field(b'H'),
            text(":"),
            field(b'M'),
            text(":"),
            Part::Seconds(3),
            text("Z"),
        ])
    }

    /// Compiles a pattern; the error is the specifier that is not known.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        Self::parse_into(pattern, &mut parts)?;
        Ok(Self(parts))
    }

    fn parse_into(pattern: &str, parts: &mut Vec<Part>) -> Result<(), String> {
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                parts.push(Part::Text(rest[..at].into()));
            }
            rest = &rest[at + 1..];
            let bytes = rest.as_bytes();
            let digit = |at: usize| {
                let digit = bytes.get(at).filter(|byte| (b'1'..=b'9').contains(byte))?;
                Some(digit - b'0')
            };
            let (part, len) = match bytes.first() {
                Some(b'%') => (Part::Text("%".into()), 1),
                Some(b'n') => (Part::Text("\n".into()), 1),
                Some(b't') => (Part::Text("\t".into()), 1),
                Some(b'Z') => (Part::Text("UTC".into()), 1),
                Some(b'z') => (Part::Text("+0000".into()), 1),
                Some(b'E') if digit(1).is_some() && bytes.get(2) == Some(&b'S') => {
                    (Part::Seconds(digit(1).unwrap_or(3)), 3)
                }
                Some(b'E') if digit(1).is_some() && bytes.get(2) == Some(&b'f') => {
                    (Part::Fraction(digit(1).unwrap_or(3)), 3)
                }
                Some(b'1'..=b'9') if bytes.get(1) == Some(&b'f') => {
                    (Part::Fraction(digit(0).unwrap_or(3)), 2)
                }
                Some(b'f') => (Part::Fraction(9), 1),
                Some(&field) if let Some(pattern) = expand(field) => {
                    Self::parse_into(pattern, parts)?;
                    rest = &rest[1..];
                    continue;
                }
                Some(&field) if b"YmdHMSsyCjeIpaAbBhuwkl".contains(&field) => {
                    (Part::Field(field), 1)
                }
                _ => {
                    let specifier: String = rest.chars().take(2).collect();
                    return Err(format!("%{specifier}"));
                }
            };
            parts.push(part);
            rest = &rest[len..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(())
    }

    /// Writes a time given as microseconds since the Unix epoch.
    pub fn write(&self, unix_us: u64, out: &mut dyn Out) {
        let time = Duration::from_micros(unix_us);
        let civil = Civil::new(time.as_secs());
        let fraction = |digits: u8, out: &mut dyn Out| {
            let cut = 10_u32.pow(9 - u32::from(digits.min(9)));
            padded(
                u64::from(time.subsec_nanos() / cut),
                usize::from(digits),
                b'0',
                out,
            );
        };
        for part in &self.0 {
            match part {
                Part::Text(text) => out.put(text.as_bytes()),
                Part::Field(field) => civil.write(*field, time.as_secs(), out),
                Part::Fraction(digits) => fraction(*digits, out),
                Part::Seconds(digits) => {
                    padded(u64::from(civil.second), 2, b'0', out);
                    out.put(b".");
                    fraction(*digits, out);
                }
            }
        }
    }
}

impl Civil {
    fn write(&self, field: u8, unix_s: u64, out: &mut dyn Out) {
        let mut two = |value: u32| padded(u64::from(value), 2, b'0', out);
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        match field {
            b'm' => two(self.month),
            b'd' => two(self.day),
            b'H' => two(self.hour),
            b'M' => two(self.minute),
            b'S' => two(self.second),
            b'I' => two(hour12),
            b'y' => two((self.year % 100) as u32),
            b'C' => two((self.year / 100) as u32),
            b'Y' => padded(self.year as u64, 4, b'0', out),
            b's' => padded(unix_s, 1, b'0', out),
            b'j' => padded(u64::from(self.year_day), 3, b'0', out),
            b'e' => padded(u64::from(self.day), 2, b' ', out),
            b'k' => padded(u64::from(self.hour), 2, b' ', out),
            b'l' => padded(u64::from(hour12), 2, b' ', out),
            b'u' => padded(u64::from((self.week_day + 6) % 7 + 1), 1, b'0', out),
            b'w' => padded(u64::from(self.week_day), 1, b'0', out),
            b'p' => out.put(if self.hour < 12 { b"AM" } else { b"PM" }),
            b'a' => out.put(&DAYS[self.week_day as usize].as_bytes()[..3]),
            b'A' => out.put(DAYS[self.week_day as usize].as_bytes()),
            b'b' | b'h' => out.put(&MONTHS[self.month as usize - 1].as_bytes()[..3]),
            b'B' => out.put(MONTHS[self.month as usize - 1].as_bytes()),
            _ => {}
        }
    }
}

/// Writes a number with at least `width` digits.
pub(crate) fn padded(mut value: u64, width: usize, pad: u8, out: &mut dyn Out) {
    let mut digits = [pad; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    let from = at.min(digits.len() - width.min(digits.len()));
    out.put(&digits[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(pattern: &str, unix_us: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(pattern).unwrap().write(unix_us, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01 4 001"),
            (951_782_400, "2000-02-29 2 060"),
            (951_868_800, "2000-03-01 3 061"),
            (1_709_164_800, "2024-02-29 4 060"),
            (1_735_689_599, "2024-12-31 2 366"),
            (4_107_542_400, "2100-03-01 1 060"),
            (1_795_263_341, "2026-11-21 6 325"),
        ];
        for (seconds, date) in cases {
            assert_eq!(write("%F %w %j", seconds * 1_000_000), date);
        }
    }

    #[test]
    fn patterns_of_envoy() {
        let time = 1_795_263_341_720_269;
        let mut out = Vec::new();
        TimeFormat::iso().write(time, &mut out);
        assert_eq!(out, b"2026-11-21T12:15:41.720Z");
        let cases = [
            (
                "%s.%3f %Y/%m/%dT%H:%M:%S%z %6f %9f",
                "1795263341.720 2026/11/21T12:15:41+0000 720269 720269000",
            ),
            ("%Y-%m-%dT%H:%M:%E3SZ", "2026-11-21T12:15:41.720Z"),
            (
                "%a %A %b %B %e %I %p %y %%",
                "Sat Saturday Nov November 21 12 PM 26 %",
            ),
            ("%D %R %T %Z", "11/21/26 12:15 12:15:41 UTC"),
        ];
        for (pattern, text) in cases {
            assert_eq!(write(pattern, time), text);
        }
    }

    #[test]
    fn an_unknown_specifier_is_named() {
        assert_eq!(TimeFormat::parse("%Y %Q").unwrap_err(), "%Q");
        assert_eq!(TimeFormat::parse("x%").unwrap_err(), "%");
    }
}
