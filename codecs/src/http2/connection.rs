//! One connection: its state, its windows, and how it ends.

use std::sync::Arc;

use super::frame::{FrameHeader, MAX_31, MAX_PAYLOAD, PREFACE, code, flag, kind, setting};
use super::limits::Counts;
use super::settings::{DEFAULT_WINDOW, Settings};
use super::stream::{Stream, Streams, UNDECLARED, state};
use crate::codec::{Event, Events, Millis, Out, ProtocolError, ResetReason, StreamId};
use crate::hpack;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepted the connection and answers requests.
    Server,
    /// Made the connection and sends requests.
    Client,
}

/// How far the beginning is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client's preface is awaited.
    Preface,
    /// The peer's first SETTINGS are awaited.
    Settings,
    /// Under way.
    Open,
    /// Nothing is sent or understood any more.
    Closed,
}

/// How far our leaving is (section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// Announced without a number; the peer was asked to say that it knows, and may until then.
    Announced(Option<Millis>),
    /// The number was said: what is above it is not looked at.
    Said,
}

/// How long a peer may take to say that it knows of our leaving.
pub(super) const LEAVE_MS: Millis = 5000;

/// What is wrong with what came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ends with this code.
    Connection(u32, &'static str),
    /// This stream ends with this code.
    Stream(StreamId, u32, &'static str),
}

impl Fault {
    pub(super) const fn protocol(name: &'static str) -> Self {
        Self::Connection(code::PROTOCOL_ERROR, name)
    }

    pub(super) const fn flood(name: &'static str) -> Self {
        Self::Connection(code::ENHANCE_YOUR_CALM, name)
    }
}

/// A header block whose end is still to come.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: StreamId,
    pub(super) end: bool,
    pub(super) frames: u32,
    pub(super) bytes: Vec<u8>,
}

/// The rest of a DATA frame whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenData {
    pub(super) stream: StreamId,
    pub(super) left: u32,
    pub(super) padding: u32,
    pub(super) end: bool,
    /// Somebody wants it.
    pub(super) wanted: bool,
}

/// Streams that we reset and of which the peer may not know yet.
const RECENT_RESETS: usize = 128;

/// What a ping of ours says, so that its answer is known.
pub(super) const PING_LEAVING: [u8; 8] = *b"leaving?";
pub(super) const PING_ALIVE: [u8; 8] = *b"alive???";

/// One HTTP/2 connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) settings: Arc<Settings>,
    pub(super) role: Role,
    pub(super) phase: Phase,
    /// Our preface and SETTINGS went out.
    pub(super) started: bool,
    /// The peer knows our SETTINGS.
    pub(super) acknowledged: bool,
    pub(super) leaving: Leaving,
    pub(super) peer_leaving: bool,
    /// The last `decode` left an unfinished frame with its caller.
    pub(super) partial: bool,
    pub(super) streams: Streams,
    pub(super) last_local: StreamId,
    pub(super) last_remote: StreamId,
    /// Of the connection: what we may send, what the peer may send, what was taken without credit.
    pub(super) send_window: i32,
    pub(super) receive_window: i32,
    pub(super) taken: u32,
    /// The peer's settings.
    pub(super) peer_window: u32,
    pub(super) peer_frame: u32,
    pub(super) peer_streams: u32,
    pub(super) peer_connect: bool,
    /// The peer has said its settings, however the connection ended since.
    pub(super) settled: bool,
    pub(super) data: Option<OpenData>,
    pub(super) block: Option<Box<Block>>,
    pub(super) decoder: hpack::Decoder,
    pub(super) encoder: hpack::Encoder,
    pub(super) counts: Counts,
    /// Frames encoded since everything was written, and those of them that answer or refuse.
    pub(super) queued: u32,
    pub(super) queued_control: u32,
    /// Streams that we reset lately while the peer was still sending, oldest first.
    pub(super) recent: Vec<StreamId>,
    /// The stream that the connection's window is offered to first.
    pub(super) turn: StreamId,
    /// When the peer was last heard of; `None` before any call that knew the time.
    pub(super) heard: Option<Millis>,
    /// When it was last asked whether it is alive, and has not answered.
    pub(super) asked: Option<Millis>,
}

/// Streams assumed to fit before the peer says how many.
const ASSUMED_STREAMS: u32 = 100;

impl Connection {
    /// A codec for a fresh connection.
    #[must_use]
    pub fn new(role: Role, settings: Arc<Settings>) -> Self {
        // The peer may use a table of the default size until it has read our settings.
        let table = settings.header_table_size.max(hpack::DEFAULT_TABLE_SIZE);
        let encoder = hpack::Encoder::with_limit(settings.header_table_size);
        Self {
            role,
            phase: match role {
                Role::Server => Phase::Preface,
                Role::Client => Phase::Settings,
            },
            started: false,
            acknowledged: false,
            leaving: Leaving::No,
            peer_leaving: false,
            partial: false,
            streams: Streams::default(),
            last_local: 0,
            last_remote: 0,
            send_window: DEFAULT_WINDOW as i32,
            receive_window: DEFAULT_WINDOW as i32,
            taken: 0,
            peer_window: DEFAULT_WINDOW,
            peer_frame: MAX_PAYLOAD,
            peer_streams: ASSUMED_STREAMS,
            peer_connect: false,
            settled: false,
            data: None,
            block: None,
            decoder: hpack::Decoder::new(table),
            encoder,
            counts: Counts::default(),
            queued: 0,
            queued_control: 0,
            recent: Vec::new(),
            turn: 0,
            heard: None,
            asked: None,
            settings,
        }
    }

    /// Octets in both header tables, by HPACK's count.
    #[must_use]
    pub fn table_octets(&self) -> usize {
        self.decoder.octets() + self.encoder.octets()
    }

    /// Size of the connection's window as we keep it.
    pub(super) fn window(&self) -> u32 {
        self.settings
            .connection_window
            .clamp(DEFAULT_WINDOW, MAX_31)
    }

    /// Size of a stream's window as we announce it.
    pub(super) fn stream_window(&self) -> u32 {
        self.settings.stream_window.min(MAX_31)
    }

    pub(super) fn is_local(&self, id: StreamId) -> bool {
        (id % 2 == 1) == (self.role == Role::Client)
    }

    /// A stream that is not in the books was open once.
    pub(super) fn was_open(&self, id: StreamId) -> bool {
        let last = if self.is_local(id) {
            self.last_local
        } else {
            self.last_remote
        };
        id <= last
    }

    /// Says our part of the beginning, once.
    pub(super) fn start(&mut self, out: &mut Out) {
        if self.started {
            return;
        }
        self.started = true;
        let settings = Arc::clone(&self.settings);
        if self.role == Role::Client {
            out.bytes.extend_from_slice(PREFACE);
        }
        let mut list = [(0, 0); 6];
        let mut count = 0;
        let mut say = |id: u16, value: u32| {
            list[count] = (id, value);
            count += 1;
        };
        if settings.header_table_size != hpack::DEFAULT_TABLE_SIZE {
            say(setting::HEADER_TABLE_SIZE, settings.header_table_size);
        }
        if self.role == Role::Client {
            say(setting::ENABLE_PUSH, 0);
        } else {
            say(
                setting::MAX_CONCURRENT_STREAMS,
                settings.max_concurrent_streams,
            );
            if settings.allow_connect {
                say(setting::ENABLE_CONNECT_PROTOCOL, 1);
            }
        }
        if self.stream_window() != DEFAULT_WINDOW {
            say(setting::INITIAL_WINDOW_SIZE, self.stream_window());
        }
        let most = u32::try_from(settings.max_head_bytes).unwrap_or(u32::MAX);
        say(setting::MAX_HEADER_LIST_SIZE, most);
        let list = &list[..count];
        self.frame(out, (list.len() * 6) as u32, kind::SETTINGS, 0, 0);
        for (id, value) in list {
            out.bytes.extend_from_slice(&id.to_be_bytes());
            out.bytes.extend_from_slice(&value.to_be_bytes());
        }
        let more = self.window() - DEFAULT_WINDOW;
        if more > 0 {
            self.receive_window += more as i32;
            self.window_update(out, 0, more);
        }
    }

    /// Appends a frame's header and counts it.
    pub(super) fn frame(&mut self, out: &mut Out, len: u32, kind: u8, flags: u8, stream: StreamId) {
        FrameHeader {
            len,
            kind,
            flags,
            stream,
        }
        .write(&mut out.bytes);
        self.queued = self.queued.saturating_add(1);
    }

    fn control(&mut self, out: &mut Out, kind: u8, flags: u8, stream: StreamId, payload: &[u8]) {
        self.queued_control = self.queued_control.saturating_add(1);
        self.frame(out, payload.len() as u32, kind, flags, stream);
        out.bytes.extend_from_slice(payload);
    }

    pub(super) fn window_update(&mut self, out: &mut Out, stream: StreamId, credit: u32) {
        self.frame(out, 4, kind::WINDOW_UPDATE, 0, stream);
        out.bytes.extend_from_slice(&credit.to_be_bytes());
    }

    pub(super) fn rst_stream(&mut self, out: &mut Out, stream: StreamId, code: u32) {
        self.control(out, kind::RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    pub(super) fn settings_ack(&mut self, out: &mut Out) {
        self.control(out, kind::SETTINGS, flag::ACK, 0, &[]);
    }

    pub(super) fn ping(&mut self, out: &mut Out, ack: bool, payload: [u8; 8]) {
        let flags = if ack { flag::ACK } else { 0 };
        self.control(out, kind::PING, flags, 0, &payload);
    }

    pub(super) fn goaway(&mut self, out: &mut Out, last: StreamId, code: u32, why: &str) {
        self.start(out);
        self.frame(out, 8 + why.len() as u32, kind::GOAWAY, 0, 0);
        out.bytes.extend_from_slice(&last.to_be_bytes());
        out.bytes.extend_from_slice(&code.to_be_bytes());
        out.bytes.extend_from_slice(why.as_bytes());
    }

    /// Says which streams are still looked at; new ones are not from here on.
    pub(super) fn say_last(&mut self, out: &mut Out) {
        self.leaving = Leaving::Said;
        self.goaway(out, self.last_remote, code::NO_ERROR, "");
    }

    /// The peer does not take what we answer, or only too slowly.
    pub(super) fn check_queue(&self) -> Result<(), Fault> {
        if self.queued_control > self.settings.max_outbound_control_frames {
            return Err(Fault::flood("http2.outbound_control_frames_flood"));
        }
        if self.queued > self.settings.max_outbound_frames {
            return Err(Fault::flood("http2.outbound_frames_flood"));
        }
        Ok(())
    }

    /// Takes up a stream. Its number is above all others of its side.
    pub(super) fn insert(&mut self, id: StreamId, bits: u8) {
        self.counts.opened();
        let place = self.streams.0.partition_point(|stream| stream.id < id);
        let stream = Stream {
            id,
            send_window: self.peer_window as i32,
            receive_window: self.stream_window() as i32,
            held: 0,
            taken: 0,
            left: UNDECLARED,
            state: bits,
        };
        self.streams.0.insert(place, stream);
    }

    /// Takes a stream out of the books; what it held goes back to the connection.
    pub(super) fn remove(&mut self, place: usize, out: &mut Out) -> Stream {
        let stream = self.streams.0.remove(place);
        self.credit(stream.held, out);
        stream
    }

    /// A side of a stream ended: takes it out when both did.
    pub(super) fn side_ended(&mut self, place: usize, out: &mut Out) {
        if self.streams.0[place].over() {
            let stream = self.remove(place, out);
            if !self.is_local(stream.id) {
                // Answered: never a reason to complain.
                let _ = self.counts.ended(false, &self.settings);
            }
        }
    }

    /// The connection's share of body bytes that nobody here holds any more.
    pub(super) fn credit(&mut self, n: u32, out: &mut Out) {
        self.taken = self.taken.saturating_add(n);
        if self.taken > self.window() / 2 && self.phase != Phase::Closed {
            let credit = std::mem::take(&mut self.taken);
            self.receive_window = self.receive_window.saturating_add_unsigned(credit);
            self.window_update(out, 0, credit);
        }
    }

    /// Ends a stream because of what the peer did on it.
    pub(super) fn refuse_stream(
        &mut self,
        id: StreamId,
        code: u32,
        name: &'static str,
        events: &mut Events,
        out: &mut Out,
    ) -> Result<(), Fault> {
        self.rst_stream(out, id, code);
        events.note(name);
        events.list.push(Event::Reset {
            stream: id,
            reason: ResetReason::Protocol,
        });
        // More streams than there is room for may be asked for in good faith.
        let mut premature = code != code::REFUSED_STREAM;
        let mut ended = false;
        if let Some(place) = self.streams.place(id) {
            let stream = self.remove(place, out);
            premature = !stream.is(state::LOCAL_HEAD);
            ended = stream.is(state::REMOTE_END);
        }
        if !ended {
            self.remember_reset(id);
        }
        if self.is_local(id) {
            return Ok(());
        }
        let judged = self.counts.ended(premature, &self.settings);
        judged.map_err(Fault::flood)
    }

    /// The peer may still be sending on a stream that we reset.
    pub(super) fn remember_reset(&mut self, id: StreamId) {
        // A client takes whatever comes on streams it once opened.
        if self.role == Role::Client || self.recent.contains(&id) {
            return;
        }
        if self.recent.len() >= RECENT_RESETS {
            self.recent.drain(..RECENT_RESETS / 2);
        }
        self.recent.push(id);
    }

    /// Nothing more will come: every stream still open is cut short.
    pub(super) fn cut_all(&mut self, reason: ResetReason, events: &mut Events) {
        for stream in self.streams.0.drain(..) {
            let stream = stream.id;
            events.list.push(Event::Reset { stream, reason });
        }
        self.phase = Phase::Closed;
        self.data = None;
        self.block = None;
    }

    /// The connection ends: the peer is told why.
    pub(super) fn fail(
        &mut self,
        code: u32,
        name: &'static str,
        events: &mut Events,
        out: &mut Out,
    ) -> ProtocolError {
        self.goaway(out, self.last_remote, code, name);
        events.note("http2.goaway_sent");
        self.cut_all(ResetReason::Protocol, events);
        ProtocolError {
            stream: None,
            status: 0,
            detail: name,
        }
    }
}
