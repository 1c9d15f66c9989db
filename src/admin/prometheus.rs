//! `/stats/prometheus`: the text exposition format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::stats::read;
use super::{AdminBackend, Request, Response};
use crate::telemetry::histogram::{BOUNDS, QUANTILES};
use crate::telemetry::registry::HistogramValue;
use crate::telemetry::tags;

/// Metrics of one kind: by name, then the labels and value of each series.
type Metrics<T> = BTreeMap<String, Vec<(String, T)>>;

/// The metric's name and its labels, without braces.
fn series(name: &str) -> (String, String) {
    let tagged = tags::extract(name);
    let own = tagged.name.starts_with("moorgate.");
    let mut metric = if own {
        String::new()
    } else {
        "envoy_".to_owned()
    };
    metric.extend(tagged.name.chars().map(|c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | ':' => c,
        _ => '_',
    }));
    let mut labels = String::new();
    for (label, value) in tagged.labels {
        if !labels.is_empty() {
            labels.push(',');
        }
        let _ = write!(labels, "{label}=\"");
        for c in value.chars() {
            match c {
                '\\' => labels.push_str("\\\\"),
                '"' => labels.push_str("\\\""),
                '\n' => labels.push_str("\\n"),
                c => labels.push(c),
            }
        }
        labels.push('"');
    }
    (metric, labels)
}

fn group<T>(values: impl IntoIterator<Item = (impl AsRef<str>, T)>) -> Metrics<T> {
    let mut metrics = Metrics::new();
    for (name, value) in values {
        let (metric, labels) = series(name.as_ref());
        metrics.entry(metric).or_default().push((labels, value));
    }
    metrics
}

fn write_values<T: std::fmt::Display>(kind: &str, metrics: &Metrics<T>, out: &mut String) {
    for (metric, values) in metrics {
        let _ = writeln!(out, "# TYPE {metric} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "{metric}{{{labels}}} {value}");
        }
    }
}

fn write_histogram(metric: &str, labels: &str, value: &HistogramValue, out: &mut String) {
    let data = &value.cumulative;
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in BOUNDS {
        let count = data.count_to(bound);
        let _ = writeln!(
            out,
            "{metric}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        );
    }
    let (count, sum) = (data.count, data.sum);
    let _ = writeln!(out, "{metric}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{metric}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{metric}_count{{{labels}}} {count}");
}

fn write_summary(metric: &str, labels: &str, value: &HistogramValue, out: &mut String) {
    let data = &value.interval;
    let comma = if labels.is_empty() { "" } else { "," };
    for q in QUANTILES {
        let value = data
            .quantile(q)
            .map_or_else(|| "NaN".to_owned(), |value| value.to_string());
        let _ = writeln!(out, "{metric}{{{labels}{comma}quantile=\"{q}\"}} {value}");
    }
    let _ = writeln!(out, "{metric}_sum{{{labels}}} {}", data.sum);
    let _ = writeln!(out, "{metric}_count{{{labels}}} {}", data.count);
}

/// `/stats/prometheus`
pub(super) fn stats(request: &Request, backend: &mut impl AdminBackend) -> Response {
    let summary = match request.parameter("histogram_buckets") {
        None | Some("cumulative" | "") => false,
        Some("summary") => true,
        Some(_) => {
            let usage = "usage: /stats/prometheus?histogram_buckets=(cumulative|summary)\n";
            return Response::error(400, usage);
        }
    };
    let reading = match read(request, backend) {
        Ok(reading) => reading,
        Err(response) => return response,
    };
    let mut out = String::new();
    let counters = reading.counters.iter();
    let counters = group(counters.map(|counter| (&counter.name, counter.value)));
    write_values("counter", &counters, &mut out);
    let gauges = reading.gauges.iter();
    let gauges = group(gauges.map(|gauge| (&gauge.name, gauge.value)));
    write_values("gauge", &gauges, &mut out);
    let histograms = reading.histograms.iter();
    let histograms = group(histograms.map(|histogram| (&histogram.name, histogram)));
    for (metric, values) in &histograms {
        let kind = if summary { "summary" } else { "histogram" };
        let _ = writeln!(out, "# TYPE {metric} {kind}");
        for (labels, value) in values {
            if summary {
                write_summary(metric, labels, value, &mut out);
            } else {
                write_histogram(metric, labels, value, &mut out);
            }
        }
    }
    Response::text(out)
}
