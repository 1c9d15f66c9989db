//! What one worker of `run` is told to do.

use std::sync::Arc;

use moorgate::engine::parked::Facts;
use moorgate::engine::reactor::Addr;

use crate::pacer::Pacer;
use crate::tls;

/// Nothing of a running load is ever parked.
#[derive(Debug)]
pub struct NoFacts;

impl Facts for NoFacts {
    type Cold = ();
    type Peer = ();
    type Message = ();
}

/// What one worker is to do.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Where to.
    pub addr: Addr,
    /// What to shake hands with first.
    pub tls: Option<Arc<tls::Client>>,
    /// Requests that a connection carries.
    pub reconnect_every: Option<u32>,
    /// Streams under way on each connection, where it carries streams.
    pub streams: u32,
    /// Connections of this worker.
    pub connections: u32,
    /// Microseconds until an answer, or a connection, is given up.
    pub timeout_us: u64,
    /// When the run starts, on the process's clock.
    pub start_us: u64,
    /// When nothing new is sent any more.
    pub end_us: Option<u64>,
    /// After how many requests nothing new is sent any more.
    pub quota: Option<u64>,
    /// Intended starts; a closed loop has none.
    pub pacer: Option<Pacer>,
    /// Microseconds of an interval of the series.
    pub interval_us: u64,
}
