//! Any bytes to both ends of the test protocol.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::testmux::{Mux, Role, Settings};
use moorgate_codecs::{Codec, Head, Out};
use moorgate_fuzz::{Drive, response};

fuzz_target!(|bytes: &[u8]| {
    let settings = Settings {
        window: 64,
        max_streams: 4,
        max_payload: 128,
        heartbeat: Some(10),
    };
    for role in [Role::Server, Role::Client] {
        let drive = Drive {
            make: &|| {
                let mut mux = Mux::new(role, settings);
                // So that there is something to answer and to give credit for.
                for _ in 0..2 {
                    let stream = mux.open().expect("a fresh connection");
                    let mut head = Head::new();
                    head.set_method(b"GET");
                    mux.send_head(stream, &head, false, &mut Out::default())
                        .expect("a good head");
                }
                mux
            },
            parked: &|mux: &Mux| Some(Mux::unpark(role, settings, &mux.park()?)),
            answer: &|mux, stream, out| {
                // Output of a whole and of a cut run must agree, so nothing is said but this.
                let _ = mux.send_head(stream, &response(200), true, out);
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
