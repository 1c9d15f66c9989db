//! The report for a terminal.

use std::fmt::Write as _;

use super::Report;
use crate::histogram::Summary;

impl Report {
    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_text(&mut out)
            .expect("a string takes everything");
        out
    }

    /// What there is to say of streams.
    pub(super) fn streams_text(&self) -> String {
        match self.streams {
            None => String::new(),
            Some(1) => " with 1 stream each".to_owned(),
            Some(streams) => format!(" with {} streams each", count(streams.into())),
        }
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}", self.target)?;
        writeln!(
            out,
            "  {} loop, {} connections{}{}, {} thread{}, {:.2} s",
            self.mode,
            count(self.connections.into()),
            self.streams_text(),
            if self.keep_alive {
                ""
            } else {
                ", a new one for each request"
            },
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.elapsed_s,
        )?;
        writeln!(
            out,
            "\n  answers    {} ({}/s)",
            count(self.answers),
            decimal(self.rate)
        )?;
        if let Some(wanted) = self.wanted_rate {
            writeln!(out, "  wanted     {}/s", decimal(wanted))?;
        }
        if self.unsent > 0 {
            writeln!(
                out,
                "  unsent     {} were due and not sent in time",
                count(self.unsent)
            )?;
        }
        if self.late > 0 {
            writeln!(
                out,
                "  late       {} answers came after the end",
                count(self.late)
            )?;
        }
        writeln!(
            out,
            "  transfer   {} in, {} out",
            bytes(self.bytes_in),
            bytes(self.bytes_out)
        )?;
        writeln!(out, "  connects   {}", count(self.connects))?;
        if let Some(tls) = &self.tls {
            let (full, resumed) = (count(tls.full), count(tls.resumed));
            write!(out, "  handshakes {full} full, {resumed} resumed")?;
            if !tls.version.is_empty() {
                write!(out, ": {} {}", tls.version, tls.suite)?;
            }
            if !tls.alpn.is_empty() {
                write!(out, ", {}", tls.alpn)?;
            }
            if let Some(why) = &tls.refused {
                write!(out, "; refused: {why}")?;
            }
            writeln!(out)?;
        }
        write!(out, "  errors     {}", count(self.errors.total()))?;
        for (kind, number) in self.errors.by_kind() {
            if number > 0 {
                write!(out, "  {kind} {}", count(number))?;
            }
        }
        writeln!(
            out,
            "\n  processor  {:.2} s user, {:.2} s system: {:.2} us for an answer",
            self.cpu.user_s, self.cpu.system_s, self.cpu_us_per_answer
        )?;
        if self.latency.count == 0 {
            return Ok(());
        }
        match &self.service {
            None => table(out, &[("latency", &self.latency)]),
            Some(service) => table(
                out,
                &[
                    ("from intended start", &self.latency),
                    ("from sending", service),
                ],
            ),
        }
    }
}

fn table(out: &mut String, columns: &[(&str, &Summary)]) -> std::fmt::Result {
    write!(out, "\n  {:<9}", "")?;
    for (name, _) in columns {
        write!(out, "{name:>20}")?;
    }
    let mut row = |name: &str, value: &dyn Fn(&Summary) -> String| {
        write!(out, "\n  {name:<9}")?;
        columns
            .iter()
            .try_for_each(|(_, summary)| write!(out, "{:>20}", value(summary)))
    };
    row("mean", &|summary| latency_f(summary.mean_us))?;
    row("stdev", &|summary| latency_f(summary.stdev_us))?;
    row("min", &|summary| latency(summary.min_us))?;
    for point in &columns[0].1.percentiles {
        // A percentile that no answer stands for is the maximum again.
        #[allow(clippy::cast_precision_loss)] // Counts far below 2^52.
        let beyond = columns[0].1.count as f64 * (1.0 - point.percent / 100.0);
        if beyond >= 0.999 || point.percent <= 99.0 {
            row(&format!("p{}", point.percent), &|summary| {
                latency(summary.at(point.percent))
            })?;
        }
    }
    row("max", &|summary| latency(summary.max_us))?;
    writeln!(out)
}

/// Microseconds for a reader.
pub(crate) fn latency(us: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // At most an hour.
    latency_f(us as f64)
}

fn latency_f(us: f64) -> String {
    match us {
        ..1000.0 => format!("{us:.0} us"),
        ..1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A count with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A rate, with decimals where they matter.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive and below 2^52.
pub(crate) fn decimal(rate: f64) -> String {
    if rate < 100.0 {
        format!("{rate:.2}")
    } else {
        count(rate.round() as u64)
    }
}

/// Bytes for a reader.
pub(crate) fn bytes(number: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Rounded anyway.
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = if unit == "B" { 0 } else { 2 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.2} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_readers() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(decimal(12.345), "12.35");
        assert_eq!(decimal(12_345.6), "12,346");
        assert_eq!(latency(999), "999 us");
        assert_eq!(latency(1500), "1.50 ms");
        assert_eq!(latency(2_500_000), "2.50 s");
        assert_eq!(bytes(100), "100 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(3 << 40), "3.00 TiB");
    }
}
