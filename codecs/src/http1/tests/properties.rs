//! What holds for any bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::shapes::{REQUESTS, RESPONSES};
use super::*;

/// Bytes out of pieces that mean something to a parser, sometimes cut, and noise between them.
fn soup(shapes: &'static [(&str, &str, &str)]) -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "HEAD / HTTP/1.0\r\n",
        "CONNECT o:1 HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.0 304 x\r\n",
        "Host: h\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Expect: 100-continue\r\n",
        "X: y\r\n",
        "\r\n",
        "\r",
        "\n",
        " ",
        ":",
        "\0",
        "5\r\nhello\r\n",
        "5;x\r\nhello",
        "0\r\n\r\n",
        "0\r\nT: u\r\n\r\n",
        "ffffffffffffffff\r\n",
        "hello",
    ];
    let piece = prop_oneof![
        8 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        3 => (select(shapes), any::<prop::sample::Index>()).prop_map(|((_, _, shape), cut)| {
            let bytes = shape.replace("{H}", "Host: h\r\n").into_bytes();
            let end = bytes.len() - cut.index(bytes.len()) / 2;
            bytes[..end].to_vec()
        }),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

fn pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut %= bytes.len() + 1);
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}

/// The plainest possible reading of a chunked body: content, and where it ended. `Err` when it breaks
/// the grammar, `Ok(None)` when there is not enough of it.
fn reference(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    fn line(bytes: &[u8], at: &mut usize) -> Result<Option<Vec<u8>>, ()> {
        let mut text = Vec::new();
        let mut i = *at;
        while i < bytes.len() {
            if bytes[i] == b'\n' {
                return Err(());
            }
            if bytes[i] == b'\r' && bytes.get(i + 1) == Some(&b'\n') {
                *at = i + 2;
                return Ok(Some(text));
            }
            text.push(bytes[i]);
            i += 1;
        }
        Ok(None)
    }
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Some(text) = line(bytes, &mut at)? else {
            return Ok(None);
        };
        if text.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return Err(());
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let (size, extension) = match text.split_once(';') {
            Some((size, extension)) => (size.trim_end_matches([' ', '\t']), Some(extension)),
            None => (&text[..], None),
        };
        let _ = extension;
        if size.is_empty() || size.len() > 16 || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(());
        }
        let size = u64::from_str_radix(size, 16).map_err(|_| ())?;
        if size == 0 {
            break;
        }
        let end = u128::from(size) + at as u128;
        if end + 2 > bytes.len() as u128 {
            let rest = bytes.get(end.min(usize::MAX as u128) as usize..);
            return match rest {
                Some([b, ..]) if *b != b'\r' => Err(()),
                _ => Ok(None),
            };
        }
        content.extend_from_slice(&bytes[at..end as usize]);
        at = end as usize;
        if &bytes[at..at + 2] != b"\r\n" {
            return Err(());
        }
        at += 2;
    }
    // The trailer section is looked at as a whole.
    let section = at;
    while let Some(text) = line(bytes, &mut at)? {
        if text.is_empty() {
            for field in bytes[section..at - 2].split(|&b| b == b'\n') {
                let field = field.strip_suffix(b"\r").unwrap_or(field);
                let name = field.split(|&b| b == b':').next().unwrap_or_default();
                let name_ok =
                    !name.is_empty() && name.iter().all(|&b| super::super::chars::is_token_byte(b));
                let bad = field.iter().any(|b| b.is_ascii_control() && *b != b'\t');
                if !field.is_empty() && (!name_ok || name.len() == field.len() || bad) {
                    return Err(());
                }
            }
            return Ok(Some((content, at)));
        }
    }
    Ok(None)
}

fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => vec(any::<u8>(), 1..20).prop_map(|data| {
            let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
            chunk.extend(data);
            chunk.extend(b"\r\n");
            chunk
        }),
        2 => select(vec!["1;a=b\r\nx\r\n", "02 ;a\r\nxy\r\n", "1\r\nx\r\n"]).prop_map(|s| s.as_bytes().to_vec()),
        1 => select(vec!["1\nx\r\n", "1 \r\nx\r\n", "1\r\nxy\r\n", "\r\n", "g\r\n", "1;\0\r\nx\r\n", "1\r\nx\n"]).prop_map(|s| s.as_bytes().to_vec()),
    ];
    let end = select(vec![
        "0\r\n\r\n",
        "0\r\nA: b\r\n\r\n",
        "000;x\r\nA: b\r\nC:\r\n\r\n",
        "0\r\nA b\r\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\n\n",
        "0\r\n",
        "",
    ]);
    (vec(piece, 0..6), end, "[\\x00-\\x7f]{0,4}")
        .prop_map(|(pieces, end, rest)| [pieces.concat(), end.into(), rest.into()].concat())
}

fn token() -> impl Strategy<Value = String> {
    "[a-z0-9!#$%&'*+.^_`|~-]{1,12}"
}

fn value() -> impl Strategy<Value = String> {
    "([!-~\u{80}-\u{7ff}]([ \t!-~]{0,20}[!-~])?)?"
}

prop_compose! {
    fn head()(
        method in "[A-Z]{1,8}",
        path in "/[!-\"$-~]{0,30}",
        authority in "[a-z0-9.-]{1,12}(:[0-9]{1,5})?",
        fields in vec((token(), value()), 0..12),
        expect in any::<bool>(),
    ) -> Head {
        let mut head = Head::new();
        head.set_method(method.as_bytes());
        head.set_path(path.as_bytes());
        head.set_authority(authority.as_bytes());
        head.expect_continue = expect;
        for (name, value) in fields {
            let hop = ["te", "host", "expect", "upgrade", "connection", "keep-alive",
                "content-length", "http2-settings", "proxy-connection", "transfer-encoding",
                "content_length", "transfer_encoding"];
            if !hop.contains(&name.as_str()) {
                head.push(name.as_bytes(), value.as_bytes());
            }
        }
        head
    }
}

proptest! {
    #[test]
    fn any_bytes_to_a_server(bytes in soup(REQUESTS), cuts in vec(any::<usize>(), 0..6)) {
        let small = Arc::new(Settings { max_head_bytes: 200, max_fields: 4, ..(*settings()).clone() });
        for settings in [settings(), small] {
            let whole = serve_pieces(&settings, &[&bytes]);
            prop_assert_eq!(&serve_pieces(&settings, &pieces(&bytes, cuts.clone())), &whole);
            // Nothing grows beyond what came in.
            prop_assert!(whole.0.len() <= 2 * bytes.len() + 2);
        }
    }

    #[test]
    fn any_bytes_to_a_client(bytes in soup(RESPONSES), cuts in vec(any::<usize>(), 0..6), eof in any::<bool>()) {
        for method in ["GET", "HEAD"] {
            let asked = request(method, "/");
            let whole = receive_pieces(&asked, &[&bytes], eof);
            prop_assert_eq!(&receive_pieces(&asked, &pieces(&bytes, cuts.clone()), eof), &whole);
        }
    }

    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..300)) {
        serve_pieces(&settings(), &[&bytes]);
        receive_pieces(&request("GET", "/"), &[&bytes], true);
    }

    #[test]
    fn chunked_as_in_the_reference(body in chunked(), cut in any::<usize>()) {
        let mut wire = Wire::new(Server::new(settings()));
        wire.feed(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut why = Why::NeedMore;
        for piece in pieces(&body, vec![cut]) {
            if !matches!(why, Why::Closed(_)) {
                why = wire.feed(piece);
            }
        }
        let unread = wire.rest.len();
        let complete = wire.log.complete.is_some();
        let lines = wire.log.done();
        let data = lines.iter().find_map(|line| line.strip_prefix("1 data ")).unwrap_or("");
        match reference(&body) {
            Ok(Some((content, end))) => {
                prop_assert!(complete, "{:?}", lines);
                prop_assert_eq!(data, content.escape_ascii().to_string());
                prop_assert_eq!(unread, body.len() - end);
            }
            Ok(None) => prop_assert!(!complete && why == Why::NeedMore, "{:?}", lines),
            Err(()) => prop_assert!(
                !complete && matches!(why, Why::Closed(Some(_)) | Why::NeedMore),
                "{:?}", lines
            ),
        }
    }

    #[test]
    fn requests_come_back(
        head in head(),
        body in prop::option::of(vec(vec(any::<u8>(), 0..40), 0..5)),
        sized in any::<bool>(),
        cut in any::<usize>(),
    ) {
        let mut sent = Head::new();
        sent.copy_from(&head);
        let total: usize = body.iter().flatten().map(Vec::len).sum();
        if sized && body.is_some() {
            sent.content_length = Some(total as u64);
        }
        if sent.method() == b"CONNECT" {
            sent.set_method(b"GET");
        }
        let mut client = Wire::new(Client::new(settings()));
        client.codec.open().expect("fresh");
        client.codec.send_head(1, &sent, body.is_none(), &mut client.out).expect("encodable");
        let mut bytes = client.take_out(b"");
        if let Some(body) = &body {
            for part in body {
                client.codec.send_data(1, part.len(), false, &mut client.out).expect("open");
                bytes.extend(client.take_out(part));
            }
            client.codec.send_data(1, 0, true, &mut client.out).expect("open");
            bytes.extend(client.take_out(b""));
        }
        let settings = Settings { custom_methods: true, ..(*settings()).clone() };
        let mut server = Wire::new(Server::new(Arc::new(settings)));
        for piece in pieces(&bytes, vec![cut]) {
            server.feed(piece);
        }
        prop_assert!(server.log.complete.is_some());
        prop_assert!(server.rest.is_empty());
        let lines = server.log.done();
        if body.is_none() && !matches!(sent.method(), b"GET" | b"HEAD" | b"DELETE" | b"TRACE") {
            sent.content_length = Some(0);
        }
        let expected = format!("1 {}", describe(&sent));
        prop_assert_eq!(lines[0].strip_suffix(" end").unwrap_or(&lines[0]), &expected);
        let data = body.unwrap_or_default().concat().escape_ascii().to_string();
        let got = lines.iter().find_map(|line| line.strip_prefix("1 data ")).unwrap_or("");
        prop_assert_eq!(got, data);
    }
}
