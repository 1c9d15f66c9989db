use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::tls::server::ServerPlan;
use crate::tls::verify::{AltNameKind, AltNameMatcher};
use crate::tls::{TlsError, suite_name, x509};

fn contexts(tls12: bool) -> (ClientContext, ServerContext) {
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 1);
    let mut client = client_plan(&authority);
    client.parameters = parameters(tls12, !tls12);
    (
        ClientContext::build(client).expect("a client"),
        ServerContext::build(server_plan(&issued)).expect("a server"),
    )
}

fn with(
    client: impl FnOnce(&Authority, &mut ClientPlan),
    server: impl FnOnce(&Authority, &mut ServerPlan),
) -> Pair {
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 1);
    let mut client_side = client_plan(&authority);
    client(&authority, &mut client_side);
    let mut server_side = server_plan(&issued);
    server(&authority, &mut server_side);
    let client = ClientContext::build(client_side).expect("a client");
    let server = ServerContext::build(server_side).expect("a server");
    let mut pair = Pair::new(&client, &server);
    pair.pump(usize::MAX);
    pair
}

#[test]
fn both_versions_shake_hands_in_any_pieces() {
    for tls12 in [false, true] {
        let (client, server) = contexts(tls12);
        for piece in [1, 2, 5, 6, 100, usize::MAX] {
            let mut pair = Pair::new(&client, &server);
            pair.pump(piece);
            assert!(pair.is_open(), "{tls12} in pieces of {piece}");
            let agreed = pair.server.session.agreed();
            assert_eq!(
                agreed.version_name(),
                if tls12 { "TLSv1.2" } else { "TLSv1.3" }
            );
            assert_eq!(agreed.server_name.as_deref(), Some("moorgate.test"));
            assert!(!suite_name(agreed.suite).is_empty());
            pair.client.send(0, b"ping");
            pair.pump(piece);
            pair.server.send(0, b"pong");
            pair.server.session.close(&mut pair.server.wire);
            pair.pump(piece);
            assert_eq!(pair.server.plain, b"ping");
            assert_eq!(pair.client.plain, b"pong");
            assert!(pair.client.last.closed && !pair.server.last.closed);
            // The other direction stays open.
            pair.client.send(0, b" still");
            pair.pump(piece);
            assert_eq!(pair.server.plain, b"ping still");
        }
    }
}

/// Application data in the same segment as the end of the handshake is not lost.
#[test]
fn data_right_behind_the_handshake_arrives() {
    for tls12 in [false, true] {
        let (client, server) = contexts(tls12);
        let mut pair = Pair::new(&client, &server);
        while pair.client.session.is_shaking() {
            pair.server.take(&std::mem::take(&mut pair.client.wire));
            pair.client.take(&std::mem::take(&mut pair.server.wire));
        }
        pair.client.send(0, b"early bird");
        pair.pump(usize::MAX);
        assert_eq!(pair.server.plain, b"early bird");
    }
}

#[test]
fn a_session_resumes_by_ticket_and_by_number() {
    for (tls12, no_tickets) in [(false, false), (true, false), (true, true)] {
        let authority = Authority::new("root");
        let issued = authority.issue(&["moorgate.test"], 1);
        let mut client = client_plan(&authority);
        client.parameters = parameters(tls12, !tls12);
        let mut server = server_plan(&issued);
        server.no_tickets = no_tickets;
        let client = ClientContext::build(client).expect("a client");
        let server = ServerContext::build(server).expect("a server");
        for round in 0..3 {
            let mut pair = Pair::new(&client, &server);
            pair.pump(usize::MAX);
            assert!(pair.is_open());
            let resumed = pair.server.session.agreed().resumed;
            assert_eq!(resumed, round > 0, "{tls12} {no_tickets} {round}");
            assert_eq!(pair.client.session.agreed().resumed, resumed);
        }
    }
}

#[test]
fn without_tickets_and_numbers_nothing_resumes() {
    let (tls12, tls13) = (true, true);
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 1);
    let mut server = server_plan(&issued);
    (server.no_tickets, server.no_sessions) = (true, true);
    let server = ServerContext::build(server).expect("a server");
    for parameters in [parameters(tls12, false), parameters(false, tls13)] {
        let mut client = client_plan(&authority);
        client.parameters = parameters;
        let client = ClientContext::build(client).expect("a client");
        for _ in 0..2 {
            let mut pair = Pair::new(&client, &server);
            pair.pump(usize::MAX);
            assert!(pair.is_open() && !pair.server.session.agreed().resumed);
        }
    }
}

#[test]
fn the_first_common_protocol_of_the_server_is_chosen() {
    let alpn = |list: &[&str]| list.iter().map(|one| one.as_bytes().to_vec()).collect();
    let pair = with(
        |_, client| client.alpn = alpn(&["http/1.1", "h2"]),
        |_, server| server.alpn = alpn(&["h2", "http/1.1"]),
    );
    assert_eq!(
        pair.server.session.agreed().alpn.as_deref(),
        Some(&b"h2"[..])
    );
    assert_eq!(
        pair.client.session.agreed().alpn.as_deref(),
        Some(&b"h2"[..])
    );
}

#[test]
fn without_a_common_protocol_none_is_chosen() {
    let alpn = |list: &[&str]| list.iter().map(|one| one.as_bytes().to_vec()).collect();
    let pair = with(
        |_, client| client.alpn = alpn(&["http/1.0"]),
        |_, server| server.alpn = alpn(&["h2", "http/1.1"]),
    );
    assert!(pair.is_open());
    assert_eq!(pair.server.session.agreed().alpn, None);
    assert_eq!(pair.client.session.agreed().alpn, None);
}

#[test]
fn keys_change_on_both_sides_and_no_number_is_used_twice() {
    let watch = crate::tls::seals::Watch::begin();
    let (client, server) = contexts(false);
    let mut pair = Pair::new(&client, &server);
    pair.pump(usize::MAX);
    let mut seen = HashSet::new();
    let mut sent = Vec::new();
    for round in 0..20u64 {
        let before = pair.client.session.numbers().expect("open").1;
        if round % 5 == 4 {
            pair.client
                .session
                .update_keys(&mut pair.client.wire, round % 2 == 0);
        }
        if round % 3 == 0 {
            // What a parked connection keeps is enough, in any state.
            pair.client.session.park();
            pair.server.session.park();
        }
        // The number is used up with a record, and starts again only with another key.
        let key = round / 5 + u64::from(round % 5 == 4);
        assert!(seen.insert((key, pair.client.session.numbers().expect("open").1)));
        let message = [round as u8; 700];
        pair.client.send(round, &message);
        sent.extend_from_slice(&message);
        assert!(
            pair.client.session.numbers().expect("open").1 > 0,
            "{before}"
        );
        pair.pump(333);
        assert_eq!(pair.server.plain, sent);
        pair.server.send(round, b"ack");
        pair.pump(usize::MAX);
        assert!(pair.is_open());
    }
    assert!(watch.count() > 40);
    let (read, _) = pair.server.session.numbers().expect("open");
    assert_eq!(read, pair.client.session.numbers().expect("open").1);
}

#[test]
fn records_grow_with_the_flow_and_start_small_after_a_silence() {
    let (client, server) = contexts(false);
    let mut pair = Pair::new(&client, &server);
    pair.pump(usize::MAX);
    let lens = |end: &mut End, now, n: usize| {
        end.send(now, &vec![1; n]);
        let wire = std::mem::take(&mut end.wire);
        let mut at = 0;
        let mut lens = Vec::new();
        while at < wire.len() {
            let len = usize::from(u16::from_be_bytes([wire[at + 3], wire[at + 4]]));
            lens.push(len);
            at += 5 + len;
        }
        lens
    };
    let server = &mut pair.server;
    let first = lens(server, 10_000, 200_000);
    assert_eq!(first[0], 1369 + 17);
    assert_eq!(*first.iter().max().expect("records"), 16_384 + 17);
    assert_eq!(lens(server, 10_500, 20_000)[0], 16_384 + 17);
    assert_eq!(lens(server, 11_600, 20_000)[0], 1369 + 17);
    let bound = server.session.sealed_len(20_000);
    let sum: usize = lens(server, 20_000, 20_000).iter().map(|len| len + 5).sum();
    assert!(sum <= bound, "{sum} of {bound}");
}

#[test]
fn a_changed_byte_is_answered_by_an_alert() {
    for tls12 in [false, true] {
        let (client, server) = contexts(tls12);
        let mut pair = Pair::new(&client, &server);
        pair.pump(usize::MAX);
        pair.client.send(0, b"ping");
        *pair.client.wire.last_mut().expect("a record") ^= 1;
        pair.pump(usize::MAX);
        assert_eq!(pair.server.last.error, Some(TlsError::Protocol));
        assert_eq!(pair.client.last.error, Some(TlsError::PeerAlert));
        assert!(pair.server.plain.is_empty());
    }
}

#[test]
fn what_is_no_tls_is_refused() {
    let (_, server) = contexts(false);
    for said in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        &[0; 64],
        &[22, 3, 1, 0xff, 0xff],
    ] {
        let session = Session::server(&server, false).expect("a server");
        let mut end = End::new(session, Vec::new());
        end.take(said);
        assert_eq!(end.last.error, Some(TlsError::Protocol), "{said:?}");
    }
}

#[test]
fn a_client_without_its_certificate_is_refused() {
    let pair = with(
        |_, _| {},
        |authority, server| {
            server.validation = Some(Validation {
                anchors: Some(authority.anchors()),
                ..Validation::default()
            });
            server.require_certificate = true;
        },
    );
    assert_eq!(pair.server.last.error, Some(TlsError::NoCertificate));
    assert_eq!(pair.client.last.error, Some(TlsError::PeerAlert));
}

fn matcher(kind: AltNameKind, exact: &str) -> AltNameMatcher {
    let wanted = exact.to_owned();
    AltNameMatcher {
        kind,
        exact: Some(exact.to_owned()),
        matches: Box::new(move |text| text == wanted),
    }
}

/// What the server says to a client whose certificate has these names, serial 7.
fn judged(
    names: &[&str],
    validation: impl FnOnce(&Authority, &Issued, Validation) -> Validation,
) -> Result<Pair, TlsError> {
    let authority = Authority::new("root");
    let issued = authority.issue(names, 7);
    let pair = with(
        |_, client| {
            client.identities = vec![issued.identity()];
            client.validation.anchors = None;
        },
        |_, server| {
            let anchors = Some(authority.anchors());
            let plain = Validation {
                anchors,
                ..Validation::default()
            };
            server.validation = Some(validation(&authority, &issued, plain));
            server.require_certificate = true;
        },
    );
    match pair.server.last.error {
        Some(error) => Err(error),
        None => Ok(pair),
    }
}

#[test]
fn client_certificates_are_judged_by_chain_names_digests_and_lists() {
    let names = [
        "client.test",
        "uri:spiffe://moorgate.test/a",
        "email:a@b.test",
        "10.1.2.3",
    ];
    let pair = judged(&names, |_, _, plain| plain).expect("a good certificate");
    let agreed = pair.server.session.agreed();
    let peer = agreed.peer.as_ref().expect("its certificate");
    let parts = peer.parts().expect("its parts");
    assert_eq!(parts.alt_names.len(), 4);
    assert_eq!(
        x509::name(parts.subject),
        r"CN=client.test,O=Moorgate\, tests"
    );
    assert!(x509::name(parts.issuer).contains("CN=root"));
    assert_eq!(parts.validity, (1_577_836_800, 4_733_510_400));
    assert_eq!(peer.sha256().len(), 64);
    for (kind, exact) in [
        (AltNameKind::Dns, "client.test"),
        (AltNameKind::Uri, "spiffe://moorgate.test/a"),
        (AltNameKind::Email, "a@b.test"),
        (AltNameKind::Ip, "10.1.2.3"),
    ] {
        judged(&names, |_, _, mut plain| {
            plain
                .alt_names
                .push(matcher(AltNameKind::Dns, "other.test"));
            plain.alt_names.push(matcher(kind, exact));
            plain
        })
        .expect("a name that matches");
    }
    let other = judged(&names, |_, _, mut plain| {
        plain
            .alt_names
            .push(matcher(AltNameKind::Uri, "client.test"));
        plain
    });
    assert_eq!(other.err(), Some(TlsError::AltName));
    let stranger = judged(&names, |_, _, mut plain| {
        plain.anchors = Some(Authority::new("another root").anchors());
        plain
    });
    assert_eq!(stranger.err(), Some(TlsError::Certificate));
    judged(&names, |_, _, mut plain| {
        plain.anchors = Some(Authority::new("another root").anchors());
        plain.accept_untrusted = true;
        plain
    })
    .expect("accepted all the same");
    let digest = |bytes: &[u8]| {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        <[u8; 32]>::try_from(digest.as_ref()).expect("32 bytes")
    };
    judged(&names, |_, issued, mut plain| {
        plain.anchors = None;
        plain.hashes.push(digest(&issued.der));
        plain
    })
    .expect("its digest");
    judged(&names, |_, issued, mut plain| {
        let parts = x509::parts(&issued.der).expect("parts");
        plain.hashes.push([0; 32]);
        plain.keys.push(digest(parts.spki));
        plain
    })
    .expect("its key's digest");
    let wrong = judged(&names, |_, _, mut plain| {
        plain.keys.push([0; 32]);
        plain
    });
    assert_eq!(wrong.err(), Some(TlsError::Hash));
    let revoked = judged(&names, |authority, _, mut plain| {
        plain.revoked.push(authority.revoke(7));
        plain
    });
    assert_eq!(revoked.err(), Some(TlsError::Certificate));
    judged(&names, |authority, _, mut plain| {
        plain.revoked.push(authority.revoke(8));
        plain
    })
    .expect("another one's is revoked");
}

#[test]
fn a_server_with_another_name_or_authority_is_refused() {
    let pair = with(
        |_, client| client.server_name = Some("other.test".to_owned()),
        |_, _| {},
    );
    assert_eq!(pair.client.last.error, Some(TlsError::AltName));
    let pair = with(
        |_, client| client.validation.anchors = Some(Authority::new("x").anchors()),
        |_, _| {},
    );
    assert_eq!(pair.client.last.error, Some(TlsError::Certificate));
    assert_eq!(pair.server.last.error, Some(TlsError::PeerAlert));
}

#[test]
fn an_expired_certificate_is_refused_unless_it_is_allowed() {
    let authority = Authority::new("root");
    let key = rcgen::KeyPair::generate().expect("a key");
    let issued = authority.issue_for(&["moorgate.test"], 1, &key, (2020, 2021));
    let server = ServerContext::build(server_plan(&issued)).expect("a server");
    for allowed in [false, true] {
        let mut plan = client_plan(&authority);
        plan.validation.allow_expired = allowed;
        let client = ClientContext::build(plan).expect("a client");
        let mut pair = Pair::new(&client, &server);
        pair.pump(usize::MAX);
        assert_eq!(pair.is_open(), allowed);
    }
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let authority = Authority::new("root");
    let [a, b, c] = [["a.test"], ["b.test"], ["*.c.test"]].map(|names| authority.issue(&names, 1));
    let mut plan = server_plan(&a);
    plan.identities.extend([b.identity(), c.identity()]);
    let server = ServerContext::build(plan).expect("a server");
    for (asked, fits) in [
        ("a.test", true),
        ("b.test", true),
        ("x.c.test", true),
        ("c.test", false),
        ("x.y.c.test", false),
    ] {
        let mut plan = client_plan(&authority);
        plan.server_name = Some(asked.to_owned());
        let client = ClientContext::build(plan).expect("a client");
        let mut pair = Pair::new(&client, &server);
        pair.pump(usize::MAX);
        assert_eq!(pair.is_open(), fits, "{asked}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is said in whatever pieces, with parking in between: the same bytes in the same order.
    #[test]
    fn any_split_gives_the_same_bytes(
        tls12: bool,
        talk in proptest::collection::vec((any::<bool>(), 0usize..40_000, any::<bool>()), 1..6),
        piece in 1usize..20_000,
    ) {
        let (client, server) = contexts(tls12);
        let mut pair = Pair::new(&client, &server);
        pair.pump(piece);
        prop_assert!(pair.is_open());
        let mut said = [Vec::new(), Vec::new()];
        for (index, (by_client, len, park)) in talk.into_iter().enumerate() {
            let message: Vec<u8> = (0..len).map(|at| (at + index) as u8).collect();
            let end = if by_client { &mut pair.client } else { &mut pair.server };
            end.send(index as u64 * 300, &message);
            said[usize::from(by_client)].extend_from_slice(&message);
            if park {
                pair.client.session.park();
                pair.server.session.park();
            }
            pair.pump(piece);
        }
        prop_assert!(pair.is_open());
        prop_assert!(pair.client.plain == said[0]);
        prop_assert!(pair.server.plain == said[1]);
    }

    /// No byte of the network makes a session panic, in any flight, whole or in pieces.
    #[test]
    fn noise_is_refused(
        tls12: bool,
        flight in 0usize..4,
        at in any::<usize>(),
        change in 0usize..5,
        noise in proptest::collection::vec(any::<u8>(), 1..600),
        piece in 1usize..3000,
    ) {
        let (client, server) = contexts(tls12);
        let mut pair = Pair::new(&client, &server);
        for number in 0..4 {
            let from_client = number % 2 == 0;
            let (from, to) = if from_client {
                (&mut pair.client, &mut pair.server)
            } else {
                (&mut pair.server, &mut pair.client)
            };
            let mut wire = std::mem::take(&mut from.wire);
            if number == flight {
                let at = at % (wire.len() + 1);
                match change {
                    0 => wire.insert(at, noise[0]),
                    1 => wire.truncate(at),
                    2 => {
                        wire.splice(at..at, noise.iter().copied());
                    }
                    3 => wire.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= noise[0] | 1),
                    _ => wire = noise.clone(),
                }
            }
            for bytes in wire.chunks(piece) {
                to.take(bytes);
                if to.last.error.is_some() {
                    break;
                }
            }
        }
        prop_assert!(pair.server.plain.is_empty() && pair.client.plain.is_empty());
    }
}
