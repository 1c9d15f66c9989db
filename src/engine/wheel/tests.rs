use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const CASES: u32 = if cfg!(miri) { 4 } else { 512 };

struct Store(Vec<TimerLink>);

impl Store {
    fn new(n: usize) -> Self {
        Self((0..n).map(|_| TimerLink::default()).collect())
    }
}

impl TimerStore for Store {
    fn link(&mut self, index: u32) -> &mut TimerLink {
        &mut self.0[index as usize]
    }
}

fn expired(wheel: &mut Wheel, store: &mut Store, now: u64) -> Vec<u32> {
    let mut out = Vec::new();
    assert!(!wheel.expire(store, now, &mut out, usize::MAX));
    out
}

#[test]
fn an_idle_wheel_asks_for_nothing() {
    let mut store = Store::new(1);
    let mut wheel = Wheel::new(1_000);
    assert_eq!(wheel.next_due(), None);
    assert!(expired(&mut wheel, &mut store, 1 << 40).is_empty());
    assert_eq!(wheel.next_due(), None);
    assert!(wheel.heads.is_none());
}

#[test]
fn a_timer_fires_in_its_millisecond_at_every_level() {
    for start in [
        0,
        1,
        63,
        64,
        4095,
        1 << 31,
        (1 << 32) - 1,
        (1 << 36) + 12345,
    ] {
        for digit in 0..5 {
            for add in [0, 1, 63] {
                let mut store = Store::new(1);
                let mut wheel = Wheel::new(7);
                expired(&mut wheel, &mut store, 7 + start);
                let due = 7 + start + (1 << (DIGIT * digit)) + add;
                wheel.schedule(&mut store, 0, due);
                assert_eq!(wheel.due(&store.0[0]), Some(due));
                assert!(expired(&mut wheel, &mut store, due - 1).is_empty());
                assert!(Wheel::is_scheduled(&store.0[0]));
                assert_eq!(wheel.next_due(), Some(due));
                assert_eq!(expired(&mut wheel, &mut store, due), [0]);
                assert!(!Wheel::is_scheduled(&store.0[0]));
                assert!(wheel.is_empty());
            }
        }
    }
}

#[test]
fn a_sleeper_wakes_once_per_level_and_not_per_tick() {
    let mut store = Store::new(1);
    let mut wheel = Wheel::new(0);
    wheel.schedule(&mut store, 0, 3_600_000);
    let mut wakes = 0;
    let mut fired = Vec::new();
    while let Some(at) = wheel.next_due() {
        wakes += 1;
        wheel.expire(&mut store, at, &mut fired, 64);
    }
    assert_eq!(fired, [0]);
    assert!(wakes <= 4, "{wakes}");
}

#[test]
fn what_is_due_already_fires_next() {
    let mut store = Store::new(2);
    let mut wheel = Wheel::new(500);
    expired(&mut wheel, &mut store, 900);
    wheel.schedule(&mut store, 0, 100);
    wheel.schedule(&mut store, 1, 900);
    assert_eq!(wheel.next_due(), Some(900));
    // Even when the caller's clock stands still.
    let mut out = expired(&mut wheel, &mut store, 900);
    out.sort_unstable();
    assert_eq!(out, [0, 1]);
}

#[test]
fn far_timers_are_kept() {
    let day = 86_400_000;
    let mut store = Store::new(4);
    let mut wheel = Wheel::new(0);
    wheel.schedule(&mut store, 0, 49 * day);
    wheel.schedule(&mut store, 1, 50 * day + 1);
    wheel.schedule(&mut store, 2, 40 * 365 * day + 1);
    wheel.schedule(&mut store, 3, u64::MAX);
    let mut seen = [0; 4];
    while let Some(at) = wheel.next_due() {
        for index in expired(&mut wheel, &mut store, at) {
            seen[index as usize] = at;
        }
    }
    assert_eq!(seen[0], 49 * day);
    assert!((50 * day + 1..50 * day + 1025).contains(&seen[1]));
    assert!((40 * 365 * day + 1..40 * 365 * day + 1025).contains(&seen[2]));
    assert_eq!(seen[3], END);
    // After the end of time: at once.
    wheel.schedule(&mut store, 0, u64::MAX);
    assert_eq!(expired(&mut wheel, &mut store, u64::MAX), [0]);
}

#[test]
fn a_large_bucket_sinks_in_bounded_steps() {
    let n = if cfg!(miri) { 300 } else { 10_000 };
    let mut store = Store::new(n);
    let mut wheel = Wheel::new(0);
    for index in 0..n as u32 {
        wheel.schedule(&mut store, index, 300_000 + u64::from(index) % 1000);
    }
    let mut out = Vec::new();
    let mut calls = 0;
    // A timer can be cancelled, rescheduled or added while its bucket sinks.
    let mut more = wheel.expire(&mut store, 400_000, &mut out, 64);
    assert!(more && out.is_empty());
    wheel.cancel(&mut store, 77);
    wheel.schedule(&mut store, 78, 500_000);
    assert!(wheel.next_due() < Some(300_000));
    while more {
        let before = out.len();
        more = wheel.expire(&mut store, 400_000, &mut out, 64);
        assert!(out.len() - before <= 64);
        calls += 1;
    }
    assert!(calls >= n / 64);
    assert_eq!(out.len(), n - 2);
    assert!(out.is_sorted_by_key(|index| index % 1000));
    assert_eq!(wheel.len(), 1);
    assert_eq!(expired(&mut wheel, &mut store, 500_000), [78]);
}

#[test]
fn tables_are_small() {
    assert!(size_of::<Wheel>() + size_of::<[u32; LEVELS * BUCKETS]>() <= 2048);
}

#[derive(Clone, Debug)]
enum Step {
    /// Schedules an index some time from now (negative: ago).
    Schedule(u32, i64),
    Cancel(u32),
    /// Moves the clock and expires with a limit.
    Expire(u64, usize),
    /// Moves the clock to `next_due`.
    Sleep,
}

fn distance() -> impl Strategy<Value = u64> {
    // Even over the levels.
    (0u32..34, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..40, distance()).prop_map(|(i, n)| Step::Schedule(i, n as i64)),
        1 => (0u32..40, 0i64..5000).prop_map(|(i, n)| Step::Schedule(i, -n)),
        2 => (0u32..40).prop_map(Step::Cancel),
        2 => (distance(), 0usize..8).prop_map(|(n, max)| Step::Expire(n, max)),
        3 => Just(Step::Sleep),
    ]
}

/// What the wheel should do, as a heap with lazy deletion.
struct Model {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    due: Vec<Option<u64>>,
}

impl Model {
    fn first(&mut self) -> Option<(u64, u32)> {
        while let Some(Reverse((at, index))) = self.heap.peek().copied() {
            if self.due[index as usize] == Some(at) {
                return Some((at, index));
            }
            self.heap.pop();
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_a_heap(
        start in any::<u32>(),
        steps in prop::collection::vec(step(), 0..if cfg!(miri) { 30 } else { 200 }),
    ) {
        let start = u64::from(start);
        let mut now = start;
        let mut store = Store::new(40);
        let mut wheel = Wheel::new(now);
        let mut model = Model { heap: BinaryHeap::new(), due: vec![None; 40] };
        for step in steps {
            let mut max = usize::MAX;
            match step {
                Step::Schedule(index, ahead) => {
                    let due = now.saturating_add_signed(ahead);
                    wheel.schedule(&mut store, index, due);
                    // Beyond 2^32 ms the wheel may round up, and says to what.
                    let known = wheel.due(&store.0[index as usize]).unwrap();
                    let exact = due.max(start + wheel.now);
                    if exact - (start + wheel.now) <= u64::from(u32::MAX) {
                        prop_assert_eq!(known, exact);
                    } else {
                        prop_assert!(known >= exact && known < exact + 1024);
                    }
                    model.due[index as usize] = Some(known);
                    model.heap.push(Reverse((known, index)));
                    continue;
                }
                Step::Cancel(index) => {
                    wheel.cancel(&mut store, index);
                    model.due[index as usize] = None;
                    continue;
                }
                Step::Expire(ahead, limit) => {
                    now += ahead;
                    max = limit;
                }
                Step::Sleep => {
                    let Some(at) = wheel.next_due() else { continue };
                    now = now.max(at);
                }
            }
            let mut out = Vec::new();
            let more = wheel.expire(&mut store, now, &mut out, max);
            prop_assert!(out.len() <= max);
            for index in out {
                prop_assert!(!store.0[index as usize].is_scheduled());
                let (at, _) = model.first().unwrap();
                prop_assert!(at <= now);
                // Within a millisecond any order will do.
                prop_assert_eq!(model.due[index as usize].take(), Some(at));
            }
            let first = model.first();
            if !more {
                prop_assert!(first.is_none_or(|(at, _)| at > now));
            }
            match (wheel.next_due(), first) {
                (None, None) => {}
                (Some(next), Some((at, _))) => prop_assert!(next <= at),
                other => prop_assert!(false, "{:?}", other),
            }
            let held = model.due.iter().filter(|due| due.is_some()).count();
            prop_assert_eq!(wheel.len(), held);
            for (link, due) in store.0.iter().zip(&model.due) {
                prop_assert_eq!(wheel.due(link), *due);
            }
        }
    }
}
