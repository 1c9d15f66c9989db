//! Distributions: fixed log-linear buckets, written by one thread, merged when read.
//!
//! Values below 64 have a bucket each; above, every power of two is cut into 32 buckets, so a bucket
//! is never wider than 3.2 % of its values. It must never lose a value: what is above the range
//! counts in the last bucket, and the sum is exact.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets in a chunk; chunks are allocated when a value first falls into them.
const SUB: usize = 32;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Chunks: values up to 2^36 have buckets of their own (two years in milliseconds, 64 GiB in bytes).
const CHUNKS: usize = 32;

/// Percentiles that Envoy reports.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// Upper bounds of the buckets that Envoy reports (milliseconds).
pub const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Chunk and place in it of a value.
fn place(value: u64) -> (usize, usize) {
    if value < SUB as u64 {
        return (0, value as usize);
    }
    let octave = value.ilog2() - SUB_BITS;
    let chunk = octave as usize + 1;
    if chunk >= CHUNKS {
        return (CHUNKS - 1, SUB - 1);
    }
    (chunk, (value >> octave) as usize - SUB)
}

/// Lowest value of a bucket, and the lowest of the next one.
fn range(bucket: usize) -> (u64, u64) {
    let (chunk, at) = (bucket / SUB, (bucket % SUB) as u64);
    if chunk == 0 {
        return (at, at + 1);
    }
    let shift = chunk as u32 - 1;
    ((at + SUB as u64) << shift, (at + SUB as u64 + 1) << shift)
}

/// One worker's buckets of one distribution.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    sum: AtomicU64,
    chunks: [OnceLock<Box<[AtomicU64; SUB]>>; CHUNKS],
}

impl Buckets {
    /// Notes a value. Only the owning worker calls this.
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        let (chunk, at) = place(value);
        let chunk = self.chunks[chunk].get_or_init(|| Box::new([const { AtomicU64::new(0) }; SUB]));
        bump(&chunk[at], 1);
        bump(&self.sum, value);
    }

    /// Adds these buckets to `data`.
    pub(crate) fn merge_into(&self, data: &mut HistogramData) {
        for (index, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk.get() else { continue };
            for (at, bucket) in chunk.iter().enumerate() {
                let count = bucket.load(Ordering::Relaxed);
                if count > 0 {
                    data.add_bucket(index * SUB + at, count);
                }
            }
        }
        data.sum = data.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
    }

    /// Bytes of chunks allocated.
    pub(crate) fn heap_bytes(&self) -> usize {
        let used = self.chunks.iter().filter(|chunk| chunk.get().is_some());
        used.count() * size_of::<[AtomicU64; SUB]>()
    }
}

/// Adds without an atomic read-modify-write: the owning worker is the only writer.
#[inline]
pub(crate) fn bump(cell: &AtomicU64, n: u64) {
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Relaxed,
    );
}

/// A distribution as read: merged over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramData {
    /// (bucket, count), by bucket.
    buckets: Vec<(u32, u64)>,
    /// Sum of all values, exact.
    pub sum: u64,
    /// Number of values.
    pub count: u64,
}

impl HistogramData {
    fn add_bucket(&mut self, bucket: usize, count: u64) {
        self.count += count;
        let bucket = bucket as u32;
        match self.buckets.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    /// What came since `earlier`, an older reading of the same distribution.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut data = Self::default();
        for &(bucket, count) in &self.buckets {
            let before = earlier
                .buckets
                .binary_search_by_key(&bucket, |entry| entry.0)
                .map_or(0, |at| earlier.buckets[at].1);
            if count > before {
                data.add_bucket(bucket as usize, count - before);
            }
        }
        data.sum = self.sum.wrapping_sub(earlier.sum);
        data
    }

    /// The value below which the share `q` (0 to 1) of all values lies; `None` without values.
    /// Exact below 64, within 3.2 % above.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = (q.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0);
        let mut below = 0.0;
        for &(bucket, count) in &self.buckets {
            let count = count as f64;
            if below + count >= wanted {
                let (low, next) = range(bucket as usize);
                let width = (next - low - 1) as f64;
                return Some(low as f64 + width * (wanted - below) / count);
            }
            below += count;
        }
        None
    }

    /// Number of values of at most `bound`, as far as buckets tell: one that straddles the bound
    /// counts as above it.
    #[must_use]
    pub fn count_to(&self, bound: f64) -> u64 {
        self.buckets
            .iter()
            .filter(|(bucket, _)| (range(*bucket as usize).1 - 1) as f64 <= bound)
            .map(|(_, count)| count)
            .sum()
    }

    /// Buckets with values in them: (lowest value, lowest of the next bucket, count).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.buckets.iter().map(|&(bucket, count)| {
            let (low, next) = range(bucket as usize);
            (low, next, count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(values: impl IntoIterator<Item = u64>) -> HistogramData {
        let buckets = Buckets::default();
        for value in values {
            buckets.record(value);
        }
        let mut data = HistogramData::default();
        buckets.merge_into(&mut data);
        data
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut value = 0_u64;
        while value < 1 << 37 {
            for value in [value, value + 1, value.saturating_sub(1)] {
                let (chunk, at) = place(value);
                let (low, next) = range(chunk * SUB + at);
                if value < 1 << 36 {
                    assert!(low <= value && value < next, "{value}: {low}..{next}");
                    assert!((next - low) as f64 <= (low as f64 / 31.0).max(1.0));
                } else {
                    assert_eq!((chunk, at), (CHUNKS - 1, SUB - 1));
                }
            }
            value = value * 17 / 16 + 1;
        }
    }

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for bucket in 0..CHUNKS * SUB - 1 {
            assert_eq!(range(bucket).1, range(bucket + 1).0);
        }
    }

    #[test]
    fn quantiles_of_small_values_are_exact() {
        let data = data(1..=50);
        assert_eq!(data.count, 50);
        assert_eq!(data.sum, 1275);
        assert_eq!(data.quantile(0.0), Some(1.0));
        assert_eq!(data.quantile(0.5), Some(25.0));
        assert_eq!(data.quantile(0.9), Some(45.0));
        assert_eq!(data.quantile(1.0), Some(50.0));
        assert_eq!(HistogramData::default().quantile(0.5), None);
    }

    #[test]
    fn quantiles_of_large_values_are_close() {
        let data = data((0..10_000).map(|n| n * 100));
        for q in QUANTILES.into_iter().filter(|q| *q > 0.0) {
            let exact = q * 1_000_000.0;
            let found = data.quantile(q).unwrap();
            assert!((found - exact).abs() <= exact * 0.033, "{q}: {found}");
        }
    }

    #[test]
    fn counts_up_to_a_bound_never_go_down() {
        let data = data([0, 1, 1, 7, 30, 5000, u64::from(u32::MAX)]);
        assert_eq!(data.count_to(0.5), 1);
        assert_eq!(data.count_to(1.0), 3);
        assert_eq!(data.count_to(10.0), 4);
        assert_eq!(data.count_to(50.0), 5);
        let counts = BOUNDS.map(|bound| data.count_to(bound));
        assert!(counts.is_sorted());
        assert_eq!(counts[18], 6);
        assert_eq!(data.count, 7);
    }

    #[test]
    fn an_interval_is_a_difference() {
        let earlier = data([3, 3, 900]);
        let now = data([3, 3, 900, 900, 4]);
        let interval = now.since(&earlier);
        assert_eq!(interval, data([900, 4]));
        assert_eq!(now.since(&now).count, 0);
    }

    #[test]
    fn values_above_the_range_are_kept() {
        let data = data([u64::MAX / 4, 1 << 40]);
        assert_eq!(data.count, 2);
        assert_eq!(data.sum, u64::MAX / 4 + (1 << 40));
    }
}
