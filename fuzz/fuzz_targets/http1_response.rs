//! Any bytes to an HTTP/1 client that asked something.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::http1::{Client, Settings};
use moorgate_codecs::{Codec, Head, Out};
use moorgate_fuzz::Drive;

fuzz_target!(|bytes: &[u8]| {
    let settings = Arc::new(Settings {
        enable_trailers: true,
        ..Settings::default()
    });
    for (method, upgrade) in [
        ("GET", false),
        ("HEAD", false),
        ("CONNECT", false),
        ("GET", true),
    ] {
        let drive = Drive {
            make: &|| {
                let mut client = Client::new(Arc::clone(&settings));
                let stream = client.open().expect("an idle connection");
                let mut head = Head::new();
                head.set_method(method.as_bytes());
                head.set_path(b"/");
                head.set_authority(b"h:1");
                if upgrade {
                    head.upgrade = true;
                    head.push(b"upgrade", b"websocket");
                }
                client
                    .send_head(stream, &head, true, &mut Out::default())
                    .expect("a good head");
                client
            },
            parked: &|client: &Client| {
                let compact = client.park().filter(|compact| !compact.is_empty())?;
                Some(Client::unpark(Arc::clone(&settings), &compact))
            },
            answer: &|_, _, _| false,
            eof: true,
        };
        drive.check(bytes);
    }
});
