//! Where load goes: `http://host:port/path`, `ws://host:port/path` or `tcp://host:port`, resolved once at
//! start.
//!
//! An address that is not a loopback one is refused unless the caller says that it is meant: a load
//! generator pointed at the wrong host is an attack.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1 in the clear.
    Http,
    /// Messages of a WebSocket that come back as they were sent.
    Ws,
    /// Bytes that come back as they were sent.
    Tcp,
}

/// A resolved target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken.
    pub scheme: Scheme,
    /// Where to connect to.
    pub addr: SocketAddr,
    /// Host and port as they were given; the `host` field of requests.
    pub authority: String,
    /// Path and query, at least `/`; empty for TCP.
    pub path: String,
}

impl Target {
    /// Takes `text` apart and resolves the host.
    ///
    /// # Errors
    /// What is wrong with it, in words for the command line.
    pub fn parse(text: &str, allow_remote: bool) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("ws", rest)) => (Scheme::Ws, rest),
            Some(("tcp", rest)) => (Scheme::Tcp, rest),
            Some((other, _)) => {
                return Err(format!(
                    "scheme {other}:// of {text} is not http://, ws:// or tcp://"
                ));
            }
            None => {
                return Err(format!(
                    "{text} does not begin with http://, ws:// or tcp://"
                ));
            }
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(format!(
                "{text} names a user: give an authorization header instead"
            ));
        }
        let path = match (scheme, path) {
            (Scheme::Tcp, "" | "/") => String::new(),
            (Scheme::Tcp, _) => return Err(format!("{text} has a path, which TCP does not know")),
            (_, "") => "/".to_owned(),
            (_, query) if query.starts_with('?') => format!("/{query}"),
            (_, path) => path.to_owned(),
        };
        let with_port = if has_port(authority) {
            authority.to_owned()
        } else if scheme != Scheme::Tcp {
            format!("{authority}:80")
        } else {
            return Err(format!("{text} has no port"));
        };
        let mut addrs = with_port
            .to_socket_addrs()
            .map_err(|error| format!("{with_port}: {error}"))?;
        let addr = addrs
            .next()
            .ok_or_else(|| format!("{with_port} has no address"))?;
        if !allow_remote && !is_loopback(addr.ip()) {
            return Err(format!(
                "{addr} is not a loopback address; add --allow-remote if you mean it"
            ));
        }
        Ok(Self {
            scheme,
            addr,
            authority: authority.to_owned(),
            path,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Ws => "ws",
            Scheme::Tcp => "tcp",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A port follows the host, which may be an IPv6 address in brackets.
fn has_port(authority: &str) -> bool {
    let host_end = authority.rfind(']').map_or(0, |at| at + 1);
    authority[host_end..].contains(':')
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let target = Target::parse("http://127.0.0.1:8080/a?b=c", false).unwrap();
        assert_eq!(target.scheme, Scheme::Http);
        assert_eq!(target.addr, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(target.authority, "127.0.0.1:8080");
        assert_eq!(target.path, "/a?b=c");
        assert_eq!(target.to_string(), "http://127.0.0.1:8080/a?b=c");
    }

    #[test]
    fn defaults_are_port_80_and_the_root() {
        let target = Target::parse("http://127.0.0.1", false).unwrap();
        assert_eq!(target.addr.port(), 80);
        assert_eq!(target.path, "/");
        let target = Target::parse("http://[::1]?q", false).unwrap();
        assert_eq!((target.addr.port(), target.path.as_str()), (80, "/?q"));
    }

    #[test]
    fn tcp_has_a_port_and_no_path() {
        let target = Target::parse("tcp://[::1]:7", false).unwrap();
        assert_eq!((target.scheme, target.addr.port()), (Scheme::Tcp, 7));
        assert!(Target::parse("tcp://127.0.0.1", false).is_err());
        assert!(Target::parse("tcp://127.0.0.1:7/x", false).is_err());
    }

    #[test]
    fn only_loopback_without_being_asked() {
        for remote in [
            "http://192.0.2.1/",
            "tcp://[2001:db8::1]:9",
            "tcp://0.0.0.0:1",
        ] {
            let refused = Target::parse(remote, false).unwrap_err();
            assert!(refused.contains("--allow-remote"), "{refused}");
            assert!(Target::parse(remote, true).is_ok());
        }
        assert!(Target::parse("tcp://127.200.3.4:9", false).is_ok());
        assert!(Target::parse("tcp://[::ffff:127.0.0.1]:9", false).is_ok());
    }

    #[test]
    fn what_is_no_target() {
        for text in [
            "127.0.0.1:80",
            "https://127.0.0.1/",
            "http://u@127.0.0.1/",
            "http://:x/",
        ] {
            assert!(Target::parse(text, true).is_err(), "{text}");
        }
    }
}
