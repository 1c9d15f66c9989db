//! A silent connection in one block: the difference to a fresh one, a few bytes per open stream.

use super::mux::{Mux, Stream, StreamState};
use super::{Role, Settings};
use crate::codec::Compact;

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

fn bits(flags: &[bool]) -> u64 {
    flags
        .iter()
        .rev()
        .fold(0, |bits, &flag| bits << 1 | u64::from(flag))
}

/// What cannot be known again. A connection on which nothing ever happened is empty.
pub(super) fn pack(mux: &Mux) -> Compact {
    if mux.last_local == 0
        && mux.last_remote == 0
        && mux.heard.is_none()
        && !(mux.going_away || mux.peer_going_away || mux.asked)
    {
        return Compact::default();
    }
    let mut bytes = Vec::with_capacity(16 + mux.streams.len() * 6);
    write(
        bits(&[mux.going_away, mux.peer_going_away, mux.asked]),
        &mut bytes,
    );
    write(mux.last_local.into(), &mut bytes);
    write(mux.last_remote.into(), &mut bytes);
    write(
        mux.heard.map_or(0, |heard| heard.saturating_add(1)),
        &mut bytes,
    );
    let mut last = 0;
    for stream in &mux.streams {
        let state = stream.state;
        write((stream.id - last).into(), &mut bytes);
        last = stream.id;
        write(
            bits(&[
                state.one_way,
                state.local_head,
                state.local_end,
                state.remote_head,
                state.remote_end,
                state.blocked,
            ]),
            &mut bytes,
        );
        // Windows as what is used of them: small numbers for small messages. The peer may give
        // credit beyond the start.
        let window = i64::from(mux.settings.window);
        let used = window - i64::from(stream.send_window);
        write((used << 1 ^ used >> 63) as u64, &mut bytes);
        let used = mux.settings.window - stream.receive_window;
        write(used.into(), &mut bytes);
        write(stream.taken.into(), &mut bytes);
    }
    bytes.into_boxed_slice()
}

/// The opposite of [`pack`]; `None` when the bytes are not from there.
fn unpack(mux: &mut Mux, mut bytes: &[u8]) -> Option<()> {
    let bytes = &mut bytes;
    let flags = read(bytes)?;
    mux.going_away = flags & 1 != 0;
    mux.peer_going_away = flags & 2 != 0;
    mux.asked = flags & 4 != 0;
    mux.last_local = read(bytes)?.try_into().ok()?;
    mux.last_remote = read(bytes)?.try_into().ok()?;
    mux.heard = read(bytes)?.checked_sub(1);
    let mut id = 0u32;
    while !bytes.is_empty() {
        id = id.checked_add(read(bytes)?.try_into().ok()?)?;
        let flags = read(bytes)?;
        let flag = |place: u8| flags >> place & 1 == 1;
        let used = read(bytes)?;
        let used = (used >> 1) as i64 ^ -((used & 1) as i64);
        let window = mux.settings.window;
        let stream = Stream {
            id,
            send_window: i64::from(window).checked_sub(used)?.try_into().ok()?,
            receive_window: window.checked_sub(read(bytes)?.try_into().ok()?)?,
            taken: read(bytes)?.try_into().ok()?,
            state: StreamState {
                one_way: flag(0),
                local_head: flag(1),
                local_end: flag(2),
                remote_head: flag(3),
                remote_end: flag(4),
                blocked: flag(5),
            },
        };
        let held = window - stream.receive_window;
        if mux.streams.last().is_some_and(|last| last.id >= id) || stream.taken > held {
            return None;
        }
        mux.streams.push(stream);
    }
    Some(())
}

impl Mux {
    /// A codec for a connection that was parked. What [`park`](crate::Codec::park) gave is always
    /// understood; anything else gives a codec that is finished.
    #[must_use]
    pub fn unpark(role: Role, settings: Settings, compact: &[u8]) -> Self {
        let mut mux = Self::new(role, settings);
        if !compact.is_empty() && unpack(&mut mux, compact).is_none() {
            mux.streams.clear();
            mux.closed = true;
        }
        mux
    }
}
