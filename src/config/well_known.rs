//! Text forms of `google.protobuf.Duration`, `Timestamp` and `FieldMask` in JSON.

/// Seconds of 10,000 years: what both a Duration and a Timestamp are limited to.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// Seconds and nanoseconds of a text like `1.5s`; both have the same sign.
pub(crate) fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (whole, nanos) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, parse_fraction(fraction)?),
        None => (number, 0),
    };
    let seconds = parse_digits(whole)?;
    if seconds > MAX_DURATION_SECONDS {
        return None;
    }
    Some(if negative {
        (-seconds, -nanos)
    } else {
        (seconds, nanos)
    })
}

/// The text of a duration, with as many fraction digits as are needed of 0, 3, 6 and 9.
pub(crate) fn format_duration(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let fraction = format_fraction(nanos.unsigned_abs());
    format!("{sign}{}{fraction}s", seconds.unsigned_abs())
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 text like `2026-01-02T03:04:05.6Z`.
pub(crate) fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (
        fixed(date.next()?, 4)?,
        fixed(date.next()?, 2)?,
        fixed(date.next()?, 2)?,
    );
    let zone = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let offset = match zone {
        "Z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let seconds = fixed(hours, 2)? * 3600 + fixed(minutes, 2)? * 60;
            if zone.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    let (time, nanos) = match time.split_once('.') {
        Some((time, fraction)) => (time, parse_fraction(fraction)?),
        None => (time, 0),
    };
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (
        fixed(time.next()?, 2)?,
        fixed(time.next()?, 2)?,
        fixed(time.next()?, 2)?,
    );
    let in_month = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=in_month).contains(&day) || year < 1 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    Some((
        days * 86_400 + hour * 3600 + minute * 60 + second - offset,
        nanos,
    ))
}

/// The RFC 3339 text of a timestamp, in UTC.
pub(crate) fn format_timestamp(seconds: i64, nanos: i32) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    let fraction = format_fraction(nanos.unsigned_abs());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
        time / 3600,
        time / 60 % 60,
        time % 60
    )
}

/// Paths of a field mask text like `a.fooBar,c`, in snake_case.
pub(crate) fn parse_field_mask(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',')
        .map(|path| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
            if path.is_empty() || !path.chars().all(known) {
                return None;
            }
            let mut snake = String::with_capacity(path.len() + 4);
            for c in path.chars() {
                if c.is_ascii_uppercase() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            Some(snake)
        })
        .collect()
}

/// The text of a field mask.
pub(crate) fn format_field_mask<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for (i, path) in paths.enumerate() {
        if i > 0 {
            out.push(',');
        }
        let mut capital = false;
        for c in path.chars() {
            if c == '_' {
                capital = true;
                continue;
            }
            out.push(if capital { c.to_ascii_uppercase() } else { c });
            capital = false;
        }
    }
    out
}

fn parse_digits(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn fixed(text: &str, digits: usize) -> Option<i64> {
    if text.len() == digits {
        parse_digits(text)
    } else {
        None
    }
}

/// Nanoseconds of one to nine digits behind the point.
fn parse_fraction(digits: &str) -> Option<i32> {
    if digits.len() > 9 {
        return None;
    }
    let value = i32::try_from(parse_digits(digits)?).ok()?;
    Some(value * 10_i32.pow(9 - digits.len() as u32))
}

fn format_fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years are counted from March, so
/// that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, value) in [
            ("0s", (0, 0)),
            ("1.500s", (1, 500_000_000)),
            ("-0.000000001s", (0, -1)),
            ("-3.000100s", (-3, -100_000)),
            ("315576000000s", (MAX_DURATION_SECONDS, 0)),
        ] {
            assert_eq!(parse_duration(text), Some(value), "{text}");
            assert_eq!(format_duration(value.0, value.1), text);
        }
        assert_eq!(parse_duration("0.25s"), Some((0, 250_000_000)));
        for bad in [
            "",
            "s",
            "1",
            "1ms",
            "1.s",
            ".5s",
            "+1s",
            "1.1234567891s",
            "315576000001s",
            "1 s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-21T12:00:00Z", 1_795_262_400),
            ("1969-12-31T23:59:59Z", -1),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
        ] {
            assert_eq!(parse_timestamp(text), Some((seconds, 0)), "{text}");
            assert_eq!(format_timestamp(seconds, 0), text);
        }
        assert_eq!(
            parse_timestamp("1970-01-01T01:00:00.5+01:00"),
            Some((0, 500_000_000))
        );
        for bad in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01",
            "2026-01-01T24:00:00Z",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn field_masks() {
        let paths = vec!["a_b.c_d".to_owned(), "e".to_owned()];
        assert_eq!(parse_field_mask("aB.cD,e"), Some(paths.clone()));
        assert_eq!(
            format_field_mask(paths.iter().map(String::as_str)),
            "aB.cD,e"
        );
        assert_eq!(parse_field_mask(""), Some(Vec::new()));
        assert_eq!(parse_field_mask("a,,b"), None);
    }
}
