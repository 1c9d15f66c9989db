use super::super::message::tests::{Record, answer};
use super::*;
use crate::cluster::testing::dice;
use domain::base::Message;
use domain::base::iana::Rcode;
use proptest::prelude::*;

/// A resolver with its clock and dice.
struct Bench {
    resolver: Resolver,
    now: Millis,
    dice: Box<dyn FnMut() -> u64>,
}

fn request(host: &str, family: DnsFamily) -> Request {
    Request {
        host: host.to_owned(),
        family,
        servers: Vec::new(),
        tcp_only: false,
        search: true,
    }
}

/// What a query asks, in words.
fn asked(bytes: &[u8]) -> String {
    let message = Message::from_slice(bytes).unwrap();
    let question = message.sole_question().unwrap();
    format!("{} {}", question.qname(), question.qtype())
}

impl Bench {
    fn new(conf: &str) -> Self {
        let mut resolver = Resolver::default();
        resolver.set_conf(ResolvConf::parse(conf));
        Self {
            resolver,
            now: 0,
            dice: Box::new(dice(1)),
        }
    }

    fn start(&mut self, request: Request) {
        self.resolver.start(1, request, self.now, &mut self.dice);
    }

    /// The next action that is not a `Close`.
    fn next(&mut self) -> Option<Action> {
        loop {
            match self.resolver.next_action()? {
                Action::Close(_) => {}
                action => return Some(action),
            }
        }
    }

    fn sent(&mut self) -> (u32, SocketAddr, Vec<u8>) {
        match self.next() {
            Some(Action::Udp(key, server, bytes)) => (key, server, bytes),
            other => panic!("not sent: {other:?}"),
        }
    }

    fn sent_tcp(&mut self) -> (u32, SocketAddr, Vec<u8>) {
        match self.next() {
            Some(Action::Tcp(key, server, bytes)) => (key, server, bytes),
            other => panic!("not sent: {other:?}"),
        }
    }

    fn done(&mut self) -> Answer {
        match self.next() {
            Some(Action::Done(1, answer)) => {
                assert_eq!(self.resolver.busy(), (0, 0));
                assert_eq!(self.resolver.next_deadline(), None);
                answer
            }
            other => panic!("not done: {other:?}"),
        }
    }

    fn reply(&mut self, key: u32, bytes: &[u8]) {
        self.resolver.received(key, bytes, self.now, &mut self.dice);
    }

    /// Answers the next query if it asks `question`.
    fn answer(&mut self, question: &str, rcode: Rcode, records: &[Record], soa: Option<u32>) {
        let (key, _, bytes) = self.sent();
        assert_eq!(asked(&bytes), question);
        self.reply(key, &answer(&bytes, rcode, records, soa, false));
    }

    fn timeout(&mut self) {
        self.now = self.resolver.next_deadline().unwrap();
        self.resolver.expire(self.now, &mut self.dice);
    }
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn v6() -> IpAddr {
    IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
}

fn found(ips: &[IpAddr], ttl: u32) -> Answer {
    Answer::Found {
        ips: ips.to_vec(),
        ttl: Some(ttl),
    }
}

#[test]
fn a_name_is_asked_for_and_found() {
    let mut bench = Bench::new("nameserver 127.0.0.53");
    bench.start(request("a.test", DnsFamily::V4Only));
    let (key, server, bytes) = bench.sent();
    assert_eq!(server.to_string(), "127.0.0.53:53");
    let records = [Record::Ip("a.test", 60, v4(1))];
    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &records, None, false));
    assert_eq!(bench.done(), found(&[v4(1)], 60));
}

#[test]
fn addresses_and_hosts_need_no_server() {
    let mut bench = Bench::new("");
    bench
        .resolver
        .set_hosts(Hosts::parse("127.0.0.7 seven\n::1 seven"));
    let local = |ips: &[IpAddr]| Answer::Found {
        ips: ips.to_vec(),
        ttl: None,
    };
    for (host, family, expected) in [
        ("127.0.0.3", DnsFamily::V4Only, vec![v4(3)]),
        ("::1", DnsFamily::Auto, vec![v6()]),
        ("Seven", DnsFamily::V4Only, vec![v4(7)]),
        ("seven", DnsFamily::V6Only, vec![v6()]),
        ("seven", DnsFamily::Auto, vec![v6()]),
        ("seven", DnsFamily::V4Preferred, vec![v4(7)]),
        ("seven", DnsFamily::All, vec![v4(7), v6()]),
    ] {
        bench.start(request(host, family));
        assert_eq!(bench.done(), local(&expected), "{host} {family:?}");
    }
}

#[test]
fn families_are_asked_for_as_configured() {
    let mut bench = Bench::new("");
    let a = [Record::Ip("a.test", 60, v4(1))];
    let aaaa = [Record::Ip("a.test", 30, v6())];

    bench.start(request("a.test", DnsFamily::Auto));
    bench.answer("a.test AAAA", Rcode::NOERROR, &aaaa, None);
    assert_eq!(bench.done(), found(&[v6()], 30));

    bench.start(request("a.test", DnsFamily::Auto));
    bench.answer("a.test AAAA", Rcode::NOERROR, &[], None);
    bench.answer("a.test A", Rcode::NOERROR, &a, None);
    assert_eq!(bench.done(), found(&[v4(1)], 60));

    bench.start(request("a.test", DnsFamily::V4Preferred));
    bench.answer("a.test A", Rcode::NXDOMAIN, &[], None);
    bench.answer("a.test AAAA", Rcode::NOERROR, &aaaa, None);
    assert_eq!(bench.done(), found(&[v6()], 30));

    bench.start(request("a.test", DnsFamily::All));
    let (first, second) = (bench.sent(), bench.sent());
    bench.reply(
        second.0,
        &answer(&second.2, Rcode::NOERROR, &aaaa, None, false),
    );
    assert_eq!(bench.next(), None);
    bench.reply(first.0, &answer(&first.2, Rcode::NOERROR, &a, None, false));
    assert_eq!(bench.done(), found(&[v4(1), v6()], 30));
}

#[test]
fn search_domains_are_tried_in_order() {
    let mut bench = Bench::new("search x.test y.test\noptions ndots:1");
    bench.start(request("web", DnsFamily::V4Only));
    bench.answer("web.x.test A", Rcode::NXDOMAIN, &[], None);
    let records = [Record::Ip("web.y.test", 5, v4(1))];
    bench.answer("web.y.test A", Rcode::NOERROR, &records, None);
    assert_eq!(bench.done(), found(&[v4(1)], 5));

    bench.start(request("web", DnsFamily::V4Only));
    for name in ["web.x.test", "web.y.test", "web"] {
        bench.answer(&format!("{name} A"), Rcode::NXDOMAIN, &[], None);
    }
    assert_eq!(bench.done(), Answer::Nothing { ttl: None });
}

#[test]
fn nothing_and_failure_are_told_apart_over_all_candidates() {
    let mut bench = Bench::new("search x.test\noptions attempts:1");
    bench.start(request("web", DnsFamily::V4Only));
    bench.answer("web.x.test A", Rcode::SERVFAIL, &[], None);
    bench.answer("web A", Rcode::NXDOMAIN, &[], None);
    assert_eq!(bench.done(), Answer::Failed);
}

#[test]
fn nothing_is_remembered_as_long_as_the_zone_says() {
    let mut bench = Bench::new("search x.test");
    for asks in [true, false] {
        bench.start(request("web", DnsFamily::V4Only));
        if asks {
            bench.answer("web.x.test A", Rcode::NXDOMAIN, &[], Some(10));
        }
        let records = [Record::Ip("web", 5, v4(1))];
        bench.answer("web A", Rcode::NOERROR, &records, None);
        assert_eq!(bench.done(), found(&[v4(1)], 5));
        bench.now += 9_000;
    }
    bench.now += 2_000;
    bench.start(request("web", DnsFamily::V4Only));
    bench.answer("web.x.test A", Rcode::NXDOMAIN, &[], Some(1_000_000));
    bench.answer("web A", Rcode::NXDOMAIN, &[], Some(7));
    assert_eq!(bench.done(), Answer::Nothing { ttl: Some(7) });
    bench.now += u64::from(MAX_NEGATIVE_S) * 1_000;
    bench.start(request("web", DnsFamily::V4Only));
    assert_eq!(asked(&bench.sent().2), "web.x.test A");
}

#[test]
fn silent_servers_are_tried_in_rounds() {
    let mut bench = Bench::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions timeout:1");
    bench.start(request("a.test", DnsFamily::V4Only));
    let mut ids = Vec::new();
    for server in [
        "127.0.0.1:53",
        "127.0.0.2:53",
        "127.0.0.1:53",
        "127.0.0.2:53",
    ] {
        let (_, to, bytes) = bench.sent();
        assert_eq!(to.to_string(), server);
        ids.push([bytes[0], bytes[1]]);
        bench.timeout();
    }
    assert_eq!(bench.done(), Answer::Failed);
    assert_eq!(bench.now, 4_000);
    ids.dedup();
    assert_eq!(ids.len(), 4, "every try has an id of its own");
}

#[test]
fn a_failing_server_is_left_at_once() {
    let mut bench = Bench::new("nameserver 127.0.0.1\nnameserver 127.0.0.2");
    bench.start(request("a.test", DnsFamily::V4Only));
    bench.answer("a.test A", Rcode::REFUSED, &[], None);
    let (key, to, _) = bench.sent();
    assert_eq!(to.to_string(), "127.0.0.2:53");
    bench.resolver.broken(key, bench.now, &mut bench.dice);
    let (key, to, bytes) = bench.sent();
    assert_eq!(to.to_string(), "127.0.0.1:53");
    let records = [Record::Ip("a.test", 5, v4(1))];
    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &records, None, false));
    assert_eq!(bench.done(), found(&[v4(1)], 5));
    assert_eq!(bench.now, 0);
}

#[test]
fn rotate_begins_with_another_server_each_time() {
    let mut bench =
        Bench::new("nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions rotate attempts:1");
    let mut first = Vec::new();
    for _ in 0..2 {
        bench.start(request("a.test", DnsFamily::V4Only));
        first.push(bench.sent().1);
        bench.timeout();
        bench.sent();
        bench.timeout();
        assert_eq!(bench.done(), Answer::Failed);
    }
    assert_ne!(first[0], first[1]);
}

#[test]
fn configured_resolvers_replace_those_of_the_file() {
    let mut bench = Bench::new("nameserver 127.0.0.1");
    let mut own = request("a.test", DnsFamily::V4Only);
    own.servers = vec!["127.0.0.9:5353".parse().unwrap()];
    own.tcp_only = true;
    bench.start(own);
    assert_eq!(bench.sent_tcp().1.to_string(), "127.0.0.9:5353");
}

#[test]
fn a_truncated_answer_is_asked_for_over_tcp() {
    let mut bench = Bench::new("");
    bench.start(request("a.test", DnsFamily::V4Only));
    let (key, _, bytes) = bench.sent();
    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &[], None, true));
    let (key, server, bytes) = bench.sent_tcp();
    assert_eq!(server.to_string(), "127.0.0.1:53");
    let records = [Record::Ip("a.test", 5, v4(1))];
    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &records, None, false));
    assert_eq!(bench.done(), found(&[v4(1)], 5));
}

#[test]
fn without_edns_when_a_server_does_not_know_it() {
    let mut bench = Bench::new("");
    bench.start(request("a.test", DnsFamily::V4Only));
    let (key, _, with) = bench.sent();
    bench.reply(key, &answer(&with, Rcode::FORMERR, &[], None, false));
    let (_, server, without) = bench.sent();
    assert_eq!(server.to_string(), "127.0.0.1:53");
    assert_eq!(without.len() + 11, with.len());
}

#[test]
fn an_alias_that_was_not_followed_is_followed() {
    let mut bench = Bench::new("");
    bench.start(request("a.test", DnsFamily::V4Only));
    bench.answer(
        "a.test A",
        Rcode::NOERROR,
        &[Record::Alias("a.test", 3, "b.test")],
        None,
    );
    bench.answer(
        "b.test A",
        Rcode::NOERROR,
        &[Record::Ip("b.test", 60, v4(1))],
        None,
    );
    assert_eq!(bench.done(), found(&[v4(1)], 3));

    bench.start(request("a.test", DnsFamily::V4Only));
    for turn in 0..=MAX_ALIASES {
        let (own, other) = if turn % 2 == 0 {
            ("a.test", "b.test")
        } else {
            ("b.test", "a.test")
        };
        let records = [Record::Alias(own, 3, other)];
        bench.answer(&format!("{own} A"), Rcode::NOERROR, &records, None);
    }
    assert_eq!(bench.done(), Answer::Failed);
}

#[test]
fn junk_is_ignored_and_much_of_it_leads_to_tcp() {
    let mut bench = Bench::new("");
    bench.start(request("a.test", DnsFamily::V4Only));
    let (key, _, bytes) = bench.sent();
    let mut forged = answer(
        &bytes,
        Rcode::NOERROR,
        &[Record::Ip("a.test", 5, v4(66))],
        None,
        false,
    );
    forged[0] ^= 1;
    for _ in 1..MAX_JUNK {
        bench.reply(key, &forged);
        assert_eq!(bench.next(), None);
    }
    bench.reply(key, &forged);
    let (key, ..) = bench.sent_tcp();
    bench.reply(key, b"rubbish");
    bench.sent();
}

#[test]
fn only_so_many_queries_are_in_flight() {
    let mut bench = Bench::new("options attempts:1");
    for number in 0..200 {
        bench.resolver.start(
            number,
            request(&format!("h{number}.test"), DnsFamily::All),
            0,
            &mut bench.dice,
        );
    }
    let (mut open, mut done, mut most) = (Vec::new(), 0, 0);
    loop {
        while let Some(action) = bench.resolver.next_action() {
            match action {
                Action::Udp(key, _, _) => open.push(key),
                Action::Tcp(..) => panic!("no TCP here"),
                Action::Close(key) => open.retain(|other| *other != key),
                Action::Done(_, Answer::Failed) => done += 1,
                Action::Done(..) => panic!("nothing was answered"),
            }
            most = most.max(open.len());
        }
        let Some(key) = open.last() else { break };
        bench.resolver.broken(*key, 0, &mut bench.dice);
    }
    assert_eq!((done, most), (200, MAX_IN_FLIGHT));
    assert_eq!(bench.resolver.busy(), (0, 0));
}

#[test]
fn a_cancelled_lookup_leaves_nothing() {
    let mut bench = Bench::new("");
    bench.start(request("a.test", DnsFamily::All));
    let (key, _, bytes) = bench.sent();
    bench.sent();
    bench.resolver.cancel(1, 0, &mut bench.dice);
    assert_eq!(bench.resolver.busy(), (0, 0));
    assert_eq!(bench.resolver.next_deadline(), None);
    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &[], None, false));
    assert_eq!(bench.next(), None);
}

#[test]
fn a_name_that_cannot_be_asked_has_nothing() {
    let mut bench = Bench::new("");
    bench.start(request(&"a".repeat(70), DnsFamily::All));
    assert_eq!(bench.done(), Answer::Nothing { ttl: None });
}

proptest! {
    /// Whatever servers answer, every lookup ends, after a bounded number of queries.
    #[test]
    fn every_lookup_ends(
        family in prop::sample::select(&[
            DnsFamily::Auto, DnsFamily::V4Only, DnsFamily::V6Only, DnsFamily::V4Preferred, DnsFamily::All,
        ][..]),
        script in proptest::collection::vec((0_u8..9, any::<u8>(), any::<prop::sample::Index>()), 0..80),
    ) {
        let mut bench = Bench::new(
            "nameserver 127.0.0.1\nnameserver 127.0.0.2\nsearch x.test y.test\noptions attempts:2",
        );
        bench.start(request("web", family));
        let mut script = script.into_iter();
        let mut open: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut sent = 0;
        let mut done = false;
        for _ in 0..10_000 {
            while let Some(action) = bench.resolver.next_action() {
                match action {
                    Action::Udp(key, _, bytes) | Action::Tcp(key, _, bytes) => {
                        sent += 1;
                        open.push((key, bytes));
                    }
                    Action::Close(key) => open.retain(|(other, _)| *other != key),
                    Action::Done(..) => done = true,
                }
            }
            if done {
                break;
            }
            let Some((what, byte, at)) = script.next() else {
                bench.timeout();
                continue;
            };
            let (key, bytes) = open[at.index(open.len())].clone();
            match what {
                0 => bench.reply(key, &answer(&bytes, Rcode::NXDOMAIN, &[], Some(byte.into()), false)),
                1 => bench.reply(key, &answer(&bytes, Rcode::SERVFAIL, &[], None, false)),
                2 => bench.reply(key, &answer(&bytes, Rcode::NOERROR, &[], None, true)),
                3 => bench.reply(key, &answer(&bytes, Rcode::FORMERR, &[], None, false)),
                4 => bench.timeout(),
                5 => bench.resolver.broken(key, bench.now, &mut bench.dice),
                6 => {
                    let records = [
                        Record::Alias("web.x.test", 1, "web.y.test"),
                        Record::Alias("web.y.test", 1, "web.x.test"),
                    ];
                    bench.reply(key, &answer(&bytes, Rcode::NOERROR, &records[..1], None, false));
                }
                7 => {
                    let mut bytes = answer(&bytes, Rcode::NOERROR, &[], None, false);
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                    bench.reply(key, &bytes);
                }
                _ => bench.reply(key, &[byte; 20]),
            }
        }
        prop_assert!(done);
        prop_assert_eq!(bench.resolver.busy(), (0, 0));
        prop_assert_eq!(bench.resolver.next_deadline(), None);
        prop_assert!(sent < 2_000);
    }
}
