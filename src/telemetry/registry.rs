//! All names of the process and all recorders: where values are read.
//!
//! Interning and reading take a mutex that no worker takes while it serves: names are interned when
//! configuration is built, and reading happens on the control thread. A name keeps its number for
//! the life of the process, so a cluster that comes back goes on counting where it stopped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::histogram::HistogramData;
use super::recorder::Recorder;
use super::stats::{Codes, Counter, Gauge, Histogram, Names};

/// Kinds that have numbers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Codes,
}

/// A counter as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterValue {
    /// Full name.
    pub name: Arc<str>,
    /// Sum over all workers since the start or the last reset.
    pub value: u64,
    /// It was ever counted up.
    pub used: bool,
}

/// A gauge as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaugeValue {
    /// Full name.
    pub name: Arc<str>,
    /// Sum over all workers.
    pub value: i64,
    /// It was ever set or changed.
    pub used: bool,
}

/// A histogram as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramValue {
    /// Full name.
    pub name: Arc<str>,
    /// All values since the start.
    pub cumulative: HistogramData,
    /// Values of the last whole flush interval.
    pub interval: HistogramData,
}

/// Everything at one time, each list sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Counters, those by status included once used.
    pub counters: Vec<CounterValue>,
    /// Gauges.
    pub gauges: Vec<GaugeValue>,
    /// Histograms.
    pub histograms: Vec<HistogramValue>,
}

#[derive(Debug, Default)]
struct State {
    numbers: HashMap<(Kind, Arc<str>), u32>,
    /// Names by number. Counters and gauges share one row of numbers, as they share the table.
    values: Vec<(Kind, Arc<str>)>,
    histograms: Vec<Arc<str>>,
    codes: Vec<Arc<str>>,
    recorders: Vec<Arc<Recorder>>,
    /// Counter sums at the last reset, by number.
    baseline: Vec<u64>,
    codes_baseline: HashMap<u32, Box<[u64; 500]>>,
    /// Histograms at the end and at the start of the last whole interval.
    flushed: Vec<HistogramData>,
    interval: Vec<HistogramData>,
}

impl State {
    fn sum(&self, number: u32) -> u64 {
        self.recorders
            .iter()
            .map(|recorder| recorder.counter_value(Counter(number)))
            .sum()
    }

    fn gauge(&self, number: u32) -> Option<i64> {
        self.recorders
            .iter()
            .filter_map(|recorder| recorder.gauge_value(Gauge(number)))
            .reduce(i64::wrapping_add)
    }

    fn histogram(&self, number: u32) -> HistogramData {
        let mut data = HistogramData::default();
        for recorder in &self.recorders {
            recorder.merge_histogram(Histogram(number), &mut data);
        }
        data
    }

    fn codes(&self, number: u32) -> [u64; 500] {
        let mut sums = [0; 500];
        for recorder in &self.recorders {
            recorder.merge_codes(Codes(number), &mut sums);
        }
        sums
    }

    fn baseline(&self, number: u32) -> u64 {
        self.baseline.get(number as usize).copied().unwrap_or(0)
    }
}

/// Names and recorders of the process.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held left whole entries behind: names are only ever appended.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intern(&self, kind: Kind, name: &str) -> u32 {
        let mut state = self.state();
        let state = &mut *state;
        let name: Arc<str> = name.into();
        match state.numbers.entry((kind, Arc::clone(&name))) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let number = match kind {
                    Kind::Counter | Kind::Gauge => {
                        state.values.push((kind, name));
                        state.values.len()
                    }
                    Kind::Histogram => {
                        state.histograms.push(name);
                        state.histograms.len()
                    }
                    Kind::Codes => {
                        state.codes.push(name);
                        state.codes.len()
                    }
                } as u32
                    - 1;
                *entry.insert(number)
            }
        }
    }

    /// A new recorder, for one thread. Its values count for ever, also when it is dropped there.
    #[must_use]
    pub fn recorder(&self) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder::default());
        self.state().recorders.push(Arc::clone(&recorder));
        recorder
    }

    /// Everything now, summed over all recorders. `wanted` says by name what to read.
    #[must_use]
    pub fn read_where(&self, wanted: impl Fn(&str) -> bool) -> Reading {
        let state = self.state();
        let mut reading = Reading::default();
        for (number, (kind, name)) in state.values.iter().enumerate() {
            let number = number as u32;
            if !wanted(name) {
                continue;
            }
            if *kind == Kind::Counter {
                let sum = state.sum(number);
                reading.counters.push(CounterValue {
                    name: Arc::clone(name),
                    value: sum.wrapping_sub(state.baseline(number)),
                    used: sum > 0,
                });
            } else {
                let value = state.gauge(number);
                reading.gauges.push(GaugeValue {
                    name: Arc::clone(name),
                    value: value.unwrap_or(0),
                    used: value.is_some(),
                });
            }
        }
        for (number, prefix) in state.codes.iter().enumerate() {
            let number = number as u32;
            let baseline = state.codes_baseline.get(&number);
            for (at, sum) in state.codes(number).into_iter().enumerate() {
                if sum > 0 {
                    let name = format!("{prefix}_{}", at + 100);
                    if wanted(&name) {
                        reading.counters.push(CounterValue {
                            name: name.into(),
                            value: sum - baseline.map_or(0, |baseline| baseline[at]),
                            used: true,
                        });
                    }
                }
            }
        }
        for (number, name) in state.histograms.iter().enumerate() {
            if wanted(name) {
                reading.histograms.push(HistogramValue {
                    name: Arc::clone(name),
                    cumulative: state.histogram(number as u32),
                    interval: state.interval.get(number).cloned().unwrap_or_default(),
                });
            }
        }
        reading.counters.sort_by(|a, b| a.name.cmp(&b.name));
        reading.gauges.sort_by(|a, b| a.name.cmp(&b.name));
        reading.histograms.sort_by(|a, b| a.name.cmp(&b.name));
        reading
    }

    /// Everything now.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.read_where(|_| true)
    }

    /// One counter now, summed over all recorders.
    #[must_use]
    pub fn counter_value(&self, counter: Counter) -> u64 {
        let state = self.state();
        state.sum(counter.0).wrapping_sub(state.baseline(counter.0))
    }

    /// One gauge now, summed over all recorders.
    #[must_use]
    pub fn gauge_value(&self, gauge: Gauge) -> i64 {
        self.state().gauge(gauge.0).unwrap_or(0)
    }

    /// A counter or gauge by name (a counter by status too); `None` when there is none of that name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<i64> {
        let reading = self.read_where(|candidate| candidate == name);
        let counter = reading.counters.first().map(|found| found.value as i64);
        counter.or_else(|| reading.gauges.first().map(|found| found.value))
    }

    /// Counters start from 0 again. Workers are not disturbed: what they counted so far is
    /// remembered here and subtracted.
    pub fn reset_counters(&self) {
        let mut state = self.state();
        let sums: Vec<u64> = (0..state.values.len() as u32)
            .map(|number| match state.values[number as usize].0 {
                Kind::Counter => state.sum(number),
                _ => 0,
            })
            .collect();
        state.baseline = sums;
        let codes = (0..state.codes.len() as u32)
            .map(|number| (number, Box::new(state.codes(number))))
            .collect();
        state.codes_baseline = codes;
    }

    /// Ends an interval of histograms. The control thread calls it every `stats_flush_interval`.
    pub fn flush(&self) {
        let mut state = self.state();
        let now: Vec<HistogramData> = (0..state.histograms.len() as u32)
            .map(|number| state.histogram(number))
            .collect();
        let none = HistogramData::default();
        let interval = now
            .iter()
            .enumerate()
            .map(|(number, data)| data.since(state.flushed.get(number).unwrap_or(&none)))
            .collect();
        state.interval = interval;
        state.flushed = now;
    }

    /// Bytes of memory of names, and of all recorders.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let state = self.state();
        // An `Arc<str>` has two counts in front of its text.
        let names = state.numbers.keys().map(|(_, name)| name.len() + 16);
        let recorders = state.recorders.iter().map(|recorder| recorder.heap_bytes());
        names.sum::<usize>()
            + recorders.sum::<usize>()
            + state.numbers.capacity() * size_of::<((Kind, Arc<str>), u32)>()
            + state.values.capacity() * size_of::<(Kind, Arc<str>)>()
    }
}

impl Names for Registry {
    fn counter(&self, name: &str) -> Counter {
        Counter(self.intern(Kind::Counter, name))
    }

    fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.intern(Kind::Gauge, name))
    }

    fn histogram(&self, name: &str) -> Histogram {
        Histogram(self.intern(Kind::Histogram, name))
    }

    fn codes(&self, name: &str) -> Codes {
        Codes(self.intern(Kind::Codes, name))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::stats::{ClusterStats, EngineStats, HttpStats};
    use super::*;

    #[test]
    fn same_name_and_kind_same_number() {
        let registry = Registry::new();
        let counter = registry.counter("a.b");
        assert_eq!(registry.counter("a.b"), counter);
        assert_ne!(registry.counter("a.c"), counter);
        let gauge = registry.gauge("a.b");
        assert_ne!(gauge.0, counter.0);
        assert_eq!(registry.histogram("a.b"), registry.histogram("a.b"));
    }

    #[test]
    fn groups_have_the_names_of_envoy() {
        let registry = Registry::new();
        let http = HttpStats::new(&*registry, "http.ingress.");
        assert_eq!(http.rq_total, registry.counter("http.ingress.rq_total"));
        let engine = EngineStats::new(&*registry, "moorgate.");
        assert_eq!(engine.parked_idle, registry.gauge("moorgate.parked.idle"));
        assert_eq!(
            engine.refused_mid_message,
            registry.counter("moorgate.move_refused.mid_message")
        );
    }

    #[test]
    fn readings_sum_all_recorders() {
        let registry = Registry::new();
        let stats = ClusterStats::new(&*registry, "cluster.up.");
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let recorder = registry.recorder();
                thread::spawn(move || {
                    for _ in 0..1000 {
                        recorder.inc(stats.upstream_rq_total);
                        recorder.record(stats.upstream_rq_time, n);
                        recorder.code(stats.upstream_rq, 200);
                    }
                    recorder.gauge(stats.upstream_cx_active, 2 * i64::from(n % 2 == 0) - 1);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(registry.counter_value(stats.upstream_rq_total), 4000);
        assert_eq!(registry.value("cluster.up.upstream_rq_200"), Some(4000));
        assert_eq!(registry.value("cluster.up.upstream_cx_active"), Some(0));
        assert_eq!(registry.value("cluster.up.nothing"), None);
        let reading = registry.read();
        assert!(reading.counters.is_sorted_by(|a, b| a.name < b.name));
        let gauge = |name: &str| reading.gauges.iter().find(|gauge| *gauge.name == *name);
        assert!(gauge("cluster.up.upstream_cx_active").unwrap().used);
        assert!(!gauge("cluster.up.membership_total").unwrap().used);
        let time = reading
            .histograms
            .iter()
            .find(|histogram| &*histogram.name == "cluster.up.upstream_rq_time")
            .unwrap();
        assert_eq!((time.cumulative.count, time.cumulative.sum), (4000, 6000));
        assert_eq!(time.interval.count, 0);
    }

    #[test]
    fn a_reader_sees_pages_that_come_while_it_reads() {
        let registry = Registry::new();
        let counters: Vec<_> = (0..5000)
            .map(|n| registry.counter(&format!("c.{n}")))
            .collect();
        let recorder = registry.recorder();
        let writer = thread::spawn(move || {
            for counter in counters {
                recorder.inc(counter);
            }
        });
        let sum = || -> u64 {
            let reading = registry.read();
            reading.counters.iter().map(|counter| counter.value).sum()
        };
        let mut last = 0;
        while !writer.is_finished() {
            let now = sum();
            assert!(now >= last);
            last = now;
        }
        writer.join().unwrap();
        assert_eq!(sum(), 5000);
    }

    #[test]
    fn a_reset_forgets_what_was_counted() {
        let registry = Registry::new();
        let counter = registry.counter("c");
        let codes = registry.codes("rq");
        let gauge = registry.gauge("g");
        let recorder = registry.recorder();
        recorder.add(counter, 5);
        recorder.code(codes, 503);
        recorder.set(gauge, 9);
        registry.reset_counters();
        assert_eq!(registry.value("c"), Some(0));
        assert_eq!(registry.value("rq_503"), Some(0));
        assert_eq!(registry.value("g"), Some(9));
        assert!(registry.read().counters[0].used);
        recorder.inc(counter);
        recorder.code(codes, 503);
        assert_eq!(registry.value("c"), Some(1));
        assert_eq!(registry.value("rq_503"), Some(1));
    }

    #[test]
    fn an_interval_ends_with_a_flush() {
        let registry = Registry::new();
        let histogram = registry.histogram("h");
        let recorder = registry.recorder();
        recorder.record(histogram, 5);
        registry.flush();
        assert_eq!(registry.read().histograms[0].interval.count, 1);
        recorder.record(histogram, 7);
        recorder.record(histogram, 9);
        assert_eq!(registry.read().histograms[0].interval.count, 1);
        registry.flush();
        let reading = registry.read();
        assert_eq!(reading.histograms[0].interval.sum, 16);
        assert_eq!(reading.histograms[0].cumulative.sum, 21);
    }
}
