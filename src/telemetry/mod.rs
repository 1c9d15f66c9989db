//! Counters, gauges, histograms and access logs.
//!
//! The data path only adds to its own worker's memory; whoever wants to read sums up elsewhere.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod histogram;
pub mod log_thread;
pub mod memory;
pub mod record;
pub mod recorder;
pub mod registry;
mod ring;
pub mod stats;
mod table;
pub mod tags;
