use std::net::SocketAddr;

use super::client_hello::{self, Names};
use super::http;
use super::proxy::{self, Version};

fn vector(width: usize, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[4 - width..], body].concat()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, body)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| vector(1, name)).collect();
    extension(16, &vector(2, &list))
}

fn handshake(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vector(1, &[9; 32]));
    body.extend(vector(2, &[0x13, 1, 0x13, 2]));
    body.extend(vector(1, &[0]));
    body.extend(vector(2, extensions));
    [&[1][..], &vector(3, &body)].concat()
}

/// Records of at most `size` bytes.
fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &vector(2, part)].concat();
    handshake.chunks(size).flat_map(record).collect()
}

fn hello(size: usize) -> Vec<u8> {
    let extensions = [
        extension(43, &[2, 3, 4]),
        sni(b"WWW.Example.com"),
        alpn(&[b"h2", b"http/1.1"]),
    ];
    records(&handshake(&extensions.concat()), size)
}

/// Every proper prefix asks for more, and what follows changes nothing.
fn every_prefix<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> T,
    more: &T,
) {
    let whole = parse(bytes);
    assert_ne!(&whole, more, "{bytes:?}");
    for end in 0..bytes.len() {
        assert_eq!(&parse(&bytes[..end]), more, "{end} of {bytes:?}");
    }
    let followed = [bytes, b"\x16\x03\x01\x00\x00 anything \r\n"].concat();
    assert_eq!(parse(&followed), whole);
}

#[test]
fn a_hello_is_read_however_it_is_spread_over_records() {
    for size in [1, 2, 5, 40, 16384] {
        let bytes = hello(size);
        every_prefix(&bytes, client_hello::parse, &client_hello::Found::More);
        let names = Names {
            server: Some("www.example.com".into()),
            protocols: Some(vec![(*b"h2").into(), (*b"http/1.1").into()]),
        };
        let found = client_hello::parse(&bytes);
        assert_eq!(found, client_hello::Found::Hello(names));
    }
}

#[test]
fn a_hello_without_names() {
    let none = client_hello::Found::Hello(Names::default());
    assert_eq!(client_hello::parse(&records(&handshake(&[]), 99)), none);
    // Without the extensions' own length, as before TLS 1.2.
    let mut bare = handshake(&[]);
    bare.truncate(bare.len() - 2);
    bare[3] -= 2;
    assert_eq!(client_hello::parse(&records(&bare, 999)), none);
}

#[test]
fn what_is_not_tls_is_told_at_once() {
    for bytes in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"\x15\x03\x01\x00\x02\x01\x00",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x04\x02",
        b"\x16\x03\x01\x00\x01\x02\x17\x03\x01\x00\x01\x01",
        b"\0",
    ] {
        let found = client_hello::parse(bytes);
        assert_eq!(found, client_hello::Found::NotTls, "{bytes:?}");
    }
}

#[test]
fn a_broken_hello_is_malformed() {
    let with = |extensions: &[u8]| client_hello::parse(&records(&handshake(extensions), 16384));
    for extensions in [
        [sni(b"a"), sni(b"b")].concat(),
        sni(b""),
        sni(&[b'a'; 256]),
        sni(b"a b"),
        sni(b"caf\xc3\xa9"),
        extension(0, &[]),
        extension(16, &[0, 0]),
        alpn(&[b""]),
        extension(16, &[0, 3, 9, b'h', b'2']),
        vec![0, 43, 0, 9, 1],
        vec![0],
    ] {
        let found = with(&extensions);
        assert_eq!(found, client_hello::Found::Malformed, "{extensions:?}");
    }
    // Another kind of record in the middle.
    let mut bytes = hello(40);
    bytes[45] = 23;
    assert_eq!(client_hello::parse(&bytes), client_hello::Found::Malformed);
}

#[test]
fn http_is_told_by_its_first_line() {
    use http::Found::{Http2, Http10, Http11};
    for (bytes, found) in [
        (&b"GET / HTTP/1.1\r"[..], Http11),
        (b"M-SEARCH * HTTP/1.1\n", Http11),
        (b"CONNECT a:1 HTTP/1.1\r", Http11),
        (b"brew pot HTTP/1.1\r", Http11),
        (b"GET /a b HTTP/1.0\r", Http10),
        (b"POST /caf\xe9 HTTP/0.9\r", Http10),
        (b"PRI * HTTP/2", Http2),
    ] {
        every_prefix(bytes, http::parse, &http::Found::More);
        assert_eq!(http::parse(bytes), found, "{bytes:?}");
    }
    for bytes in [
        &b"GET\r\n"[..],
        b"G(T",
        b"GET /\r\n",
        b"GET / HTTP/1.\r\n",
        b"GET HTTP/1.1\r\n",
        b"GET /\0",
        b"\r\n",
        b"\x16",
        b"PRI * HTTP/3\r",
        b" / HTTP/1.1\r\n",
    ] {
        assert_eq!(http::parse(bytes), http::Found::NotHttp, "{bytes:?}");
    }
    let mut long = b"GET /".to_vec();
    long.resize(http::MAX_BYTES - 1, b'a');
    assert_eq!(http::parse(&long), http::Found::More);
    long.push(b'a');
    assert_eq!(http::parse(&long), http::Found::NotHttp);
}

fn pair(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
    Some((source.parse().unwrap(), destination.parse().unwrap()))
}

#[test]
fn proxy_headers_that_are_written_are_read() {
    for version in [Version::V1, Version::V2] {
        for addresses in [
            None,
            pair("192.0.2.1:56324", "192.0.2.2:443"),
            pair("[2001:db8::1]:65535", "[2001:db8::2]:0"),
        ] {
            let mut bytes = Vec::new();
            proxy::write(version, addresses, &mut bytes);
            every_prefix(&bytes, proxy::parse, &proxy::Found::More);
            let header = proxy::Header {
                version,
                addresses,
                length: bytes.len(),
            };
            assert_eq!(proxy::parse(&bytes), proxy::Found::Header(header));
        }
        let mut mixed = Vec::new();
        proxy::write(version, pair("192.0.2.1:1", "[::1]:2"), &mut mixed);
        let proxy::Found::Header(header) = proxy::parse(&mixed) else {
            panic!("{mixed:?}");
        };
        assert_eq!(header.addresses, pair("[::ffff:192.0.2.1]:1", "[::1]:2"));
    }
}

/// A header of version 2 of its parts.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let fixed = [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..]].concat();
    [&fixed[..], &vector(2, body)].concat()
}

#[test]
fn proxy_headers_that_are_not_to_be_believed() {
    for line in [
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 +2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.1.1.1 ::1 1 2\r\n",
        "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 0.0.0.0 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 255.255.255.255 1 2\r\n",
        "PROXY TCP6 ff02::1 ::1 1 2\r\n",
        "PROXY \r\n",
        "PROXY TCP4 caf\u{e9}\r\n",
    ] {
        let found = proxy::parse(line.as_bytes());
        assert_eq!(found, proxy::Found::Malformed(Version::V1), "{line:?}");
    }
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'a'; 93]].concat();
    assert_eq!(proxy::parse(&endless[..106]), proxy::Found::More);
    assert_eq!(proxy::parse(&endless), proxy::Found::Malformed(Version::V1));
    for bytes in [
        v2(0x31, 0x11, &[1; 12]),
        v2(0x22, 0x11, &[1; 12]),
        v2(0x21, 0x11, &[1; 11]),
        v2(0x21, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[224; 12]),
        v2(0x21, 0x41, &[1; 12]),
        v2(0x21, 0x13, &[1; 12]),
        v2(0x21, 0x21, &[1; 35]),
        v2(0x21, 0x31, &[0; 215]),
        v2(0x21, 0x11, &[1; 13]),
        v2(0x21, 0x11, &[[1; 12].to_vec(), vec![1, 0, 2, 0]].concat()),
        v2(0x21, 0x11, &vec![1; proxy::MAX_HEADER]),
    ] {
        let found = proxy::parse(&bytes);
        assert_eq!(found, proxy::Found::Malformed(Version::V2), "{bytes:?}");
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROXZ",
        b"\r\n\r\n\x01",
        b"\x16\x03",
    ] {
        assert_eq!(proxy::parse(bytes), proxy::Found::Absent, "{bytes:?}");
    }
}

#[test]
fn proxy_headers_without_addresses_or_with_more_fields() {
    let tlv = [
        [127, 0, 0, 1, 127, 0, 0, 2, 0, 7, 0, 9].to_vec(),
        vec![4, 0, 2, 0, 0],
    ]
    .concat();
    for (bytes, addresses) in [
        (v2(0x20, 0x11, &[1; 12]), None),
        (v2(0x20, 0, &[]), None),
        (v2(0x20, 0x11, &[1]), None),
        (v2(0x21, 0, &[]), None),
        (v2(0x21, 0x31, &[0; 216]), None),
        (v2(0x21, 0x11, &tlv), pair("127.0.0.1:7", "127.0.0.2:9")),
        (b"PROXY UNKNOWN anything at all\r\n".to_vec(), None),
    ] {
        every_prefix(&bytes, proxy::parse, &proxy::Found::More);
        let proxy::Found::Header(header) = proxy::parse(&bytes) else {
            panic!("{bytes:?}");
        };
        assert_eq!((header.addresses, header.length), (addresses, bytes.len()));
    }
}

#[test]
fn a_header_with_fields_is_read_again() {
    use super::proxy::{Found, Version, parse, write_v2_with};
    let addresses = (
        "192.0.2.7:4711".parse().unwrap(),
        "192.0.2.1:443".parse().unwrap(),
    );
    let tlvs: [(u8, Box<[u8]>); 2] = [(0xf1, (*b"hello").into()), (0xf2, Box::default())];
    for addresses in [Some(addresses), None] {
        let mut bytes = b"before".to_vec();
        assert!(write_v2_with(addresses, &tlvs, &mut bytes));
        let Found::Header(header) = parse(&bytes[6..]) else {
            panic!("no header");
        };
        assert_eq!(header.version, Version::V2);
        assert_eq!(header.addresses, addresses);
        assert_eq!(header.length, bytes.len() - 6);
        assert!(bytes.ends_with(b"\xf1\0\x05hello\xf2\0\0"));
    }
    let much: [(u8, Box<[u8]>); 1] = [(1, vec![0; 65_534].into())];
    let mut bytes = Vec::new();
    assert!(!write_v2_with(None, &much, &mut bytes) && bytes.is_empty());
}
