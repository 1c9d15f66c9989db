//! Sockets of the operating system: opening, accepting, connecting, options and addresses.
//!
//! Every socket made here is non-blocking and close-on-exec. Nothing here knows of epoll, so other
//! backends and control threads use it too. No function may block, but for the file system calls of
//! a Unix listener's path.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    getsockopt, setsockopt, sockopt,
};

use super::super::{Addr, Keepalive, ListenOptions, OptionTime, RawOption, SocketOptions};

/// Most slices the kernel takes in one call (IOV_MAX).
const MAX_SLICES: usize = 1024;

/// A listening socket.
///
/// What `options.socket` says about the connections (keepalive, user timeout) and TCP_NODELAY is set on
/// the listening socket: accepted sockets inherit it, which saves the calls per connection.
///
/// A Unix socket's path on which nobody listens is a leftover and is removed first.
///
/// # Errors
/// EADDRINUSE, EACCES, EMFILE and whatever else the kernel says to socket, setsockopt, bind, listen.
pub fn listen(addr: &Addr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let fd = open(addr)?;
    if let Addr::Ip(ip) = addr {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if options.reuse_port {
            setsockopt(&fd, sockopt::ReusePort, &true)?;
        }
        if ip.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &!options.ipv4_compat)?;
        }
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        plain_congestion_control(&fd, *ip);
    }
    set_connection_options(&fd, addr, &options.socket)?;
    set_raw_options(&fd, &options.socket.raw, OptionTime::PreBind)?;
    bind_listener(&fd, addr)?;
    if let (Some(mode), Some(path)) = (options.unix_mode, unix_path(addr)) {
        // Before listen: until then nobody can connect, so nobody slips in under the umask's mode.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    set_raw_options(&fd, &options.socket.raw, OptionTime::Bound)?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    // SAFETY: listen takes no pointer; the descriptor is open, as `fd` owns it.
    Errno::result(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    set_raw_options(&fd, &options.socket.raw, OptionTime::Listening)?;
    Ok(fd)
}

/// The loopback has no path to congest: a control that models one and paces by timers, as BBR does, only
/// costs CPU there for every segment. Reno is in every kernel and open to everyone; a raw option for
/// TCP_CONGESTION comes later and wins.
fn plain_congestion_control(fd: &OwnedFd, ip: SocketAddr) {
    if ip.ip().to_canonical().is_loopback() {
        // Where it is refused, the system's own control is as good as it ever was.
        let _ = setsockopt(fd, sockopt::TcpCongestion, &OsString::from("reno"));
    }
}

/// Takes one connection off a listening socket.
///
/// TCP_NODELAY, congestion control and raw options are inherited from the listening socket, as is
/// everything [`listen`] set there; keepalive and user timeout in `options` are set on top.
///
/// # Errors
/// `WouldBlock` when the queue is empty, and what accept(2) says.
pub fn accept(listener: RawFd, options: &SocketOptions) -> io::Result<(OwnedFd, Addr)> {
    let mut storage = std::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is writable for `len` bytes, and both outlive the call.
    let accepted = Errno::result(unsafe {
        libc::accept4(
            listener,
            storage.as_mut_ptr().cast(),
            &raw mut len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: accept4 has just made this descriptor; nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(accepted) };
    // SAFETY: `storage` was zeroed and the kernel wrote an address of at most `len` bytes into it.
    let peer = unsafe { SockaddrStorage::from_raw(storage.as_ptr().cast(), Some(len)) };
    let peer = peer.map_or_else(unnamed, |storage| from_storage(&storage));
    set_connection_options(&fd, &peer, options)?;
    Ok((fd, peer))
}

/// Starts to connect. For TCP the outcome comes later; a Unix socket connects at once.
///
/// # Errors
/// What the kernel says at once: EADDRNOTAVAIL, ENETUNREACH, EMFILE; for a Unix socket also ENOENT,
/// ECONNREFUSED and EAGAIN (its accept queue is full). Any error means that there is no connection.
pub fn connect(addr: &Addr, options: &SocketOptions) -> io::Result<OwnedFd> {
    let fd = open(addr)?;
    if let Addr::Ip(ip) = addr {
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        plain_congestion_control(&fd, *ip);
    }
    set_connection_options(&fd, addr, options)?;
    set_raw_options(&fd, &options.raw, OptionTime::PreBind)?;
    if let (Some(local), Addr::Ip(_)) = (options.bind, addr) {
        if local.port() == 0 {
            // The port is chosen by connect: one port may then serve many different peers.
            setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
        }
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    }
    set_raw_options(&fd, &options.raw, OptionTime::Bound)?;
    match connect_fd(&fd, addr) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    set_raw_options(&fd, &options.raw, OptionTime::Listening)?;
    Ok(fd)
}

/// Reads what is there; `Ok(0)` is the end of stream.
///
/// # Errors
/// `WouldBlock`, or what recv(2) says.
#[inline]
pub fn read(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // Not recv(3): as a cancellation point it does atomic work before and after every call.
    // SAFETY: the kernel writes at most `into.len()` bytes to a buffer that is borrowed mutably.
    let result = unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd,
            into.as_mut_ptr(),
            into.len(),
            0,
            std::ptr::null_mut::<libc::sockaddr>(),
            std::ptr::null_mut::<libc::socklen_t>(),
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads what is there and leaves it there; `Ok(0)` is the end of stream.
///
/// # Errors
/// `WouldBlock`, or what recv(2) says.
pub fn peek(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    Ok(socket::recv(fd, into, MsgFlags::MSG_PEEK)?)
}

/// Where a connection was for before netfilter redirected it here.
#[must_use]
pub fn original_dst(fd: BorrowedFd<'_>) -> Option<Addr> {
    let local = local_addr(fd.as_raw_fd()).ok()?;
    let Addr::Ip(ip) = &local else { return None };
    // Of an IPv4 connection that an IPv6 socket took, only the first knows.
    let v4 = || getsockopt(&fd, sockopt::OriginalDst).ok();
    let found = if ip.ip().to_canonical().is_ipv4() {
        let found = v4()?;
        SocketAddr::from((
            u32::from_be(found.sin_addr.s_addr).to_be_bytes(),
            u16::from_be(found.sin_port),
        ))
    } else {
        let found = getsockopt(&fd, sockopt::Ip6tOriginalDst).ok()?;
        SocketAddr::from((found.sin6_addr.s6_addr, u16::from_be(found.sin6_port)))
    };
    (found != *ip).then_some(Addr::Ip(found))
}

/// Writes what the socket takes. Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock`, or what send(2) says.
#[inline]
pub fn write(fd: RawFd, from: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(match from {
        [] => 0,
        [one] => send(fd, one)?,
        many => {
            let many = &many[..many.len().min(MAX_SLICES)];
            socket::sendmsg::<()>(fd, many, &[], MsgFlags::MSG_NOSIGNAL, None)?
        }
    })
}

/// send(2), without what the library's function does because it is a cancellation point.
#[inline]
fn send(fd: RawFd, from: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `from.len()` bytes of a borrowed buffer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd,
            from.as_ptr(),
            from.len(),
            libc::MSG_NOSIGNAL,
            std::ptr::null::<libc::sockaddr>(),
            0,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Ends the write direction.
///
/// # Errors
/// ENOTCONN when the connection is gone.
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    Ok(socket::shutdown(fd, socket::Shutdown::Write)?)
}

/// The pending error of a socket, if any; clears it.
///
/// # Errors
/// The pending error itself.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Makes the coming close send RST and drop what is unsent (TCP; without effect on Unix sockets).
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&fd, sockopt::Linger, &now)?)
}

/// Address of this end.
///
/// # Errors
/// What getsockname(2) says.
pub fn local_addr(fd: RawFd) -> io::Result<Addr> {
    Ok(from_storage(&socket::getsockname(fd)?))
}

/// Address of the other end.
///
/// # Errors
/// ENOTCONN when there is none.
pub fn peer_addr(fd: RawFd) -> io::Result<Addr> {
    Ok(from_storage(&socket::getpeername(fd)?))
}

fn open(addr: &Addr) -> io::Result<OwnedFd> {
    let family = match addr {
        Addr::Ip(SocketAddr::V4(_)) => AddressFamily::Inet,
        Addr::Ip(SocketAddr::V6(_)) => AddressFamily::Inet6,
        Addr::Unix(_) => AddressFamily::Unix,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket::socket(family, SockType::Stream, flags, None)?)
}

/// Keepalive and user timeout; TCP only.
fn set_connection_options(fd: &OwnedFd, addr: &Addr, options: &SocketOptions) -> io::Result<()> {
    if !matches!(addr, Addr::Ip(_)) {
        return Ok(());
    }
    if let Some(keepalive) = &options.keepalive {
        set_keepalive(fd, keepalive)?;
    }
    if let Some(ms) = options.user_timeout_ms {
        setsockopt(fd, sockopt::TcpUserTimeout, &ms)?;
    }
    Ok(())
}

fn set_keepalive(fd: &OwnedFd, keepalive: &Keepalive) -> io::Result<()> {
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    if let Some(s) = keepalive.idle_s {
        setsockopt(fd, sockopt::TcpKeepIdle, &s)?;
    }
    if let Some(s) = keepalive.interval_s {
        setsockopt(fd, sockopt::TcpKeepInterval, &s)?;
    }
    if let Some(n) = keepalive.probes {
        setsockopt(fd, sockopt::TcpKeepCount, &n)?;
    }
    Ok(())
}

fn set_raw_options(fd: &OwnedFd, options: &[RawOption], when: OptionTime) -> io::Result<()> {
    for option in options.iter().filter(|option| option.when == when) {
        // SAFETY: the value is readable for the length given; the kernel only reads it.
        Errno::result(unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                option.level,
                option.name,
                option.value.as_ptr().cast(),
                option.value.len() as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}

fn connect_fd(fd: &OwnedFd, addr: &Addr) -> Result<(), Errno> {
    match addr {
        Addr::Ip(ip) => socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(*ip)),
        Addr::Unix(path) => socket::connect(fd.as_raw_fd(), &unix_addr(path)?),
    }
}

fn bind_listener(fd: &OwnedFd, addr: &Addr) -> Result<(), Errno> {
    match addr {
        Addr::Ip(ip) => socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(*ip)),
        Addr::Unix(path) => {
            let name = unix_addr(path)?;
            match socket::bind(fd.as_raw_fd(), &name) {
                Err(Errno::EADDRINUSE) if is_leftover(addr) => {
                    std::fs::remove_file(path).map_err(|_| Errno::EADDRINUSE)?;
                    socket::bind(fd.as_raw_fd(), &name)
                }
                done => done,
            }
        }
    }
}

/// The path is a socket on which nobody listens: connecting to it is refused.
fn is_leftover(addr: &Addr) -> bool {
    // A regular file refuses connections too, so its type is looked at first.
    unix_path(addr)
        .and_then(|path| std::fs::symlink_metadata(path).ok())
        .is_some_and(|meta| meta.file_type().is_socket())
        && open(addr).is_ok_and(|probe| connect_fd(&probe, addr) == Err(Errno::ECONNREFUSED))
}

/// Path in the file system, if the address has one.
fn unix_path(addr: &Addr) -> Option<&Path> {
    match addr {
        Addr::Unix(path) if !path.as_os_str().as_bytes().starts_with(b"\0") => Some(path),
        _ => None,
    }
}

fn unix_addr(path: &Path) -> Result<UnixAddr, Errno> {
    match path.as_os_str().as_bytes() {
        [0, name @ ..] => UnixAddr::new_abstract(name),
        _ => UnixAddr::new(path),
    }
}

fn unnamed() -> Addr {
    Addr::Unix(Arc::from(Path::new("")))
}

fn from_storage(storage: &SockaddrStorage) -> Addr {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Addr::Ip(SocketAddr::V4((*v4).into()));
    }
    if let Some(v6) = storage.as_sockaddr_in6() {
        return Addr::Ip(SocketAddr::V6((*v6).into()));
    }
    let Some(unix) = storage.as_unix_addr() else {
        return unnamed();
    };
    if let Some(path) = unix.path() {
        return Addr::Unix(Arc::from(path));
    }
    let Some(name) = unix.as_abstract() else {
        return unnamed();
    };
    let mut bytes = vec![0];
    bytes.extend_from_slice(name);
    Addr::Unix(Arc::from(Path::new(OsStr::from_bytes(&bytes))))
}
