//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const SERVE_EXAMPLES: &str = "Examples:
  moorgate-load serve http --listen 127.0.0.1:9000 --size 1000
  moorgate-load serve http --cert cert.pem --key key.pem     HTTP/1.1 and HTTP/2 by ALPN
  moorgate-load serve grpc --threads 2                       any method, unary or streaming
  moorgate-load serve sse --interval 10s";

const RUN_EXAMPLES: &str = "Examples:
  moorgate-load run http://127.0.0.1:8080/ -c 64 -d 10s
  moorgate-load run http://127.0.0.1:8080/ --rate 5000       open loop
  moorgate-load run https://127.0.0.1:8443/ --cacert ca.pem
  moorgate-load run https://127.0.0.1:8443/ -k --reconnect-every 1              resumed handshakes
  moorgate-load run https://127.0.0.1:8443/ -k --reconnect-every 1 --no-resume  full ones
  moorgate-load run http://127.0.0.1:8080/ --http2 -c 10 -m 100
  moorgate-load run grpc://127.0.0.1:8080/test.Echo/Unary -c 10 -m 10
  moorgate-load run grpc://127.0.0.1:8080/test.Echo/Chat -c 10 -m 10 --bidi     messages on open streams
  moorgate-load run ws://127.0.0.1:8080/ --size 100";

const HOLD_EXAMPLES: &str = "Examples:
  moorgate-load hold http://127.0.0.1:8080/ -c 100000 --rate 10000 --every 60s
  moorgate-load hold https://127.0.0.1:8443/ -k -c 10000 --http2
  moorgate-load hold grpc://127.0.0.1:8080/test.Echo/Chat -c 10000 --bidi -m 10
  moorgate-load hold http://127.0.0.1:8080/events -c 10000 --sse";

/// Load for proxies and servers, and the servers to put behind a proxy.
#[derive(Clone, Debug, Parser)]
#[command(name = "moorgate-load", version, propagate_version = true)]
pub struct Cli {
    /// Which of the programs.
    #[command(subcommand)]
    pub command: Command,
}

/// The programs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Answer: an HTTP server, server-sent events, long polls, an echo of gRPC, WebSocket or TCP
    ///
    /// Prints "listening on ADDRESS" when connections are taken, and runs until it is killed.
    #[command(after_long_help = SERVE_EXAMPLES)]
    Serve(ServeOptions),
    /// Measure throughput and latency
    ///
    /// Without --rate each connection sends its next request when it has the answer (closed loop).
    /// With --rate the starts are fixed in advance (open loop) and latency is counted from when a
    /// request was to start, so that a stall of the target shows in all that was due meanwhile.
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(RunOptions),
    /// Hold many connections that are almost always silent
    ///
    /// Opens them at a rate from many loopback addresses, sends a message on each every now and then,
    /// and reports what was lost. A silent connection costs no buffer.
    #[command(after_long_help = HOLD_EXAMPLES)]
    Hold(HoldOptions),
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// HTTP/1.1 and HTTP/2 with a fixed or echoed body.
    Http,
    /// Server-sent events at an interval.
    Sse,
    /// The same as http, with answers after --delay (30 s unless given).
    LongPoll,
    /// gRPC, whatever the method: sends back the messages it gets, unary or streaming.
    Grpc,
    /// WebSockets: sends back the messages it gets.
    Ws,
    /// Sends back what it gets.
    Tcp,
}

impl Service {
    /// What is offered by ALPN, the preferred first.
    #[must_use]
    pub fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http | Self::Sse | Self::LongPoll => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Ws => vec![b"http/1.1".to_vec()],
            Self::Tcp => Vec::new(),
        }
    }

    /// HTTP/2 is spoken with whoever begins with its preface.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http | Self::Sse | Self::LongPoll)
    }
}

/// Options of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// What to speak
    #[arg(value_enum)]
    pub service: Service,
    /// Address to listen on; port 0 takes a free one
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Worker threads
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// Bytes of a response body
    #[arg(short, long, value_name = "BYTES", conflicts_with_all = ["body", "echo"])]
    pub size: Option<u64>,
    /// Response body
    #[arg(short, long, value_name = "TEXT", conflicts_with = "echo")]
    pub body: Option<String>,
    /// Answer with the body of the request
    #[arg(short, long)]
    pub echo: bool,
    /// Wait before answering
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub delay: Option<Duration>,
    /// Share of requests that get --error-status, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub error_rate: f64,
    /// Status of errors
    #[arg(long, value_name = "STATUS", default_value_t = 503, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub error_status: u16,
    /// Time between server-sent events
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
    /// Send one event, then be silent
    #[arg(long)]
    pub silent_after_first: bool,
    /// Give each thread a descriptor table of its own, so that the limit holds for each
    #[arg(long)]
    pub private_tables: bool,
    /// Speak TLS with this certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "TLS")]
    pub cert: Option<PathBuf>,
    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    pub key: Option<PathBuf>,
    /// Protocols to agree to, separated by commas, instead of those that are spoken; "" is none
    #[arg(long, value_name = "LIST", requires = "cert", help_heading = "TLS")]
    pub alpn: Option<String>,
    /// The only version of TLS
    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        requires = "cert",
        help_heading = "TLS"
    )]
    pub tls_version: Option<TlsVersion>,
    /// Let no session be resumed
    #[arg(long, requires = "cert", help_heading = "TLS")]
    pub no_tickets: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// RFC 5246.
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    Tls13,
}

/// How clients shake hands.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS")]
pub struct TlsOptions {
    /// Trust whatever certificate the target shows
    #[arg(short = 'k', long, conflicts_with = "cacert")]
    pub tls_insecure: bool,
    /// Authorities to trust, in PEM
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Name to ask for, and to find in the certificate, instead of the target's host
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Protocols to offer, separated by commas, instead of the one that is spoken; "" offers none
    #[arg(long, value_name = "LIST")]
    pub alpn: Option<String>,
    /// The only version of TLS
    #[arg(long, value_name = "VERSION", value_enum)]
    pub tls_version: Option<TlsVersion>,
    /// Shake hands in full each time instead of resuming earlier sessions
    #[arg(long)]
    pub no_resume: bool,
}

impl TlsOptions {
    /// Nothing was said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let Self {
            tls_insecure,
            cacert,
            sni,
            alpn,
            tls_version,
            no_resume,
        } = self;
        !tls_insecure
            && cacert.is_none()
            && sni.is_none()
            && alpn.is_none()
            && tls_version.is_none()
            && !no_resume
    }
}

/// A protocol in the place of the one that the target's scheme stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// WebSocket.
    Ws,
}

/// What is spoken.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Protocol")]
pub struct ProtocolOptions {
    /// What to speak to an http:// or https:// target
    #[arg(long, value_name = "PROTOCOL", value_enum, conflicts_with = "http2")]
    pub protocol: Option<Protocol>,
    /// Speak HTTP/2: with prior knowledge to http://, by ALPN to https://
    #[arg(long)]
    pub http2: bool,
    /// Streams to have under way on each connection (HTTP/2 and gRPC; 1 unless given)
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub streams: Option<u32>,
    /// gRPC: keep each stream open and send message after message, instead of a unary call for each
    #[arg(long)]
    pub bidi: bool,
}

/// What is sent.
#[derive(Args, Clone, Debug)]
pub struct MessageOptions {
    /// Request method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// Request header, repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Request body; @FILE reads it from a file
    #[arg(short, long, value_name = "TEXT")]
    pub body: Option<String>,
    /// Bytes of a message over gRPC, TCP or WebSocket
    #[arg(short, long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub size: u32,
    /// Give up on an answer, or on connecting, after this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
    /// Allow a target that is not a loopback address
    #[arg(long)]
    pub allow_remote: bool,
}

/// Options of `run`.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// http://, grpc://, ws:// or tcp://host:port/path; over TLS https://, grpcs://, wss://, tls://
    ///
    /// Targets of WebSocket and TCP are to send back what they get. The path of a gRPC target is the method.
    pub target: String,
    /// Connections open at the same time
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Worker threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// How long to send
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration, conflicts_with = "requests")]
    pub duration: Duration,
    /// How many requests to send, instead of a duration
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Requests to start in a second (open loop)
    #[arg(short, long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Open a new connection for each request, and say so in it
    #[arg(long)]
    pub no_keep_alive: bool,
    /// Open a new connection after so many requests, each without a word to the server about it
    ///
    /// With 1 and an https:// target the rate is that of handshakes: resumed ones, unless --no-resume.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "no_keep_alive")]
    pub reconnect_every: Option<u32>,
    /// What is spoken.
    #[command(flatten)]
    pub protocol: ProtocolOptions,
    /// How clients shake hands.
    #[command(flatten)]
    pub tls: TlsOptions,
    /// What is sent.
    #[command(flatten)]
    pub message: MessageOptions,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report as a page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Options of `hold`.
#[derive(Args, Clone, Debug)]
pub struct HoldOptions {
    /// http://, grpc://, ws:// or tcp://host:port/path; over TLS https://, grpcs://, wss://, tls://
    ///
    /// Targets of WebSocket and TCP are to send back what they get. The path of a gRPC target is the method.
    pub target: String,
    /// Connections to hold
    #[arg(short, long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Connections to open in a second
    #[arg(short, long, value_name = "N", default_value_t = 1000.0, value_parser = rate)]
    pub rate: f64,
    /// How long to hold them once all are open; until interrupted unless given
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Time between two messages on a connection
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration, conflicts_with = "sse")]
    pub every: Duration,
    /// How far the time between two messages strays, as a share of it from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share, conflicts_with = "sse")]
    pub jitter: f64,
    /// Subscribe to server-sent events instead of sending messages
    #[arg(long)]
    pub sse: bool,
    /// Leave lost connections lost
    #[arg(long)]
    pub no_reconnect: bool,
    /// Loopback addresses to connect from; one for every 10,000 connections unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub sources: Option<u32>,
    /// Worker threads
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with = "tables")]
    pub threads: u16,
    /// Worker threads, each with a descriptor table (and so a descriptor limit) of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub tables: Option<u16>,
    /// What is spoken.
    #[command(flatten)]
    pub protocol: ProtocolOptions,
    /// How clients shake hands.
    #[command(flatten)]
    pub tls: TlsOptions,
    /// What is sent.
    #[command(flatten)]
    pub message: MessageOptions,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `250ms`, `10s`, `5m`, `1h`; seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number
        .parse()
        .map_err(|_| "not a time like 250ms, 10s, 5m or 1h".to_owned())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("unknown unit {unit}: us, ms, s, m or h")),
    };
    // A year, so that sums of times stay far from any limit.
    if !(0.0..=31_536_000.0).contains(&seconds) {
        return Err("not between 0 and a year".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0 to 1".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("not a number above 0 and up to ten million".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn examples_are_understood() {
        for example in [SERVE_EXAMPLES, RUN_EXAMPLES, HOLD_EXAMPLES] {
            for line in example.lines().skip(1) {
                let line = line.trim();
                let line = line.split("  ").next().unwrap_or(line);
                assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_and_their_units() {
        let ms = |text| duration(text).unwrap().as_millis();
        assert_eq!(ms("250ms"), 250);
        assert_eq!(ms("2"), 2000);
        assert_eq!(ms("1.5s"), 1500);
        assert_eq!(ms("5m"), 300_000);
        for text in ["", "s", "-1s", "5d", "1e99h", "nan"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for line in [
            "moorgate-load run http://h/ -n 5 -d 3s",
            "moorgate-load run http://h/ -c 0",
            "moorgate-load run http://h/ --rate 0",
            "moorgate-load serve http --echo --size 5",
            "moorgate-load serve http --error-rate 1.5",
            "moorgate-load hold http://h/ --sse --every 3s",
            "moorgate-load hold http://h/ --tables 2 --threads 2",
            "moorgate-load run http://h/ --http2 --protocol grpc",
            "moorgate-load run http://h/ --streams 0",
            "moorgate-load run https://h/ -k --cacert x",
            "moorgate-load run http://h/ --no-keep-alive --reconnect-every 2",
            "moorgate-load serve http --cert x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("moorgate-load run http://h/ -n 5 --rate 10").is_ok());
        assert!(parse("moorgate-load hold tcp://h:1 --tables 2").is_ok());
    }
}
