//! Who the client is: `x-forwarded-for`, trusted hops, internal and external requests.
//!
//! What a peer claims is only believed as far as the configuration says that proxies in front of us
//! are trusted.

use std::net::{IpAddr, SocketAddr};

use moorgate_codecs::Head;

use crate::engine::reactor::Addr;
use crate::proxy::config::Rules;
use crate::text::{push_ip, trim};

pub(super) const FORWARDED_FOR: &[u8] = b"x-forwarded-for";

/// What was found out about the client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address where trusted headers name another than the connection's peer. They
    /// give no port: it is 0.
    pub address: Option<SocketAddr>,
    /// It is one of us (`x-envoy-internal`).
    pub internal: bool,
}

/// Finds the client from the peer's address and `x-forwarded-for`, as it came.
pub(super) fn find(head: &Head, rules: &Rules, peer: &Addr, seen: bool) -> Client {
    let hops = rules.xff_num_trusted_hops as usize;
    let (address, single) = if rules.use_remote_address {
        // The peer is the client unless trusted proxies stand in front of us.
        let trusted = hops
            .checked_sub(1)
            .filter(|_| seen)
            .and_then(|skipped| nth_last(head, skipped).0);
        (trusted, !seen)
    } else if seen {
        let (address, only) = nth_last(head, hops);
        (address, only && hops == 0)
    } else {
        (None, false)
    };
    let internal = single
        && match (address, peer) {
            (Some(address), _) => is_internal(rules, address),
            (None, Addr::Ip(peer)) => rules.use_remote_address && is_internal(rules, peer.ip()),
            (None, Addr::Unix(_)) => rules.use_remote_address && rules.unix_sockets_internal,
        };
    Client {
        address: address.map(|address| SocketAddr::new(address, 0)),
        internal,
    }
}

fn is_internal(rules: &Rules, address: IpAddr) -> bool {
    rules
        .internal_networks
        .iter()
        .any(|network| network.contains(address))
}

/// The address `skipped` places before the last one; true when it is the only element there is.
fn nth_last(head: &Head, skipped: usize) -> (Option<IpAddr>, bool) {
    let mut found = None;
    let mut elements = 0_usize;
    // Elements are counted from the end, over all fields of the name. Few hops are ever trusted,
    // so the fields are simply walked forward to count and then again to find.
    for value in head.get_all(FORWARDED_FOR) {
        elements += value.split(|byte| *byte == b',').count();
    }
    if let Some(wanted) = elements.checked_sub(skipped + 1) {
        found = head
            .get_all(FORWARDED_FOR)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .nth(wanted)
            .and_then(|element| std::str::from_utf8(trim(element)).ok()?.parse().ok());
    }
    (found, elements == 1)
}

/// Appends the peer to `x-forwarded-for`. A peer on this machine is named by `local_ip`, the address
/// others know this machine by; peers on Unix sockets are not named.
pub(super) fn append_peer(
    head: &mut Head,
    peer: &Addr,
    local_ip: Option<IpAddr>,
    seen: bool,
    buffer: &mut Vec<u8>,
) {
    let Addr::Ip(peer) = peer else { return };
    let ip = match local_ip {
        Some(local) if peer.ip().to_canonical().is_loopback() => local,
        _ => peer.ip(),
    };
    join(head, FORWARDED_FOR, b",", seen, buffer, |out| {
        push_ip(out, ip);
    });
}

/// Makes one field of all fields of a name and appends an element to it.
pub(super) fn join(
    head: &mut Head,
    name: &[u8],
    separator: &[u8],
    seen: bool,
    buffer: &mut Vec<u8>,
    element: impl FnOnce(&mut Vec<u8>),
) {
    buffer.clear();
    if !seen {
        element(buffer);
        head.push(name, buffer);
        return;
    }
    for value in head.get_all(name) {
        if !buffer.is_empty() {
            buffer.extend_from_slice(separator);
        }
        buffer.extend_from_slice(value);
    }
    if !buffer.is_empty() {
        buffer.extend_from_slice(separator);
    }
    element(buffer);
    head.set(name, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::config::Network;

    fn head(values: &[&str]) -> Head {
        let mut head = Head::new();
        for value in values {
            head.push(FORWARDED_FOR, value.as_bytes());
        }
        head
    }

    fn rules(use_remote_address: bool, hops: u32) -> Rules {
        Rules {
            use_remote_address,
            xff_num_trusted_hops: hops,
            internal_networks: vec![
                Network::new("10.0.0.0".parse().unwrap(), 8).unwrap(),
                Network::new("fd00::".parse().unwrap(), 8).unwrap(),
            ],
            ..Rules::default()
        }
    }

    #[test]
    fn clients() {
        // (use_remote_address, hops, x-forwarded-for, peer, client, internal)
        type Case<'a> = (bool, u32, &'a [&'a str], &'a str, Option<&'a str>, bool);
        let cases: &[Case<'_>] = &[
            (true, 0, &[], "10.0.0.1", None, true),
            (true, 0, &[], "8.8.8.8", None, false),
            (true, 0, &[], "::ffff:10.0.0.1", None, true),
            (true, 0, &["10.0.0.1"], "10.0.0.1", None, false),
            (true, 1, &["8.8.8.8"], "10.0.0.1", Some("8.8.8.8"), false),
            (true, 1, &["10.0.0.2"], "10.0.0.1", Some("10.0.0.2"), false),
            (true, 1, &["garbage"], "10.0.0.1", None, false),
            (true, 1, &[], "10.0.0.1", None, true),
            (
                true,
                2,
                &["1.1.1.1, 2.2.2.2"],
                "10.0.0.1",
                Some("1.1.1.1"),
                false,
            ),
            (false, 0, &[], "10.0.0.1", None, false),
            (false, 0, &["10.0.0.1"], "8.8.8.8", Some("10.0.0.1"), true),
            (false, 0, &["fd00::1"], "8.8.8.8", Some("fd00::1"), true),
            (
                false,
                0,
                &["1.1.1.1, 10.0.0.1"],
                "8.8.8.8",
                Some("10.0.0.1"),
                false,
            ),
            (
                false,
                0,
                &["1.1.1.1", "10.0.0.1"],
                "8.8.8.8",
                Some("10.0.0.1"),
                false,
            ),
            (
                false,
                1,
                &["1.1.1.1, 2.2.2.2, 3.3.3.3"],
                "8.8.8.8",
                Some("2.2.2.2"),
                false,
            ),
            (false, 1, &["10.0.0.1"], "8.8.8.8", None, false),
            (false, 0, &["10.0.0.1,"], "8.8.8.8", None, false),
        ];
        for case in cases {
            let (remote, hops, values, peer, client, internal) = *case;
            let peer = Addr::Ip(SocketAddr::new(peer.parse().unwrap(), 5000));
            let found = find(
                &head(values),
                &rules(remote, hops),
                &peer,
                !values.is_empty(),
            );
            assert_eq!(
                found.address.map(|address| address.ip()),
                client.map(|client| client.parse().unwrap()),
                "{case:?}"
            );
            assert_eq!(found.internal, internal, "{case:?}");
        }
    }

    #[test]
    fn unix_peers() {
        let peer = Addr::Unix(std::path::Path::new("/s").into());
        let mut rules = rules(true, 0);
        assert!(!find(&head(&[]), &rules, &peer, false).internal);
        rules.unix_sockets_internal = true;
        assert!(find(&head(&[]), &rules, &peer, false).internal);
        let mut head = head(&[]);
        append_peer(&mut head, &peer, None, false, &mut Vec::new());
        assert!(head.is_empty());
    }

    #[test]
    fn peers_are_appended() {
        let local = Some("192.0.2.2".parse().unwrap());
        for (values, peer, expected) in [
            (&[][..], "1.2.3.4", "1.2.3.4"),
            (&["9.9.9.9"], "1.2.3.4", "9.9.9.9,1.2.3.4"),
            (
                &["9.9.9.9, 8.8.8.8", "7.7.7.7"],
                "127.0.0.1",
                "9.9.9.9, 8.8.8.8,7.7.7.7,192.0.2.2",
            ),
            (&[], "::1", "192.0.2.2"),
            (&[], "2001:db8::1", "2001:db8::1"),
        ] {
            let mut head = head(values);
            let peer = Addr::Ip(SocketAddr::new(peer.parse().unwrap(), 1));
            append_peer(&mut head, &peer, local, !values.is_empty(), &mut Vec::new());
            let all: Vec<_> = head.get_all(FORWARDED_FOR).collect();
            assert_eq!(all, [expected.as_bytes()]);
        }
    }
}
