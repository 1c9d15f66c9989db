//! Any bytes to both readers of WebSocket frames: the same whole and in pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::websocket::{Error, Event, Limits, MAX_CONTROL, MAX_HEADER, Opcode, Reader, Role};

#[derive(Debug, PartialEq)]
enum Told {
    Message(Opcode, Vec<u8>),
    Control(Vec<u8>),
    Close(Option<u16>, String),
    Failed(Error),
}

fn told(role: Role, bytes: &[u8], size: usize) -> Vec<Told> {
    let limits = Limits {
        frame: 5_000,
        message: 8_000,
    };
    let mut reader = Reader::new(role, limits);
    let (mut told, mut message, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        held.extend_from_slice(piece);
        let read = reader.read(&mut held, |event| match event {
            Event::Data {
                opcode,
                payload,
                last,
            } => {
                message.extend_from_slice(payload);
                if last {
                    if opcode == Opcode::Text {
                        assert!(std::str::from_utf8(&message).is_ok());
                    }
                    told.push(Told::Message(opcode, std::mem::take(&mut message)));
                }
            }
            Event::Ping(payload) | Event::Pong(payload) => told.push(Told::Control(payload.to_vec())),
            Event::Close { code, reason } => told.push(Told::Close(code, reason.to_owned())),
        });
        assert!(message.len() <= 8_000);
        match read {
            Ok(count) => {
                held.drain(..count);
                assert!(reader.is_closed() || held.len() < MAX_HEADER + MAX_CONTROL);
            }
            Err(error) => {
                told.push(Told::Failed(error));
                break;
            }
        }
    }
    told
}

fuzz_target!(|bytes: &[u8]| {
    for role in [Role::Server, Role::Client] {
        let whole = told(role, bytes, bytes.len());
        for size in [1, 2, 3, 7, 64] {
            assert_eq!(told(role, bytes, size), whole, "in pieces of {size}");
        }
    }
});
