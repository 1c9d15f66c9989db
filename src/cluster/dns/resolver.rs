//! Looking names up: which question goes to which server when, and what follows from the answers.
//!
//! Sans-IO. The owner carries out [`Action`]s and reports what came of them. Bounded: queries in
//! flight, tries per query, aliases, junk per query, and what is remembered.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::hosts::Hosts;
use super::message::{self, Fqdn, Kind, MAX_ALIASES, Reply};
use super::resolv_conf::ResolvConf;
use crate::cluster::DnsFamily;
use crate::server::control::Millis;

/// Queries that have a socket at a time; further ones wait.
const MAX_IN_FLIGHT: usize = 64;
/// Datagrams that do not answer the question before it is asked over TCP, where nobody can guess.
const MAX_JUNK: u32 = 8;
/// Names remembered as having nothing.
const MAX_NEGATIVE: usize = 1024;
/// The longest that "nothing" is remembered, whatever the zone allows.
const MAX_NEGATIVE_S: u32 = 30;

/// A lookup as asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Name or address as configured.
    pub(super) host: String,
    /// Families wanted.
    pub(super) family: DnsFamily,
    /// Servers instead of those of resolv.conf, when not empty.
    pub(super) servers: Vec<SocketAddr>,
    /// Never over UDP.
    pub(super) tcp_only: bool,
    /// Try the search list.
    pub(super) search: bool,
}

/// Outcome of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Addresses, and for how many seconds they hold (`None`: not from a server).
    Found { ips: Vec<IpAddr>, ttl: Option<u32> },
    /// There are none.
    Nothing { ttl: Option<u32> },
    /// No server could say.
    Failed,
}

/// What the owner of the resolver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this from a new UDP socket that is connected to the server.
    Udp(u32, SocketAddr, Vec<u8>),
    /// Send this (behind its length) over a new TCP connection.
    Tcp(u32, SocketAddr, Vec<u8>),
    /// Close the socket of this query, if it has one.
    Close(u32),
    /// This lookup ended.
    Done(u64, Answer),
}

#[derive(Debug)]
struct Lookup {
    request: Request,
    candidates: Vec<String>,
    /// Which candidate is asked for now.
    candidate: usize,
    /// Kinds to ask for at once; the next group only when the one before found nothing.
    groups: &'static [&'static [Kind]],
    group: usize,
    pending: usize,
    found: Vec<(Kind, Vec<IpAddr>)>,
    ttl: u32,
    negative_ttl: Option<u32>,
    failed: bool,
}

#[derive(Debug)]
struct Query {
    lookup: u64,
    kind: Kind,
    /// What is asked, as text: the key under which "nothing" is remembered.
    text: String,
    name: Fqdn,
    aliases: usize,
    alias_ttl: u32,
    servers: Arc<[SocketAddr]>,
    first: usize,
    tries: usize,
    max_tries: usize,
    tcp: bool,
    tcp_only: bool,
    edns: bool,
    junk: u32,
    id: u16,
    /// `None` while it waits for its turn.
    deadline: Option<Millis>,
}

/// The state of all lookups.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    conf: ResolvConf,
    hosts: Hosts,
    lookups: HashMap<u64, Lookup>,
    queries: HashMap<u32, Query>,
    deadlines: BTreeSet<(Millis, u32)>,
    waiting: VecDeque<u32>,
    negative: HashMap<(String, Kind), Millis>,
    next_query: u32,
    rotation: usize,
    actions: VecDeque<Action>,
}

impl Resolver {
    /// Uses these settings for lookups to come.
    pub(super) fn set_conf(&mut self, conf: ResolvConf) {
        if self.conf != conf {
            self.conf = conf;
            self.negative.clear();
        }
    }

    /// Uses these hosts for lookups to come.
    pub(super) fn set_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// The next thing to do.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Something is to be done.
    pub(super) fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// When [`expire`](Self::expire) wants to be called.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Begins a lookup under a number of the caller's; it ends with [`Action::Done`].
    pub(super) fn start(
        &mut self,
        number: u64,
        request: Request,
        now: Millis,
        random: &mut dyn FnMut() -> u64,
    ) {
        if let Some(known) = self.known(&request) {
            self.actions.push_back(Action::Done(number, known));
            return;
        }
        let lookup = Lookup {
            candidates: self.conf.candidates(&request.host, request.search),
            candidate: 0,
            groups: groups(request.family),
            group: 0,
            pending: 0,
            found: Vec::new(),
            ttl: u32::MAX,
            negative_ttl: None,
            failed: false,
            request,
        };
        self.lookups.insert(number, lookup);
        self.ask(number, now, random);
    }

    /// Forgets a lookup; it does not end.
    pub(super) fn cancel(&mut self, number: u64, now: Millis, random: &mut dyn FnMut() -> u64) {
        self.lookups.remove(&number);
        let queries: Vec<_> = self
            .queries
            .iter()
            .filter(|(_, query)| query.lookup == number)
            .map(|(key, _)| *key)
            .collect();
        for key in queries {
            self.close(key);
            self.queries.remove(&key);
        }
        self.waiting.retain(|key| self.queries.contains_key(key));
        self.send_waiting(now, random);
    }

    fn send_waiting(&mut self, now: Millis, random: &mut dyn FnMut() -> u64) {
        while self.deadlines.len() < MAX_IN_FLIGHT
            && let Some(next) = self.waiting.pop_front()
        {
            self.send(next, now, random);
        }
    }

    /// What can be said without asking a server.
    fn known(&self, request: &Request) -> Option<Answer> {
        let wanted = |ip: &IpAddr| match request.family {
            DnsFamily::V4Only => ip.is_ipv4(),
            DnsFamily::V6Only => ip.is_ipv6(),
            _ => true,
        };
        if let Ok(ip) = request.host.parse::<IpAddr>() {
            return Some(Answer::Found {
                ips: vec![ip],
                ttl: None,
            });
        }
        let mut ips = self.hosts.get(&request.host)?;
        ips.retain(wanted);
        let preferred = match request.family {
            DnsFamily::Auto => Some(IpAddr::is_ipv6 as fn(&IpAddr) -> bool),
            DnsFamily::V4Preferred => Some(IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            _ => None,
        };
        if let Some(preferred) = preferred
            && ips.iter().any(preferred)
        {
            ips.retain(preferred);
        }
        if ips.is_empty() {
            // A family that the file does not have may be in DNS.
            return None;
        }
        Some(Answer::Found { ips, ttl: None })
    }

    /// Asks for the current candidate, or goes on to the next, or ends the lookup.
    fn ask(&mut self, number: u64, now: Millis, random: &mut dyn FnMut() -> u64) {
        loop {
            let Some(lookup) = self.lookups.get_mut(&number) else {
                return;
            };
            if !lookup.found.is_empty() || lookup.group == lookup.groups.len() {
                self.end(number);
                return;
            }
            let Some(text) = lookup.candidates.get(lookup.candidate).cloned() else {
                lookup.group += 1;
                lookup.candidate = 0;
                continue;
            };
            let kinds = lookup.groups[lookup.group];
            let request = lookup.request.clone();
            let Some(name) = message::parse_name(&text) else {
                // Too long with this search domain, or no name at all.
                lookup.candidate += 1;
                continue;
            };
            let text = text.trim_end_matches('.').to_ascii_lowercase();
            for kind in kinds {
                if self.remembered(&text, *kind, now) {
                    continue;
                }
                self.query(number, *kind, &text, &name, &request, now, random);
            }
            let Some(lookup) = self.lookups.get_mut(&number) else {
                return;
            };
            if lookup.pending > 0 {
                return;
            }
            lookup.candidate += 1;
        }
    }

    fn remembered(&self, text: &str, kind: Kind, now: Millis) -> bool {
        self.negative
            .get(&(text.to_owned(), kind))
            .is_some_and(|until| *until > now)
    }

    fn remember(&mut self, text: String, kind: Kind, ttl: u32, now: Millis) {
        if self.negative.len() >= MAX_NEGATIVE {
            self.negative.retain(|_, until| *until > now);
            if self.negative.len() >= MAX_NEGATIVE {
                self.negative.clear();
            }
        }
        let until = now + u64::from(ttl.min(MAX_NEGATIVE_S)) * 1_000;
        self.negative.insert((text, kind), until);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    fn query(
        &mut self,
        lookup: u64,
        kind: Kind,
        text: &str,
        name: &Fqdn,
        request: &Request,
        now: Millis,
        random: &mut dyn FnMut() -> u64,
    ) {
        let servers: Arc<[SocketAddr]> = if request.servers.is_empty() {
            self.conf.servers.as_slice().into()
        } else {
            request.servers.as_slice().into()
        };
        let first = if self.conf.rotate {
            self.rotation = self.rotation.wrapping_add(1);
            self.rotation
        } else {
            0
        };
        let tcp_only = request.tcp_only || self.conf.use_tcp;
        let mut key = self.next_query;
        while self.queries.contains_key(&key) {
            key = key.wrapping_add(1);
        }
        self.next_query = key.wrapping_add(1);
        self.queries.insert(
            key,
            Query {
                lookup,
                kind,
                text: text.to_owned(),
                name: name.clone(),
                aliases: 0,
                alias_ttl: u32::MAX,
                max_tries: servers.len() * self.conf.attempts as usize,
                servers,
                first,
                tries: 0,
                tcp: tcp_only,
                tcp_only,
                edns: self.conf.edns,
                junk: 0,
                id: 0,
                deadline: None,
            },
        );
        if let Some(lookup) = self.lookups.get_mut(&lookup) {
            lookup.pending += 1;
        }
        if self.deadlines.len() >= MAX_IN_FLIGHT {
            self.waiting.push_back(key);
        } else {
            self.send(key, now, random);
        }
    }

    /// Sends a query (again), from a new socket with a new id.
    fn send(&mut self, key: u32, now: Millis, random: &mut dyn FnMut() -> u64) {
        self.close(key);
        let Some(query) = self.queries.get_mut(&key) else {
            return;
        };
        query.id = random() as u16;
        let server = query.servers[(query.first + query.tries) % query.servers.len()];
        let Some(bytes) = message::query(query.id, &query.name, query.kind, query.edns) else {
            return self.conclude(key, Outcome::Failed, now, random);
        };
        let deadline = now + self.conf.timeout_ms;
        query.deadline = Some(deadline);
        self.deadlines.insert((deadline, key));
        self.actions.push_back(if query.tcp {
            Action::Tcp(key, server, bytes)
        } else {
            Action::Udp(key, server, bytes)
        });
    }

    fn close(&mut self, key: u32) {
        if let Some(query) = self.queries.get_mut(&key)
            && let Some(deadline) = query.deadline.take()
        {
            self.deadlines.remove(&(deadline, key));
            self.actions.push_back(Action::Close(key));
        }
    }

    /// A whole message came on the socket of a query.
    pub(super) fn received(
        &mut self,
        key: u32,
        bytes: &[u8],
        now: Millis,
        random: &mut dyn FnMut() -> u64,
    ) {
        let Some(query) = self.queries.get_mut(&key) else {
            return;
        };
        if query.deadline.is_none() {
            return;
        }
        let Some(reply) = message::read(bytes, query.id, &query.name, query.kind) else {
            query.junk += 1;
            if query.tcp {
                self.try_next(key, now, random);
            } else if query.junk >= MAX_JUNK {
                query.tcp = true;
                self.send(key, now, random);
            }
            return;
        };
        match reply {
            Reply::Addresses { ips, ttl } => {
                let ttl = ttl.min(query.alias_ttl);
                self.conclude(key, Outcome::Found(ips, ttl), now, random);
            }
            Reply::Nothing { ttl } => {
                let ttl = ttl.map(|ttl| ttl.min(query.alias_ttl));
                self.conclude(key, Outcome::Nothing(ttl), now, random);
            }
            Reply::Alias { target, ttl } => {
                query.aliases += 1;
                query.alias_ttl = query.alias_ttl.min(ttl);
                query.name = target;
                query.tcp = query.tcp_only;
                if query.aliases > MAX_ALIASES {
                    self.conclude(key, Outcome::Failed, now, random);
                } else {
                    self.send(key, now, random);
                }
            }
            Reply::Truncated if !query.tcp => {
                query.tcp = true;
                self.send(key, now, random);
            }
            Reply::Format if query.edns => {
                query.edns = false;
                self.send(key, now, random);
            }
            Reply::Truncated | Reply::Format | Reply::Failure => self.try_next(key, now, random),
        }
    }

    /// The socket of a query failed: refused, unreachable, closed.
    pub(super) fn broken(&mut self, key: u32, now: Millis, random: &mut dyn FnMut() -> u64) {
        if self
            .queries
            .get(&key)
            .is_some_and(|query| query.deadline.is_some())
        {
            self.try_next(key, now, random);
        }
    }

    /// Time passed: queries without an answer go to the next server.
    pub(super) fn expire(&mut self, now: Millis, random: &mut dyn FnMut() -> u64) {
        while let Some(&(at, key)) = self.deadlines.first()
            && at <= now
        {
            self.try_next(key, now, random);
        }
    }

    fn try_next(&mut self, key: u32, now: Millis, random: &mut dyn FnMut() -> u64) {
        let Some(query) = self.queries.get_mut(&key) else {
            return;
        };
        query.tries += 1;
        query.junk = 0;
        query.tcp = query.tcp_only;
        if query.tries >= query.max_tries {
            self.conclude(key, Outcome::Failed, now, random);
        } else {
            self.send(key, now, random);
        }
    }

    fn conclude(
        &mut self,
        key: u32,
        outcome: Outcome,
        now: Millis,
        random: &mut dyn FnMut() -> u64,
    ) {
        self.close(key);
        let Some(query) = self.queries.remove(&key) else {
            return;
        };
        if let Outcome::Nothing(Some(ttl)) = outcome {
            self.remember(query.text, query.kind, ttl, now);
        }
        if let Some(lookup) = self.lookups.get_mut(&query.lookup) {
            lookup.pending -= 1;
            match outcome {
                Outcome::Found(ips, ttl) => {
                    lookup.found.push((query.kind, ips));
                    lookup.ttl = lookup.ttl.min(ttl);
                }
                Outcome::Nothing(ttl) => {
                    let least = ttl.into_iter().chain(lookup.negative_ttl).min();
                    lookup.negative_ttl = least;
                }
                Outcome::Failed => lookup.failed = true,
            }
            if lookup.pending == 0 {
                lookup.candidate += 1;
                self.ask(query.lookup, now, random);
            }
        }
        self.send_waiting(now, random);
    }

    fn end(&mut self, number: u64) {
        let Some(mut lookup) = self.lookups.remove(&number) else {
            return;
        };
        // IPv4 first: where both exist it is the one that works nearly everywhere.
        lookup.found.sort_by_key(|(kind, _)| *kind);
        let ips: Vec<_> = lookup.found.into_iter().flat_map(|(_, ips)| ips).collect();
        let answer = if !ips.is_empty() {
            Answer::Found {
                ips,
                ttl: Some(lookup.ttl),
            }
        } else if lookup.failed {
            Answer::Failed
        } else {
            Answer::Nothing {
                ttl: lookup.negative_ttl,
            }
        };
        self.actions.push_back(Action::Done(number, answer));
    }

    /// Lookups and queries that are under way.
    #[cfg(test)]
    fn busy(&self) -> (usize, usize) {
        (self.lookups.len(), self.queries.len())
    }
}

/// Outcome of one query.
enum Outcome {
    Found(Vec<IpAddr>, u32),
    Nothing(Option<u32>),
    Failed,
}

fn groups(family: DnsFamily) -> &'static [&'static [Kind]] {
    match family {
        DnsFamily::V4Only => &[&[Kind::A]],
        DnsFamily::V6Only => &[&[Kind::Aaaa]],
        DnsFamily::Auto => &[&[Kind::Aaaa], &[Kind::A]],
        DnsFamily::V4Preferred => &[&[Kind::A], &[Kind::Aaaa]],
        DnsFamily::All => &[&[Kind::A, Kind::Aaaa]],
    }
}

#[cfg(test)]
mod tests;
