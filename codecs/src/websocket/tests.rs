use proptest::prelude::*;

use super::*;

/// What a reader told, with the parts of messages put together.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Message(Opcode, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(Error),
}

/// Reads `bytes`, given in pieces that end at `cuts`.
fn told(role: Role, limits: Limits, bytes: &[u8], cuts: &[usize]) -> Vec<Told> {
    let mut reader = Reader::new(role, limits);
    let (mut told, mut message) = (Vec::new(), Vec::new());
    let mut held: Vec<u8> = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        held.extend_from_slice(&bytes[start..end]);
        start = end;
        let read = reader.read(&mut held, |event| match event {
            Event::Data {
                opcode,
                payload,
                last,
            } => {
                message.extend_from_slice(payload);
                if last {
                    told.push(Told::Message(opcode, std::mem::take(&mut message)));
                }
            }
            Event::Ping(payload) => told.push(Told::Ping(payload.to_vec())),
            Event::Pong(payload) => told.push(Told::Pong(payload.to_vec())),
            Event::Close { code, reason } => told.push(Told::Close(code, reason.to_owned())),
        });
        match read {
            Ok(count) => {
                held.drain(..count);
                assert!(reader.is_closed() || held.len() < MAX_HEADER + MAX_CONTROL);
            }
            Err(error) => {
                told.push(Told::Failed(error));
                return told;
            }
        }
    }
    told
}

/// The same however it is cut: in two at every place, and byte by byte.
fn always(role: Role, bytes: &[u8]) -> Vec<Told> {
    let whole = told(role, Limits::default(), bytes, &[]);
    for cut in 0..bytes.len() {
        let cut_once = told(role, Limits::default(), bytes, &[cut]);
        assert_eq!(cut_once, whole, "cut at {cut}");
    }
    let every: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(told(role, Limits::default(), bytes, &every), whole);
    whole
}

fn text(of: &str) -> Told {
    Told::Message(Opcode::Text, of.as_bytes().to_vec())
}

#[test]
fn the_examples_of_the_standard() {
    // Section 5.7.
    let hello = [0x81, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(always(Role::Client, &hello), [text("Hello")]);
    let masked = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(always(Role::Server, &masked), [text("Hello")]);
    let parts = [1, 3, 0x48, 0x65, 0x6c, 0x80, 2, 0x6c, 0x6f];
    assert_eq!(always(Role::Client, &parts), [text("Hello")]);
    let ping = [0x89, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(always(Role::Client, &ping), [Told::Ping(b"Hello".to_vec())]);
    for length in [256, 65_536] {
        let mut bytes = Vec::new();
        write_frame(true, Opcode::Binary, &vec![7; length], None, &mut bytes);
        let header: &[u8] = match length {
            256 => &[0x82, 0x7e, 1, 0],
            _ => &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0],
        };
        assert!(bytes.starts_with(header));
        let found = told(Role::Client, Limits::default(), &bytes, &[length / 2]);
        assert_eq!(found, [Told::Message(Opcode::Binary, vec![7; length])]);
    }
}

#[test]
fn control_frames_come_within_messages() {
    let key = Some([1, 2, 3, 4]);
    let mut bytes = Vec::new();
    write_frame(false, Opcode::Text, "caf\u{e9}".as_bytes(), key, &mut bytes);
    write_frame(true, Opcode::Ping, b"?", key, &mut bytes);
    // A character that is cut between two frames.
    write_frame(false, Opcode::Continuation, b"\xe2\x82", key, &mut bytes);
    write_frame(true, Opcode::Pong, b"", key, &mut bytes);
    write_frame(false, Opcode::Continuation, b"", key, &mut bytes);
    write_frame(true, Opcode::Continuation, b"\xac", key, &mut bytes);
    write_frame(true, Opcode::Binary, b"", key, &mut bytes);
    write_close(close::GOING_AWAY, "bye", key, &mut bytes);
    bytes.extend(b"what follows is not looked at");
    assert_eq!(
        always(Role::Server, &bytes),
        [
            Told::Ping(b"?".to_vec()),
            Told::Pong(Vec::new()),
            text("caf\u{e9}\u{20ac}"),
            Told::Message(Opcode::Binary, Vec::new()),
            Told::Close(Some(1001), "bye".to_owned()),
        ]
    );
}

#[test]
fn what_breaks_the_rules_is_named() {
    use Error::{CloseCode, Control, Fragment, Length, Mask, Opcode, ReservedBit, Utf8};
    for (bytes, error, code) in [
        (&[0xc1, 0][..], ReservedBit, 1002),
        (&[0x91, 0], ReservedBit, 1002),
        (&[0x83, 0], Opcode, 1002),
        (&[0x8b, 0], Opcode, 1002),
        (&[0x09, 0], Control, 1002),
        (&[0x89, 126, 0, 126], Control, 1002),
        (&[0x82, 126, 0, 125], Length, 1002),
        (&[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255], Length, 1002),
        (&[0x82, 127, 128, 0, 0, 0, 0, 0, 0, 0], Length, 1002),
        (&[0x81, 0x80, 0, 0, 0, 0], Mask, 1002),
        (&[0x80, 0], Fragment, 1002),
        (&[1, 0, 0x81, 0], Fragment, 1002),
        (&[0x88, 1, 3], CloseCode, 1002),
        (&[0x88, 2, 3, 0xec], CloseCode, 1002),
        (&[0x88, 2, 3, 0xed], CloseCode, 1002),
        (&[0x88, 2, 0, 0], CloseCode, 1002),
        (&[0x88, 2, 0x13, 0x88], CloseCode, 1002),
        (&[0x88, 3, 3, 0xe8, 0xff], Utf8, 1007),
        (&[0x81, 1, 0xff], Utf8, 1007),
        (&[0x81, 2, 0xe2, 0x82], Utf8, 1007),
        (&[1, 2, 0xe2, 0x82, 0x80, 1, 0x41], Utf8, 1007),
        (&[0x81, 3, 0xed, 0xa0, 0x80], Utf8, 1007),
    ] {
        let found = always(Role::Client, bytes);
        assert_eq!(found, [Told::Failed(error)], "{bytes:x?}");
        assert_eq!(error.close_code(), code);
    }
    let unmasked = always(Role::Server, &[0x81, 0]);
    assert_eq!(unmasked, [Told::Failed(Mask)]);
}

#[test]
fn text_fails_as_soon_as_it_cannot_be_utf8() {
    let mut reader = Reader::new(Role::Client, Limits::default());
    // A frame of 100 bytes, of which two have come.
    let read = reader.read(&mut [0x81, 100, b'a', 0xc0], |_| {});
    assert_eq!(read, Err(Error::Utf8));
}

#[test]
fn frames_and_messages_are_bounded_before_their_payload_comes() {
    let limits = Limits {
        frame: 10,
        message: 15,
    };
    let too_big = [Told::Failed(Error::TooBig)];
    assert_eq!(told(Role::Client, limits, &[0x82, 11], &[]), too_big);
    let mut bytes = Vec::new();
    write_frame(false, Opcode::Binary, &[0; 10], None, &mut bytes);
    bytes.extend([0x80, 6]);
    assert_eq!(told(Role::Client, limits, &bytes, &[]), too_big);
    assert_eq!(Error::TooBig.close_code(), 1009);
    let endless = [0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255];
    assert_eq!(
        told(Role::Client, Limits::default(), &endless, &[]),
        too_big
    );
}

#[test]
fn a_reason_that_does_not_fit_is_cut_at_a_character() {
    let mut bytes = Vec::new();
    write_close(1000, &"\u{20ac}".repeat(60), None, &mut bytes);
    assert_eq!(
        always(Role::Client, &bytes),
        [Told::Close(Some(1000), "\u{20ac}".repeat(41))]
    );
}

#[test]
fn the_boundary_between_frames_is_known() {
    let mut reader = Reader::new(Role::Client, Limits::default());
    assert!(reader.is_at_boundary());
    reader.read(&mut [2, 3, 0, 0], |_| {}).unwrap();
    assert!(!reader.is_at_boundary());
    reader.read(&mut [0], |_| {}).unwrap();
    assert!(reader.is_at_boundary());
}

/// A follower of these bytes, given in pieces that end at `cuts`.
fn followed(role: Role, bytes: &[u8], cuts: &[usize]) -> Follower {
    let mut follower = Follower::new(role);
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        follower.follow(&bytes[start..end]);
        start = end;
    }
    follower
}

#[test]
fn a_follower_knows_every_boundary() {
    let mut bytes = Vec::new();
    let mut boundaries = vec![0];
    for length in [0, 1, 125, 126, 65_535, 65_536, 3] {
        write_frame(
            length != 1,
            Opcode::Binary,
            &vec![7; length],
            Some([1, 2, 3, 4]),
            &mut bytes,
        );
        boundaries.push(bytes.len());
    }
    // Compressed: the bit of an extension does not hide where it ends.
    let at = bytes.len();
    write_frame(true, Opcode::Text, b"packed", Some([9; 4]), &mut bytes);
    bytes[at] |= 0x40;
    boundaries.push(bytes.len());
    let mut follower = Follower::new(Role::Server);
    for (count, byte) in bytes.iter().enumerate() {
        assert_eq!(
            follower.is_at_boundary(),
            boundaries.contains(&count),
            "{count}"
        );
        follower.follow(&[*byte]);
    }
    assert!(follower.is_at_boundary());
}

#[test]
fn nothing_is_followed_after_a_broken_rule_or_a_close() {
    let mut close = Vec::new();
    write_close(1000, "", None, &mut close);
    let broken: [&[u8]; 6] = [
        // An opcode that is not defined; a mask of a server; a long ping; a ping in parts; lengths.
        &[0x83, 0],
        &[0x82, 0x80, 0, 0, 0, 0],
        &[0x89, 126, 0, 200],
        &[0x09, 0],
        &[0x82, 126, 0, 5],
        &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in broken.into_iter().chain([&close[..]]) {
        let mut follower = followed(Role::Client, bytes, &[]);
        assert!(
            follower.is_over() && !follower.is_at_boundary(),
            "{bytes:?}"
        );
        follower.follow(&[0x82, 0]);
        assert!(follower.is_over());
    }
}

proptest! {
    #[test]
    fn a_follower_does_not_care_for_cuts(
        payloads in proptest::collection::vec((0_usize..300, any::<[u8; 4]>()), 0..6),
        garbage in proptest::collection::vec(any::<u8>(), 0..20),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        let mut boundaries = vec![0];
        for (length, key) in payloads {
            write_frame(true, Opcode::Binary, &vec![0x55; length], Some(key), &mut bytes);
            boundaries.push(bytes.len());
        }
        let sound = bytes.len();
        bytes.extend_from_slice(&garbage);
        bytes.truncate(end.index(bytes.len() + 1));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = followed(Role::Server, &bytes, &[]);
        let parts = followed(Role::Server, &bytes, &cuts);
        prop_assert_eq!(whole.is_over(), parts.is_over());
        prop_assert_eq!(whole.is_at_boundary(), parts.is_at_boundary());
        if bytes.len() <= sound {
            prop_assert_eq!(parts.is_at_boundary(), boundaries.contains(&bytes.len()));
        }
    }
}

/// A frame: (control, payload, split into fragments).
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        any::<String>().prop_map(|text| (Opcode::Text, text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| (Opcode::Binary, bytes)),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| (Opcode::Ping, bytes)),
        // Not always valid.
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| (Opcode::Text, bytes)),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| (Opcode::Close, bytes)),
    ];
    let one = (payload, any::<[u8; 4]>(), any::<prop::sample::Index>());
    proptest::collection::vec(one, 0..8).prop_map(|list| {
        let mut out = Vec::new();
        for ((opcode, bytes), key, at) in list {
            let key = Some(key);
            if opcode.is_control() || bytes.is_empty() {
                write_frame(true, opcode, &bytes, key, &mut out);
            } else {
                let (first, second) = bytes.split_at(at.index(bytes.len()));
                write_frame(false, opcode, first, key, &mut out);
                write_frame(true, Opcode::Ping, b"", key, &mut out);
                write_frame(true, Opcode::Continuation, second, key, &mut out);
            }
        }
        out
    })
}

proptest! {
    #[test]
    fn masking_is_byte_by_byte(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 4]>(),
        offset in 0u64..1000,
    ) {
        let plain: Vec<u8> = bytes
            .iter()
            .zip(offset..)
            .map(|(byte, at)| byte ^ key[(at % 4) as usize])
            .collect();
        mask(&mut bytes, key, offset);
        prop_assert_eq!(bytes, plain);
    }

    #[test]
    fn however_it_is_cut_the_same_is_told(
        bytes in frames(),
        mut cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = told(Role::Server, Limits::default(), &bytes, &[]);
        let mut cuts: Vec<usize> = cuts.drain(..).map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(told(Role::Server, Limits::default(), &bytes, &cuts), whole);
    }

    #[test]
    fn any_bytes_are_told_the_same_however_they_are_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        for role in [Role::Server, Role::Client] {
            let whole = told(role, Limits::default(), &bytes, &[]);
            let cut = cut.index(bytes.len() + 1);
            prop_assert_eq!(told(role, Limits::default(), &bytes, &[cut]), whole);
        }
    }
}
