//! `serve`: what a proxy needs behind it in tests and measurements.
//!
//! An HTTP server, of either version, with fixed, generated or echoed bodies, server-sent events and long
//! polls; echoes of gRPC, WebSocket and TCP; all of it over TLS too. It keeps to bounds like the proxy does: bodies stream, a client that does not read is not
//! read either, and a connection that is silent is parked.

mod answers;
mod conn;
mod frames;
mod http;
mod server;
mod streams;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};

use moorgate::engine::limits;
use moorgate::engine::reactor::clock::Clock;
use moorgate::engine::reactor::epoll::sockets;
use moorgate::engine::reactor::{Addr, ListenOptions};
use moorgate::tls::ServerContext;

use crate::cli::{ServeOptions, Service};
use crate::fleet::{Fleet, Plan};
use crate::tls;
use answers::Answers;
use server::Serve;

/// Serves until the process is killed.
///
/// # Errors
/// What is wrong with the options, or with this machine.
pub fn main(options: &ServeOptions) -> Result<(), String> {
    let system = |error: io::Error| error.to_string();
    let shapes = options.size.is_some() || options.body.is_some() || options.delay.is_some();
    if options.service == Service::Grpc && (shapes || options.echo) {
        return Err(
            "grpc sends back the messages it gets: it has no size, body or delay".to_owned(),
        );
    }
    limits::raise_descriptors().map_err(system)?;
    let listen_error = |error: io::Error| format!("{}: {error}", options.listen);
    let context = tls::server(options)?.map(Arc::new);
    let (addr, fleet) = start(options, context).map_err(listen_error)?;
    println!("listening on {addr}");
    io::stdout().flush().map_err(system)?;
    fleet.join().map_err(system)?;
    Ok(())
}

/// Starts the workers; returns when all of them listen.
fn start(
    options: &ServeOptions,
    tls: Option<Arc<ServerContext>>,
) -> io::Result<(SocketAddr, Fleet<Serve>)> {
    let answers = Answers::new(options);
    let listen = ListenOptions {
        reuse_port: options.threads > 1,
        ..ListenOptions::default()
    };
    // Takes the port for all workers, and is closed before anybody is told of it.
    let (probe, addr) = if listen.reuse_port {
        let probe = sockets::listen(&Addr::Ip(options.listen), &listen)?;
        let addr = sockets::local_addr(probe.as_raw_fd())?;
        (Some(probe), addr)
    } else {
        (None, Addr::Ip(options.listen))
    };
    let plan = Plan {
        threads: usize::from(options.threads),
        private_tables: options.private_tables,
        clock: Clock::start(),
    };
    let (sender, bound) = mpsc::channel();
    let fleet = Fleet::start(plan, move |_, core| {
        let made = Serve::new(core, &addr, &listen, answers.clone(), tls.clone());
        let told = match &made {
            Ok((_, addr)) => Ok(addr.clone()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Nobody listens any more when another worker failed: the process is about to end.
        let _ = sender.send(told);
        made.map(|(serve, _)| serve)
    })?;
    let mut addr = options.listen;
    for _ in 0..options.threads {
        match bound.recv().map_err(io::Error::other)?? {
            Addr::Ip(ip) => addr = ip,
            Addr::Unix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    drop(probe);
    Ok((addr, fleet))
}
