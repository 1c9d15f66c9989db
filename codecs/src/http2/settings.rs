//! What one side is configured to, and what it announces.

use crate::codec::Millis;

/// Settings and limits of one side, taken from Envoy's `Http2ProtocolOptions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams the peer may have open; on the client side, streams opened at a time whatever the peer
    /// allows.
    pub max_concurrent_streams: u32,
    /// Bytes of body a stream may have on the way before credit is given.
    pub stream_window: u32,
    /// The same for the whole connection; at least 65,535.
    pub connection_window: u32,
    /// HPACK table that the peer may fill, and the most we fill of the peer's.
    pub header_table_size: u32,
    /// Names and values of one head, with 32 for each field (Envoy: max_request_headers_kb).
    pub max_head_bytes: usize,
    /// Number of fields of one head (Envoy: max_headers_count).
    pub max_fields: usize,
    /// A malformed message ends its stream only; otherwise the connection.
    pub stream_errors: bool,
    /// Extended CONNECT is announced and taken.
    pub allow_connect: bool,
    /// Frames of any kind encoded and not written.
    pub max_outbound_frames: u32,
    /// The same for PING, SETTINGS and RST_STREAM.
    pub max_outbound_control_frames: u32,
    /// HEADERS, CONTINUATION and DATA frames in a row that carry nothing and end nothing.
    pub max_empty_frames: u32,
    /// PRIORITY frames for each stream that was opened.
    pub max_priority_frames: u32,
    /// WINDOW_UPDATE frames for each DATA frame that was sent.
    pub max_window_updates: u32,
    /// Streams that end before their answer begins, of which the connection is judged.
    pub max_premature_resets: u32,
    /// Pings that show whether the peer is alive.
    pub keepalive: Option<Keepalive>,
}

/// When a silent peer is asked, and how long it may take to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Between pings.
    pub interval: Millis,
    /// Up to so many hundredths of the interval are added to it, each time others.
    pub jitter_percent: u32,
    /// From a ping to its answer, or to any other frame.
    pub timeout: Millis,
}

impl Keepalive {
    /// When a peer that was heard then is asked. What is added depends on that moment alone, so that peers
    /// heard one after the other are not asked in one row, and a parked connection keeps nothing for it.
    pub(super) fn due(&self, heard: Millis) -> Millis {
        // SplitMix64, for its mixing.
        let mut mixed = heard.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let most = self.interval.saturating_mul(self.jitter_percent.into()) / 100;
        let added = (mixed ^ mixed >> 31) % most.saturating_add(1).max(1);
        heard.saturating_add(self.interval).saturating_add(added)
    }
}

/// The window of streams and connections before anybody says otherwise (section 6.9.2).
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            stream_window: 16 << 20,
            connection_window: 24 << 20,
            header_table_size: 4096,
            max_head_bytes: 60 * 1024,
            max_fields: 100,
            stream_errors: false,
            allow_connect: false,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1000,
            max_empty_frames: 1,
            max_priority_frames: 100,
            max_window_updates: 10,
            max_premature_resets: 500,
            keepalive: None,
        }
    }
}
