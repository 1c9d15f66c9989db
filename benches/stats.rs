//! What it costs a worker to count, and to write an access log entry.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use moorgate::engine::reactor::Addr;
use moorgate::telemetry::access_log::AccessLog;
use moorgate::telemetry::format::{DEFAULT, Environment, Format};
use moorgate::telemetry::log_thread::{Logs, Settings};
use moorgate::telemetry::record::{Record, Timings};
use moorgate::telemetry::registry::Registry;
use moorgate::telemetry::stats::ClusterStats;

fn recording(c: &mut Criterion) {
    let registry = Registry::new();
    let stats: Vec<_> = (0..100)
        .map(|n| ClusterStats::new(&*registry, &format!("cluster.c{n}.")))
        .collect();
    let recorder = registry.recorder();
    let stat = stats[70];
    let mut group = c.benchmark_group("stats");
    group.bench_function("inc", |b| {
        b.iter(|| recorder.inc(black_box(stat.upstream_rq_total)));
    });
    group.bench_function("gauge", |b| {
        b.iter(|| recorder.gauge(black_box(stat.upstream_rq_active), black_box(1)));
    });
    group.bench_function("code", |b| {
        b.iter(|| recorder.code(black_box(stat.upstream_rq), black_box(200)));
    });
    let mut value = 0;
    group.bench_function("record", |b| {
        b.iter(|| {
            value = (value + 7919) % 100_000;
            recorder.record(black_box(stat.upstream_rq_time), value);
        });
    });
    group.bench_function("read 9000 names", |b| b.iter(|| registry.read()));
    group.finish();
}

fn logging(c: &mut Criterion) {
    let registry = Registry::new();
    let (logs, mut collector) = Logs::collected(Settings::default(), &registry);
    let environment = Environment {
        hostname: "bench",
        variable: |_| None,
    };
    let format = Format::text(DEFAULT, false, &environment).expect("the default format");
    let log = AccessLog::new(None, format, logs.memory());
    let mut writer = logs.writer(registry.recorder(), 1);
    let mut request = moorgate_codecs::Head::new();
    request.set_method(b"GET");
    request.set_path(b"/index.html?a=b");
    request.set_authority(b"example.com");
    request.push(b"user-agent", b"curl/8.0");
    request.push(b"x-request-id", b"647abe03-95c2-4f84-afc4-629774fe8597");
    request.push(b"accept", b"*/*");
    let host = Addr::Ip(([127, 0, 0, 1], 8080).into());
    let record = Record {
        request: Some(&request),
        protocol: Some(moorgate_codecs::Version::Http11),
        status: 200,
        bytes_sent: 335,
        start_us: 1_795_263_341_744_151,
        timings: Timings {
            end: Some(6_000),
            ..Timings::default()
        },
        upstream_host: Some(&host),
        ..Record::default()
    };
    let mut written = 0;
    c.bench_function("access log, default format", |b| {
        b.iter(|| {
            writer.write(black_box(&log), black_box(&record));
            written += 1;
            // What the log thread does: part of the figure, as the ring is bounded.
            if written % 256 == 0 {
                collector.collect(false);
            }
        });
    });
}

criterion_group!(benches, recording, logging);
criterion_main!(benches);
