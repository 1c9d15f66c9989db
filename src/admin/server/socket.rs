//! TCP and Unix sockets behind one face.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::sync::Arc;

use mio::Interest;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::engine::reactor::Addr;
use crate::server::control::Cx;

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Removes the socket that a process before us left behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => Err(ErrorKind::AddrInUse.into()),
                Err(_) => fs::remove_file(path),
            }
        }
        _ => Ok(()),
    }
}

impl Listener {
    pub(super) fn bind(address: &Addr, unix_mode: Option<u32>) -> io::Result<Self> {
        match address {
            Addr::Ip(address) => Ok(Self::Tcp(TcpListener::bind(*address)?)),
            Addr::Unix(path) => match path.as_os_str().as_bytes().strip_prefix(b"\0") {
                Some(name) => {
                    let address = UnixAddr::from_abstract_name(name)?;
                    Ok(Self::Unix(UnixListener::bind_addr(&address)?))
                }
                None => {
                    remove_stale(path)?;
                    let listener = UnixListener::bind(path)?;
                    if let Some(mode) = unix_mode {
                        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                    }
                    Ok(Self::Unix(listener))
                }
            },
        }
    }

    /// Where it listens; `wanted` where the system need not be asked.
    pub(super) fn address(&self, wanted: &Addr) -> Addr {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| wanted.clone(), Addr::Ip),
            Self::Unix(_) => wanted.clone(),
        }
    }

    pub(super) fn accept(&self) -> io::Result<(Stream, Addr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                // Answers are written whole; not having it only costs time.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Addr::Ip(peer)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok((Stream::Unix(stream), Addr::Unix(Arc::from(Path::new("")))))
            }
        }
    }

    pub(super) fn register(&mut self, cx: &mut Cx<'_>, key: usize) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => cx.register(listener, key, Interest::READABLE),
            Self::Unix(listener) => cx.register(listener, key, Interest::READABLE),
        }
    }
}

impl Stream {
    pub(super) fn register(
        &mut self,
        cx: &mut Cx<'_>,
        key: usize,
        interest: Interest,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => cx.register(stream, key, interest),
            Self::Unix(stream) => cx.register(stream, key, interest),
        }
    }

    pub(super) fn deregister(&mut self, cx: &mut Cx<'_>) {
        match self {
            Self::Tcp(stream) => cx.deregister(stream),
            Self::Unix(stream) => cx.deregister(stream),
        }
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}
