//! Reads the frames of one direction.

use super::frame::{self, Header};
use super::utf8::Utf8;
use super::{Error, Limits, Opcode, Role, close, mask};

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Part of a message, unmasked. A message of no bytes is one event without any.
    Data {
        /// [`Text`](Opcode::Text) or [`Binary`](Opcode::Binary).
        opcode: Opcode,
        /// The bytes. Text may be cut within a character.
        payload: &'a [u8],
        /// The message ends with them.
        last: bool,
    },
    /// To be answered with a pong.
    Ping(&'a [u8]),
    /// Answers a ping.
    Pong(&'a [u8]),
    /// No more frames follow; to be answered with a close frame, unless one was sent.
    Close {
        /// Code; `None` when it said none.
        code: Option<u16>,
        /// Why, for people.
        reason: &'a str,
    },
}

/// Reader of one direction. Keeps numbers, no payload.
#[derive(Clone, Debug)]
pub struct Reader {
    role: Role,
    limits: Limits,
    /// The frame whose payload is being read, and how much of it was.
    frame: Option<(Header, u64)>,
    /// The message that was begun.
    message: Option<Opcode>,
    /// Bytes of it.
    length: u64,
    text: Utf8,
    closed: bool,
}

impl Reader {
    /// A reader at the end that is `role`.
    #[must_use]
    pub fn new(role: Role, limits: Limits) -> Self {
        Self {
            role,
            limits,
            frame: None,
            message: None,
            length: 0,
            text: Utf8::default(),
            closed: false,
        }
    }

    /// A close frame was read: whatever follows is not looked at.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Between two frames: a frame that is sent to the peer of this direction's sender, by somebody who
    /// passes its bytes on, would not fall into another one.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.frame.is_none()
    }

    /// Neither within a frame nor within a message: a new reader would go on as well.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.frame.is_none() && self.message.is_none()
    }

    /// Reads what it can of `input`, unmasking it in place, and says how many bytes that were. The rest,
    /// at most a control frame or a header, is to be given again with more behind it.
    ///
    /// # Errors
    /// The peer broke the rules; the connection is to be failed with
    /// [`close_code`](Error::close_code). Nothing may be read after that.
    pub fn read(
        &mut self,
        input: &mut [u8],
        mut sink: impl FnMut(Event<'_>),
    ) -> Result<usize, Error> {
        let mut at = 0;
        while !self.closed {
            let rest = &mut input[at..];
            let Some((header, done)) = self.frame else {
                let Some(header) = frame::read(rest, self.role)? else {
                    break;
                };
                self.check(&header)?;
                if !header.opcode.is_control() {
                    at += header.size;
                    self.frame = Some((header, 0));
                    continue;
                }
                let end = header.size + header.length as usize;
                let Some(payload) = rest.get_mut(header.size..end) else {
                    break;
                };
                if let Some(key) = header.key {
                    mask(payload, key, 0);
                }
                at += end;
                self.control(header.opcode, payload, &mut sink)?;
                continue;
            };
            let left = header.length - done;
            if left > 0 && rest.is_empty() {
                break;
            }
            let count = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
            let payload = &mut rest[..count];
            if let Some(key) = header.key {
                mask(payload, key, done);
            }
            at += count;
            let done = done + count as u64;
            let ended = done == header.length;
            self.frame = (!ended).then_some((header, done));
            self.data(payload, ended && header.last, &mut sink)?;
        }
        Ok(at)
    }

    /// A frame may come now, and be so long.
    fn check(&mut self, header: &Header) -> Result<(), Error> {
        if header.opcode.is_control() {
            return Ok(());
        }
        match (header.opcode, self.message) {
            (Opcode::Continuation, Some(_)) => {}
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(Error::Fragment),
            (opcode, None) => {
                self.message = Some(opcode);
                self.length = 0;
                self.text = Utf8::default();
            }
        }
        self.length = self.length.saturating_add(header.length);
        if header.length > self.limits.frame || self.length > self.limits.message {
            return Err(Error::TooBig);
        }
        Ok(())
    }

    fn data(
        &mut self,
        payload: &[u8],
        last: bool,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let opcode = self.message.unwrap_or(Opcode::Binary);
        if opcode == Opcode::Text && (!self.text.feed(payload) || last && !self.text.is_whole()) {
            return Err(Error::Utf8);
        }
        if last {
            self.message = None;
        }
        if last || !payload.is_empty() {
            sink(Event::Data {
                opcode,
                payload,
                last,
            });
        }
        Ok(())
    }

    fn control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Error> {
        match opcode {
            Opcode::Ping => sink(Event::Ping(payload)),
            Opcode::Pong => sink(Event::Pong(payload)),
            _ => {
                let (code, reason) = match payload {
                    [] => (None, ""),
                    [_] => return Err(Error::CloseCode),
                    [high, low, reason @ ..] => {
                        let code = u16::from_be_bytes([*high, *low]);
                        if !close::may_be_sent(code) {
                            return Err(Error::CloseCode);
                        }
                        let reason = std::str::from_utf8(reason).map_err(|_| Error::Utf8)?;
                        (Some(code), reason)
                    }
                };
                self.closed = true;
                sink(Event::Close { code, reason });
            }
        }
        Ok(())
    }
}
