//! The program as an operator meets it: started, asked, signalled, ended.
//!
//! Every test runs the real binary over real sockets of the loopback interface, on ports the kernel
//! chooses.

mod drain;
mod flags;
mod health;
mod logs;
mod reload;
mod support;
