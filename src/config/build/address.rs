//! Addresses and options of sockets.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use moorgate_protos::envoy::config::core::v3::address::Address as Kind;
use moorgate_protos::envoy::config::core::v3::socket_address::PortSpecifier;
use moorgate_protos::envoy::config::core::v3::socket_option::{SocketState, Value};
use moorgate_protos::envoy::config::core::v3::{
    Address, CidrRange, Pipe, SocketAddress, SocketOption, TcpKeepalive,
};

use super::{Outcome, present};
use crate::config::FieldPath;
use crate::engine::reactor::{Addr, Keepalive, OptionTime, RawOption};
use crate::proxy::config::Network;

/// Longest path of a Unix socket: what `sockaddr_un` holds, with its NUL.
const MAX_UNIX_PATH: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) addr: Addr,
    /// `ipv4_compat`, of IPv6 addresses.
    pub(super) ipv4_compat: Option<bool>,
    /// `mode`, of Unix sockets that have a path.
    pub(super) unix_mode: Option<u32>,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remote {
    Addr(Addr),
    /// A name to be resolved, and a port.
    Name(String, u16),
}

/// The port of a socket address.
fn port(address: &SocketAddress, path: &FieldPath<'_>) -> Outcome<u16> {
    match &address.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port)
            .map_err(|_| path.field("port_value").error(format!("{port} is no port"))),
        Some(PortSpecifier::NamedPort(_)) | None => {
            Err(path.field("port_value").error("is required"))
        }
    }
}

/// IP address and port of a socket address.
pub(super) fn socket_addr(address: &SocketAddress, path: &FieldPath<'_>) -> Outcome<SocketAddr> {
    let text = super::required(&address.address, &path.field("address"))?;
    let ip: IpAddr = text.parse().map_err(|_| {
        path.field("address")
            .error(format!("'{text}' is no IP address"))
    })?;
    Ok(SocketAddr::new(ip, port(address, path)?))
}

/// The address of a Unix socket. A leading `@` makes it an abstract one.
fn unix(pipe: &Pipe, path: &FieldPath<'_>) -> Outcome<Addr> {
    let path = path.field("path");
    let text = super::required(&pipe.path, &path)?;
    if text.len() > MAX_UNIX_PATH {
        return Err(path.error(format!("is longer than {MAX_UNIX_PATH} bytes")));
    }
    if text.contains('\0') {
        return Err(path.error("contains a NUL"));
    }
    Ok(Addr::Unix(match text.strip_prefix('@') {
        Some(name) => {
            let mut bytes = vec![0];
            bytes.extend_from_slice(name.as_bytes());
            Path::new(OsStr::from_bytes(&bytes)).into()
        }
        None => Path::new(text).into(),
    }))
}

/// An address to listen on.
pub(super) fn local(address: Option<&Address>, path: &FieldPath<'_>) -> Outcome<Local> {
    let address = present(address, path)?;
    match &address.address {
        Some(Kind::SocketAddress(address)) => {
            let path = path.field("socket_address");
            let addr = socket_addr(address, &path)?;
            if address.ipv4_compat && addr.is_ipv4() {
                return Err(path.field("ipv4_compat").error("is for IPv6 addresses"));
            }
            Ok(Local {
                ipv4_compat: addr.is_ipv6().then_some(address.ipv4_compat),
                addr: Addr::Ip(addr),
                unix_mode: None,
            })
        }
        Some(Kind::Pipe(pipe)) => {
            let path = path.field("pipe");
            let addr = unix(pipe, &path)?;
            if pipe.mode > 0o777 {
                return Err(path.field("mode").error("is above 0777"));
            }
            if pipe.mode != 0 && pipe.path.starts_with('@') {
                return Err(path.field("mode").error("abstract sockets have none"));
            }
            Ok(Local {
                addr,
                ipv4_compat: None,
                unix_mode: (pipe.mode != 0).then_some(pipe.mode),
            })
        }
        _ => Err(path.error("has to be a socket_address or a pipe")),
    }
}

/// The address of a host; with `names` it may be a name.
pub(super) fn remote(
    address: Option<&Address>,
    names: bool,
    path: &FieldPath<'_>,
) -> Outcome<Remote> {
    let address = present(address, path)?;
    match &address.address {
        Some(Kind::SocketAddress(address)) => {
            let path = path.field("socket_address");
            if names {
                let name = super::required(&address.address, &path.field("address"))?;
                return Ok(Remote::Name(name.to_owned(), port(address, &path)?));
            }
            Ok(Remote::Addr(Addr::Ip(socket_addr(address, &path)?)))
        }
        Some(Kind::Pipe(_)) if names => {
            Err(path.field("pipe").error("is for clusters of type STATIC"))
        }
        Some(Kind::Pipe(pipe)) => Ok(Remote::Addr(unix(pipe, &path.field("pipe"))?)),
        _ => Err(path.error("has to be a socket_address or a pipe")),
    }
}

/// An IP address that is not to be resolved.
pub(super) fn ip(address: &Address, path: &FieldPath<'_>) -> Outcome<SocketAddr> {
    match &address.address {
        Some(Kind::SocketAddress(address)) => socket_addr(address, &path.field("socket_address")),
        _ => Err(path.error("has to be a socket_address")),
    }
}

/// A network.
pub(super) fn network(range: &CidrRange, path: &FieldPath<'_>) -> Outcome<Network> {
    let at = path.field("address_prefix");
    let text = super::required(&range.address_prefix, &at)?;
    let address = text
        .parse()
        .map_err(|_| at.error(format!("'{text}' is no IP address")))?;
    let bits = u8::try_from(range.prefix_len.unwrap_or(0)).unwrap_or(u8::MAX);
    Network::new(address, bits)
        .ok_or_else(|| path.field("prefix_len").error("is longer than the address"))
}

/// TCP keepalive.
pub(super) fn keepalive(
    keepalive: Option<&TcpKeepalive>,
    path: &FieldPath<'_>,
) -> Outcome<Option<Keepalive>> {
    let Some(keepalive) = keepalive else {
        return Ok(None);
    };
    // What the kernel takes: include/net/tcp.h.
    let within = |value: Option<u32>, max: u32, name: &str| match value {
        Some(value) if value == 0 || value > max => Err(path
            .field(name)
            .error(format!("has to be between 1 and {max}"))),
        value => Ok(value),
    };
    Ok(Some(Keepalive {
        idle_s: within(keepalive.keepalive_time, 32_767, "keepalive_time")?,
        interval_s: within(keepalive.keepalive_interval, 32_767, "keepalive_interval")?,
        probes: within(keepalive.keepalive_probes, 127, "keepalive_probes")?,
    }))
}

/// Socket options by number.
pub(super) fn socket_options(
    options: &[SocketOption],
    path: &FieldPath<'_>,
) -> Outcome<Vec<RawOption>> {
    let number = |value: i64, path: FieldPath<'_>| {
        i32::try_from(value).map_err(|_| path.error(format!("{value} is no 32-bit integer")))
    };
    let options = options.iter().enumerate().map(|(index, option)| {
        let path = path.index(index);
        let value = match &option.value {
            Some(Value::IntValue(value)) => number(*value, path.field("int_value"))?
                .to_ne_bytes()
                .to_vec(),
            Some(Value::BufValue(bytes)) => bytes.to_vec(),
            None => return Err(path.error("has to have an int_value or a buf_value")),
        };
        Ok(RawOption {
            level: number(option.level, path.field("level"))?,
            name: number(option.name, path.field("name"))?,
            value,
            when: match SocketState::try_from(option.state) {
                Ok(SocketState::StatePrebind) => OptionTime::PreBind,
                Ok(SocketState::StateBound) => OptionTime::Bound,
                Ok(SocketState::StateListening) => OptionTime::Listening,
                Err(_) => return Err(path.field("state").error("is not known")),
            },
        })
    });
    options.collect()
}
