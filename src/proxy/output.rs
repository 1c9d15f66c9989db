//! What waits to be written to one connection.
//!
//! Within a turn output is a list of slices of the worker's buffers; the flush at the turn's end
//! writes them in one call. Only what the socket did not take is copied, behind what it had not taken
//! before. Nothing here decides whether a source may go on: it only tells how much is waiting.

use std::io::{self, IoSlice};

use moorgate_codecs::Out;

use crate::engine::arena::{Arena, Span};
use crate::engine::chunk::{ByteQueue, ChunkPool};
use crate::engine::reactor::{Reactor, Sock};

/// A slice of the turn's buffers.
#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Of the encoder's output.
    Wire { start: u32, end: u32 },
    /// Of the read arena.
    Arena(Span),
}

impl Piece {
    fn len(self) -> usize {
        match self {
            Self::Wire { start, end } => (end - start) as usize,
            Self::Arena(span) => span.len as usize,
        }
    }

    fn skip(&mut self, n: usize) {
        match self {
            Self::Wire { start, .. } => *start += n as u32,
            Self::Arena(span) => {
                span.start += n as u32;
                span.len -= n as u32;
            }
        }
    }

    fn get<'a>(self, arena: &'a Arena, wire: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Wire { start, end } => wire.get(start as usize..end as usize).unwrap_or_default(),
            Self::Arena(span) => arena.get(span),
        }
    }
}

/// Slices given to one write call.
const SLICES: usize = 16;

/// Slices that are no more than this together are copied into one: a call with one slice is cheaper for
/// the kernel than one with several, by more than so short a copy costs.
const GATHER: usize = 512;

/// Output of one connection.
#[derive(Debug, Default)]
pub(super) struct Output {
    backlog: ByteQueue,
    pieces: Vec<Piece>,
    fresh: usize,
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything was taken.
    All,
    /// The socket is full; the rest is in the backlog.
    Blocked,
}

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.backlog.len() + self.fresh
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held in chunks.
    pub(super) fn held(&self) -> usize {
        self.backlog.held()
    }

    /// Takes over what an encoder appended since `start`, with payload from a span of the arena.
    pub(super) fn take(&mut self, out: &mut Out, start: usize, payload: Span) {
        let mut from = start;
        for piece in out.payloads.drain(..) {
            self.push_wire(from, piece.at);
            from = piece.at;
            let len = (piece.end - piece.start) as u32;
            self.push(Piece::Arena(Span {
                start: payload.start + piece.start as u32,
                len,
            }));
        }
        self.push_wire(from, out.bytes.len());
    }

    fn push_wire(&mut self, start: usize, end: usize) {
        if start == end {
            return;
        }
        if let Some(Piece::Wire { end: last, .. }) = self.pieces.last_mut()
            && *last as usize == start
        {
            *last = end as u32;
            self.fresh += end - start;
            return;
        }
        self.push(Piece::Wire {
            start: start as u32,
            end: end as u32,
        });
    }

    /// Appends a span of the arena as it is.
    pub(super) fn push_span(&mut self, span: Span) {
        if span.len > 0 {
            self.push(Piece::Arena(span));
        }
    }

    fn push(&mut self, piece: Piece) {
        self.fresh += piece.len();
        self.pieces.push(piece);
    }

    /// Writes as much as the socket takes; the rest goes to the backlog.
    pub(super) fn flush<R: Reactor>(
        &mut self,
        reactor: &mut R,
        sock: Sock,
        arena: &Arena,
        wire: &[u8],
        pool: &mut ChunkPool,
    ) -> io::Result<(usize, Flushed)> {
        if let [piece] = self.pieces[..]
            && self.backlog.is_empty()
        {
            // Nearly always: one slice, taken whole. What goes otherwise is the loop's.
            let bytes = piece.get(arena, wire);
            match reactor.write(sock, &[IoSlice::new(bytes)]) {
                Ok(taken) if taken == bytes.len() => {
                    self.pieces.clear();
                    self.fresh = 0;
                    return Ok((taken, Flushed::All));
                }
                Ok(taken) => {
                    self.keep(0, taken, pool, arena, wire);
                    return Ok((taken, Flushed::Blocked));
                }
                Err(_) => {}
            }
        }
        let mut written = 0;
        let mut first = 0;
        let mut skip = 0;
        loop {
            let mut gathered: [u8; GATHER];
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for chunk in self.backlog.chunks().take(SLICES) {
                slices[count] = IoSlice::new(chunk);
                count += 1;
            }
            let whole_backlog = count < SLICES;
            let mut next = first;
            while whole_backlog && count < SLICES && next < self.pieces.len() {
                let bytes = self.pieces[next].get(arena, wire);
                let bytes = if next == first { &bytes[skip..] } else { bytes };
                slices[count] = IoSlice::new(bytes);
                count += 1;
                next += 1;
            }
            if count == 0 {
                break;
            }
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            if count > 1 && offered <= GATHER {
                gathered = [0; GATHER];
                let mut rest = &mut gathered[..];
                for slice in &slices[..count] {
                    let (into, behind) = rest.split_at_mut(slice.len());
                    into.copy_from_slice(slice);
                    rest = behind;
                }
                slices[0] = IoSlice::new(&gathered[..offered]);
                count = 1;
            }
            let taken = match reactor.write(sock, &slices[..count]) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            written += taken;
            let mut left = taken;
            let of_backlog = left.min(self.backlog.len());
            self.backlog.consume(pool, of_backlog);
            left -= of_backlog;
            while left > 0 {
                let rest = self.pieces[first].len() - skip;
                if left < rest {
                    skip += left;
                    break;
                }
                left -= rest;
                first += 1;
                skip = 0;
            }
            if taken < offered {
                self.keep(first, skip, pool, arena, wire);
                return Ok((written, Flushed::Blocked));
            }
        }
        self.pieces.clear();
        self.fresh = 0;
        Ok((written, Flushed::All))
    }

    /// What waits, in order.
    pub(super) fn slices<'a>(
        &'a self,
        arena: &'a Arena,
        wire: &'a [u8],
    ) -> impl Iterator<Item = &'a [u8]> {
        let fresh = self.pieces.iter().map(|piece| piece.get(arena, wire));
        self.backlog.chunks().chain(fresh)
    }

    /// Drops the first `n` bytes: they are on their way.
    pub(super) fn consume(&mut self, n: usize, pool: &mut ChunkPool) {
        let of_backlog = n.min(self.backlog.len());
        self.backlog.consume(pool, of_backlog);
        let mut left = n - of_backlog;
        self.fresh = self.fresh.saturating_sub(left);
        let mut done = 0;
        for piece in &mut self.pieces {
            let len = piece.len();
            if left < len {
                piece.skip(left);
                break;
            }
            left -= len;
            done += 1;
        }
        self.pieces.drain(..done);
    }

    /// Copies what is left of the turn's slices to the backlog: they are about to become invalid.
    pub(super) fn spill(&mut self, pool: &mut ChunkPool, arena: &Arena, wire: &[u8]) {
        self.keep(0, 0, pool, arena, wire);
    }

    fn keep(
        &mut self,
        first: usize,
        skip: usize,
        pool: &mut ChunkPool,
        arena: &Arena,
        wire: &[u8],
    ) {
        for (index, piece) in self.pieces[first.min(self.pieces.len())..]
            .iter()
            .enumerate()
        {
            let bytes = piece.get(arena, wire);
            let bytes = if index == 0 { &bytes[skip..] } else { bytes };
            self.backlog.push(pool, bytes);
        }
        self.pieces.clear();
        self.fresh = 0;
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, pool: &mut ChunkPool) {
        self.backlog.clear(pool);
        self.pieces = Vec::new();
        self.fresh = 0;
    }
}
