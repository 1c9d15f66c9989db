//! The report as a page that needs nothing but itself.

use std::fmt::Write as _;

use super::plot::{Line, Plot, Scale};
use super::text::{bytes, count, decimal, latency};
use super::{Point, Report};
use crate::histogram::Summary;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --line: #e4e7ec; --page: #f7f8fa;
  --card: #ffffff; --a: #2563eb; --b: #d97706; --c: #9333ea; --bad: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3442;
  --page: #11151c; --card: #191f29; --a: #6ea0ff; --b: #f0b04f; --c: #c08bff; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 32px 20px 48px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 22px; font-weight: 650; overflow-wrap: anywhere; }
p { margin: 4px 0 20px; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; margin-bottom: 16px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-bottom: 16px; }
.cards section { margin: 0; }
.cards b { display: block; font-size: 24px; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 13px; }
.cards .bad b { color: var(--bad); }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg .title { font-size: 14px; font-weight: 600; fill: var(--ink); }
svg .tick { fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg .axis { stroke: var(--soft); }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .dot { stroke: none; opacity: 0; }
svg .dot:hover { opacity: 1; }
.a { stroke: var(--a); } .b { stroke: var(--b); } .c { stroke: var(--c); } .bad { stroke: var(--bad); }
.dot.a { fill: var(--a); } .dot.b { fill: var(--b); } .dot.c { fill: var(--c); }
.dot.bad { fill: var(--bad); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 0; border-bottom: 1px solid var(--line); text-align: right; }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
";

impl Report {
    /// As a page.
    #[must_use]
    pub fn html(&self) -> String {
        let mut out = String::new();
        self.write_html(&mut out)
            .expect("a string takes everything");
        out
    }

    fn write_html(&self, out: &mut String) -> std::fmt::Result {
        let target = escaped(&self.target);
        writeln!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>Load on {target}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
        )?;
        writeln!(
            out,
            "<h1>{target}</h1>\n<p>{} loop, {} connections{}{}, {} thread{}, {:.2} s</p>",
            self.mode,
            count(self.connections.into()),
            self.streams_text(),
            if self.keep_alive {
                ""
            } else {
                " (a new one for each request)"
            },
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.elapsed_s,
        )?;
        self.cards(out)?;
        if self.latency.count > 0 {
            for plot in [
                self.percentiles(),
                self.throughput(),
                self.latency_in_time(),
            ] {
                writeln!(out, "<section>\n{}</section>", plot.svg())?;
            }
        }
        writeln!(out, "<div class=\"tables\">")?;
        self.distribution(out)?;
        self.facts(out)?;
        writeln!(out, "</div>\n</body>\n</html>")
    }

    fn cards(&self, out: &mut String) -> std::fmt::Result {
        let errors = self.errors.total();
        let cards = [
            ("", decimal(self.rate), "answers in a second"),
            ("", latency(self.latency.at(50.0)), "median latency"),
            ("", latency(self.latency.at(99.0)), "99th percentile"),
            ("", latency(self.latency.max_us), "greatest latency"),
            (if errors > 0 { "bad" } else { "" }, count(errors), "errors"),
        ];
        writeln!(out, "<div class=\"cards\">")?;
        for (class, figure, name) in cards {
            writeln!(
                out,
                "<section class=\"{class}\"><b>{figure}</b><span>{name}</span></section>"
            )?;
        }
        writeln!(out, "</div>")
    }

    fn percentiles(&self) -> Plot {
        let line = |name, class, summary: &Summary| Line {
            name,
            class,
            points: summary
                .curve
                .iter()
                .map(|point| (point.percent, float(point.us)))
                .collect(),
        };
        let mut lines = vec![line("from intended start", "a", &self.latency)];
        if let Some(service) = &self.service {
            lines.push(line("from sending", "b", service));
        }
        let nines = float(self.latency.count).log10().ceil().clamp(2.0, 7.0);
        Plot {
            title: "Latency by percentile",
            x: Scale::Nines(nines),
            y: fitting(&lines),
            x_name: "percent of answers",
            x_text: |percent| format!("{}%", (percent * 1e6).round() / 1e6),
            y_text: us_text,
            lines,
        }
    }

    fn throughput(&self) -> Plot {
        let mut lines = vec![self.in_time("answers/s", "a", |point| point.rate)];
        if self.errors.total() > 0 {
            lines.push(self.in_time("errors/s", "bad", |point| point.error_rate));
        }
        let most = lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.1)
            .fold(0.0, f64::max);
        Plot {
            title: "Answers in a second",
            x: self.time(),
            // From zero on, so that a dip looks as deep as it is.
            y: Scale::fitting(std::iter::once(most)),
            x_name: "seconds",
            x_text: seconds_text,
            y_text: |rate| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A rate.
                let whole = rate.round() as u64;
                if rate < 10.0 {
                    format!("{}", (rate * 1e3).round() / 1e3)
                } else {
                    count(whole)
                }
            },
            lines,
        }
    }

    fn latency_in_time(&self) -> Plot {
        let lines = vec![
            self.in_time("median", "a", |point| float(point.p50_us)),
            self.in_time("99th percentile", "b", |point| float(point.p99_us)),
            self.in_time("greatest", "c", |point| float(point.max_us)),
        ];
        Plot {
            title: "Latency in time",
            x: self.time(),
            y: fitting(&lines),
            x_name: "seconds",
            x_text: seconds_text,
            y_text: us_text,
            lines,
        }
    }

    fn time(&self) -> Scale {
        let end = self.series.last().map_or(0.0, |point| point.at_s) + self.interval_s;
        Scale::Linear(end)
    }

    fn in_time(&self, name: &'static str, class: &'static str, of: fn(&Point) -> f64) -> Line {
        let middle = self.interval_s / 2.0;
        let points = self
            .series
            .iter()
            .map(|point| (point.at_s + middle, of(point)));
        Line {
            name,
            class,
            points: points.collect(),
        }
    }

    fn distribution(&self, out: &mut String) -> std::fmt::Result {
        let columns: Vec<&Summary> = std::iter::once(&self.latency)
            .chain(&self.service)
            .collect();
        write!(out, "<section><table><tr><th>latency</th>")?;
        if columns.len() > 1 {
            write!(
                out,
                "<th>from intended start</th><th>from sending</th></tr>"
            )?;
        } else {
            write!(out, "<th></th></tr>")?;
        }
        let mut row = |name: &str, of: &dyn Fn(&Summary) -> u64| {
            write!(out, "\n<tr><td>{name}</td>")?;
            for column in &columns {
                write!(out, "<td>{}</td>", latency(of(column)))?;
            }
            write!(out, "</tr>")
        };
        row("least", &|summary| summary.min_us)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // At most an hour.
        row("mean", &|summary| summary.mean_us as u64)?;
        for point in &self.latency.percentiles {
            row(&format!("{}%", point.percent), &|summary| {
                summary.at(point.percent)
            })?;
        }
        row("greatest", &|summary| summary.max_us)?;
        writeln!(out, "</table></section>")
    }

    fn facts(&self, out: &mut String) -> std::fmt::Result {
        write!(out, "<section><table><tr><th>counts</th><th></th></tr>")?;
        let mut rows = vec![
            ("answers", count(self.answers)),
            ("connections opened", count(self.connects)),
            ("received", bytes(self.bytes_in)),
            ("sent", bytes(self.bytes_out)),
        ];
        if let Some(wanted) = self.wanted_rate {
            rows.push(("wanted in a second", decimal(wanted)));
            rows.push(("due and never sent", count(self.unsent)));
        }
        rows.push(("answers after the end", count(self.late)));
        for (kind, number) in self.errors.by_kind() {
            rows.push((error_name(kind), count(number)));
        }
        rows.push((
            "processor time for an answer",
            format!("{:.2} us", self.cpu_us_per_answer),
        ));
        for (name, value) in rows {
            write!(out, "\n<tr><td>{name}</td><td>{value}</td></tr>")?;
        }
        writeln!(out, "</table></section>")
    }
}

fn error_name(kind: &str) -> &'static str {
    match kind {
        "connect" => "errors: connecting",
        "timeout" => "errors: timeout",
        "reset" => "errors: connection lost",
        "status" => "errors: status of 400 and above",
        _ => "errors: protocol",
    }
}

fn fitting(lines: &[Line]) -> Scale {
    Scale::fitting(
        lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|point| point.1),
    )
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn float(number: u64) -> f64 {
    number as f64
}

/// Microseconds on an axis: without the decimals of a table.
fn us_text(us: f64) -> String {
    let rounded = |value: f64| (value * 1e3).round() / 1e3;
    match us {
        ..1000.0 => format!("{} us", rounded(us)),
        ..1e6 => format!("{} ms", rounded(us / 1e3)),
        _ => format!("{} s", rounded(us / 1e6)),
    }
}

fn seconds_text(seconds: f64) -> String {
    format!("{}", (seconds * 1e3).round() / 1e3)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_cannot_break_the_page() {
        assert_eq!(escaped("/?<b>&\""), "/?&lt;b&gt;&amp;&quot;");
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!(us_text(0.0), "0 us");
        assert_eq!(us_text(2500.0), "2.5 ms");
        assert_eq!(us_text(1e6), "1 s");
        assert_eq!(seconds_text(0.3), "0.3");
    }
}
