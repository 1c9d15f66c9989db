//! The WebSocket side of a server: every message comes back, in the pieces in which it arrived.

use moorgate_codecs::websocket::{self, Event, Limits, Opcode, Reader, Role, close};

/// What a connection that became a WebSocket is read with.
#[derive(Debug)]
pub(super) struct Frames {
    reader: Reader,
    /// Part of a message was sent back.
    begun: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            reader: Reader::new(Role::Server, Limits::default()),
            begun: false,
        }
    }
}

impl Frames {
    /// Between two messages: there is nothing to keep.
    pub(super) fn is_idle(&self) -> bool {
        self.reader.is_idle()
    }

    /// Reads what is in `input`, takes off what is done with, and appends what is to be sent. False when
    /// the connection ends with that.
    pub(super) fn feed(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        let begun = &mut self.begun;
        let read = self.reader.read(input, |event| match event {
            Event::Data {
                opcode,
                payload,
                last,
            } => {
                let opcode = if *begun { Opcode::Continuation } else { opcode };
                websocket::write_frame(last, opcode, payload, None, out);
                *begun = !last;
            }
            Event::Ping(payload) => {
                websocket::write_frame(true, Opcode::Pong, payload, None, out);
            }
            Event::Pong(_) => {}
            Event::Close { code, .. } => {
                websocket::write_close(code.unwrap_or(close::NORMAL), "", None, out);
            }
        });
        match read {
            Ok(count) => {
                input.drain(..count);
                !self.reader.is_closed()
            }
            Err(error) => {
                websocket::write_close(error.close_code(), "", None, out);
                false
            }
        }
    }
}
