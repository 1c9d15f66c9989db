//! Moorgate: a runtime-free proxy for long-lived connections.
//!
//! `ARCHITECTURE.md` is the map of the rooms; each module says what it is for.

pub mod admin;
pub mod cluster;
pub mod config;
pub mod engine;
pub mod filter;
pub mod grpc;
pub mod proxy;
pub mod route;
pub mod server;
pub mod telemetry;
pub mod text;
pub mod tls;
