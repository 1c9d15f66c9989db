//! What a slot costs in a slab of a million, and what a burst costs.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use moorgate::engine::slab::{Key, PagedSlab};

const SLOTS: u32 = 1_000_000;

/// As large as a parked record.
type Record = [u64; 8];

fn full() -> PagedSlab<Record> {
    let mut slab = PagedSlab::new();
    for i in 0..u64::from(SLOTS) {
        slab.insert([i; 8]);
    }
    slab
}

fn scattered(step: &mut u32) -> u32 {
    *step = step.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    ((u64::from(*step) * u64::from(SLOTS)) >> 32) as u32
}

fn slab(c: &mut Criterion) {
    let mut slab = full();
    let mut step = 1;
    c.bench_function("slab/get_key_hot", |b| {
        let key = slab.key(5).expect("a full slab");
        b.iter(|| slab.get_key(black_box(key)).map(|record| record[0]));
    });
    c.bench_function("slab/get_key_of_1M", |b| {
        b.iter(|| {
            let index = scattered(&mut step);
            slab.get_key(Key {
                index,
                generation: index + 1,
            })
            .map(|record| record[0])
        });
    });
    c.bench_function("slab/remove_and_insert_of_1M", |b| {
        b.iter(|| {
            let record = slab.remove(scattered(&mut step)).expect("a full slab");
            slab.insert(record)
        });
    });
    let mut group = c.benchmark_group("slab/burst");
    group.sample_size(10);
    group.throughput(Throughput::Elements(u64::from(SLOTS)));
    group.bench_function("insert_1M", |b| {
        b.iter_batched(|| (), |()| full(), BatchSize::PerIteration);
    });
    group.bench_function("remove_1M", |b| {
        b.iter_batched(
            full,
            |mut slab| {
                for index in 0..SLOTS {
                    slab.remove(index);
                }
                slab
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("walk_1M", |b| {
        b.iter(|| slab.iter().map(|(_, record)| record[0]).sum::<u64>());
    });
    group.finish();
}

criterion_group!(benches, slab);
criterion_main!(benches);
