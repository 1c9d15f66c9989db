//! Any bytes as the first ones of a connection.

#![no_main]

use libfuzzer_sys::fuzz_target;
use moorgate_codecs::preface::{client_hello, http, proxy};

/// What is said of a prefix, other than that it is too short, is said of everything that begins so.
fn agree<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[u8]) -> T, more: &T) {
    let whole = parse(bytes);
    // All splits of short inputs, some of long ones.
    let step = bytes.len() / 256 + 1;
    for end in (0..bytes.len()).step_by(step) {
        let found = parse(&bytes[..end]);
        assert!(&found == more || found == whole, "{end}: {found:?}, then {whole:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    agree(bytes, client_hello::parse, &client_hello::Found::More);
    agree(bytes, http::parse, &http::Found::More);
    agree(bytes, proxy::parse, &proxy::Found::More);
    if let client_hello::Found::Hello(names) = client_hello::parse(bytes) {
        let server = names.server.as_deref().unwrap_or("a");
        assert!(!server.is_empty() && server.len() <= 255);
        assert!(names.protocols.is_none_or(|list| !list.is_empty()));
    }
    if let proxy::Found::Header(header) = proxy::parse(bytes) {
        assert!(header.length <= bytes.len());
        let mut again = Vec::new();
        proxy::write(header.version, header.addresses, &mut again);
        let proxy::Found::Header(read) = proxy::parse(&again) else {
            panic!("{again:?}");
        };
        assert_eq!(read.addresses, header.addresses);
    }
});
