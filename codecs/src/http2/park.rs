//! A silent connection in one block: header table, settings, windows, and a few bytes per open stream.

use std::sync::Arc;

use super::connection::{Connection, Leaving, Phase, Role};
use super::settings::Settings;
use super::stream::{Stream, UNDECLARED};
use crate::codec::Compact;
use crate::hpack;

fn write(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn read32(bytes: &mut &[u8]) -> Option<u32> {
    read(bytes)?.try_into().ok()
}

/// A window as what is used of it: small numbers for small messages, and the peer may give more than
/// there was at the start.
fn write_window(whole: u32, window: i32, bytes: &mut Vec<u8>) {
    let used = i64::from(whole) - i64::from(window);
    write((used << 1 ^ used >> 63) as u64, bytes);
}

fn read_window(whole: u32, bytes: &mut &[u8]) -> Option<i32> {
    let used = read(bytes)?;
    let used = (used >> 1) as i64 ^ -((used & 1) as i64);
    i64::from(whole).checked_sub(used)?.try_into().ok()
}

fn write_time(time: Option<u64>, bytes: &mut Vec<u8>) {
    write(time.map_or(0, |time| time.saturating_add(1)), bytes);
}

fn bits(flags: &[bool]) -> u64 {
    flags
        .iter()
        .rev()
        .fold(0, |bits, &flag| bits << 1 | u64::from(flag))
}

/// What cannot be known again. A connection on which nothing ever happened is empty.
pub(super) fn pack(conn: &Connection) -> Compact {
    if !conn.started && conn.phase != Phase::Open && conn.heard.is_none() {
        return Compact::default();
    }
    let mut bytes = Vec::with_capacity(64 + conn.streams.len() * 12);
    let leaving = match conn.leaving {
        Leaving::No => [false, false],
        Leaving::Announced(_) => [true, false],
        Leaving::Said => [false, true],
    };
    write(
        bits(&[
            conn.started,
            conn.acknowledged,
            leaving[0],
            leaving[1],
            conn.peer_leaving,
            conn.peer_connect,
            conn.phase == Phase::Open,
            conn.phase == Phase::Settings,
        ]),
        &mut bytes,
    );
    if let Leaving::Announced(until) = conn.leaving {
        write_time(until, &mut bytes);
    }
    write_time(conn.heard, &mut bytes);
    write_time(conn.asked, &mut bytes);
    for number in [
        conn.last_local,
        conn.last_remote,
        conn.taken,
        conn.peer_window,
        conn.peer_frame,
        conn.peer_streams,
        conn.turn,
        conn.queued,
        conn.queued_control,
    ] {
        write(number.into(), &mut bytes);
    }
    write_window(conn.window(), conn.receive_window, &mut bytes);
    write_window(conn.peer_window, conn.send_window, &mut bytes);
    let counts = conn.counts;
    for count in [
        counts.opened,
        counts.data_sent,
        counts.priorities,
        counts.window_updates,
        counts.resets,
        counts.empty,
        counts.ended,
        counts.premature,
    ] {
        write(count.into(), &mut bytes);
    }
    write(conn.recent.len() as u64, &mut bytes);
    for id in &conn.recent {
        write((*id).into(), &mut bytes);
    }
    conn.decoder.pack(&mut bytes);
    conn.encoder.pack(&mut bytes);
    let mut last = 0;
    for stream in &conn.streams.0 {
        write((stream.id - last).into(), &mut bytes);
        last = stream.id;
        bytes.push(stream.state);
        write_window(conn.peer_window, stream.send_window, &mut bytes);
        write_window(conn.stream_window(), stream.receive_window, &mut bytes);
        write(stream.held.into(), &mut bytes);
        write(stream.taken.into(), &mut bytes);
        // One more than the length, and nothing for none.
        write(stream.left.wrapping_add(1), &mut bytes);
    }
    bytes.into_boxed_slice()
}

/// The opposite of [`pack`]; `None` when the bytes are not from there.
fn unpack(conn: &mut Connection, mut bytes: &[u8]) -> Option<()> {
    let bytes = &mut bytes;
    let flags = read(bytes)?;
    let flag = |place: u8| flags >> place & 1 == 1;
    conn.started = flag(0);
    conn.acknowledged = flag(1);
    conn.peer_leaving = flag(4);
    conn.peer_connect = flag(5);
    if flag(6) {
        conn.phase = Phase::Open;
        conn.settled = true;
    } else if flag(7) {
        conn.phase = Phase::Settings;
    }
    conn.leaving = match (flag(2), flag(3)) {
        (true, _) => Leaving::Announced(read(bytes)?.checked_sub(1)),
        (_, true) => Leaving::Said,
        _ => Leaving::No,
    };
    conn.heard = read(bytes)?.checked_sub(1);
    conn.asked = read(bytes)?.checked_sub(1);
    for number in [
        &mut conn.last_local,
        &mut conn.last_remote,
        &mut conn.taken,
        &mut conn.peer_window,
        &mut conn.peer_frame,
        &mut conn.peer_streams,
        &mut conn.turn,
        &mut conn.queued,
        &mut conn.queued_control,
    ] {
        *number = read32(bytes)?;
    }
    conn.receive_window = read_window(conn.window(), bytes)?;
    conn.send_window = read_window(conn.peer_window, bytes)?;
    let counts = &mut conn.counts;
    for count in [
        &mut counts.opened,
        &mut counts.data_sent,
        &mut counts.priorities,
        &mut counts.window_updates,
        &mut counts.resets,
        &mut counts.empty,
        &mut counts.ended,
        &mut counts.premature,
    ] {
        *count = read32(bytes)?;
    }
    for _ in 0..read(bytes)? {
        conn.recent.push(read32(bytes)?);
    }
    conn.decoder = hpack::Decoder::unpack(bytes)?;
    conn.encoder = hpack::Encoder::unpack(conn.settings.header_table_size, bytes)?;
    let mut id = 0u32;
    while !bytes.is_empty() {
        id = id.checked_add(read32(bytes)?)?;
        let (&state, rest) = bytes.split_first()?;
        *bytes = rest;
        let stream = Stream {
            id,
            state,
            send_window: read_window(conn.peer_window, bytes)?,
            receive_window: read_window(conn.stream_window(), bytes)?,
            held: read32(bytes)?,
            taken: read32(bytes)?,
            left: match read(bytes)? {
                0 => UNDECLARED,
                left => left - 1,
            },
        };
        if conn.streams.0.last().is_some_and(|last| last.id >= id) {
            return None;
        }
        conn.streams.0.push(stream);
    }
    Some(())
}

impl Connection {
    /// A codec for a connection that was parked. What [`park`](crate::Codec::park) gave is always
    /// understood; anything else gives a codec that is finished.
    #[must_use]
    pub fn unpark(role: Role, settings: Arc<Settings>, compact: &[u8]) -> Self {
        let mut conn = Self::new(role, settings);
        if !compact.is_empty() && unpack(&mut conn, compact).is_none() {
            conn.streams.0.clear();
            conn.phase = Phase::Closed;
        }
        conn
    }
}
