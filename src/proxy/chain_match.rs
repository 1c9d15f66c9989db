//! Which filter chain of a listener serves a connection: Envoy's `filter_chain_match`.
//!
//! One table after the other, in Envoy's order: destination port, destination address, server name,
//! transport protocol, application protocol, address of the peer, whether it is local, client address,
//! client port. Each step takes the most specific entry that fits and never comes back to another one,
//! so that the choice costs a few look-ups however many chains there are. Plain data: it knows neither
//! sockets nor where the facts come from.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustc_hash::FxHashMap;

use super::config::Network;
use crate::engine::reactor::Addr;

/// The conditions of one chain; what is empty is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// `destination_port`.
    pub destination_port: Option<u16>,
    /// `prefix_ranges`: destination addresses.
    pub destinations: Vec<Network>,
    /// `server_names` in lower case; `*.` in front stands for any labels.
    pub server_names: Vec<String>,
    /// `transport_protocol`.
    pub transport: String,
    /// `application_protocols`.
    pub protocols: Vec<String>,
    /// `direct_source_prefix_ranges`: addresses of the peer itself.
    pub peers: Vec<Network>,
    /// `source_type`.
    pub source_type: SourceType,
    /// `source_prefix_ranges`: addresses of the client, which a PROXY header may have told.
    pub sources: Vec<Network>,
    /// `source_ports`.
    pub source_ports: Vec<u16>,
}

/// `ConnectionSourceType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// From anywhere.
    #[default]
    Any,
    /// From this machine.
    SameIpOrLoopback,
    /// From elsewhere.
    External,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where it was for.
    pub local: &'a Addr,
    /// Who it is from.
    pub remote: &'a Addr,
    /// The other end of the socket.
    pub peer: &'a Addr,
    /// Server name of a TLS hello, in lower case, or nothing.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport: &'a str,
    /// Application protocols, most wanted first.
    pub protocols: &'a [Box<[u8]>],
}

/// Two chains that fit the same connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The later one.
    pub chain: usize,
    /// The earlier one.
    pub other: usize,
}

/// Values by network; the longest prefix decides.
#[derive(Debug)]
struct Networks<T> {
    /// Prefix lengths, longest first, with the networks of each: of IPv4, of IPv6.
    tables: [Vec<(u8, FxHashMap<u128, T>)>; 2],
    any: Option<Box<T>>,
}

impl<T> Default for Networks<T> {
    fn default() -> Self {
        Self {
            tables: [Vec::new(), Vec::new()],
            any: None,
        }
    }
}

impl<T: Default> Networks<T> {
    fn entry(&mut self, network: Option<Network>) -> &mut T {
        let Some(network) = network else {
            return self.any.get_or_insert_default();
        };
        let (six, number) = number(network.address());
        let bits = network.bits();
        let table = &mut self.tables[usize::from(six)];
        let at = match table.binary_search_by(|(other, _)| bits.cmp(other)) {
            Ok(at) => at,
            Err(at) => {
                table.insert(at, (bits, FxHashMap::default()));
                at
            }
        };
        let prefix = prefix(number, bits, six);
        table[at].1.entry(prefix).or_default()
    }

    fn get(&self, address: &Addr) -> Option<&T> {
        let address = match address {
            Addr::Ip(address) => address.ip().to_canonical(),
            // As in Envoy, a Unix socket's end counts as 0.0.0.0.
            Addr::Unix(_) => IpAddr::from([0, 0, 0, 0]),
        };
        let (six, number) = number(address);
        let tables = self.tables[usize::from(six)].iter();
        tables
            .filter_map(|(bits, networks)| networks.get(&prefix(number, *bits, six)))
            .next()
            .or(self.any.as_deref())
    }
}

fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (false, u128::from(address.to_bits())),
        IpAddr::V6(address) => (true, address.to_bits()),
    }
}

/// The bits in front; equal for addresses of one network.
fn prefix(number: u128, bits: u8, six: bool) -> u128 {
    let width: u32 = if six { 128 } else { 32 };
    number.checked_shr(width - u32::from(bits)).unwrap_or(0)
}

type Ports = FxHashMap<u16, usize>;
type Sources = [Option<Networks<Ports>>; 3];
type Peers = Networks<Sources>;
type Protocols = HashMap<Box<[u8]>, Peers>;
type Transports = HashMap<Box<str>, Protocols>;
type ServerNames = HashMap<Box<str>, Transports>;

/// Key of what has no condition.
const ANY_PORT: u16 = 0;

/// Chooses among the chains of a listener.
#[derive(Debug, Default)]
pub struct Chooser {
    ports: FxHashMap<u16, Networks<ServerNames>>,
    default: Option<usize>,
}

/// All of `list`, or once nothing.
fn or_any<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    let any = list.is_empty().then_some(None);
    list.iter().map(Some).chain(any)
}

impl Chooser {
    /// Tables for the chains with these conditions, in their order; `default` is the number of the
    /// chain for connections that none of them fits.
    ///
    /// # Errors
    /// Two chains that could fit the same connection equally well.
    pub fn new(matches: &[Match], default: Option<usize>) -> Result<Self, Overlap> {
        let mut chooser = Self {
            default,
            ..Self::default()
        };
        for (chain, conditions) in matches.iter().enumerate() {
            chooser.add(chain, conditions)?;
        }
        Ok(chooser)
    }

    fn add(&mut self, chain: usize, conditions: &Match) -> Result<(), Overlap> {
        let port = conditions.destination_port.unwrap_or(ANY_PORT);
        let destinations = self.ports.entry(port).or_default();
        for destination in or_any(&conditions.destinations) {
            let names = destinations.entry(destination.copied());
            for name in or_any(&conditions.server_names) {
                let name = name.map_or("", String::as_str);
                // "*.example.com" is found as ".example.com".
                let name = name.strip_prefix('*').unwrap_or(name);
                let transports = names.entry(name.into()).or_default();
                let transport = conditions.transport.as_str();
                let protocols = transports.entry(transport.into()).or_default();
                for protocol in or_any(&conditions.protocols) {
                    let protocol = protocol.map_or(&b""[..], String::as_bytes);
                    let peers = protocols.entry(protocol.into()).or_default();
                    add_sources(peers, chain, conditions)?;
                }
            }
        }
        Ok(())
    }

    /// The chain for a connection.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> Option<usize> {
        let port = match facts.local {
            Addr::Ip(local) => local.port(),
            Addr::Unix(_) => ANY_PORT,
        };
        let destinations = self
            .ports
            .get(&port)
            .or_else(|| self.ports.get(&ANY_PORT))?;
        destinations
            .get(facts.local)
            .and_then(|names| by_name(names, facts))
    }

    /// [`choose`](Self::choose), or else the default chain.
    #[must_use]
    pub fn choose_or_default(&self, facts: &Facts<'_>) -> Option<usize> {
        self.choose(facts).or(self.default)
    }
}

fn add_sources(peers: &mut Peers, chain: usize, conditions: &Match) -> Result<(), Overlap> {
    for peer in or_any(&conditions.peers) {
        let types = peers.entry(peer.copied());
        let sources = types[conditions.source_type as usize].get_or_insert_default();
        for source in or_any(&conditions.sources) {
            let ports = sources.entry(source.copied());
            for port in or_any(&conditions.source_ports) {
                let port = port.copied().unwrap_or(ANY_PORT);
                if let Some(other) = ports.insert(port, chain) {
                    return Err(Overlap { chain, other });
                }
            }
        }
    }
    Ok(())
}

fn by_name(names: &ServerNames, facts: &Facts<'_>) -> Option<usize> {
    let name = facts.server_name;
    let exact = names.get(name).filter(|_| !name.is_empty());
    let transports = exact.or_else(|| {
        let dots = name.match_indices('.').map(|(at, _)| at);
        // Not a dot in front, and none at the end.
        dots.filter(|at| *at > 0 && at + 1 < name.len())
            .find_map(|at| names.get(&name[at..]))
            .or_else(|| names.get(""))
    })?;
    let protocols = transports
        .get(facts.transport)
        .or_else(|| transports.get(""))?;
    let peers = facts
        .protocols
        .iter()
        .find_map(|protocol| protocols.get(protocol))
        .or_else(|| protocols.get(&b""[..]))?;
    by_source(peers.get(facts.peer)?, facts)
}

fn by_source(types: &Sources, facts: &Facts<'_>) -> Option<usize> {
    let [any, local, external] = types;
    let typed = if local.is_none() && external.is_none() {
        &None
    } else if is_local(facts) {
        local
    } else {
        external
    };
    let sources = typed.as_ref().or(any.as_ref())?;
    let ports = sources.get(facts.remote)?;
    let port = match facts.remote {
        Addr::Ip(remote) => remote.port(),
        Addr::Unix(_) => ANY_PORT,
    };
    ports.get(&port).or_else(|| ports.get(&ANY_PORT)).copied()
}

/// From this machine: over a Unix socket, a loopback address, or the address it is for. The loopback
/// addresses are 127.0.0.1 and ::1 alone, as in Envoy.
fn is_local(facts: &Facts<'_>) -> bool {
    let Addr::Ip(remote) = facts.remote else {
        return true;
    };
    let remote = remote.ip().to_canonical();
    let same = match facts.local {
        Addr::Ip(local) => remote == local.ip().to_canonical(),
        Addr::Unix(_) => false,
    };
    same || remote == Ipv4Addr::LOCALHOST || remote == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, as tests say it: (local, remote, peer, server name, transport, protocols).
    struct Conn {
        local: Addr,
        remote: Addr,
        peer: Addr,
        server_name: &'static str,
        transport: &'static str,
        protocols: Vec<Box<[u8]>>,
    }

    fn ip(text: &str) -> Addr {
        Addr::Ip(text.parse().unwrap())
    }

    fn conn() -> Conn {
        Conn {
            local: ip("192.0.2.10:443"),
            remote: ip("198.51.100.7:40000"),
            peer: ip("203.0.113.9:50000"),
            server_name: "",
            transport: "raw_buffer",
            protocols: Vec::new(),
        }
    }

    impl Conn {
        fn facts(&self) -> Facts<'_> {
            Facts {
                local: &self.local,
                remote: &self.remote,
                peer: &self.peer,
                server_name: self.server_name,
                transport: self.transport,
                protocols: &self.protocols,
            }
        }

        fn tls(self, server_name: &'static str, protocols: &[&str]) -> Self {
            let protocols = protocols.iter().map(|name| name.as_bytes().into());
            Self {
                server_name,
                transport: "tls",
                protocols: protocols.collect(),
                ..self
            }
        }
    }

    fn net(text: &str) -> Network {
        let (address, bits) = text.split_once('/').unwrap();
        Network::new(address.parse().unwrap(), bits.parse().unwrap()).unwrap()
    }

    fn nets(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| net(text)).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    fn chooser(matches: &[Match]) -> Chooser {
        Chooser::new(matches, None).unwrap()
    }

    #[test]
    fn each_step_goes_before_the_next() {
        let none = Match::default;
        // Each fits the connection by one condition alone, in order of precedence.
        let steps = [
            Match {
                destination_port: Some(443),
                ..none()
            },
            Match {
                destinations: nets(&["192.0.2.0/24"]),
                ..none()
            },
            Match {
                server_names: names(&["a.example"]),
                ..none()
            },
            Match {
                transport: "tls".to_owned(),
                ..none()
            },
            Match {
                protocols: names(&["h2"]),
                ..none()
            },
            Match {
                peers: nets(&["203.0.113.0/24"]),
                ..none()
            },
            Match {
                source_type: SourceType::External,
                ..none()
            },
            Match {
                sources: nets(&["198.51.100.0/24"]),
                ..none()
            },
            Match {
                source_ports: vec![40000],
                ..none()
            },
            none(),
        ];
        let conn = conn().tls("a.example", &["h2"]);
        for first in 0..steps.len() {
            let found = chooser(&steps[first..]).choose(&conn.facts());
            assert_eq!(found, Some(0), "from {first}");
            // In any order of the chains.
            let mut turned = steps[first..].to_vec();
            turned.reverse();
            let found = chooser(&turned).choose(&conn.facts());
            assert_eq!(found, Some(turned.len() - 1), "from {first}, turned");
        }
    }

    #[test]
    fn no_step_is_taken_back() {
        let other = |first: Match| {
            // Fits by its first condition and fails by a later one; the second chain would fit.
            let first = Match {
                source_ports: vec![1],
                ..first
            };
            let chooser = Chooser::new(&[first, Match::default()], Some(2)).unwrap();
            let conn = conn().tls("a.example", &["h2"]);
            assert_eq!(chooser.choose(&conn.facts()), None);
            assert_eq!(chooser.choose_or_default(&conn.facts()), Some(2));
        };
        let none = Match::default;
        other(Match {
            destination_port: Some(443),
            ..none()
        });
        other(Match {
            destinations: nets(&["192.0.2.10/32"]),
            ..none()
        });
        other(Match {
            server_names: names(&["*.example"]),
            ..none()
        });
        other(Match {
            transport: "tls".to_owned(),
            ..none()
        });
        other(Match {
            protocols: names(&["h2"]),
            ..none()
        });
        other(Match {
            peers: nets(&["203.0.113.9/32"]),
            ..none()
        });
        other(Match {
            source_type: SourceType::External,
            ..none()
        });
        other(Match {
            sources: nets(&["198.51.100.0/24"]),
            ..none()
        });
    }

    #[test]
    fn the_most_specific_name_decides() {
        let named = |list: &[&str]| Match {
            server_names: names(list),
            ..Match::default()
        };
        let chooser = chooser(&[
            named(&["www.example.com", "b.example"]),
            named(&["*.example.com"]),
            named(&["*.com"]),
            Match::default(),
        ]);
        for (name, chain) in [
            ("www.example.com", 0),
            ("b.example", 0),
            ("x.example.com", 1),
            ("a.b.example.com", 1),
            ("example.com", 2),
            ("com", 3),
            ("example.com.", 3),
            ("", 3),
        ] {
            let conn = conn().tls(name, &[]);
            assert_eq!(chooser.choose(&conn.facts()), Some(chain), "{name}");
        }
    }

    #[test]
    fn the_longest_prefix_decides() {
        let to = |list: &[&str]| Match {
            destinations: nets(list),
            ..Match::default()
        };
        let chooser = chooser(&[
            to(&["10.0.0.0/8", "2001:db8::/32"]),
            to(&["10.1.0.0/16"]),
            to(&["10.1.2.3/32", "::/0"]),
            Match::default(),
        ]);
        for (local, chain) in [
            ("10.9.9.9:1", 0),
            ("10.1.9.9:1", 1),
            ("10.1.2.3:1", 2),
            ("[::ffff:10.1.2.3]:1", 2),
            ("[2001:db8::1]:1", 0),
            ("[2001:db9::1]:1", 2),
            ("11.0.0.0:1", 3),
        ] {
            let conn = Conn {
                local: ip(local),
                ..conn()
            };
            assert_eq!(chooser.choose(&conn.facts()), Some(chain), "{local}");
        }
        // A Unix socket is no address, and fits what asks for none.
        let conn = Conn {
            local: Addr::Unix(std::path::Path::new("/x").into()),
            ..conn()
        };
        assert_eq!(chooser.choose(&conn.facts()), Some(3));
    }

    #[test]
    fn the_clients_first_protocol_that_fits_decides() {
        let spoken = |list: &[&str]| Match {
            protocols: names(list),
            ..Match::default()
        };
        let chooser = chooser(&[spoken(&["h2"]), spoken(&["http/1.1", "http/1.0"])]);
        let choose = |list: &[&str]| chooser.choose(&conn().tls("", list).facts());
        assert_eq!(choose(&["h2", "http/1.1"]), Some(0));
        assert_eq!(choose(&["http/1.1", "h2"]), Some(1));
        assert_eq!(choose(&["spdy", "h2"]), Some(0));
        assert_eq!(choose(&["spdy"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn where_it_comes_from() {
        let from = |source_type| Match {
            source_type,
            ..Match::default()
        };
        let all = [
            from(SourceType::Any),
            from(SourceType::SameIpOrLoopback),
            from(SourceType::External),
        ];
        for (remote, chain, without_external) in [
            ("127.0.0.1:9", 1, 1),
            ("[::1]:9", 1, 1),
            ("127.0.0.2:9", 2, 0),
            ("[::ffff:127.0.0.1]:9", 1, 1),
            ("192.0.2.10:9", 1, 1),
            ("192.0.2.11:9", 2, 0),
        ] {
            let conn = Conn {
                remote: ip(remote),
                ..conn()
            };
            assert_eq!(chooser(&all).choose(&conn.facts()), Some(chain), "{remote}");
            let found = chooser(&all[..2]).choose(&conn.facts());
            assert_eq!(found, Some(without_external), "{remote}");
        }
    }

    #[test]
    fn chains_that_fit_equally_well_are_refused() {
        let named = |list: &[&str]| Match {
            server_names: names(list),
            ..Match::default()
        };
        let twice = |a: Match, b: Match| Chooser::new(&[a, b], None).err();
        let overlap = Some(Overlap { chain: 1, other: 0 });
        assert_eq!(twice(Match::default(), Match::default()), overlap);
        assert_eq!(twice(named(&["a", "b"]), named(&["b", "c"])), overlap);
        assert_eq!(twice(named(&["a"]), named(&["b"])), None);
        let from = |list: &[&str]| Match {
            sources: nets(list),
            ..Match::default()
        };
        // One network written in two ways.
        assert_eq!(twice(from(&["10.0.0.0/8"]), from(&["10.1.1.1/8"])), overlap);
        assert_eq!(twice(from(&["10.0.0.0/8"]), from(&["10.0.0.0/9"])), None);
    }
}
