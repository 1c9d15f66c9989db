//! What a timer costs beside a million others.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use moorgate::engine::wheel::{TimerLink, TimerStore, Wheel};

const TIMERS: u32 = 1_000_000;
/// Idle timeout of most of them, in milliseconds.
const IDLE: u64 = 3_600_000;

struct Store(Vec<TimerLink>);

impl TimerStore for Store {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        &mut self.0[index as usize]
    }
}

/// A cheap way through all indices in an order that no cache foresees.
fn scattered(step: &mut u32) -> u32 {
    *step = step.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    ((u64::from(*step) * u64::from(TIMERS)) >> 32) as u32
}

fn full() -> (Store, Wheel) {
    let mut store = Store((0..TIMERS).map(|_| TimerLink::default()).collect());
    let mut wheel = Wheel::new(0);
    for index in 0..TIMERS {
        wheel.schedule(&mut store, index, IDLE + u64::from(index) / 100);
    }
    (store, wheel)
}

fn wheel(c: &mut Criterion) {
    let (mut store, mut wheel) = full();
    let mut step = 1;
    c.bench_function("wheel/reschedule_of_1M", |b| {
        b.iter(|| {
            let index = scattered(&mut step);
            wheel.schedule(&mut store, index, IDLE + u64::from(index));
        });
    });
    c.bench_function("wheel/cancel_and_schedule_hot", |b| {
        b.iter(|| {
            wheel.cancel(&mut store, 7);
            wheel.schedule(&mut store, 7, black_box(5_000));
        });
    });
    c.bench_function("wheel/next_due", |b| {
        b.iter(|| black_box(&wheel).next_due())
    });
    let mut out = Vec::new();
    c.bench_function("wheel/expire_nothing", |b| {
        b.iter(|| wheel.expire(&mut store, black_box(10), &mut out, 64));
    });
    drop((store, wheel));

    let mut group = c.benchmark_group("wheel/whole_life");
    group.sample_size(10);
    group.throughput(criterion::Throughput::Elements(u64::from(TIMERS)));
    group.bench_function("expire_1M", |b| {
        b.iter_batched(
            full,
            |(mut store, mut wheel)| {
                let mut out = Vec::with_capacity(1024);
                while let Some(at) = wheel.next_due() {
                    while wheel.expire(&mut store, at, &mut out, 1024) {
                        out.clear();
                    }
                    out.clear();
                }
                (store, wheel)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, wheel);
criterion_main!(benches);
