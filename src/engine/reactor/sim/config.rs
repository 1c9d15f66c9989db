//! What a simulated world is like: sizes of buffers, latencies, and how often what goes wrong.
//!
//! A swarm: each seed draws its own probabilities, many of them zero, so that some seeds see one kind
//! of trouble often instead of every kind rarely.

use crate::engine::reactor::random::Random;

/// How often each fault comes, in a thousand, at each point where it could.
///
/// Every one of them is something a kernel or network may do; none breaks a rule of the contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read gives a part; the rest arrives later, with a new edge.
    pub short_read: u16,
    /// A write takes a part; room for more is told by an edge.
    pub short_write: u16,
    /// A read finds nothing after all; what was there arrives later, with a new edge.
    pub again_read: u16,
    /// A write finds no room after all; room is told later by an edge.
    pub again_write: u16,
    /// A connection has latency in each direction, up to [`Config::latency_us`].
    pub latency: u16,
    /// A connect is refused although somebody listens.
    pub connect_refused: u16,
    /// A connect is never answered: ETIMEDOUT after 127 s.
    pub connect_timeout: u16,
    /// A connect fails at once (EADDRNOTAVAIL, ENETUNREACH).
    pub connect_error: u16,
    /// A connect takes its time.
    pub connect_delay: u16,
    /// The network breaks a connection: both ends see a reset.
    pub reset: u16,
    /// accept fails with EMFILE or ENFILE (the connection stays in the queue).
    pub accept_limit: u16,
    /// accept fails with ECONNABORTED (the connection is gone).
    pub accept_aborted: u16,
    /// accept finds nothing although a connection waits.
    pub accept_again: u16,
    /// Events of one wait come in another order.
    pub shuffle: u16,
    /// A wait gives only some of the events; the next one gives more.
    pub subset: u16,
    /// An edge-triggered registration reports again though nothing is new.
    pub spurious_edge: u16,
    /// A wake-up arrives late.
    pub late_wake: u16,
    /// Time passes during a wait that found events.
    pub stall: u16,
}

/// A simulated world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Workers, 1 to 8.
    pub workers: usize,
    /// Probabilities.
    pub faults: Faults,
    /// Least and most bytes of a socket's send buffer; at least 1.
    pub send_buffer: (usize, usize),
    /// Least and most bytes of a socket's receive buffer; at least 1.
    pub receive_buffer: (usize, usize),
    /// Most microseconds of a latency, delay or stall.
    pub latency_us: u64,
    /// Microseconds that each call on a socket takes of the worker's turn.
    pub call_us: u64,
    /// Most descriptors of the process (RLIMIT_NOFILE).
    pub descriptor_limit: usize,
    /// Calls and events kept for [`SimWorld::trace`](super::SimWorld::trace); 0 keeps none.
    pub trace: usize,
}

impl Config {
    /// A world where nothing goes wrong and everything arrives at once: a quiet loopback.
    #[must_use]
    pub fn quiet(workers: usize) -> Self {
        Self {
            workers,
            faults: Faults::default(),
            send_buffer: (64 << 10, 64 << 10),
            receive_buffer: (64 << 10, 64 << 10),
            latency_us: 0,
            call_us: 0,
            descriptor_limit: 65_536,
            trace: 256,
        }
    }

    /// A world drawn by `seed`: which faults there are, how often, sizes and latencies.
    #[must_use]
    pub fn swarm(workers: usize, seed: u64) -> Self {
        let mut random = Random::from_seed(seed ^ 0x5eed_0f5a_3a12);
        let mut draw = |most: u64| {
            if random.chance(500) {
                0
            } else {
                1 + random.below(most) as u16
            }
        };
        let faults = Faults {
            short_read: draw(400),
            short_write: draw(400),
            again_read: draw(200),
            again_write: draw(200),
            latency: draw(1000),
            connect_refused: draw(50),
            connect_timeout: draw(30),
            connect_error: draw(30),
            connect_delay: draw(1000),
            reset: draw(10),
            accept_limit: draw(100),
            accept_aborted: draw(50),
            accept_again: draw(200),
            shuffle: draw(1000),
            subset: draw(600),
            spurious_edge: draw(100),
            late_wake: draw(500),
            stall: draw(200),
        };
        let most = 1usize << random.below(18);
        Self {
            workers,
            faults,
            send_buffer: (1, most),
            receive_buffer: (1, most),
            latency_us: 1 << random.below(18),
            call_us: 0,
            descriptor_limit: 65_536,
            trace: 256,
        }
    }
}
