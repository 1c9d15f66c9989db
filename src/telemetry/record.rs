//! The facts of one stream or connection, as its access logs see them.
//!
//! The proxy fills a record by reference when the stream ends; nothing here outlives the call that
//! writes it, and nothing is copied that no format asks for.

use moorgate_codecs::{Head, Version};

use crate::engine::reactor::Addr;
use crate::grpc;

/// When things happened, in microseconds since the start of the stream or connection.
/// `None`: it did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// The last byte of the request was received from downstream.
    pub request_end: Option<u64>,
    /// The first byte of the request was sent upstream.
    pub upstream_tx_start: Option<u64>,
    /// The last byte of the request was sent upstream.
    pub upstream_tx_end: Option<u64>,
    /// The first byte of the response was received from upstream.
    pub upstream_rx_start: Option<u64>,
    /// The last byte of the response was received from upstream.
    pub upstream_rx_end: Option<u64>,
    /// The first byte of the response was sent downstream.
    pub downstream_tx_start: Option<u64>,
    /// The last byte of the response was sent downstream.
    pub downstream_tx_end: Option<u64>,
    /// The stream or connection was over.
    pub end: Option<u64>,
}

/// Bytes on the wire (heads and framing included) of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// Received by us.
    pub received: u64,
    /// Sent by us.
    pub sent: u64,
}

/// All that an access log can say. Text that is empty counts as absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// Request head; what remains of it after forwarding.
    pub request: Option<&'a Head>,
    /// Response head.
    pub response: Option<&'a Head>,
    /// Response trailers.
    pub trailers: Option<&'a Head>,
    /// Protocol of the request; `None` for connections.
    pub protocol: Option<Version>,
    /// Protocol spoken with the upstream.
    pub upstream_protocol: Option<Version>,
    /// Status of the response that was sent; 0 when there was none.
    pub status: u16,
    /// What decided the response (`via_upstream`, `route_not_found` …).
    pub details: &'a str,
    /// Why the connection was ended from this side, for TCP.
    pub termination: &'a str,
    /// Bits of [`flags`](super::flags).
    pub flags: u64,
    /// Body bytes of the request (a connection: bytes from downstream).
    pub bytes_received: u64,
    /// Body bytes of the response (a connection: bytes to downstream).
    pub bytes_sent: u64,
    /// Wire bytes of the stream downstream.
    pub downstream_wire: WireBytes,
    /// Wire bytes of the stream upstream.
    pub upstream_wire: WireBytes,
    /// When it began, in microseconds since the Unix epoch.
    pub start_us: u64,
    /// When the rest happened.
    pub timings: Timings,
    /// Address of the chosen host.
    pub upstream_host: Option<&'a Addr>,
    /// Name of the chosen host, where it has one.
    pub upstream_hostname: &'a str,
    /// Our address on the upstream connection.
    pub upstream_local: Option<&'a Addr>,
    /// `alt_stat_name` of the cluster, else its name.
    pub upstream_cluster: &'a str,
    /// Name of the cluster.
    pub upstream_cluster_raw: &'a str,
    /// Why connecting failed.
    pub upstream_failure: &'a str,
    /// Number of the upstream connection; 0 when there was none.
    pub upstream_connection: u64,
    /// Address of the client, as `x-forwarded-for` or the PROXY header may tell it.
    pub downstream_remote: Option<&'a Addr>,
    /// Address of the peer itself.
    pub downstream_direct_remote: Option<&'a Addr>,
    /// Address the client connected to, as the PROXY header may tell it.
    pub downstream_local: Option<&'a Addr>,
    /// Our address on the connection itself.
    pub downstream_direct_local: Option<&'a Addr>,
    /// Number of the downstream connection.
    pub connection: u64,
    /// Name of the route.
    pub route: &'a str,
    /// Name of the filter chain.
    pub filter_chain: &'a str,
    /// Times a request was sent to an upstream; 0 when it never was.
    pub attempts: u32,
    /// SNI.
    pub server_name: &'a str,
    /// What was agreed on with the client; `None` without TLS.
    pub tls: Option<TlsRecord<'a>>,
    /// Identifies the stream (the request id).
    pub stream_id: &'a str,
    /// The request was a health check of our own service.
    pub health_check: bool,
}

/// TLS of the downstream connection.
#[derive(Clone, Copy, Debug)]
pub struct TlsRecord<'a> {
    /// `TLSv1.3`.
    pub version: &'a str,
    /// Cipher suite as OpenSSL names it.
    pub cipher: &'a str,
    /// The client's certificate.
    pub peer: Option<&'a dyn PeerCertificate>,
}

/// What a log may ask of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPart {
    /// As RFC 2253 writes it.
    Subject,
    /// As above.
    Issuer,
    /// Hexadecimal.
    Serial,
    /// SHA-256, hexadecimal.
    Fingerprint,
    /// Names of this kind, with commas between them.
    Uris,
    /// As above.
    DnsNames,
    /// PEM, encoded as in a URL.
    Pem,
}

/// A client's certificate, taken apart when a log asks for it.
pub trait PeerCertificate: std::fmt::Debug {
    /// A part as text; empty when there is none.
    fn part(&self, part: PeerPart) -> String;
}

impl Record<'_> {
    /// The gRPC status of a gRPC request: from the trailers, else the head, else the HTTP status. `None`:
    /// there is none; `Some(None)`: it is no number.
    #[must_use]
    pub fn grpc_status(&self) -> Option<Option<u64>> {
        self.request.filter(|request| grpc::is_grpc(request))?;
        let said = |head: Option<&Head>| head.and_then(grpc::status);
        let by_http =
            || (self.status > 0).then(|| Some(u64::from(grpc::status_of_http(self.status))));
        said(self.trailers)
            .or_else(|| said(self.response))
            .or_else(by_http)
    }

    /// Microseconds from start to end, as far as it went.
    #[must_use]
    pub fn duration_us(&self) -> Option<u64> {
        self.timings.end.or(self.timings.downstream_tx_end)
    }
}
