//! `/etc/hosts`: names that need no server.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names of the file, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    names: HashMap<String, Vec<IpAddr>>,
}

impl Hosts {
    /// Reads the file's text. Lines that are not understood are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let list = names.entry(key(name)).or_default();
                if !list.contains(&ip) {
                    list.push(ip);
                }
            }
        }
        Self { names }
    }

    /// Addresses of a name. `localhost` and what is below it are the loopback addresses even when the
    /// file is silent (RFC 6761, 6.3).
    pub(super) fn get(&self, name: &str) -> Option<Vec<IpAddr>> {
        let name = key(name);
        if let Some(list) = self.names.get(&name) {
            return Some(list.clone());
        }
        (name == "localhost" || name.ends_with(".localhost"))
            .then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whatever_their_case() {
        let hosts = Hosts::parse(
            "127.0.0.1 one.test ONE # two.test\n\
             ::1\tone.test\n\
             nonsense three.test\n\
             127.0.0.2 one.test. one.test\n",
        );
        let one = hosts.get("One.Test.").unwrap();
        let one: Vec<_> = one.iter().map(ToString::to_string).collect();
        assert_eq!(one, ["127.0.0.1", "::1", "127.0.0.2"]);
        assert!(hosts.get("one").is_some());
        assert!(hosts.get("two.test").is_none());
        assert!(hosts.get("three.test").is_none());
    }

    #[test]
    fn localhost_needs_no_file() {
        assert_eq!(Hosts::default().get("localhost").unwrap().len(), 2);
        assert_eq!(Hosts::default().get("a.LOCALHOST.").unwrap().len(), 2);
        let own = Hosts::parse("127.0.0.9 localhost");
        assert_eq!(
            own.get("localhost").unwrap(),
            [IpAddr::from([127, 0, 0, 9])]
        );
    }
}
