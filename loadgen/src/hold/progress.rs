//! What a hold shows while it runs, and at its end.
//!
//! On a terminal a bar and a line that changes; elsewhere a plain line now and then.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Report;
use super::counts::Counts;
use crate::histogram::Latencies;
use crate::report::{format_count as count, format_us as latency};

/// Time between plain lines while connections are opened.
const OPENING: Duration = Duration::from_secs(1);
/// The same afterwards.
const HOLDING: Duration = Duration::from_secs(10);
/// Time over which shown latencies are taken.
const WINDOW: Duration = Duration::from_secs(1);

/// Progress on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    last_line: Instant,
    was_settled: bool,
    window: Latencies,
    window_began: Instant,
    /// Median and 99th percentile of the last full window.
    shown: Option<(u64, u64)>,
}

impl Progress {
    pub(super) fn new(connections: u32) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(connections.into());
            let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} {msg}")
                .expect("a template that is constant");
            bar.set_style(style);
            bar
        });
        Self {
            bar,
            last_line: now,
            was_settled: false,
            window: Latencies::fine(),
            window_began: now,
            shown: None,
        }
    }

    /// Shows the numbers as of now; `recent` are the latencies since the last time.
    pub(super) fn show(&mut self, counts: &Counts, recent: &Latencies, settled: bool) {
        self.window.add(recent);
        if self.window_began.elapsed() >= WINDOW {
            if self.window.count() > 0 {
                let figures = [50.0, 99.0].map(|percent| self.window.percentile(percent));
                self.shown = Some((figures[0], figures[1]));
            }
            self.window.clear();
            self.window_began = Instant::now();
        }
        if let Some(bar) = &self.bar {
            bar.set_position(counts.connected);
            bar.set_message(line(counts, self.shown));
            return;
        }
        let pause = if settled { HOLDING } else { OPENING };
        if self.last_line.elapsed() >= pause || settled != self.was_settled {
            self.last_line = Instant::now();
            self.was_settled = settled;
            let connected = count(counts.connected);
            eprintln!("{connected} connected, {}", line(counts, self.shown));
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(counts: &Counts, shown: Option<(u64, u64)>) -> String {
    let mut out = format!(
        "{} failed, {} dropped, {} reconnected, ",
        count(counts.failed),
        count(counts.dropped),
        count(counts.reconnected)
    );
    if counts.events > 0 {
        out += &format!("{} events", count(counts.events));
    } else {
        out += &format!("{} answers", count(counts.answers));
    }
    if let Some((p50, p99)) = shown {
        out += &format!(", p50 {} p99 {}", latency(p50), latency(p99));
    }
    out
}

/// The report for a terminal.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    write_text(report, &mut out).expect("a string takes everything");
    out
}

fn write_text(report: &Report, out: &mut String) -> std::fmt::Result {
    let counts = &report.counts;
    writeln!(out, "{}", report.target)?;
    writeln!(
        out,
        "  {} connections wanted, {} worker{}{}, {} source addresses",
        count(report.connections.into()),
        report.workers,
        if report.workers == 1 { "" } else { "s" },
        if report.private_tables {
            " with tables of their own"
        } else {
            ""
        },
        report.sources,
    )?;
    writeln!(
        out,
        "  opened in {:.2} s, held for {:.2} s\n",
        report.opening_s, report.held_s
    )?;
    for (name, number) in [
        ("connected", counts.connected),
        ("failed", counts.failed),
        ("dropped", counts.dropped),
        ("reconnected", counts.reconnected),
        ("messages", counts.messages),
        ("answers", counts.answers),
        ("events", counts.events),
    ] {
        writeln!(out, "  {name:<12}{}", count(number))?;
    }
    write!(out, "  {:<12}{}", "errors", count(counts.errors.total()))?;
    for (kind, number) in counts.errors.by_kind() {
        if number > 0 {
            write!(out, "  {kind} {}", count(number))?;
        }
    }
    let summary = &report.latency;
    if summary.count > 0 {
        write!(
            out,
            "\n  {:<12}p50 {}, p90 {}, p99 {}, max {}",
            "latency",
            latency(summary.at(50.0)),
            latency(summary.at(90.0)),
            latency(summary.at(99.0)),
            latency(summary.max_us),
        )?;
    }
    writeln!(
        out,
        "\n  {:<12}{:.2} s user, {:.2} s system",
        "processor", report.cpu.user_s, report.cpu.system_s
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened() {
        let counts = Counts {
            connected: 5,
            dropped: 1,
            answers: 12_345,
            ..Counts::default()
        };
        assert_eq!(
            line(&counts, Some((1500, 20_000))),
            "0 failed, 1 dropped, 0 reconnected, 12,345 answers, p50 1.50 ms p99 20.00 ms"
        );
    }
}
