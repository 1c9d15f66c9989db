//! What a silent connection costs, byte for byte: what this thread has allocated is counted, and between
//! two numbers of connections it may only grow by what ARCHITECTURE.md says.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;

use super::HttpPlan;
use super::bench::{Bench, REQUEST};
use crate::engine::parked::Slot;
use crate::engine::slab::PAGE_BYTES;
use crate::proxy::facts::{Cold, ProxyFacts};
use crate::proxy::silent::{Exchange, Upgraded};

/// The allocator of the tests: the system's, with a count for each thread.
struct Counting;

thread_local! {
    /// Bytes that this thread allocated and did not free.
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// Bytes that this thread allocated and did not free.
pub(super) fn live() -> isize {
    LIVE.with(Cell::get)
}

fn count(bytes: isize) {
    // A thread that ends has no count any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's block, layout and size are passed on.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's block and layout are passed on.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes this thread holds beyond the tables that find the slots' pages, which are counted apart.
pub(super) fn held(bench: &Bench) -> isize {
    let (_, tables) = bench.workers[0].core.slot_memory();
    LIVE.with(Cell::get) - tables as isize
}

const FEW: usize = 40;
const MANY: usize = 120;

/// Holds [`FEW`], then [`MANY`] silent connections, each opened by `open`, and gives what a connection
/// more costs on the heap. What the test itself keeps was allocated before.
fn cost(bench: &mut Bench, mut open: impl FnMut(&mut Bench, usize)) -> isize {
    let mut steps = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let before = held(bench);
        open(bench, number);
        steps.push(held(bench) - before);
    }
    let steps = &mut steps[FEW..];
    let grown: isize = steps.iter().sum();
    let (pages, _) = bench.workers[0].core.slot_memory();
    // A slot has four bytes of generation and one bit beside it. Listener and pooled upstreams have slots
    // too.
    let slots = PAGE_BYTES / (size_of::<Slot<ProxyFacts>>() + size_of::<u32>() + 1);
    assert!(pages <= (MANY + FEW).div_ceil(slots), "{pages} pages");
    steps.sort_unstable();
    let each = steps[steps.len() / 2];
    // On a busy machine a turn may have more events than any before, and one of the worker's lists grows
    // once: that is no connection's.
    let once = grown - each * steps.len() as isize;
    assert!((0..1024).contains(&once), "{once} bytes beyond {each} each");
    each
}

#[test]
fn a_keep_alive_client_is_its_slot_and_nothing_else() {
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut clients: Vec<TcpStream> = Vec::with_capacity(MANY);
    let bytes = cost(&mut bench, |bench, _| {
        let mut client = bench.client();
        bench.exchange(&mut client, 0);
        clients.push(client);
    });
    assert_eq!(bench.value("moorgate.parked.idle"), MANY as i64);
    assert_eq!(bytes, 0);
    assert_eq!(size_of::<Slot<ProxyFacts>>(), 72);
}

#[test]
fn a_tcp_session_is_one_slot_and_nothing_else() {
    let mut bench = Bench::tcp(usize::MAX);
    let mut ends: Vec<TcpStream> = Vec::with_capacity(2 * MANY);
    let bytes = cost(&mut bench, |bench, number| {
        ends.push(bench.client());
        bench.turn_until("a session", |bench| {
            if let Ok((upstream, _)) = bench.upstream.accept() {
                ends.push(upstream);
            }
            ends.len() == 2 * (number + 1)
                && bench.value("moorgate.parked.pair") == number as i64 + 1
        });
    });
    assert_eq!(bytes, 0);
}

#[test]
fn an_open_exchange_adds_its_packed_stream() {
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut ends: Vec<TcpStream> = Vec::with_capacity(2 * MANY);
    let bytes = cost(&mut bench, |bench, number| {
        let mut client = bench.client();
        client.write_all(REQUEST).expect("a request");
        ends.push(client);
        bench.turn_until("an open exchange", |bench| {
            if let Ok((upstream, _)) = bench.upstream.accept() {
                ends.push(upstream);
            }
            ends.len() == 2 * (number + 1)
                && bench.value("moorgate.parked.pair") == number as i64 + 1
        });
    });
    let expected = size_of::<Cold>() + size_of::<Exchange>();
    assert_eq!(bytes, expected as isize);
    assert!(size_of::<Slot<ProxyFacts>>() + expected <= 352);
}

#[test]
fn a_websocket_adds_its_packed_stream() {
    let http = HttpPlan {
        upgrades: vec![("websocket".to_owned(), true)],
        ..HttpPlan::default()
    };
    let mut bench = Bench::new(1, usize::MAX, http, 0);
    let mut ends: Vec<TcpStream> = Vec::with_capacity(2 * MANY);
    let bytes = cost(&mut bench, |bench, number| {
        let mut client = bench.client();
        client
            .write_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .expect("a request");
        ends.push(client);
        bench.turn_until("an open session", |bench| {
            if let Ok((mut upstream, _)) = bench.upstream.accept() {
                upstream
                    .write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                          Upgrade: websocket\r\n\r\n",
                    )
                    .expect("an answer");
                ends.push(upstream);
            }
            ends.len() == 2 * (number + 1)
                && bench.value("moorgate.parked.pair") == number as i64 + 1
                && bench.value("http.test.downstream_cx_upgrades_active") == number as i64 + 1
        });
    });
    let expected = size_of::<Cold>() + size_of::<Upgraded>();
    assert_eq!(bytes, expected as isize);
    assert!(size_of::<Slot<ProxyFacts>>() + expected <= 300);
}

#[test]
fn most_of_the_slots_go_back_when_most_clients_leave() {
    const CLIENTS: usize = 400;
    let mut bench = Bench::new(1, usize::MAX, HttpPlan::default(), 0);
    let mut clients = Vec::with_capacity(CLIENTS);
    for _ in 0..CLIENTS {
        let mut client = bench.client();
        bench.exchange(&mut client, 0);
        clients.push(client);
    }
    let (before, _) = bench.workers[0].core.slot_memory();
    // The first ones stay: slots are given out lowest first, so theirs are in the first page.
    clients.truncate(CLIENTS / 10);
    bench.turn_until("their ends", |bench| {
        bench.value("http.test.downstream_cx_active") == (CLIENTS / 10) as i64
    });
    let (after, _) = bench.workers[0].core.slot_memory();
    assert!(before >= 2 && after == 1, "{before} pages, then {after}");
}
