//! `/stats` as text and JSON.

use std::fmt::Write as _;

use regex::Regex;

use super::json;
use super::prometheus;
use super::{AdminBackend, Request, Response};
use crate::telemetry::histogram::{BOUNDS, HistogramData, QUANTILES};
use crate::telemetry::registry::{HistogramValue, Reading};

/// Bounds of buckets as text has them.
pub(super) const BOUND_NAMES: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000",
    "30000", "60000", "300000", "600000", "1.8e+06", "3.6e+06",
];

const QUANTILE_NAMES: [&str; 10] = [
    "0", "25", "50", "75", "90", "95", "99", "99.5", "99.9", "100",
];

/// How histograms are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buckets {
    Quantiles,
    Cumulative,
    Disjoint,
}

/// Reads what the query's `filter`, `invert_filter`, `usedonly` and `type` leave.
pub(super) fn read(
    request: &Request,
    backend: &mut impl AdminBackend,
) -> Result<Reading, Response> {
    let filter = match request.parameter("filter") {
        None | Some("") => None,
        Some(pattern) => Some(Regex::new(pattern).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ");
            Response::error(400, format!("Invalid re2 regex: {reason}: {pattern}"))
        })?),
    };
    let inverted = request.has("invert_filter");
    let wanted = |name: &str| match &filter {
        None => true,
        Some(filter) => filter.is_match(name) != inverted,
    };
    let (counters, gauges, histograms) = match request.parameter("type") {
        None | Some("All") => (true, true, true),
        Some("Counters") => (true, false, false),
        Some("Gauges") => (false, true, false),
        Some("Histograms") => (false, false, true),
        Some("TextReadouts") => (false, false, false),
        Some(_) => return Err(Response::error(400, "invalid &type= param")),
    };
    let used_only = request.has("usedonly");
    let mut reading = backend.registry().read_where(wanted);
    reading
        .counters
        .retain(|counter| counters && (counter.used || !used_only));
    reading
        .gauges
        .retain(|gauge| gauges && (gauge.used || !used_only));
    reading
        .histograms
        .retain(|histogram| histograms && (histogram.cumulative.count > 0 || !used_only));
    Ok(reading)
}

/// `/stats`
pub(super) fn stats(request: &Request, backend: &mut impl AdminBackend) -> Response {
    match request.parameter("format") {
        Some("prometheus") => return prometheus::stats(request, backend),
        None | Some("text" | "json" | "") => {}
        Some(_) => return Response::error(400, "usage: /stats?format=(json|prometheus|text)\n\n"),
    }
    let buckets = match request.parameter("histogram_buckets") {
        None | Some("summary" | "") => Buckets::Quantiles,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some(_) => {
            let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|summary)\n";
            return Response::error(400, usage);
        }
    };
    let reading = match read(request, backend) {
        Ok(reading) => reading,
        Err(response) => return response,
    };
    match request.parameter("format") {
        Some("json") => Response::json(as_json(&reading, buckets)),
        _ => Response::text(as_text(&reading, buckets)),
    }
}

/// Counters and gauges together, by name.
fn merged(reading: &Reading) -> Vec<(&str, i64)> {
    let counters = reading.counters.iter();
    let gauges = reading.gauges.iter();
    let mut all: Vec<_> = counters
        .map(|counter| (&*counter.name, counter.value as i64))
        .chain(gauges.map(|gauge| (&*gauge.name, gauge.value)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    all
}

/// Counts up to each bound, or between bounds.
fn counts(data: &HistogramData, buckets: Buckets) -> [u64; 19] {
    let cumulative = BOUNDS.map(|bound| data.count_to(bound));
    if buckets == Buckets::Cumulative {
        return cumulative;
    }
    let mut before = 0;
    cumulative.map(|count| {
        let between = count - before;
        before = count;
        between
    })
}

fn as_text(reading: &Reading, buckets: Buckets) -> String {
    let mut out = String::new();
    for (name, value) in merged(reading) {
        let _ = writeln!(out, "{name}: {value}");
    }
    for histogram in &reading.histograms {
        let _ = write!(out, "{}:", histogram.name);
        if histogram.cumulative.count == 0 {
            out.push_str(" No recorded values\n");
            continue;
        }
        if buckets == Buckets::Quantiles {
            for (q, name) in QUANTILES.into_iter().zip(QUANTILE_NAMES) {
                let show = |data: &HistogramData| match data.quantile(q) {
                    Some(value) => value.to_string(),
                    None => "nan".to_owned(),
                };
                let (interval, cumulative) =
                    (show(&histogram.interval), show(&histogram.cumulative));
                let _ = write!(out, " P{name}({interval},{cumulative})");
            }
        } else {
            let interval = counts(&histogram.interval, buckets);
            let cumulative = counts(&histogram.cumulative, buckets);
            for ((name, interval), cumulative) in BOUND_NAMES.iter().zip(interval).zip(cumulative) {
                let _ = write!(out, " B{name}({interval},{cumulative})");
            }
        }
        out.push('\n');
    }
    out
}

fn as_json(reading: &Reading, buckets: Buckets) -> String {
    let mut out = "{\"stats\":[".to_owned();
    let mut first = true;
    for (name, value) in merged(reading) {
        if !first {
            out.push(',');
        }
        out.push_str("{\"name\":");
        json::string(name, &mut out);
        let _ = write!(out, ",\"value\":{value}}}");
        first = false;
    }
    if !reading.histograms.is_empty() {
        if !first {
            out.push(',');
        }
        if buckets == Buckets::Quantiles {
            let _ = write!(
                out,
                "{{\"histograms\":{{\"supported_quantiles\":[{}],\"computed_quantiles\":[",
                QUANTILE_NAMES.join(",")
            );
            list(&reading.histograms, &mut out, quantiles);
            out.push_str("]}}");
        } else {
            out.push_str("{\"histograms\":[");
            list(&reading.histograms, &mut out, |histogram, out| {
                bucket_counts(histogram, buckets, out);
            });
            out.push_str("]}");
        }
    }
    out.push_str("]}");
    out
}

/// Writes `{"name":…,…}` for each, with commas.
fn list(
    histograms: &[HistogramValue],
    out: &mut String,
    mut write: impl FnMut(&HistogramValue, &mut String),
) {
    for (at, histogram) in histograms.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str("{\"name\":");
        json::string(&histogram.name, out);
        write(histogram, out);
        out.push('}');
    }
}

fn quantiles(histogram: &HistogramValue, out: &mut String) {
    out.push_str(",\"values\":[");
    for (at, q) in QUANTILES.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let show = |data: &HistogramData| match data.quantile(q) {
            Some(value) => value.to_string(),
            None => "null".to_owned(),
        };
        let (interval, cumulative) = (show(&histogram.interval), show(&histogram.cumulative));
        let _ = write!(
            out,
            "{{\"cumulative\":{cumulative},\"interval\":{interval}}}"
        );
    }
    out.push(']');
}

fn bucket_counts(histogram: &HistogramValue, buckets: Buckets, out: &mut String) {
    out.push_str(",\"buckets\":[");
    let interval = counts(&histogram.interval, buckets);
    let cumulative = counts(&histogram.cumulative, buckets);
    for (at, bound) in BOUNDS.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let (interval, cumulative) = (interval[at], cumulative[at]);
        let _ = write!(
            out,
            "{{\"upper_bound\":{bound},\"interval\":{interval},\"cumulative\":{cumulative}}}"
        );
    }
    out.push(']');
}
