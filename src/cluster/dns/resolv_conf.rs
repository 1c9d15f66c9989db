//! `/etc/resolv.conf`: which servers to ask, and how.
//!
//! Unknown keywords and options are skipped, as every resolver does; limits are glibc's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Servers used: glibc's MAXNS.
const MAX_SERVERS: usize = 3;
/// Search domains kept. glibc has no limit since 2.26; this only bounds the file.
const MAX_SEARCH: usize = 32;

/// Settings of the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// Servers in order. Never empty: 127.0.0.1 when the file names none.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains tried behind short names.
    pub(super) search: Vec<String>,
    /// Names with at least this many dots are first tried as they are.
    pub(super) ndots: usize,
    /// Milliseconds to wait for one server.
    pub(super) timeout_ms: u64,
    /// Rounds over all servers.
    pub(super) attempts: u32,
    /// Begin with another server each time.
    pub(super) rotate: bool,
    /// Ask over TCP only.
    pub(super) use_tcp: bool,
    /// Ask with EDNS.
    pub(super) edns: bool,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))],
            search: Vec::new(),
            ndots: 1,
            timeout_ms: 5_000,
            attempts: 2,
            rotate: false,
            use_tcp: false,
            edns: true,
        }
    }
}

impl ResolvConf {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut servers = Vec::new();
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if let Some(ip) = words.next().and_then(server)
                        && servers.len() < MAX_SERVERS
                    {
                        servers.push(ip);
                    }
                }
                // The last of both wins.
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("search") => {
                    conf.search = words.take(MAX_SEARCH).map(str::to_owned).collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if !servers.is_empty() {
            conf.servers = servers;
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<u64>().ok();
        match (name, number) {
            ("ndots", Some(dots)) => self.ndots = dots.min(15) as usize,
            ("timeout", Some(seconds)) => self.timeout_ms = seconds.clamp(1, 30) * 1_000,
            ("attempts", Some(rounds)) => self.attempts = rounds.clamp(1, 5) as u32,
            ("rotate", _) => self.rotate = true,
            ("use-vc", _) => self.use_tcp = true,
            _ => {}
        }
    }

    /// The names to ask for, in order, for a name as configured.
    pub(super) fn candidates(&self, name: &str, search: bool) -> Vec<String> {
        if name.ends_with('.') || !search {
            return vec![name.to_owned()];
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let with = |domain: &String| format!("{name}.{domain}");
        let mut list: Vec<_> = self.search.iter().map(with).collect();
        // "search ." names the root: the name itself.
        for candidate in &mut list {
            if candidate.ends_with("..") {
                candidate.pop();
            }
        }
        let place = if dots >= self.ndots { 0 } else { list.len() };
        list.insert(place, name.to_owned());
        list
    }
}

/// An address, with a scope (`fe80::1%2`) by number.
fn server(word: &str) -> Option<SocketAddr> {
    let (ip, scope) = word.split_once('%').unwrap_or((word, ""));
    match ip.parse::<IpAddr>().ok()? {
        IpAddr::V6(ip) if !scope.is_empty() => {
            let scope = scope.parse().ok()?;
            Some(std::net::SocketAddrV6::new(ip, 53, 0, scope).into())
        }
        ip => Some(SocketAddr::new(ip, 53)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file() {
        let conf = ResolvConf::parse(
            "# comment\n\
             nameserver 10.0.0.1\n\
             nameserver ::1\n\
             nameserver fe80::1%2\n\
             nameserver 10.0.0.4\n\
             nameserver nonsense\n\
             domain gone.test\n\
             search a.test b.test\n\
             options ndots:5 timeout:1 attempts:3 rotate use-vc whatever:3\n\
             sortlist 1.2.3.4\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:53", "[fe80::1%2]:53"]);
        assert_eq!(conf.search, ["a.test", "b.test"]);
        assert_eq!((conf.ndots, conf.timeout_ms, conf.attempts), (5, 1_000, 3));
        assert!(conf.rotate && conf.use_tcp);
    }

    #[test]
    fn an_empty_file_means_the_local_server() {
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
        let odd = ResolvConf::parse("options timeout:0 attempts:99 ndots:x\nnameserver\n");
        assert_eq!((odd.timeout_ms, odd.attempts, odd.ndots), (1_000, 5, 1));
    }

    #[test]
    fn candidates_follow_ndots() {
        let conf = ResolvConf::parse("search a.test b.test.\noptions ndots:2");
        assert_eq!(conf.candidates("x", true), ["x.a.test", "x.b.test.", "x"]);
        assert_eq!(
            conf.candidates("x.y.z", true),
            ["x.y.z", "x.y.z.a.test", "x.y.z.b.test."]
        );
        assert_eq!(conf.candidates("x.", true), ["x."]);
        assert_eq!(conf.candidates("x", false), ["x"]);
        let root = ResolvConf::parse("search .");
        assert_eq!(root.candidates("x", true), ["x.", "x"]);
    }
}
