use std::fs;
use std::path::PathBuf;

use super::*;
use crate::telemetry::flags;
use crate::telemetry::format::Environment;
use crate::telemetry::log_thread::{LogThread, Logs, Settings};
use crate::telemetry::record::Timings;
use crate::telemetry::registry::Registry;

fn format(text: &str) -> Format {
    let environment = Environment {
        hostname: "box",
        variable: |_| None,
    };
    Format::text(text, false, &environment).unwrap()
}

fn head(id: &str) -> Head {
    let mut head = Head::new();
    head.push(b"x-request-id", id.as_bytes());
    head
}

#[derive(Debug)]
struct Present(&'static str);

impl HeaderTest for Present {
    fn matches(&self, head: &Head) -> bool {
        head.get(self.0.as_bytes()).is_some()
    }

    fn header(&self) -> &str {
        self.0
    }
}

#[test]
fn filters_choose_what_is_written() {
    let head = head("00000063-95c2-4f84-afc4-629774fe8597");
    let record = Record {
        request: Some(&head),
        status: 503,
        flags: flags::UPSTREAM_OVERFLOW,
        timings: Timings {
            end: Some(120_000),
            ..Timings::default()
        },
        ..Record::default()
    };
    let compare = |op, value| Comparison { op, value };
    let sampled = |numerator, denominator| Filter::Sampled {
        numerator,
        denominator,
        independent: false,
    };
    let yes = [
        Filter::Status(compare(Op::AtLeast, 503)),
        Filter::Status(compare(Op::Equal, 503)),
        Filter::Status(compare(Op::NotEqual, 200)),
        Filter::Duration(compare(Op::AtMost, 120)),
        Filter::NotHealthCheck,
        Filter::Flags(0),
        Filter::Flags(flags::UPSTREAM_OVERFLOW | flags::NO_ROUTE),
        Filter::Header(Arc::new(Present("x-request-id"))),
        // 0x63 is 99.
        sampled(100, 100),
        sampled(100, 10_000),
        Filter::And(vec![]),
    ];
    let no = [
        Filter::Status(compare(Op::AtMost, 499)),
        Filter::Duration(compare(Op::AtLeast, 121)),
        Filter::Flags(flags::NO_ROUTE),
        Filter::Header(Arc::new(Present("nope"))),
        sampled(99, 100),
        sampled(0, 100),
        Filter::Or(vec![]),
    ];
    let mut random = 1;
    for filter in &yes {
        assert!(filter.passes(&record, &mut random), "{filter:?}");
    }
    for filter in &no {
        assert!(!filter.passes(&record, &mut random), "{filter:?}");
    }
    assert!(Filter::And(yes.to_vec()).passes(&record, &mut random));
    assert!(!Filter::And(no.to_vec()).passes(&record, &mut random));
    let mut mixed = no.to_vec();
    mixed.push(Filter::NotHealthCheck);
    assert!(Filter::Or(mixed).passes(&record, &mut random));
    assert!(!Filter::Or(no.to_vec()).passes(&record, &mut random));
}

#[test]
fn lots_are_fair_without_a_request_id() {
    let filter = Filter::Sampled {
        numerator: 25,
        denominator: 100,
        independent: false,
    };
    let mut random = 7;
    let passed = (0..10_000)
        .filter(|_| filter.passes(&Record::default(), &mut random))
        .count();
    assert!((2200..2800).contains(&passed), "{passed}");
}

#[test]
fn a_log_keeps_what_format_and_filter_need() {
    let registry = Registry::new();
    let target = Logs::dry(&registry).stdout();
    let filter = Filter::And(vec![
        Filter::Header(Arc::new(Present("x-a"))),
        Filter::Sampled {
            numerator: 1,
            denominator: 100,
            independent: false,
        },
    ]);
    let log = AccessLog::new(Some(filter), format("%REQ(:path)% %RESP(Server)%"), target);
    let names: Vec<&str> = log.keeps().request.iter().map(|name| &**name).collect();
    assert_eq!(names, [":path", "x-a", "x-request-id"]);
    assert_eq!(&*log.keeps().response[0], "server");
    assert!(log.keeps().trailers.is_empty());
}

#[test]
fn entries_of_several_workers_reach_their_targets() {
    let registry = Registry::new();
    let (logs, mut collector) = Logs::collected(Settings::default(), &registry);
    let (one, two) = (logs.memory(), logs.memory());
    let log_one = AccessLog::new(None, format("1 %CONNECTION_ID%\n"), one.clone());
    let log_two = AccessLog::new(None, format("2 %CONNECTION_ID%\n"), two.clone());
    let mut writers: Vec<_> = (0..3)
        .map(|n| logs.writer(registry.recorder(), n))
        .collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        let record = Record {
            connection: n as u64,
            ..Record::default()
        };
        writer.write(&log_one, &record);
        writer.write(&log_two, &record);
    }
    collector.collect(true);
    assert_eq!(one.take(), "1 0\n1 1\n1 2\n");
    assert_eq!(two.take(), "2 0\n2 1\n2 2\n");
    assert_eq!(registry.value("access_log.written"), Some(6));
    assert_eq!(registry.value("access_log.dropped"), Some(0));
    assert_eq!(registry.value("filesystem.write_buffered"), Some(6));
    assert_eq!(registry.value("filesystem.write_total_buffered"), Some(0));
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let registry = Registry::new();
    let settings = Settings {
        ring_bytes: 256,
        ..Settings::default()
    };
    let (logs, mut collector) = Logs::collected(settings, &registry);
    let target = logs.memory();
    let log = AccessLog::new(None, format("0123456789 0123456789 01\n"), target.clone());
    let mut writer = logs.writer(registry.recorder(), 1);
    for _ in 0..100 {
        writer.write(&log, &Record::default());
    }
    let written = registry.value("access_log.written").unwrap();
    assert_eq!(written, 256 / (25 + 8));
    assert_eq!(registry.value("access_log.dropped"), Some(100 - written));
    collector.collect(true);
    assert_eq!(target.take().lines().count() as i64, written);
    writer.write(&log, &Record::default());
    collector.collect(true);
    assert_eq!(target.take().lines().count(), 1);
}

#[test]
fn a_target_ends_with_its_last_log() {
    let registry = Registry::new();
    let (logs, mut collector) = Logs::collected(Settings::default(), &registry);
    let path = temporary("ends");
    let log = AccessLog::new(None, format("x\n"), logs.file(&path).unwrap());
    assert_eq!(
        logs.file(&path).unwrap().number(),
        log.target.number(),
        "the same path gives the same target"
    );
    let mut writer = logs.writer(registry.recorder(), 1);
    writer.write(&log, &Record::default());
    drop(log);
    collector.collect(false);
    assert_eq!(fs::read_to_string(&path).unwrap(), "x\n");
    let again = logs.file(&path).unwrap();
    assert_ne!(again.number(), 0);
    fs::remove_file(&path).unwrap();
}

/// A path of this test alone.
fn temporary(name: &str) -> PathBuf {
    let name = format!("moorgate-log-{}-{name}", std::process::id());
    std::env::temp_dir().join(name)
}

#[test]
fn the_thread_writes_reopens_and_ends() {
    let registry = Registry::new();
    let thread = LogThread::start(Settings::default(), &registry).unwrap();
    let logs = thread.logs().clone();
    let (path, moved) = (temporary("a"), temporary("b"));
    let log = AccessLog::new(None, format("%STREAM_ID%\n"), logs.file(&path).unwrap());
    let mut writer = logs.writer(registry.recorder(), 1);
    let mut write = |id: &str| {
        let record = Record {
            stream_id: id,
            ..Record::default()
        };
        writer.write(&log, &record);
    };
    write("one");
    logs.flush();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
    fs::rename(&path, &moved).unwrap();
    write("two");
    logs.flush();
    logs.reopen();
    write("three");
    thread.stop();
    let (old, new) = (
        fs::read_to_string(&moved).unwrap(),
        fs::read_to_string(&path).unwrap(),
    );
    assert_eq!((&*old, &*new), ("one\ntwo\n", "three\n"));
    assert_eq!(registry.value("filesystem.reopen_failed"), Some(0));
    logs.flush();
    fs::remove_file(&path).unwrap();
    fs::remove_file(&moved).unwrap();
}

#[test]
fn a_burst_does_not_wait_for_the_interval() {
    let registry = Registry::new();
    let settings = Settings {
        ring_bytes: 4096,
        flush_bytes: 1024,
        ..Settings::default()
    };
    let thread = LogThread::start(settings, &registry).unwrap();
    let target = thread.logs().memory();
    let line = "x".repeat(200);
    let log = AccessLog::new(None, format(&line), target.clone());
    let mut writer = thread.logs().writer(registry.recorder(), 1);
    let mut sent = 0;
    // Without the thread, only twenty of these fit.
    while sent < 500 {
        writer.write(&log, &Record::default());
        sent = registry.value("access_log.written").unwrap();
    }
    thread.stop();
    assert_eq!(target.take().len(), 500 * 200);
}

#[test]
fn a_full_disk_is_counted() {
    let registry = Registry::new();
    let (logs, mut collector) = Logs::collected(Settings::default(), &registry);
    let log = AccessLog::new(
        None,
        format("x\n"),
        logs.file("/dev/full".as_ref()).unwrap(),
    );
    let mut writer = logs.writer(registry.recorder(), 1);
    writer.write(&log, &Record::default());
    collector.collect(true);
    assert_eq!(registry.value("filesystem.write_failed"), Some(1));
    assert_eq!(registry.value("filesystem.write_total_buffered"), Some(0));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error() {
    let registry = Registry::new();
    let (logs, _collector) = Logs::collected(Settings::default(), &registry);
    assert!(logs.file("/no/such/directory/log".as_ref()).is_err());
    assert!(
        Logs::dry(&registry)
            .file("/no/such/directory/log".as_ref())
            .is_ok()
    );
}
