use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// An interpreter takes its time.
const STEPS: usize = if cfg!(miri) { 60 } else { 600 };

#[test]
fn lowest_free_index_first() {
    let mut slab = PagedSlab::new();
    let per_page = PagedSlab::<u64>::SLOTS;
    for i in 0..per_page * 3 {
        assert_eq!(slab.insert(i as u64).index as usize, i);
    }
    assert_eq!(slab.pages(), 3);
    let (low, high) = (5, per_page as u32 + 7);
    slab.remove(high);
    slab.remove(low);
    assert_eq!(slab.insert(1).index, low);
    assert_eq!(slab.insert(2).index, high);
    assert_eq!(slab.insert(3).index as usize, per_page * 3);
}

#[test]
fn a_key_dies_with_its_value_even_when_the_page_was_given_back() {
    let mut slab = PagedSlab::new();
    let old = slab.insert("old");
    slab.remove(old.index);
    let other = slab.insert("other");
    assert_eq!(other.index, old.index);
    assert!(!slab.contains(old));
    assert_eq!(slab.get_key(old), None);
    assert_eq!(slab.get_key_mut(old), None);
    assert_eq!(slab.get_key(other), Some(&"other"));
    assert_eq!(slab.remove(old.index), Some("other"));
    assert_eq!(slab.remove(old.index), None);
    assert_eq!(slab.key(old.index), None);
}

#[test]
fn generation_skips_the_mark_of_a_vacant_slot() {
    let mut slab = PagedSlab::new();
    slab.generation = u32::MAX - 1;
    assert_eq!(slab.insert(()).generation, u32::MAX);
    assert_eq!(slab.insert(()).generation, 1);
    assert_eq!(slab.len(), 2);
}

#[test]
fn values_do_not_move_when_the_slab_grows() {
    let mut slab = PagedSlab::new();
    let key = slab.insert([0u8; 1000]);
    let at = std::ptr::from_ref(slab.get(key.index).unwrap());
    for _ in 0..50 {
        slab.insert([1; 1000]);
    }
    assert_eq!(std::ptr::from_ref(slab.get(key.index).unwrap()), at);
}

#[test]
fn every_size_and_alignment_fits_its_page() {
    #[repr(align(64))]
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Line([u8; 64]);
    fn check<T: Copy + PartialEq + std::fmt::Debug>(value: T) {
        let end = PagedSlab::<T>::VALUES_AT + PagedSlab::<T>::SLOTS * size_of::<T>();
        assert!(end <= PAGE_BYTES);
        let mut slab = PagedSlab::new();
        for _ in 0..PagedSlab::<T>::SLOTS + 1 {
            slab.insert(value);
        }
        assert_eq!(slab.pages(), 2);
        for (_, held) in &slab {
            assert_eq!(*held, value);
            assert_eq!(std::ptr::from_ref(held) as usize % align_of::<T>(), 0);
        }
    }
    check(());
    check(1u8);
    check([1u8; 3]);
    check(7u128);
    check(Line([9; 64]));
    check([3u64; 1000]);
    // What a parked record costs: its 64 bytes, a generation, and less than 1 % of a page.
    assert_eq!(PagedSlab::<[u64; 8]>::SLOTS, 240);
}

#[test]
fn every_value_is_dropped_once() {
    const N: u32 = if cfg!(miri) { 300 } else { 3000 };
    let shared = Rc::new(());
    let mut slab = PagedSlab::new();
    for _ in 0..N {
        slab.insert(Rc::clone(&shared));
    }
    for index in (0..N).step_by(3) {
        slab.remove(index);
    }
    assert_eq!(Rc::strong_count(&shared), 1 + slab.len());
    drop(slab);
    assert_eq!(Rc::strong_count(&shared), 1);
}

#[test]
fn emptied_pages_go_back_but_a_few() {
    let mut slab = PagedSlab::new();
    assert_eq!(slab.bytes(), 0);
    let pages = if cfg!(miri) { 10 } else { 200 };
    let n = 240 * pages as u64;
    for i in 0..n {
        slab.insert([i; 8]);
    }
    assert_eq!(slab.pages(), pages);
    let full = slab.bytes();
    // Random closes of 90 %, then as many connections again one at a time: the upper pages empty.
    for i in 0..n {
        if i % 10 != 0 {
            slab.remove(i as u32);
        }
    }
    assert_eq!(slab.pages(), pages);
    for i in (0..n as u32).rev().step_by(10) {
        let index = i / 10 * 10;
        if let Some(value) = slab.remove(index) {
            slab.insert(value);
        }
    }
    assert_eq!(slab.pages(), pages / 10);
    assert!(slab.bytes() < full / 4 + SPARE_PAGES * PAGE_BYTES);
    while let Some(index) = slab.first_index() {
        slab.remove(index);
    }
    assert_eq!(slab.pages(), 0);
    let few = SPARE_PAGES.min(pages) * PAGE_BYTES;
    assert!(slab.bytes() <= few + 2048, "{}", slab.bytes());
    slab.trim();
    assert!(slab.bytes() <= 2048, "{}", slab.bytes());
    slab.insert([1; 8]);
}

#[test]
fn a_slot_at_a_page_boundary_does_not_map_each_time() {
    let mut slab = PagedSlab::new();
    for _ in 0..PagedSlab::<u64>::SLOTS {
        slab.insert(0u64);
    }
    let key = slab.insert(1);
    let page = slab.pages[1];
    slab.remove(key.index);
    assert_eq!(slab.pages(), 1);
    slab.insert(2);
    assert_eq!(slab.pages[1], page);
}

#[test]
fn a_walk_survives_changes_between_steps() {
    let mut slab = PagedSlab::new();
    let n = if cfg!(miri) { 500 } else { 5000 };
    for i in 0..n {
        slab.insert(i);
    }
    let mut seen = Vec::new();
    let mut at = slab.next_index(u32::MAX);
    while let Some(index) = at {
        seen.push(index);
        slab.remove(index);
        slab.remove(index + 1);
        at = slab.next_index(index);
    }
    assert_eq!(seen, (0..n).step_by(2).collect::<Vec<u32>>());
    assert_eq!(slab.next_index(u32::MAX), None);
    assert!(slab.is_empty());
}

/// The kernel's own account of this process, in bytes.
#[cfg(not(miri))]
fn pss() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[cfg(not(miri))]
#[test]
fn the_system_gets_the_memory_back() {
    // Other tests run beside this one in the same process, so the slab is made large against them.
    const BYTES: usize = 64 << 20;
    let mut slab = PagedSlab::new();
    let before = pss();
    for i in 0..(BYTES / 64) as u64 {
        slab.insert([i; 8]);
    }
    let full = pss();
    assert!(full > before + BYTES * 3 / 4, "{before} {full}");
    for index in 0..(BYTES / 64) as u32 {
        slab.remove(index);
    }
    let after = pss();
    assert!(after < before + BYTES / 4, "{before} {full} {after}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec((0u8..8, 0u32..400), 0..STEPS)) {
        let mut slab: PagedSlab<[u32; 64]> = PagedSlab::new();
        let mut model: BTreeMap<u32, (u32, Key)> = BTreeMap::new();
        let mut free: BTreeSet<u32> = (0..2000).collect();
        for (step, n) in steps {
            if step < 5 {
                let key = slab.insert([n; 64]);
                prop_assert_eq!(Some(key.index), free.pop_first());
                model.insert(key.index, (n, key));
            } else {
                let removed = slab.remove(n).map(|value| value[63]);
                prop_assert_eq!(removed, model.remove(&n).map(|(value, _)| value));
                if removed.is_some() {
                    free.insert(n);
                }
            }
            prop_assert_eq!(slab.len(), model.len());
            let pages: BTreeSet<_> =
                model.keys().map(|i| *i as usize / PagedSlab::<[u32; 64]>::SLOTS).collect();
            prop_assert_eq!(slab.pages(), pages.len());
        }
        for (n, key) in model.values() {
            prop_assert_eq!(slab.get_key(*key).map(|value| value[0]), Some(*n));
        }
        let held: Vec<_> = slab.iter_mut().map(|(index, value)| (index, value[5])).collect();
        prop_assert_eq!(held, model.iter().map(|(i, (n, _))| (*i, *n)).collect::<Vec<_>>());
    }

    #[test]
    fn bit_tree_finds_the_lowest(steps in prop::collection::vec((any::<bool>(), 0usize..9000), 0..STEPS)) {
        let mut tree = BitTree::default();
        let mut model = BTreeSet::new();
        for (set, n) in steps {
            if set {
                tree.set(n);
                model.insert(n);
            } else {
                tree.clear(n);
                model.remove(&n);
            }
            prop_assert_eq!(tree.first(), model.first().copied());
        }
        let end = model.last().map_or(0, |n| n + 1);
        tree.shrink_to(end);
        prop_assert_eq!(tree.first(), model.first().copied());
        tree.set(end);
        model.insert(end);
        prop_assert_eq!(tree.first(), model.first().copied());
    }
}
