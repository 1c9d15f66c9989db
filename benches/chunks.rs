//! What it costs to keep bytes, and to let them pass.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use moorgate::engine::arena::Arena;
use moorgate::engine::chunk::{Budget, ByteQueue, CLASSES, ChunkPool};

fn chunks(c: &mut Criterion) {
    let mut pool = ChunkPool::new(Arc::new(Budget::new(usize::MAX)));
    let mut group = c.benchmark_group("chunk/get_and_put");
    for class in CLASSES {
        group.bench_function(class.to_string(), |b| {
            b.iter(|| {
                let chunk = pool.get(black_box(class));
                pool.put(chunk);
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("chunk/map_and_unmap");
    for class in [16 << 10, 64 << 10] {
        group.bench_function(class.to_string(), |b| {
            b.iter(|| {
                let mut chunk = pool.get(black_box(class));
                chunk[0] = 1;
                pool.put(chunk);
                pool.trim();
            });
        });
    }
    group.finish();

    let bytes = vec![7u8; 1 << 20];
    let mut group = c.benchmark_group("byte_queue/push_and_consume");
    for len in [100, 1500, 16_384, 300_000] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(len.to_string(), |b| {
            let mut queue = ByteQueue::new();
            b.iter(|| {
                queue.push(&mut pool, black_box(&bytes[..len]));
                queue.consume(&mut pool, len);
            });
        });
    }
    group.finish();
}

fn arena(c: &mut Criterion) {
    let mut arena = Arena::default();
    c.bench_function("arena/turn_of_64_reads", |b| {
        b.iter(|| {
            let mut sum = 0;
            for _ in 0..64 {
                arena.tail_mut()[0] = black_box(1);
                let span = arena.commit(100);
                sum += u32::from(arena.get(span)[0]);
            }
            arena.reset();
            sum
        });
    });
}

criterion_group!(benches, chunks, arena);
criterion_main!(benches);
