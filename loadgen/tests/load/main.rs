//! The program against itself, over loopback sockets: bounded, and ending what it started.

mod hold;
mod run;
mod streams;
mod support;
mod tls;
