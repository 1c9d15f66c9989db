//! Where a message body ends, and its bytes as events (RFC 9112 sections 6 and 7).
//!
//! Payload is never touched here: events name ranges of the input. Of the chunk framing only whole
//! lines are consumed, and each is bounded.

use memchr::memchr;

use super::chars::{hexadecimal, trim};
use super::scan::{Scan, section_end};
use super::{Refusal, Settings, fields};
use crate::codec::{Event, Events, StreamId};

/// Bytes of a chunk-size line with its extensions and line end.
const MAX_CHUNK_LINE: usize = 512;

/// What of a body is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    Done,
    /// So many bytes.
    Length(u64),
    /// A chunk-size line.
    ChunkLine,
    /// So many bytes of a chunk, then its line end.
    Chunk(u64),
    /// The line end after a chunk's data.
    ChunkEnd,
    /// The trailer section.
    Trailers,
    /// Everything until the connection ends.
    UntilClose,
}

/// The parts of a decoder that a body needs.
pub(super) struct Source<'a> {
    pub(super) settings: &'a Settings,
    pub(super) stream: StreamId,
    pub(super) input: &'a [u8],
    /// Events that were there before this call: they belong to other input.
    pub(super) before: usize,
}

impl Body {
    /// Reads on from `pos`. True when the message ended. `scanned` is how far an unfinished trailer
    /// section was looked at.
    pub(super) fn decode(
        &mut self,
        source: &Source<'_>,
        pos: &mut usize,
        scanned: &mut u32,
        events: &mut Events,
    ) -> Result<bool, Refusal> {
        let input = source.input;
        let stream = source.stream;
        loop {
            let rest = &input[*pos..];
            match self {
                Self::Done => return Ok(true),
                Self::Length(left) => {
                    let take = clamp(*left, rest.len());
                    if take == 0 && *left > 0 {
                        return Ok(false);
                    }
                    *left -= take as u64;
                    let end = *left == 0;
                    let range = *pos..*pos + take;
                    *pos += take;
                    events.list.push(Event::Data { stream, range, end });
                    if !end {
                        return Ok(false);
                    }
                    *self = Self::Done;
                }
                Self::UntilClose => {
                    if !rest.is_empty() {
                        let range = *pos..input.len();
                        *pos = input.len();
                        events.list.push(Event::Data {
                            stream,
                            range,
                            end: false,
                        });
                    }
                    return Ok(false);
                }
                Self::ChunkLine => {
                    let window = &rest[..rest.len().min(MAX_CHUNK_LINE)];
                    let Some(feed) = memchr(b'\n', window) else {
                        return if window.len() == MAX_CHUNK_LINE {
                            Err(Refusal::new(400, "http1.chunk_line_too_long"))
                        } else {
                            Ok(false)
                        };
                    };
                    let size = chunk_size(&window[..feed])?;
                    *pos += feed + 1;
                    *self = if size == 0 {
                        Self::Trailers
                    } else {
                        Self::Chunk(size)
                    };
                }
                Self::Chunk(left) => {
                    let take = clamp(*left, rest.len());
                    if take == 0 {
                        return Ok(false);
                    }
                    *left -= take as u64;
                    let range = *pos..*pos + take;
                    *pos += take;
                    events.list.push(Event::Data {
                        stream,
                        range,
                        end: false,
                    });
                    if *left > 0 {
                        return Ok(false);
                    }
                    *self = Self::ChunkEnd;
                }
                Self::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        *pos += 2;
                        *self = Self::ChunkLine;
                    }
                    [] | [b'\r'] => return Ok(false),
                    _ => return Err(Refusal::new(400, "http1.chunk_data_overrun")),
                },
                Self::Trailers => {
                    let max = source.settings.max_head_bytes;
                    let end = match section_end(rest, *scanned as usize, max) {
                        Scan::Complete(end) => end,
                        Scan::Partial => {
                            *scanned = rest.len() as u32;
                            return Ok(false);
                        }
                        Scan::BareLineFeed => {
                            return Err(Refusal::new(400, "http1.bare_line_feed"));
                        }
                        Scan::TooLong => {
                            return Err(Refusal::new(431, "http1.trailers_too_large"));
                        }
                    };
                    *scanned = 0;
                    *self = Self::Done;
                    *pos += end;
                    if end > 2 {
                        let mut head = events.take_head();
                        match fields::trailers(&rest[..end], source.settings, &mut head) {
                            Ok(()) if source.settings.enable_trailers && !head.is_empty() => {
                                events.list.push(Event::Trailers { stream, head });
                                continue;
                            }
                            Ok(()) => events.give_head(head),
                            Err(refusal) => {
                                events.give_head(head);
                                return Err(refusal);
                            }
                        }
                    }
                    end_here(source, *pos, events);
                }
            }
        }
    }
}

/// Marks the message as ended: on the last data of this call when there is one, so that a whole
/// chunked message costs no event more than one with a length.
fn end_here(source: &Source<'_>, pos: usize, events: &mut Events) {
    if events.list.len() > source.before
        && let Some(Event::Data { stream, end, .. }) = events.list.last_mut()
        && *stream == source.stream
    {
        *end = true;
        return;
    }
    events.list.push(Event::Data {
        stream: source.stream,
        range: pos..pos,
        end: true,
    });
}

fn clamp(left: u64, have: usize) -> usize {
    usize::try_from(left).map_or(have, |left| left.min(have))
}

/// `chunk-size [ chunk-ext ] CR`, the line feed cut off. Extensions are checked for what could hide a
/// line end and then dropped: they belong to the hop.
fn chunk_size(line: &[u8]) -> Result<u64, Refusal> {
    let Some((b'\r', line)) = line.split_last() else {
        return Err(Refusal::new(400, "http1.bare_line_feed"));
    };
    let (size, extension) = match line.iter().position(|b| matches!(b, b';' | b' ' | b'\t')) {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    let refusal = Refusal::new(400, "http1.invalid_chunk_size");
    let size = hexadecimal(size).ok_or(refusal)?;
    if !extension.is_empty() {
        // White space is allowed before ";" (BWS), but not instead of it.
        if trim(extension).first() != Some(&b';') || !super::chars::is_value(extension) {
            return Err(Refusal::new(400, "http1.invalid_chunk_extension"));
        }
    }
    Ok(size)
}
