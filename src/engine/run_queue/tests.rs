use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

const MANY: usize = if cfg!(miri) { 100 } else { 100_000 };

#[test]
fn oldest_first_for_owner_and_thief() {
    let queue = RunQueue::new();
    let thief = queue.stealer();
    for i in 0..4 {
        queue.push(i);
    }
    assert_eq!(queue.len(), 4);
    assert_eq!(queue.pop(), Some(0));
    assert_eq!(thief.steal(), Some(1));
    assert_eq!(thief.len(), 2);
    assert_eq!(queue.pop(), Some(2));
    let other = thief.clone();
    assert_eq!(other.steal(), Some(3));
    assert_eq!(thief.steal(), None);
    assert_eq!(queue.pop(), None);
    assert!(queue.is_empty() && thief.is_empty());
}

#[test]
fn each_token_has_one_owner() {
    let queue = RunQueue::new();
    let taken: Vec<AtomicUsize> = (0..MANY).map(|_| AtomicUsize::new(0)).collect();
    let left = AtomicUsize::new(MANY);
    let own = |token: usize| {
        taken[token].fetch_add(1, Ordering::Relaxed);
        left.fetch_sub(1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            let thief = queue.stealer();
            let (left, own) = (&left, &own);
            scope.spawn(move || {
                while left.load(Ordering::Relaxed) > 0 {
                    match thief.steal() {
                        Some(token) => own(token),
                        None => thread::yield_now(),
                    }
                }
            });
        }
        for token in 0..MANY {
            queue.push(token);
            if token % 3 == 0
                && let Some(token) = queue.pop()
            {
                own(token);
            }
        }
    });
    assert!(taken.iter().all(|n| n.load(Ordering::Relaxed) == 1));
}

#[test]
fn only_a_sleeper_is_woken_and_only_once() {
    let gate = SleepGate::new();
    assert!(!gate.needs_wake());
    gate.sleep_begin();
    assert!(gate.is_sleeping());
    assert!(gate.needs_wake());
    assert!(!gate.needs_wake());
    gate.sleep_end();
    gate.sleep_begin();
    gate.sleep_end();
    assert!(!gate.needs_wake());
}

#[test]
fn an_inbox_keeps_each_senders_order() {
    let inbox = Arc::new(Inbox::new());
    assert!(inbox.is_empty());
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || (0..MANY).for_each(|n| inbox.push((sender, n))))
        })
        .collect();
    let mut next = [0; 3];
    while next != [MANY; 3] {
        match inbox.pop() {
            Some((sender, n)) => {
                assert_eq!(n, next[sender]);
                next[sender] += 1;
            }
            None => thread::yield_now(),
        }
    }
    senders
        .into_iter()
        .for_each(|sender| sender.join().unwrap());
    assert_eq!(inbox.len(), 0);
}

/// A sleeper that parks for good unless it is woken, and messages that may come at any moment.
#[test]
fn a_worker_sleeps_and_misses_nothing() {
    let inbox = Inbox::new();
    let gate = SleepGate::new();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut seen = 0;
            while seen < 2 * MANY {
                if inbox.pop().is_some() {
                    seen += 1;
                    continue;
                }
                gate.sleep_begin();
                if inbox.is_empty() {
                    thread::park();
                }
                gate.sleep_end();
            }
        });
        let (inbox, gate, worker) = (&inbox, &gate, worker.thread().clone());
        let sender = move || {
            for n in 0..MANY {
                inbox.push(n);
                if gate.needs_wake() {
                    worker.unpark();
                }
            }
        };
        scope.spawn(sender.clone());
        scope.spawn(sender);
    });
    assert!(inbox.is_empty());
}
