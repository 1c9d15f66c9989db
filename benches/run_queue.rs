//! What it costs to hand work over.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use moorgate::engine::run_queue::{Inbox, RunQueue, SleepGate};

fn run_queue(c: &mut Criterion) {
    let queue = RunQueue::new();
    let thief = queue.stealer();
    c.bench_function("run_queue/push_and_pop", |b| {
        b.iter(|| {
            queue.push(black_box([1u32; 3]));
            queue.pop()
        });
    });
    c.bench_function("run_queue/push_and_steal", |b| {
        b.iter(|| {
            queue.push(black_box([1u32; 3]));
            thief.steal()
        });
    });
    c.bench_function("run_queue/steal_nothing", |b| {
        b.iter(|| black_box(&thief).steal())
    });
    let inbox = Inbox::new();
    c.bench_function("inbox/push_and_pop", |b| {
        b.iter(|| {
            inbox.push(black_box([1u64; 8]));
            inbox.pop()
        });
    });
    c.bench_function("inbox/pop_nothing", |b| b.iter(|| black_box(&inbox).pop()));
    let gate = SleepGate::new();
    c.bench_function("gate/needs_wake_when_awake", |b| {
        b.iter(|| black_box(&gate).needs_wake())
    });
    c.bench_function("gate/sleep_begin_and_end", |b| {
        b.iter(|| {
            black_box(&gate).sleep_begin();
            gate.sleep_end();
        });
    });
}

criterion_group!(benches, run_queue);
criterion_main!(benches);
