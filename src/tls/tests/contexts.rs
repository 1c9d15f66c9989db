//! What contexts decide: names, certificates and their staples, tickets, key logs.

use super::*;
use crate::tls::TicketKey;
use crate::tls::identity::Unstapled;
use crate::tls::key_log::KeyLog;
use crate::tls::ocsp::{StaplePolicy, tests::response};
use crate::tls::x509;

fn shaken(client: &ClientContext, server: &ServerContext, asked: &Asked<'_>) -> Pair {
    let mut wire = Vec::new();
    let client = Session::client(client, asked, &mut wire).expect("a client");
    let mut pair = Pair {
        client: End::new(client, wire),
        server: End::new(
            Session::server(server, false).expect("a server"),
            Vec::new(),
        ),
    };
    pair.pump(usize::MAX);
    pair
}

#[test]
fn a_name_that_a_request_brought_is_asked_for_and_verified() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["a.test", "*.b.test", "127.0.0.1"], 1);
    let server = ServerContext::build(server_plan(&issued)).expect("a server");
    for verify in [false, true] {
        let mut plan = client_plan(&authority);
        plan.match_server_name = false;
        plan.match_requested_name = verify;
        plan.max_sessions = 8;
        let client = ClientContext::build(plan).expect("a client");
        let ask = |name, by_request| {
            let asked = Asked {
                name,
                by_request,
                ..Asked::default()
            };
            shaken(&client, &server, &asked)
        };
        let wrong = ask(Some("c.test"), true);
        assert_eq!(wrong.is_open(), !verify);
        for (name, sent) in [
            ("a.test", Some("a.test")),
            ("x.b.test", Some("x.b.test")),
            ("127.0.0.1", None),
        ] {
            let pair = ask(Some(name), true);
            assert!(pair.is_open(), "{name}");
            assert_eq!(pair.server.session.agreed().server_name.as_deref(), sent);
        }
        // What was agreed on without a name is not resumed under one.
        assert!(ask(Some("c.test"), false).is_open());
        assert_eq!(ask(Some("c.test"), true).is_open(), !verify);
        assert!(ask(None, false).is_open());
    }
}

#[test]
fn without_a_name_there_is_no_certificate_where_one_is_required() {
    let authority = Authority::new("root");
    for required in [false, true] {
        let mut plan = server_plan(&authority.issue(&["a.test"], 1));
        plan.require_name = required;
        let server = ServerContext::build(plan).expect("a server");
        let mut plan = client_plan(&authority);
        (plan.match_server_name, plan.server_name) = (false, None);
        let client = ClientContext::build(plan).expect("a client");
        let pair = shaken(&client, &server, &Asked::default());
        assert_eq!(pair.is_open(), !required);
        let asked = Asked {
            name: Some("b.test"),
            ..Asked::default()
        };
        assert!(shaken(&client, &server, &asked).is_open());
    }
}

/// The server's order counts, unless the client's is to.
#[test]
fn cipher_suites_are_chosen_in_the_order_that_counts() {
    let authority = Authority::new("root");
    for (client_order, chosen) in [(false, 0xc02b), (true, 0xcca9)] {
        let mut plan = server_plan(&authority.issue(&["moorgate.test"], 1));
        plan.client_order = client_order;
        let server = ServerContext::build(plan).expect("a server");
        let mut plan = client_plan(&authority);
        plan.parameters = Parameters {
            suites: vec![0xcca9, 0xc02c, 0xc02b],
            ..parameters(true, false)
        };
        let client = ClientContext::build(plan).expect("a client");
        let pair = shaken(&client, &server, &Asked::default());
        assert_eq!(pair.server.session.agreed().suite, chosen);
    }
}

/// Another context with the same keys takes a ticket only when it would have judged the client alike.
#[test]
fn a_ticket_is_not_taken_by_a_context_that_asks_for_more() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 1);
    let server = |scope, required: bool| {
        let mut plan = server_plan(&issued);
        plan.ticket_keys = vec![TicketKey::new(&[7; 80]).expect("80 bytes")];
        plan.scope = [scope; 32];
        plan.require_certificate = required;
        plan.validation = required.then(Validation::default);
        ServerContext::build(plan).expect("a server")
    };
    for (tls12, tls13) in [(true, false), (false, true)] {
        let mut plan = client_plan(&authority);
        plan.parameters = parameters(tls12, tls13);
        let client = ClientContext::build(plan).expect("a client");
        let asked = Asked::default();
        assert!(shaken(&client, &server(1, false), &asked).is_open());
        let again = shaken(&client, &server(1, false), &asked);
        assert!(again.server.session.agreed().resumed);
        let stricter = shaken(&client, &server(2, true), &asked);
        assert!(!stricter.is_open(), "no certificate was shown");
    }
}

fn staple(issued: &Issued, until: Option<&str>) -> Vec<u8> {
    let parts = x509::parts(&issued.der).expect("a certificate");
    response(parts.serial, until)
}

#[test]
fn a_good_response_is_stapled_and_a_stale_one_is_not() {
    use StaplePolicy::{Lenient, Must, Strict};
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 77);
    let good = staple(&issued, Some("20990101000000Z"));
    let stale = staple(&issued, Some("20200101000000Z"));
    let endless = staple(&issued, None);
    let mut plan = client_plan(&authority);
    plan.parameters = parameters(true, false);
    let client = ClientContext::build(plan).expect("a client");
    for (response, policy, opens, stapled) in [
        (None, Lenient, true, false),
        (None, Strict, true, false),
        (Some(&good), Lenient, true, true),
        (Some(&good), Strict, true, true),
        (Some(&good), Must, true, true),
        (Some(&stale), Lenient, true, false),
        (Some(&stale), Strict, false, false),
        (Some(&stale), Must, false, false),
        (Some(&endless), Strict, false, false),
    ] {
        let identity = issued.identity().staple(response.cloned(), policy);
        let mut plan = server_plan(&issued);
        plan.identities = vec![identity.expect("fits")];
        let server = ServerContext::build(plan).expect("a server");
        let mut pair = Pair::new(&client, &server);
        // In TLS 1.2 the server's first flight is in the clear.
        pair.server.take(&std::mem::take(&mut pair.client.wire));
        let wire = &pair.server.wire;
        let found = good.windows(40).next().is_some_and(|start| {
            // The bytes of all responses here begin alike, and no certificate has them.
            wire.windows(start.len()).any(|bytes| bytes == start)
        });
        assert_eq!(found, stapled, "{policy:?} {}", response.is_some());
        pair.pump(usize::MAX);
        assert_eq!(pair.is_open(), opens, "{policy:?} {}", response.is_some());
    }
}

#[test]
fn a_response_has_to_fit_its_certificate() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["moorgate.test"], 77);
    let other = authority.issue(&["moorgate.test"], 78);
    let refusal = |response, policy| issued.identity().staple(response, policy).err();
    let foreign = staple(&other, Some("20990101000000Z"));
    let lenient = StaplePolicy::Lenient;
    assert_eq!(refusal(Some(foreign), lenient), Some(Unstapled::Other));
    let noise = Some(b"noise".to_vec());
    assert_eq!(refusal(noise, lenient), Some(Unstapled::Malformed));
    assert_eq!(refusal(None, StaplePolicy::Must), Some(Unstapled::Missing));
    assert_eq!(refusal(None, lenient), None);
}

#[test]
fn a_certificate_that_must_be_stapled_is_found_out() {
    let authority = Authority::new("root");
    let issued = authority.issue_must_staple("moorgate.test");
    assert!(x509::parts(&issued.der).expect("a certificate").must_staple);
    let refused = issued.identity().staple(None, StaplePolicy::Lenient);
    assert_eq!(refused.err(), Some(Unstapled::Missing));
}

#[test]
fn secrets_of_logged_connections_are_in_the_file() {
    let path = std::env::temp_dir().join(format!("moorgate-key-log-{}", std::process::id()));
    let authority = Authority::new("root");
    let client = ClientContext::build(client_plan(&authority)).expect("a client");
    let mut plan = server_plan(&authority.issue(&["moorgate.test"], 1));
    let ours = |local: Option<std::net::IpAddr>, _| local.is_some_and(|ip| ip.is_loopback());
    plan.key_log = Some(KeyLog::open(&path, ours).expect("a file"));
    let server = ServerContext::build(plan).expect("a server");
    let log = server.key_log().expect("a log");
    let local = |text: &str| Some(text.parse().expect("an address"));
    assert!(log.wants(local("127.0.0.1"), None) && !log.wants(local("192.0.2.1"), None));
    for logged in [false, true] {
        let mut wire = Vec::new();
        let asked = Asked::default();
        let session = Session::client(&client, &asked, &mut wire).expect("a client");
        let mut pair = Pair {
            client: End::new(session, wire),
            server: End::new(
                Session::server(&server, logged).expect("a server"),
                Vec::new(),
            ),
        };
        pair.pump(usize::MAX);
        assert!(pair.is_open());
    }
    drop(server);
    let wanted = [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ];
    let mut text = String::new();
    // Its thread writes when it gets to it.
    for _ in 0..2_000 {
        text = std::fs::read_to_string(&path).expect("a file");
        if wanted.iter().all(|label| text.contains(label)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mode = std::fs::metadata(&path).expect("a file").permissions();
    std::fs::remove_file(&path).expect("removed");
    for label in wanted {
        assert_eq!(text.matches(&format!("{label} ")).count(), 1, "{text}");
    }
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
}
