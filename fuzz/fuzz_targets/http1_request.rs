//! Any bytes to an HTTP/1 server that answers every request.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::Codec;
use moorgate_codecs::http1::{Server, Settings};
use moorgate_fuzz::{Drive, response};

fuzz_target!(|bytes: &[u8]| {
    for (max_head_bytes, enable_trailers) in [(60 * 1024, true), (256, false)] {
        let settings = Arc::new(Settings {
            accept_http_10: true,
            allow_connect: true,
            enable_trailers,
            max_head_bytes,
            ..Settings::default()
        });
        let drive = Drive {
            make: &|| Server::new(Arc::clone(&settings)),
            parked: &|server: &Server| {
                // An idle connection starts counting its streams anew.
                let compact = server.park().filter(|compact| !compact.is_empty())?;
                Some(Server::unpark(Arc::clone(&settings), &compact))
            },
            answer: &|server, stream, out| {
                let sent = server.send_head(stream, &response(200), true, out);
                sent.is_ok()
            },
            eof: false,
        };
        drive.check(bytes);
    }
});
