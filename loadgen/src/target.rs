//! Where load goes: a URL such as `https://host:port/path`, resolved once at start.
//!
//! An address that is not a loopback one is refused unless the caller says that it is meant: a load
//! generator pointed at the wrong host is an attack.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::cli::{Protocol, ProtocolOptions};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2: with prior knowledge in the clear, by ALPN over TLS.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Messages of a WebSocket that come back as they were sent.
    Ws,
    /// Bytes that come back as they were sent.
    Tcp,
}

/// Schemes by name: what is spoken, and whether over TLS.
const SCHEMES: [(&str, Scheme, bool); 8] = [
    ("http", Scheme::Http, false),
    ("https", Scheme::Http, true),
    ("grpc", Scheme::Grpc, false),
    ("grpcs", Scheme::Grpc, true),
    ("ws", Scheme::Ws, false),
    ("wss", Scheme::Ws, true),
    ("tcp", Scheme::Tcp, false),
    ("tls", Scheme::Tcp, true),
];

/// A resolved target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is spoken.
    pub scheme: Scheme,
    /// Over TLS.
    pub tls: bool,
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
        let known = || SCHEMES.map(|(name, ..)| format!("{name}://")).join(", ");
        let Some((name, rest)) = text.split_once("://") else {
            return Err(format!("{text} begins with none of {}", known()));
        };
        let found = SCHEMES.iter().find(|(scheme, ..)| *scheme == name);
        let Some(&(_, scheme, tls)) = found else {
            let known = known();
            return Err(format!("scheme {name}:// of {text} is none of {known}"));
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
            format!("{authority}:{}", if tls { 443 } else { 80 })
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
            tls,
            addr,
            authority: authority.to_owned(),
            path,
        })
    }
}

impl Target {
    /// Speaks what the options say instead of what the scheme does.
    ///
    /// # Errors
    /// Options that contradict the scheme.
    pub fn speak(mut self, options: &ProtocolOptions) -> Result<Self, String> {
        let wanted = match (options.protocol, options.http2) {
            (Some(Protocol::Http1), _) => Some(Scheme::Http),
            (Some(Protocol::Http2), _) | (None, true) => Some(Scheme::Http2),
            (Some(Protocol::Grpc), _) => Some(Scheme::Grpc),
            (Some(Protocol::Ws), _) => Some(Scheme::Ws),
            (None, false) => None,
        };
        match wanted {
            Some(wanted) if self.scheme == Scheme::Http => self.scheme = wanted,
            Some(wanted) if self.scheme != wanted => {
                return Err(format!("{self} stands for another protocol"));
            }
            _ => {}
        }
        if options.streams.is_some() && !self.has_streams() {
            return Err(format!(
                "streams are for HTTP/2 and gRPC, which {self} is not"
            ));
        }
        if options.bidi && self.scheme != Scheme::Grpc {
            return Err(format!("--bidi is for gRPC, which {self} is not"));
        }
        Ok(self)
    }

    /// A connection carries several exchanges at a time.
    #[must_use]
    pub fn has_streams(&self) -> bool {
        matches!(self.scheme, Scheme::Http2 | Scheme::Grpc)
    }

    /// The host without its port, and without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let end = if has_port(&self.authority) {
            self.authority.rfind(':').unwrap_or(self.authority.len())
        } else {
            self.authority.len()
        };
        let host = &self.authority[..end];
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(host)
    }

    /// The scheme that requests name.
    #[must_use]
    pub fn http_scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http2 => self.http_scheme(),
            scheme => SCHEMES
                .iter()
                .find(|(_, known, tls)| *known == scheme && *tls == self.tls)
                .map_or("", |(name, ..)| name),
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
    fn schemes_say_what_is_spoken_and_whether_over_tls() {
        for (text, scheme, tls, port) in [
            ("https://127.0.0.1/x", Scheme::Http, true, 443),
            ("grpc://127.0.0.1/a.B/C", Scheme::Grpc, false, 80),
            ("grpcs://[::1]:9/a.B/C", Scheme::Grpc, true, 9),
            ("wss://127.0.0.1/", Scheme::Ws, true, 443),
            ("tls://127.0.0.1:7", Scheme::Tcp, true, 7),
        ] {
            let target = Target::parse(text, false).unwrap();
            assert_eq!((target.scheme, target.tls), (scheme, tls), "{text}");
            assert_eq!(target.addr.port(), port);
            assert_eq!(target.to_string(), text);
        }
        let host = |text| Target::parse(text, true).unwrap().host().to_owned();
        assert_eq!(host("https://[::1]:9/"), "::1");
        assert_eq!(host("https://localhost/"), "localhost");
        assert_eq!(host("https://localhost:1/"), "localhost");
    }

    #[test]
    fn options_speak_for_the_scheme_or_contradict_it() {
        let target = |text| Target::parse(text, true).unwrap();
        let speak = |text, protocol, http2, bidi| {
            target(text).speak(&ProtocolOptions {
                protocol,
                http2,
                streams: None,
                bidi,
            })
        };
        let spoken = |text, protocol, http2| speak(text, protocol, http2, false).unwrap().scheme;
        assert_eq!(spoken("http://127.0.0.1/", None, false), Scheme::Http);
        assert_eq!(spoken("https://127.0.0.1/", None, true), Scheme::Http2);
        for (protocol, scheme) in [
            (Protocol::Http1, Scheme::Http),
            (Protocol::Http2, Scheme::Http2),
            (Protocol::Grpc, Scheme::Grpc),
            (Protocol::Ws, Scheme::Ws),
        ] {
            assert_eq!(spoken("https://127.0.0.1/", Some(protocol), false), scheme);
        }
        assert_eq!(
            spoken("grpc://127.0.0.1/", Some(Protocol::Grpc), false),
            Scheme::Grpc
        );
        assert!(speak("tcp://127.0.0.1:1", None, true, false).is_err());
        assert!(speak("ws://127.0.0.1/", Some(Protocol::Grpc), false, false).is_err());
        assert!(speak("http://127.0.0.1/", None, true, true).is_err());
        assert!(speak("grpc://127.0.0.1/", None, false, true).is_ok());
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
            "ftp://127.0.0.1/",
            "http://u@127.0.0.1/",
            "http://:x/",
        ] {
            assert!(Target::parse(text, true).is_err(), "{text}");
        }
    }
}
