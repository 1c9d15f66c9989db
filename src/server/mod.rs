//! The process around the workers: the control thread and what plugs into it.
//!
//! Nothing here is on the path of traffic; nothing here may block for longer than a turn.

mod backend;
pub mod cli;
pub mod control;
mod dump;
pub mod facts;
mod listeners;
pub mod log;
mod process;
mod publish;
mod reload;
pub mod signals;
pub mod version;
mod watching;

pub use process::run;
