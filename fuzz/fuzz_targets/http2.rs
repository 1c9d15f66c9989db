//! Any bytes to both ends of an HTTP/2 connection, behind a good beginning and bare.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::http2::{Connection, PREFACE, Role, Settings};
use moorgate_codecs::{Codec, Head, Out};
use moorgate_fuzz::{Drive, response};

fuzz_target!(|bytes: &[u8]| {
    let settings = Arc::new(Settings {
        max_concurrent_streams: 4,
        stream_window: 64,
        connection_window: 65_535,
        max_head_bytes: 2048,
        max_fields: 20,
        stream_errors: bytes.len() % 2 == 0,
        allow_connect: true,
        ..Settings::default()
    });
    let make = |role| {
        let mut connection = Connection::new(role, Arc::clone(&settings));
        if role == Role::Client {
            // So that there is something to answer and to give credit for.
            for _ in 0..2 {
                let stream = connection.open().expect("a fresh connection");
                let mut head = Head::new();
                head.set_method(b"GET");
                head.set_authority(b"a");
                head.set_path(b"/");
                connection
                    .send_head(stream, &head, false, &mut Out::default())
                    .expect("a good head");
            }
        }
        connection
    };
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&PREFACE[..], &empty_settings, bytes].concat();
    for (role, bytes) in [
        (Role::Server, bytes),
        (Role::Server, &hello[..]),
        (Role::Client, &hello[PREFACE.len()..]),
    ] {
        let drive = Drive {
            make: &|| make(role),
            parked: &|connection: &Connection| {
                let compact = connection.park()?;
                Some(Connection::unpark(role, Arc::clone(&settings), &compact))
            },
            answer: &|connection, stream, out| {
                // Output of a whole and of a cut run must agree, so nothing is said but this.
                let _ = connection.send_head(stream, &response(200), true, out);
                false
            },
            eof: true,
        };
        let (_, _) = drive.run(&[bytes], true);
        let quiet = Drive {
            answer: &|_, _, _| false,
            ..drive
        };
        quiet.check(bytes);
    }
});
