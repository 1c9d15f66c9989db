//! Latencies: recorded in microseconds, summed up as percentiles.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The greatest latency told apart from greater ones: an hour.
const MAX_US: u64 = 3_600_000_000;

/// Percentiles of every summary, in percent.
pub const PERCENTILES: [f64; 8] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

/// Latencies, with a fixed relative error.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Three significant digits: for the figures of a report.
    #[must_use]
    pub fn fine() -> Self {
        Self::new(3)
    }

    /// Two significant digits: for a plot, where there is one of these for every interval.
    #[must_use]
    pub fn coarse() -> Self {
        Self::new(2)
    }

    fn new(digits: u8) -> Self {
        let mut histogram = Histogram::new(digits).expect("a number of digits from 0 to 5");
        histogram.auto(true);
        Self(histogram)
    }

    /// Records one latency; beyond an hour it is an hour.
    #[inline]
    pub fn record(&mut self, us: u64) {
        // It resizes itself up to the clamp, so nothing is out of range.
        let _ = self.0.record(us.clamp(1, MAX_US));
    }

    /// Adds what `other` recorded.
    pub fn add(&mut self, other: &Self) {
        // Both resize themselves, so that nothing is out of range.
        let _ = self.0.add(&other.0);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `percent` of all did not exceed, in microseconds; 0 when there are none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// The greatest.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// The figures of a report.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            mean_us: self.0.mean(),
            stdev_us: self.0.stdev(),
            min_us: if self.0.is_empty() { 0 } else { self.0.min() },
            max_us: self.0.max(),
            percentiles: PERCENTILES
                .iter()
                .map(|&percent| Percentile {
                    percent,
                    us: self.percentile(percent),
                })
                .collect(),
            curve: self.curve(),
        }
    }

    /// Points of the percentile curve, denser towards 100 %, up to the last that can be told from the
    /// greatest.
    fn curve(&self) -> Vec<Percentile> {
        let mut points = Vec::new();
        if self.0.is_empty() {
            return points;
        }
        #[allow(clippy::cast_precision_loss)] // Counts far below 2^52.
        let least = 1.0 / self.0.len() as f64;
        let mut beyond = 1.0_f64;
        // Twelve points for every factor of ten in the share beyond.
        while beyond > least && points.len() < 12 * 9 {
            let percent = 100.0 * (1.0 - beyond);
            points.push(Percentile {
                percent,
                us: self.percentile(percent),
            });
            beyond /= 10_f64.powf(1.0 / 12.0);
        }
        points.push(Percentile {
            percent: 100.0,
            us: self.0.max(),
        });
        points
    }
}

/// One point of a distribution.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentile {
    /// Percent of all that did not take longer.
    pub percent: f64,
    /// Microseconds.
    pub us: u64,
}

/// A distribution in figures, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Standard deviation.
    pub stdev_us: f64,
    /// Least.
    pub min_us: u64,
    /// Greatest.
    pub max_us: u64,
    /// [`PERCENTILES`].
    pub percentiles: Vec<Percentile>,
    /// The whole distribution, for a plot.
    pub curve: Vec<Percentile>,
}

impl Summary {
    /// One of [`PERCENTILES`]; 0 for any other.
    #[must_use]
    pub fn at(&self, percent: f64) -> u64 {
        self.percentiles
            .iter()
            .find(|point| point.percent.total_cmp(&percent).is_eq())
            .map_or(0, |point| point.us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_ramp() {
        let mut latencies = Latencies::fine();
        (1..=1000).for_each(|ms| latencies.record(ms * 1000));
        let summary = latencies.summary();
        let close = |us: u64, expected: u64| us.abs_diff(expected) <= expected / 1000;
        assert!(close(summary.min_us, 1000) && close(summary.max_us, 1_000_000));
        assert!(close(summary.at(50.0), 500_000) && close(summary.at(99.0), 990_000));
        assert_eq!(summary.at(12.0), 0);
        let curve: Vec<_> = summary.curve.iter().map(|point| point.us).collect();
        assert!(curve.is_sorted() && curve.len() > 30);
        assert_eq!(curve.last(), Some(&summary.max_us));
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        let summary = Latencies::coarse().summary();
        assert_eq!((summary.count, summary.min_us, summary.max_us), (0, 0, 0));
        assert!(summary.curve.is_empty());
    }

    #[test]
    fn out_of_range_is_clamped_and_sums_add_up() {
        let (mut a, mut b) = (Latencies::coarse(), Latencies::coarse());
        a.record(0);
        b.record(u64::MAX);
        a.add(&b);
        assert_eq!(a.count(), 2);
        assert_eq!(a.summary().min_us, 1);
        // Within the relative error of two digits.
        assert!(a.max() >= MAX_US && a.max() < MAX_US / 100 * 102);
        a.clear();
        assert_eq!(a.count(), 0);
    }
}
