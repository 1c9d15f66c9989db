use proptest::prelude::*;

use super::*;

fn pool() -> ChunkPool {
    ChunkPool::new(Arc::new(Budget::new(usize::MAX)))
}

fn bytes(queue: &ByteQueue) -> Vec<u8> {
    queue.chunks().collect::<Vec<_>>().concat()
}

#[test]
fn pressure_rises_in_three_steps() {
    let budget = Budget::new(1000);
    let at = |used| {
        budget.used.store(used, Ordering::Relaxed);
        budget.pressure()
    };
    assert_eq!(at(0), Pressure::Normal);
    assert_eq!(at(749), Pressure::Normal);
    assert_eq!(at(750), Pressure::Shrink);
    assert_eq!(at(899), Pressure::Shrink);
    assert_eq!(at(900), Pressure::Refuse);
    assert_eq!(at(999), Pressure::Refuse);
    assert_eq!(at(1000), Pressure::Full);
    assert_eq!(at(5000), Pressure::Full);
    assert_eq!(Budget::new(0).pressure(), Pressure::Full);
    assert_eq!(Budget::new(usize::MAX).pressure(), Pressure::Normal);
}

#[test]
fn a_chunk_has_the_class_that_fits() {
    let mut pool = pool();
    for (len, capacity) in [
        (0, 256),
        (256, 256),
        (257, 1024),
        (4096, 4096),
        (4097, 16384),
        (65536, 65536),
        (1 << 20, 65536),
    ] {
        let chunk = pool.get(len);
        assert_eq!(chunk.capacity(), capacity);
        assert_eq!(pool.budget().used(), capacity);
        assert_eq!(chunk.len(), capacity);
        assert_eq!(chunk.room(), capacity);
        assert!(chunk.filled().is_empty());
        pool.put(chunk);
        assert_eq!(pool.budget().used(), 0);
    }
}

#[test]
fn a_chunk_fills_up() {
    let mut pool = pool();
    let mut chunk = pool.get(4);
    assert_eq!(chunk.append(b"abc"), 3);
    chunk.unfilled_mut()[0] = b'd';
    chunk.advance(1);
    assert_eq!(chunk.filled(), b"abcd");
    assert_eq!(chunk.append(&[0; 300]), 252);
    assert_eq!(chunk.room(), 0);
    chunk.set_filled(2);
    assert_eq!(chunk.filled(), b"ab");
    pool.put(chunk);
    assert_eq!(pool.get(4).filled_len(), 0);
}

#[test]
fn a_free_list_is_bounded_and_trimmed() {
    let mut pool = pool();
    for class in CLASSES {
        let chunks: Vec<_> = (0..100).map(|_| pool.get(class)).collect();
        chunks.into_iter().for_each(|chunk| pool.put(chunk));
    }
    let kept: usize = CLASSES.iter().zip(KEPT).map(|(size, n)| size * n).sum();
    assert_eq!(pool.free_bytes(), kept);
    assert!(kept <= 320 << 10);
    pool.trim();
    assert_eq!(pool.free_bytes(), 0);
    assert_eq!(Arc::strong_count(pool.budget()), 1);
    assert_eq!(pool.budget().used(), 0);
}

#[test]
fn an_empty_queue_holds_nothing() {
    let mut pool = pool();
    let mut queue = ByteQueue::new();
    queue.push(&mut pool, b"");
    assert!(queue.is_empty());
    assert_eq!(size_of::<ByteQueue>(), size_of::<usize>());
    queue.push(&mut pool, b"x");
    assert!(!queue.is_empty());
    assert_eq!(queue.held(), 256);
    queue.consume(&mut pool, 1);
    assert!(queue.is_empty() && queue.inner.is_none());
    queue.consume(&mut pool, 1);
    assert_eq!(queue.held(), 0);
    assert_eq!(pool.budget().used(), 0);
}

#[test]
fn small_pushes_make_few_chunks() {
    let mut pool = pool();
    let mut queue = ByteQueue::new();
    let pushes = if cfg!(miri) { 100 } else { 10_000 };
    for _ in 0..pushes {
        queue.push(&mut pool, &[1; 100]);
    }
    assert_eq!(queue.len(), 100 * pushes);
    assert!(queue.chunks().count() < 40, "{}", queue.chunks().count());
    assert!(queue.held() < queue.len() + LARGEST);
    assert_eq!(pool.budget().used(), queue.held());
    let mut slices = Vec::new();
    queue.slices(&mut slices);
    assert_eq!(
        slices.iter().map(|slice| slice.len()).sum::<usize>(),
        queue.len()
    );
    queue.clear(&mut pool);
    assert_eq!(pool.budget().used(), 0);
}

#[test]
fn the_budget_is_right_whoever_frees() {
    let budget = Arc::new(Budget::new(1 << 20));
    let mut home = ChunkPool::new(Arc::clone(&budget));
    let mut queue = ByteQueue::new();
    queue.push(&mut home, &[7; 100_000]);
    let mut dropped = ByteQueue::new();
    dropped.push(&mut home, &[8; 5000]);
    assert_eq!(budget.used(), queue.held() + dropped.held());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut away = ChunkPool::new(Arc::clone(&budget));
            queue.consume(&mut away, 70_000);
            assert_eq!(bytes(&queue), [7; 30_000]);
            queue.clear(&mut away);
            assert!(away.free_bytes() > 0);
            drop(dropped);
        });
    });
    drop(home);
    assert_eq!(budget.used(), 0);
    assert_eq!(Arc::strong_count(&budget), 1);
}

#[test]
fn a_chunk_of_another_budget_is_not_kept() {
    let (mut a, mut b) = (pool(), pool());
    let chunk = a.get(10);
    b.put(chunk);
    assert_eq!(b.free_bytes(), 0);
    assert_eq!(a.budget().used(), 0);
}

#[test]
fn copy_to_leaves_the_queue_alone() {
    let mut pool = pool();
    let mut queue = ByteQueue::new();
    queue.push(&mut pool, &[1; 256]);
    queue.push(&mut pool, &[2; 10]);
    queue.consume(&mut pool, 250);
    let mut to = [0; 8];
    assert_eq!(queue.copy_to(&mut to), 8);
    assert_eq!(to, [1, 1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(queue.copy_to(&mut [0; 100]), 16);
    assert_eq!(queue.len(), 16);
    assert_eq!(queue.copy_to(&mut []), 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 64 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_a_deque(
        steps in prop::collection::vec((any::<bool>(), prop_oneof![4 => 0usize..300, 2 => 0usize..9000, 1 => 0usize..150_000]), 0..30),
    ) {
        let mut pool = pool();
        let mut queue = ByteQueue::new();
        let mut model: VecDeque<u8> = VecDeque::new();
        let mut next = 0u8;
        for (push, n) in steps {
            let n = if cfg!(miri) { n % 2000 } else { n };
            if push {
                let new: Vec<u8> = (0..n).map(|_| { next = next.wrapping_mul(5).wrapping_add(1); next }).collect();
                queue.push(&mut pool, &new);
                model.extend(new);
            } else {
                queue.consume(&mut pool, n);
                model.drain(..n.min(model.len()));
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert_eq!(pool.budget().used(), queue.held());
            prop_assert!(queue.chunks().all(|piece| !piece.is_empty()));
            let (front, back) = model.as_slices();
            prop_assert!(bytes(&queue) == [front, back].concat());
        }
        drop(queue);
        prop_assert_eq!(pool.budget().used(), 0);
    }
}
