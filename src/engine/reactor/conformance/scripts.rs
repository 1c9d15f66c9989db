//! The registration rules and the ends of connections, a script each.

use super::*;

const ONCE: Interest = Interest::ReadOnce;
const EDGE: Interest = Interest::Edge { write: false };
const EDGE_WRITE: Interest = Interest::Edge { write: true };
const SILENT: Interest = Interest::Silent;

/// Makes a test of each script, over each family named.
macro_rules! scripts {
    ($($(#[$doc:meta])* [$($family:ident),+] fn $name:ident($t:ident) $body:block)+) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            fn script<R: Reactor>($t: &mut Bench<R>) $body
            for family in [$(Family::$family),+] {
                let sim = on_sim(family, script);
                let kernel = on_epoll(family, &sim, script);
                compare(stringify!($name), family, sim, kernel);
            }
        }
    )+};
}

scripts! {
    /// A one-shot that fired is deaf until armed again, even to a reset.
    [Tcp, Unix] fn fired_one_shot_says_nothing(t) {
        let (a, b) = t.pair();
        t.add(b, 2, ONCE);
        t.settle();
        t.write(a, b"one");
        t.settle();
        t.write(a, b"two");
        t.settle();
        t.close(a, true);
        t.settle();
        t.modify(b, 3, ONCE);
        t.settle();
        t.read(b, 100);
        t.read(b, 100);
        t.read(b, 100);
    }

    /// Armed with nothing, a one-shot tells of a reset, once, and of nothing else.
    [Tcp, Unix] fn silent_tells_only_of_a_reset(t) {
        let (a, b) = t.pair();
        t.add(b, 2, SILENT);
        t.write(a, b"bytes");
        t.settle();
        t.close(a, true);
        t.settle();
        t.settle();
        t.modify(b, 2, SILENT);
        t.settle();
        t.take_error(b);
        t.take_error(b);
        t.modify(b, 2, SILENT);
        t.settle();
    }

    /// A FIN is nothing to a silent registration; both FINs are a full close.
    [Tcp, Unix] fn silent_tells_of_a_full_close(t) {
        let (a, b) = t.pair();
        t.add(b, 2, SILENT);
        t.shutdown(a);
        t.settle();
        t.modify(b, 2, SILENT);
        t.settle();
        t.shutdown(b);
        t.settle();
        t.settle();
    }

    /// The side that closed its write direction first is told of the full close too.
    [Tcp, Unix] fn silent_half_closed_is_told_of_the_other_half(t) {
        let (a, b) = t.pair();
        t.shutdown(b);
        t.add(b, 2, SILENT);
        t.settle();
        t.shutdown(a);
        t.settle();
        t.read(b, 10);
    }

    /// A peer that closes is a FIN on TCP, the end on a Unix socket.
    [Tcp, Unix] fn close_seen_by_a_silent_registration(t) {
        let (a, b) = t.pair();
        t.add(b, 2, SILENT);
        t.close(a, false);
        t.settle();
        t.write(b, b"to nobody");
        t.settle();
    }

    /// After FIN, bytes (their end) are ready for ever: each arming fires.
    [Tcp, Unix] fn after_fin_each_arming_fires(t) {
        let (a, b) = t.pair();
        t.shutdown(a);
        t.add(b, 2, ONCE);
        t.settle();
        t.read(b, 10);
        for tag in 3..6 {
            t.modify(b, tag, ONCE);
            t.settle();
            t.read(b, 10);
        }
        t.modify(b, 9, SILENT);
        t.settle();
    }

    /// What was left unread makes no edge; what comes new does, and so does modify.
    [Tcp, Unix] fn partial_read_makes_no_edge(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.settle();
        t.write(a, b"0123456789");
        t.settle();
        t.read(b, 4);
        t.settle();
        t.write(a, b"abc");
        t.settle();
        t.read(b, 2);
        t.settle();
        t.modify(b, 3, EDGE);
        t.settle();
        t.read(b, 100);
        t.read(b, 100);
        t.modify(b, 4, EDGE);
        t.settle();
    }

    /// Bytes that were peeked at stay, and only new ones make an edge: whoever waits for the rest of a
    /// message that it peeks at is not woken before.
    [Tcp, Unix] fn peeked_bytes_make_no_edge_and_stay(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.peek(b, 10);
        t.write(a, b"0123");
        t.settle();
        t.peek(b, 2);
        t.peek(b, 10);
        t.settle();
        t.write(a, b"45");
        t.settle();
        t.peek(b, 10);
        t.read(b, 5);
        t.peek(b, 10);
        t.settle();
        t.shutdown(a);
        t.settle();
        t.peek(b, 10);
        t.read(b, 10);
        t.peek(b, 10);
    }

    /// Bytes, then FIN: one edge tells both, a partial read makes none.
    [Tcp, Unix] fn bytes_then_fin(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.write(a, b"0123456789");
        t.shutdown(a);
        t.settle();
        t.read(b, 4);
        t.settle();
        t.read(b, 100);
        t.read(b, 100);
        t.settle();
        t.write(b, b"answer");
        t.settle();
        t.read(a, 100);
        t.read(a, 100);
    }

    /// Room is told once when added, and again only after it was refused.
    [Tcp, Unix] fn room_is_an_edge(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.settle();
        let count = t.fill(a);
        t.settle();
        t.drain(b, count);
        t.settle();
    }

    /// Without write interest room is not told until modify asks.
    [Tcp, Unix] fn room_is_polled_by_modify(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE);
        let count = t.fill(a);
        t.settle();
        t.modify(a, 1, EDGE_WRITE);
        t.settle();
        t.modify(a, 1, EDGE);
        t.drain(b, count);
        t.settle();
        t.modify(a, 1, EDGE_WRITE);
        t.settle();
    }

    /// Bytes of the other end report room as well to whoever asked for both.
    [Tcp, Unix] fn an_edge_reports_all_that_is_ready(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.write(b, b"hello");
        t.settle();
        t.modify(a, 1, EDGE);
        t.settle();
        t.read(a, 100);
        t.read(a, 100);
    }

    /// A removed registration says nothing; added again, it is polled.
    [Tcp, Unix] fn removed_says_nothing(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.write(a, b"bytes");
        t.remove(b);
        t.settle();
        t.add(b, 3, ONCE);
        t.settle();
        t.remove(b);
        t.close(a, true);
        t.settle();
        t.add(b, 4, SILENT);
        t.settle();
    }

    /// A pending event of a removed descriptor never comes out for the next one of its number.
    [Tcp, Unix] fn an_old_tag_is_never_seen(t) {
        let (a, b) = t.pair();
        let (listener, addr) = t.listen();
        t.add(b, 2, EDGE);
        t.write(a, b"for the old one");
        t.end(b, false);
        let c = t.connect(&addr);
        let d = t.accept(listener);
        t.add(c, 3, ONCE);
        t.add(d, 4, ONCE);
        t.settle();
        t.write(c, b"for the new one");
        t.settle();
    }

    /// A bound on changing tags: the report carries the last one given.
    [Tcp, Unix] fn the_last_tag_counts(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.write(a, b"bytes");
        t.modify(b, 3, EDGE);
        t.settle();
        t.modify(b, 4, SILENT);
        t.settle();
        t.modify(b, 5, ONCE);
        t.settle();
    }

    [Tcp] fn refused_connect(t) {
        let (listener, addr) = t.listen();
        t.close(listener, false);
        let a = t.connect(&addr);
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.peer_addr(a);
        t.take_error(a);
        t.take_error(a);
        t.write(a, b"x");
        t.read(a, 10);
        t.shutdown(a);
        t.modify(a, 1, SILENT);
        t.settle();
    }

    [Tcp] fn refused_connect_read_first(t) {
        let (listener, addr) = t.listen();
        t.close(listener, false);
        let a = t.connect(&addr);
        t.read(a, 10);
        t.write(a, b"x");
        t.read(a, 10);
    }

    [Unix] fn connect_to_nobody(t) {
        let (listener, addr) = t.listen();
        let before = t.reactors[0].connect(&addr, &SocketOptions::default());
        let before = before.unwrap();
        t.reactors[0].close(before, false);
        t.close(listener, false);
        let missing = Addr::Unix(Arc::from(Path::new("/nonexistent/moorgate")));
        let done = t.reactors[0].connect(&missing, &SocketOptions::default());
        t.note("connect", done);
    }

    [Tcp, Unix] fn connect_then_talk(t) {
        let (listener, addr) = t.listen();
        t.add(listener, 9, Interest::Listen);
        t.settle();
        let a = t.connect(&addr);
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.take_error(a);
        t.peer_addr(a);
        let b = t.accept(listener);
        t.peer_addr(b);
        t.settle();
        t.add(b, 2, ONCE);
        t.write(a, b"ping");
        t.settle();
        t.read(b, 100);
        t.write(b, b"pong");
        t.settle();
        t.read(a, 100);
        t.end(a, false);
        t.modify(b, 2, ONCE);
        t.settle();
        t.remove(listener);
    }

    /// A listening socket reports as long as somebody waits in its queue.
    [Tcp, Unix] fn listening_is_a_level(t) {
        let (listener, addr) = t.listen();
        t.add(listener, 9, Interest::Listen);
        t.poll_once();
        t.connect(&addr);
        t.connect(&addr);
        t.settle();
        t.poll_once();
        t.poll_once();
        t.accept(listener);
        t.poll_once();
        t.accept(listener);
        t.poll_once();
        let done = t.reactors[0].accept(listener, &SocketOptions::default());
        t.note("accept", done.map(|_| ()));
        t.remove(listener);
    }

    /// Two workers on one listening socket: neither sleeps, so both see it.
    [Tcp, Unix] fn listening_with_two_workers(t) {
        let (listener, addr) = t.listen();
        t.add(listener, 9, Interest::Listen);
        let done = t.reactors[1].add(listener, Tag(10), Interest::Listen);
        t.note("add", done);
        t.settle();
        t.connect(&addr);
        t.settle();
        t.accept(listener);
        t.settle();
        t.remove(listener);
        let done = t.reactors[1].remove(listener);
        t.note("remove", done);
    }

    /// Who waits in the queue of a socket that closes is reset.
    [Tcp, Unix] fn closed_listener_resets_its_queue(t) {
        let (listener, addr) = t.listen();
        let a = t.connect(&addr);
        t.add(a, 1, EDGE);
        t.settle();
        t.close(listener, false);
        t.settle();
        t.read(a, 10);
        t.read(a, 10);
        t.write(a, b"x");
    }

    /// What a client sent before it was accepted, and its end, are there when it is.
    [Tcp, Unix] fn accepted_after_the_client_left(t) {
        let (listener, addr) = t.listen();
        let a = t.connect(&addr);
        t.write(a, b"early");
        t.close(a, false);
        let b = t.accept(listener);
        t.add(b, 2, EDGE);
        t.settle();
        t.read(b, 100);
        t.read(b, 100);
    }

    [Tcp, Unix] fn accepted_after_the_client_reset(t) {
        let (listener, addr) = t.listen();
        let a = t.connect(&addr);
        t.write(a, b"early");
        t.close(a, true);
        let b = t.accept(listener);
        t.peer_addr(b);
        t.add(b, 2, EDGE);
        t.settle();
        t.read(b, 100);
        t.read(b, 100);
        t.read(b, 100);
    }

    /// Half-close, answered, then the other half.
    [Tcp, Unix] fn half_close_both_ways(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE);
        t.add(b, 2, EDGE);
        t.settle();
        t.shutdown(a);
        t.settle();
        t.write(a, b"too late");
        t.read(b, 10);
        t.write(b, b"still open");
        t.settle();
        t.read(a, 100);
        t.shutdown(b);
        t.settle();
        t.read(a, 10);
        t.read(b, 10);
        t.write(b, b"too late");
        t.shutdown(a);
        t.shutdown(b);
        t.peer_addr(a);
        t.peer_addr(b);
        t.take_error(a);
        t.take_error(b);
    }

    [Tcp, Unix] fn second_shutdown(t) {
        let (a, b) = t.pair();
        t.shutdown(a);
        t.shutdown(a);
        t.close(b, true);
        t.shutdown(a);
    }

    /// One's own FIN is an edge too.
    [Tcp, Unix] fn own_shutdown_is_an_edge(t) {
        let (a, _b) = t.pair();
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.shutdown(a);
        t.settle();
    }

    /// Bytes that arrived before a reset can still be read.
    [Tcp, Unix] fn reset_after_bytes(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.settle();
        t.write(a, b"0123456789");
        t.settle();
        t.close(a, true);
        t.settle();
        t.read(b, 4);
        t.read(b, 100);
        t.read(b, 100);
        t.read(b, 100);
        t.write(b, b"x");
        t.shutdown(b);
        t.peer_addr(b);
    }

    [Tcp, Unix] fn reset_seen_by_the_writer(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE_WRITE);
        t.settle();
        t.close(a, true);
        t.settle();
        t.write(b, b"x");
        t.write(b, b"x");
        t.read(b, 10);
    }

    /// Closing with something unread is a reset.
    [Tcp, Unix] fn close_with_unread_bytes(t) {
        let (a, b) = t.pair();
        t.add(b, 2, ONCE);
        t.write(b, b"unread");
        t.close(a, false);
        t.settle();
        t.read(b, 10);
        t.read(b, 10);
        t.write(b, b"x");
    }

    /// Whoever writes to an end that is closed gets a reset for it.
    [Tcp, Unix] fn write_to_a_closed_end(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        t.close(a, false);
        t.settle();
        t.read(b, 10);
        t.write(b, b"x");
        t.settle();
        t.write(b, b"x");
        t.write(b, b"x");
        t.read(b, 10);
        t.peer_addr(b);
        t.take_error(b);
    }

    /// Unsent bytes reach a reader after their writer has closed.
    [Tcp, Unix] fn closed_with_bytes_under_way(t) {
        let (a, b) = t.pair();
        let count = t.fill(a);
        t.close(a, false);
        t.drain(b, count);
        t.read(b, 10);
        t.add(b, 2, EDGE);
        t.settle();
    }

    /// A reset drops what was not yet taken, but not what had arrived.
    [Tcp, Unix] fn reset_with_bytes_under_way(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.fill(a);
        t.end(a, true);
        t.add(b, 2, ONCE);
        t.settle();
    }

    /// The reader goes away while the writer waits for room.
    [Tcp, Unix] fn reader_goes_while_the_writer_waits(t) {
        let (a, b) = t.pair();
        t.add(a, 1, EDGE_WRITE);
        t.settle();
        t.fill(a);
        t.settle();
        t.close(b, false);
        t.settle();
        t.write(a, b"x");
        t.write(a, b"x");
        t.read(a, 10);
    }

    /// A thief takes a connection out of a foreign set and puts it into its own.
    [Tcp, Unix] fn stolen_with_bytes_waiting(t) {
        let (a, b) = t.pair();
        t.add(b, 2, ONCE);
        t.write(a, b"one");
        t.settle();
        let remote = t.reactors[0].remote();
        let done = remote.remove(b);
        t.note("remove", done);
        let done = t.reactors[1].add(b, Tag(20), EDGE);
        t.note("add", done);
        t.settle();
        let done = remote.remove(b);
        t.note("remove", done);
        t.write(a, b"two");
        t.settle();
        let done = t.reactors[1].remove(b);
        t.note("remove", done);
    }

    [Tcp, Unix] fn registration_errors(t) {
        let (_a, b) = t.pair();
        let (listener, _) = t.listen();
        t.modify(b, 2, EDGE);
        t.remove(b);
        t.add(b, 2, EDGE);
        t.add(b, 3, EDGE);
        t.modify(b, 3, Interest::Listen);
        t.add(listener, 4, Interest::Listen);
        t.modify(listener, 4, Interest::Listen);
        t.modify(listener, 4, EDGE);
        t.remove(listener);
        t.remove(listener);
        t.settle();
    }

    /// A wake-up ends one wait and is not reported.
    [Tcp] fn wake_up(t) {
        let (a, b) = t.pair();
        t.add(b, 2, EDGE);
        let remote = t.reactors[0].remote();
        remote.wake();
        remote.wake();
        let mut events = Vec::new();
        let done = t.reactors[0].wait(None, &mut events);
        t.note("wait", done.map(|()| events.len()));
        remote.wake();
        t.write(a, b"x");
        t.settle();
    }

    [Tcp, Unix] fn many_slices(t) {
        let (a, b) = t.pair();
        t.add(b, 2, ONCE);
        let slices = [&b"one "[..], b"", b"two ", b"three"].map(IoSlice::new);
        let done = t.reactors[0].write(a, &slices);
        t.note("write", done);
        let done = t.reactors[0].write(a, &[]);
        t.note("write", done);
        t.settle();
        t.read(b, 6);
        t.read(b, 100);
    }
}
