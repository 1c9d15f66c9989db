//! DNS messages (RFC 1035): questions out, answers in.
//!
//! Reads lazily and without copying; what does not answer the question asked is no answer at all.
//! Must never panic or loop on any bytes.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::MessageBuilder;
use domain::base::name::{Name, ToName};
use domain::base::{Message, Rtype};
use domain::rdata::{A, Aaaa, Cname, Soa};

/// A name on the wire.
pub(super) type Fqdn = Name<Vec<u8>>;

/// UDP payload we can take (EDNS, RFC 6891): what passes without fragments nearly everywhere.
pub(super) const UDP_PAYLOAD: u16 = 1232;

/// Aliases followed within one lookup.
pub(super) const MAX_ALIASES: usize = 8;

/// Records of an answer looked at: more than fit in a UDP answer, few enough to be done at once.
const MAX_RECORDS: usize = 1024;

/// Type of record asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    A,
    Aaaa,
}

impl Kind {
    fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
        }
    }
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Addresses, without doubles, and the smallest TTL (seconds) on the way to them.
    Addresses { ips: Vec<IpAddr>, ttl: u32 },
    /// Only an alias: ask for its target.
    Alias { target: Fqdn, ttl: u32 },
    /// No such name, or no such record at it; may be remembered for `ttl` seconds (RFC 2308).
    Nothing { ttl: Option<u32> },
    /// Ask again over TCP.
    Truncated,
    /// The server does not understand EDNS (or us).
    Format,
    /// Ask another server.
    Failure,
}

/// A name from configuration. `None` when it cannot be one.
pub(super) fn parse_name(text: &str) -> Option<Fqdn> {
    if text.is_empty() {
        return None;
    }
    Fqdn::vec_from_str(text).ok()
}

/// A question, as a whole message.
pub(super) fn query(id: u16, name: &Fqdn, kind: Kind, edns: bool) -> Option<Vec<u8>> {
    let mut message = MessageBuilder::from_target(Vec::new()).ok()?;
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name, kind.rtype())).ok()?;
    let mut message = message.additional();
    if edns {
        message
            .opt(|opt| {
                opt.set_udp_payload_size(UDP_PAYLOAD);
                Ok(())
            })
            .ok()?;
    }
    Some(message.finish())
}

/// Reads a message as the answer to a question. `None`: it is not an answer to this question (or no
/// message at all), and the true one may still come.
pub(super) fn read(bytes: &[u8], id: u16, name: &Fqdn, kind: Kind) -> Option<Reply> {
    let message = Message::from_slice(bytes).ok()?;
    let header = message.header();
    if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY {
        return None;
    }
    let rcode = header.rcode();
    match message.sole_question() {
        Ok(question) => {
            let ours = question.qname().name_eq(name)
                && question.qtype() == kind.rtype()
                && question.qclass() == Class::IN;
            if !ours {
                return None;
            }
        }
        // Some servers leave the question out when they refuse or did not understand it.
        Err(_) if rcode != Rcode::NOERROR && message.header_counts().qdcount() == 0 => {}
        Err(_) => return None,
    }
    if header.tc() {
        return Some(Reply::Truncated);
    }
    if rcode == Rcode::FORMERR {
        return Some(Reply::Format);
    }
    if rcode != Rcode::NOERROR && rcode != Rcode::NXDOMAIN {
        return Some(Reply::Failure);
    }
    // A message whose sections cannot be read is a server's fault: ask another one.
    Some(read_answer(message, name, kind).unwrap_or(Reply::Failure))
}

fn read_answer(message: &Message<[u8]>, name: &Fqdn, kind: Kind) -> Option<Reply> {
    let mut current = name.clone();
    let mut ttl = u32::MAX;
    let mut aliases = 0;
    loop {
        let mut ips = Vec::new();
        let mut alias: Option<(Fqdn, u32)> = None;
        for record in message.answer().ok()?.take(MAX_RECORDS) {
            let record = record.ok()?;
            if record.class() != Class::IN || !record.owner().name_eq(&current) {
                continue;
            }
            let seconds = seconds(record.ttl().as_secs());
            let ip = if record.rtype() == Rtype::CNAME {
                let cname = record.to_record::<Cname<_>>().ok()??;
                alias = Some((cname.data().cname().to_name(), seconds));
                None
            } else if record.rtype() == kind.rtype() {
                match kind {
                    Kind::A => {
                        let data = record.to_record::<A>().ok()??;
                        Some(IpAddr::V4(data.data().addr()))
                    }
                    Kind::Aaaa => {
                        let data = record.to_record::<Aaaa>().ok()??;
                        Some(IpAddr::V6(data.data().addr()))
                    }
                }
            } else {
                None
            };
            if let Some(ip) = ip {
                ttl = ttl.min(seconds);
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
            }
        }
        if !ips.is_empty() {
            return Some(Reply::Addresses { ips, ttl });
        }
        let Some((target, seconds)) = alias else {
            break;
        };
        ttl = ttl.min(seconds);
        aliases += 1;
        if aliases > MAX_ALIASES {
            return Some(Reply::Failure);
        }
        current = target;
    }
    let negative = negative_ttl(message);
    if aliases > 0 && negative.is_none() && message.header().rcode() == Rcode::NOERROR {
        // The server did not follow the alias for us.
        return Some(Reply::Alias {
            target: current,
            ttl,
        });
    }
    Some(Reply::Nothing {
        ttl: negative.map(|negative| negative.min(ttl)),
    })
}

/// How long "nothing" holds: the lesser of the TTL of the zone's SOA and its minimum.
fn negative_ttl(message: &Message<[u8]>) -> Option<u32> {
    let authority = message.authority().ok()?;
    authority
        .limit_to::<Soa<_>>()
        .take(MAX_RECORDS)
        .find_map(Result::ok)
        .map(|soa| seconds(soa.ttl().as_secs()).min(seconds(soa.data().minimum().as_secs())))
}

/// A TTL with the highest bit set counts as zero (RFC 2181, 8).
fn seconds(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use domain::base::iana::Rcode;
    use domain::base::{Serial, Ttl};
    use proptest::prelude::*;

    pub(in super::super) fn name(text: &str) -> Fqdn {
        parse_name(text).unwrap()
    }

    /// A record of a made-up answer.
    #[derive(Clone, Debug)]
    pub(in super::super) enum Record {
        Ip(&'static str, u32, IpAddr),
        Alias(&'static str, u32, &'static str),
    }

    /// An answer to `query`, with a SOA when `soa` gives its TTL.
    pub(in super::super) fn answer(
        query: &[u8],
        rcode: Rcode,
        records: &[Record],
        soa: Option<u32>,
        truncated: bool,
    ) -> Vec<u8> {
        let query = Message::from_slice(query).unwrap();
        let mut message = MessageBuilder::new_vec()
            .start_answer(query, rcode)
            .unwrap();
        message.header_mut().set_tc(truncated);
        for record in records {
            match record {
                Record::Ip(owner, ttl, IpAddr::V4(ip)) => {
                    message.push((name(owner), *ttl, A::new(*ip))).unwrap()
                }
                Record::Ip(owner, ttl, IpAddr::V6(ip)) => {
                    message.push((name(owner), *ttl, Aaaa::new(*ip))).unwrap()
                }
                Record::Alias(owner, ttl, target) => message
                    .push((name(owner), *ttl, Cname::new(name(target))))
                    .unwrap(),
            }
        }
        let mut message = message.authority();
        if let Some(ttl) = soa {
            let long = Ttl::from_secs(86_400);
            let data = Soa::new(
                name("ns.test"),
                name("root.test"),
                Serial(1),
                long,
                long,
                long,
                Ttl::from_secs(ttl),
            );
            message.push((name("test"), 3_600, data)).unwrap();
        }
        message.finish()
    }

    fn ask(kind: Kind) -> Vec<u8> {
        query(7, &name("www.test"), kind, true).unwrap()
    }

    fn got(bytes: &[u8], kind: Kind) -> Option<Reply> {
        read(bytes, 7, &name("www.test"), kind)
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn a_query_is_what_the_rfc_says() {
        let bytes = query(0x1234, &name("a.test"), Kind::A, false).unwrap();
        assert_eq!(
            bytes,
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01"
        );
        let edns = query(1, &name("a.test"), Kind::Aaaa, true).unwrap();
        assert_eq!(edns[bytes.len() - 4..][..4], [0, 28, 0, 1]);
        assert_eq!(edns[bytes.len()..], [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn addresses_come_without_doubles_and_with_the_least_ttl() {
        let records = [
            Record::Ip("www.test", 60, v4(1)),
            Record::Ip("WWW.Test", 30, v4(2)),
            Record::Ip("www.test", 90, v4(1)),
            Record::Ip("other.test", 1, v4(3)),
            Record::Ip("www.test", 1, IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
        ];
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records, None, false);
        assert_eq!(
            got(&bytes, Kind::A),
            Some(Reply::Addresses {
                ips: vec![v4(1), v4(2)],
                ttl: 30
            })
        );
        let bytes = answer(&ask(Kind::Aaaa), Rcode::NOERROR, &records, None, false);
        let Some(Reply::Addresses { ips, ttl: 1 }) = got(&bytes, Kind::Aaaa) else {
            panic!("no addresses");
        };
        assert_eq!(ips.len(), 1);
    }

    #[test]
    fn aliases_are_followed_in_any_order() {
        let records = [
            Record::Ip("c.test", 60, v4(1)),
            Record::Alias("b.test", 20, "c.test"),
            Record::Alias("www.test", 40, "b.test"),
        ];
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records, None, false);
        assert_eq!(
            got(&bytes, Kind::A),
            Some(Reply::Addresses {
                ips: vec![v4(1)],
                ttl: 20
            })
        );
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records[1..], None, false);
        assert_eq!(
            got(&bytes, Kind::A),
            Some(Reply::Alias {
                target: name("c.test"),
                ttl: 20
            })
        );
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records[1..], Some(9), false);
        assert_eq!(got(&bytes, Kind::A), Some(Reply::Nothing { ttl: Some(9) }));
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        let records = [
            Record::Alias("www.test", 20, "b.test"),
            Record::Alias("b.test", 20, "www.test"),
        ];
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records, None, false);
        assert_eq!(got(&bytes, Kind::A), Some(Reply::Failure));
    }

    #[test]
    fn nothing_is_told_from_failure() {
        for (rcode, soa, expected) in [
            (Rcode::NXDOMAIN, Some(5), Reply::Nothing { ttl: Some(5) }),
            (Rcode::NXDOMAIN, None, Reply::Nothing { ttl: None }),
            (Rcode::NOERROR, Some(5), Reply::Nothing { ttl: Some(5) }),
            (Rcode::NOERROR, None, Reply::Nothing { ttl: None }),
            (Rcode::SERVFAIL, None, Reply::Failure),
            (Rcode::REFUSED, None, Reply::Failure),
            (Rcode::FORMERR, None, Reply::Format),
        ] {
            let bytes = answer(&ask(Kind::A), rcode, &[], soa, false);
            assert_eq!(got(&bytes, Kind::A), Some(expected), "{rcode}");
        }
        let bytes = answer(&ask(Kind::A), Rcode::NOERROR, &[], None, true);
        assert_eq!(got(&bytes, Kind::A), Some(Reply::Truncated));
    }

    #[test]
    fn what_answers_another_question_is_no_answer() {
        let good = answer(&ask(Kind::A), Rcode::NOERROR, &[], None, false);
        assert_eq!(read(&good, 8, &name("www.test"), Kind::A), None, "id");
        assert_eq!(read(&good, 7, &name("w.test"), Kind::A), None, "name");
        assert_eq!(read(&good, 7, &name("www.test"), Kind::Aaaa), None, "type");
        assert_eq!(got(&ask(Kind::A), Kind::A), None, "our own question");
        let mut class = good.clone();
        let end = good.len() - 1;
        class[end] = 3;
        assert_eq!(got(&class, Kind::A), None, "class");
        assert_eq!(got(&good[..11], Kind::A), None, "short");
    }

    #[test]
    fn a_refusal_may_leave_the_question_out() {
        let refused = [0, 7, 0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(got(&refused, Kind::A), Some(Reply::Failure));
        let fine = [0, 7, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(got(&fine, Kind::A), None);
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for bad in ["", "..", "a..b", &"a".repeat(64), &"a.".repeat(128)] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
        assert_eq!(name("a.test"), name("A.TEST."));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = got(&bytes, Kind::A);
        }

        #[test]
        fn any_bytes_after_our_question_are_read_without_harm(
            flags: u8,
            rcode in 0_u8..16,
            counts in proptest::array::uniform3(any::<u16>()),
            tail in proptest::collection::vec(
                prop_oneof![
                    any::<u8>(),
                    Just(0xc0_u8), Just(0x0c), Just(0), Just(1), Just(5), Just(28),
                ],
                0..400,
            ),
        ) {
            let mut bytes = query(7, &name("www.test"), Kind::A, false).unwrap();
            bytes[2] = 0x80 | flags & 0x07;
            bytes[3] = rcode;
            for (index, count) in counts.iter().enumerate() {
                bytes[6 + 2 * index..][..2].copy_from_slice(&count.to_be_bytes());
            }
            bytes.extend_from_slice(&tail);
            prop_assert!(got(&bytes, Kind::A).is_some());
        }

        #[test]
        fn a_changed_byte_is_read_without_harm(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let records = [
                Record::Alias("www.test", 20, "b.test"),
                Record::Ip("b.test", 60, v4(1)),
                Record::Ip("b.test", 60, v4(2)),
            ];
            let mut bytes = answer(&ask(Kind::A), Rcode::NOERROR, &records, Some(3), false);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = got(&bytes, Kind::A);
            let cut = cut.index(bytes.len());
            let _ = got(&bytes[..cut], Kind::A);
        }
    }
}
