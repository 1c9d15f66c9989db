//! An exchange that left HTTP and stays a stream: bytes as they are, and two ends.

use std::sync::Arc;

use super::*;
use crate::codec::Millis;

const NOW: Millis = 0;

/// Decodes once; events as text.
fn feed(codec: &mut dyn Codec, input: &[u8]) -> (Vec<String>, Why) {
    let (mut events, mut out) = (Events::default(), Out::default());
    let consumed = codec.decode(NOW, input, &mut events, &mut out);
    let mut log = Log::default();
    log.events(input, &mut events);
    log.flush();
    (log.lines, consumed.why)
}

fn ended(codec: &mut dyn Codec) -> bool {
    let mut events = Events::default();
    assert_eq!(codec.eof(0, &mut events), None);
    matches!(events.list[..], [Event::Data { end: true, .. }])
}

fn send(codec: &mut dyn Codec, len: usize, end: bool) -> usize {
    let mut out = Out::default();
    assert_eq!(codec.send_data(1, len, end, &mut out), Ok(len));
    assert!(out.bytes.is_empty(), "no framing");
    out.payloads.iter().map(|part| part.end - part.start).sum()
}

fn server() -> Server {
    let settings = Arc::new(Settings {
        upgrades: vec!["websocket".into()],
        ..Settings::default()
    });
    let mut server = Server::new(settings);
    let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    feed(&mut server, ask);
    let mut head = Head::new();
    head.kind = HeadKind::Response;
    head.status = 101;
    head.upgrade = true;
    head.push(b"upgrade", b"websocket");
    let mut out = Out::default();
    server.send_head(1, &head, false, &mut out).unwrap();
    assert!(!server.is_raw());
    server.pass_through();
    server
}

fn client() -> Client {
    let mut client = Client::new(Arc::new(Settings::default()));
    assert_eq!(client.open(), Some(1));
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_path(b"/");
    head.set_authority(b"a");
    head.upgrade = true;
    head.push(b"upgrade", b"websocket");
    let mut out = Out::default();
    client.send_head(1, &head, true, &mut out).unwrap();
    assert!(!out.bytes.windows(7).any(|seven| seven == b"chunked"));
    let said = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst";
    let (_, why) = feed(&mut client, said);
    assert_eq!(why, Why::Upgraded);
    client.pass_through();
    client
}

/// Parks and wakes.
fn slept(codec: &dyn Codec, wake: impl Fn(&[u8]) -> Box<dyn Codec>) -> Box<dyn Codec> {
    wake(&codec.park().expect("silent"))
}

fn both() -> Vec<Box<dyn Codec>> {
    let settings = Arc::new(Settings::default());
    let (server, client) = (server(), client());
    let of_server = |compact: &[u8]| -> Box<dyn Codec> {
        Box::new(Server::unpark(Arc::clone(&settings), compact))
    };
    let of_client = |compact: &[u8]| -> Box<dyn Codec> {
        Box::new(Client::unpark(Arc::clone(&settings), compact))
    };
    vec![
        slept(&server, of_server),
        slept(&client, of_client),
        Box::new(server),
        Box::new(client),
    ]
}

#[test]
fn bytes_pass_as_they_are() {
    for mut codec in both() {
        let codec = &mut *codec;
        assert!(codec.is_raw() && codec.streams() == 1);
        let (lines, why) = feed(codec, b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(lines, [r"1 data HTTP/1.1 200 OK\r\n\r\n"]);
        assert_eq!(why, Why::NeedMore);
        assert_eq!(send(codec, 7, false), 7);
        assert!(!codec.finished());
    }
}

#[test]
fn each_direction_ends_for_itself() {
    for mut codec in both() {
        assert!(ended(&mut *codec));
        assert!(!codec.finished() && codec.streams() == 1);
        assert_eq!(send(&mut *codec, 3, false), 3);
        assert_eq!(send(&mut *codec, 0, true), 0);
        assert!(codec.finished() && codec.streams() == 0);
    }
    for mut codec in both() {
        assert_eq!(send(&mut *codec, 3, true), 3);
        assert!(!codec.finished() && codec.streams() == 1);
        assert_eq!(feed(&mut *codec, b"more").0, ["1 data more"]);
        assert!(ended(&mut *codec));
        assert!(codec.finished() && codec.streams() == 0);
    }
}

#[test]
fn a_reset_ends_it() {
    for mut codec in both() {
        let mut out = Out::default();
        codec.reset(1, crate::codec::ResetReason::Cancel, &mut out);
        assert!(codec.finished());
        codec.pass_through();
        assert!(codec.finished(), "what is over stays over");
    }
}
