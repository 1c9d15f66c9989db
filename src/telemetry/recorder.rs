//! One worker's values: written by that worker alone, read by anyone.
//!
//! An update is a relaxed load and a relaxed store, never a read-modify-write, and never waits. A
//! second writer would lose counts, so every thread that counts has a recorder of its own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Buckets, HistogramData, bump};
use super::stats::{Codes, Counter, Gauge, Histogram};
use super::table::Table;

/// Values in a page of 4 KiB.
const PAGE: usize = 512;
/// Lazily allocated entries (16 bytes) in a page of 4 KiB.
const BOXED_PAGE: usize = 256;

/// Responses by status, one class at a time.
#[derive(Debug, Default)]
struct Statuses {
    classes: [OnceLock<Box<[AtomicU64; 100]>>; 5],
}

/// One worker's table of values.
#[derive(Debug, Default)]
pub struct Recorder {
    values: Table<AtomicU64, PAGE>,
    histograms: Table<OnceLock<Box<Buckets>>, BOXED_PAGE>,
    codes: Table<OnceLock<Box<Statuses>>, BOXED_PAGE>,
}

/// A gauge is kept as twice its value plus one, so that "was ever set" needs no room of its own.
fn pack(value: i64) -> u64 {
    (value as u64) << 1 | 1
}

fn unpack(cell: u64) -> i64 {
    cell as i64 >> 1
}

impl Recorder {
    /// How many counters and gauges there can be; what is interned beyond that is not counted.
    pub const CAPACITY: usize = Table::<AtomicU64, PAGE>::CAPACITY;

    /// Counts one.
    #[inline]
    pub fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        if let Some(cell) = self.values.touch(counter.0) {
            bump(cell, n);
        }
    }

    /// Changes this worker's share of a gauge.
    #[inline]
    pub fn gauge(&self, gauge: Gauge, delta: i64) {
        if let Some(cell) = self.values.touch(gauge.0) {
            let value = unpack(cell.load(Ordering::Relaxed)).wrapping_add(delta);
            cell.store(pack(value), Ordering::Relaxed);
        }
    }

    /// Sets this worker's share of a gauge. Process-wide facts are set by the control thread alone.
    #[inline]
    pub fn set(&self, gauge: Gauge, value: i64) {
        if let Some(cell) = self.values.touch(gauge.0) {
            cell.store(pack(value), Ordering::Relaxed);
        }
    }

    /// Notes a value.
    #[inline]
    pub fn record(&self, histogram: Histogram, value: u64) {
        if let Some(cell) = self.histograms.touch(histogram.0) {
            cell.get_or_init(Box::default).record(value);
        }
    }

    /// Counts a response by its status; one outside 100 to 599 is not counted.
    #[inline]
    pub fn code(&self, codes: Codes, status: u16) {
        if !(100..600).contains(&status) {
            return;
        }
        if let Some(cell) = self.codes.touch(codes.0) {
            let class = &cell.get_or_init(Box::default).classes[usize::from(status / 100) - 1];
            let class = class.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]));
            bump(&class[usize::from(status % 100)], 1);
        }
    }

    /// This worker's count.
    #[must_use]
    pub fn counter_value(&self, counter: Counter) -> u64 {
        self.values
            .get(counter.0)
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// This worker's share of a gauge; `None` when it never touched it.
    #[must_use]
    pub fn gauge_value(&self, gauge: Gauge) -> Option<i64> {
        let cell = self.values.get(gauge.0)?.load(Ordering::Relaxed);
        (cell & 1 == 1).then(|| unpack(cell))
    }

    /// Adds this worker's part of a distribution to `data`.
    pub(super) fn merge_histogram(&self, histogram: Histogram, data: &mut HistogramData) {
        if let Some(buckets) = self.histograms.get(histogram.0).and_then(OnceLock::get) {
            buckets.merge_into(data);
        }
    }

    /// Adds this worker's counts of responses by status (index 0 is status 100) to `sums`.
    pub(super) fn merge_codes(&self, codes: Codes, sums: &mut [u64; 500]) {
        let Some(statuses) = self.codes.get(codes.0).and_then(OnceLock::get) else {
            return;
        };
        for (class, sums) in statuses.classes.iter().zip(sums.chunks_mut(100)) {
            if let Some(class) = class.get() {
                for (cell, sum) in class.iter().zip(sums) {
                    *sum += cell.load(Ordering::Relaxed);
                }
            }
        }
    }

    /// Bytes of memory this recorder holds beside itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let buckets = self.histograms.entries().filter_map(OnceLock::get);
        let statuses = self.codes.entries().filter_map(OnceLock::get);
        self.values.heap_bytes()
            + self.histograms.heap_bytes()
            + self.codes.heap_bytes()
            + buckets
                .map(|buckets| size_of::<Buckets>() + buckets.heap_bytes())
                .sum::<usize>()
            + statuses
                .map(|statuses| {
                    let classes = statuses.classes.iter().filter_map(OnceLock::get).count();
                    size_of::<Statuses>() + classes * size_of::<[AtomicU64; 100]>()
                })
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_and_gauges_go_both_ways() {
        let recorder = Recorder::default();
        let (counter, gauge) = (Counter(3), Gauge(700));
        recorder.inc(counter);
        recorder.add(counter, 41);
        assert_eq!(recorder.counter_value(counter), 42);
        assert_eq!(recorder.gauge_value(gauge), None);
        recorder.gauge(gauge, -5);
        recorder.gauge(gauge, 3);
        assert_eq!(recorder.gauge_value(gauge), Some(-2));
        recorder.set(gauge, 0);
        assert_eq!(recorder.gauge_value(gauge), Some(0));
        recorder.set(gauge, i64::from(i32::MIN));
        assert_eq!(recorder.gauge_value(gauge), Some(i64::from(i32::MIN)));
    }

    #[test]
    fn numbers_beyond_the_capacity_are_not_counted() {
        let recorder = Recorder::default();
        recorder.inc(Counter(u32::MAX));
        recorder.gauge(Gauge(u32::MAX), 1);
        recorder.record(Histogram(u32::MAX), 1);
        recorder.code(Codes(u32::MAX), 200);
        assert_eq!(recorder.heap_bytes(), 0);
    }

    #[test]
    fn statuses_outside_http_are_not_counted() {
        let recorder = Recorder::default();
        for status in [0, 99, 600, u16::MAX] {
            recorder.code(Codes(0), status);
        }
        assert_eq!(recorder.heap_bytes(), 0);
        recorder.code(Codes(0), 100);
        recorder.code(Codes(0), 599);
        let mut sums = [0; 500];
        recorder.merge_codes(Codes(0), &mut sums);
        assert_eq!((sums[0], sums[499], sums.iter().sum::<u64>()), (1, 1, 2));
    }

    #[test]
    fn memory_comes_with_use() {
        let recorder = Recorder::default();
        assert!(size_of::<Recorder>() <= 2048);
        assert_eq!(recorder.heap_bytes(), 0);
        recorder.inc(Counter(0));
        recorder.inc(Counter(511));
        assert_eq!(recorder.heap_bytes(), 4096 + 4096);
        recorder.inc(Counter(512));
        assert_eq!(recorder.heap_bytes(), 4096 + 2 * 4096);
    }
}
