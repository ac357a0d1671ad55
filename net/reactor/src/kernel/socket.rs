//! Sockets: addresses, options, and the non-blocking calls of the fallback driver.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{check, check_count};
use crate::net::Address;

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const BACKLOG: libc::c_int = 4096;

/// Seconds of silence before a keep-alive probe, between probes, and probes before the connection is dead.
const KEEPALIVE_IDLE_SECONDS: libc::c_int = 60;
const KEEPALIVE_INTERVAL_SECONDS: libc::c_int = 15;
const KEEPALIVE_PROBES: libc::c_int = 4;

/// An address as the kernel takes and gives it.
pub(crate) struct KernelAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl KernelAddress {
    fn empty() -> KernelAddress {
        // SAFETY: an all-zero `sockaddr_storage` is a valid value of that plain structure.
        let storage = unsafe { std::mem::zeroed() };
        KernelAddress { storage, length: 0 }
    }

    /// # Errors
    /// `InvalidInput` if a unix path is too long for the kernel or empty.
    pub(crate) fn new(address: &Address) -> io::Result<KernelAddress> {
        match address {
            Address::Tcp(SocketAddr::V4(address)) => Ok(KernelAddress::from_v4(address)),
            Address::Tcp(SocketAddr::V6(address)) => Ok(KernelAddress::from_v6(address)),
            Address::Unix(path) => KernelAddress::from_path(path.as_os_str().as_bytes()),
        }
    }

    fn from_v4(address: &SocketAddrV4) -> KernelAddress {
        let raw = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(address.ip().octets()),
            },
            sin_zero: [0; 8],
        };
        KernelAddress::store(&raw, size_of::<libc::sockaddr_in>())
    }

    fn from_v6(address: &SocketAddrV6) -> KernelAddress {
        let raw = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: address.port().to_be(),
            sin6_flowinfo: address.flowinfo(),
            sin6_addr: libc::in6_addr {
                s6_addr: address.ip().octets(),
            },
            sin6_scope_id: address.scope_id(),
        };
        KernelAddress::store(&raw, size_of::<libc::sockaddr_in6>())
    }

    fn from_path(path: &[u8]) -> io::Result<KernelAddress> {
        // SAFETY: an all-zero `sockaddr_un` is a valid value of that plain structure.
        let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        if path.is_empty() || path.len() >= raw.sun_path.len() || path.contains(&0) {
            let text = format!(
                "a unix socket's path has 1 to {} bytes, not {}",
                raw.sun_path.len() - 1,
                path.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (place, &byte) in raw.sun_path.iter_mut().zip(path) {
            *place = byte as libc::c_char;
        }
        let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
        Ok(KernelAddress::store(&raw, length))
    }

    fn store<T: Copy>(raw: &T, length: usize) -> KernelAddress {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        let mut address = KernelAddress::empty();
        address.length = length as libc::socklen_t;
        // SAFETY: the storage is at least as large as `T` and as strictly aligned as any address type (socket(7)).
        unsafe {
            std::ptr::from_mut(&mut address.storage)
                .cast::<T>()
                .write(*raw)
        };
        address
    }

    /// The address as the kernel's calls take it; valid while `self` is neither moved nor dropped.
    pub(crate) fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (std::ptr::from_ref(&self.storage).cast(), self.length)
    }

    fn family(&self) -> libc::c_int {
        libc::c_int::from(self.storage.ss_family)
    }

    fn to_address(&self) -> Address {
        let storage = std::ptr::from_ref(&self.storage);
        match self.family() {
            libc::AF_INET => {
                // SAFETY: the family says that the storage holds this type.
                let raw = unsafe { &*storage.cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Address::Tcp(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the storage holds this type.
                let raw = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                Address::Tcp(
                    SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into(),
                )
            }
            _ => self.to_path(),
        }
    }

    fn to_path(&self) -> Address {
        // SAFETY: every other family here is AF_UNIX, and the storage has room for the whole type.
        let raw = unsafe { &*std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_un>() };
        let offset = std::mem::offset_of!(libc::sockaddr_un, sun_path);
        let length = (self.length as usize)
            .saturating_sub(offset)
            .min(raw.sun_path.len());
        let bytes = raw.sun_path[..length]
            .iter()
            .map(|&byte| byte as u8)
            .take_while(|&byte| byte != 0);
        Address::Unix(PathBuf::from(std::ffi::OsString::from_vec(bytes.collect())))
    }
}

/// How a driver wants its sockets: the ring waits for a blocking one and fails on the other kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Blocking,
    NonBlocking,
}

fn new_socket(family: libc::c_int, mode: Mode) -> io::Result<OwnedFd> {
    let non_blocking = if mode == Mode::NonBlocking {
        libc::SOCK_NONBLOCK
    } else {
        0
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | non_blocking;
    // SAFETY: socket(2) takes no pointers.
    let descriptor = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor was just created and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Changes how the socket waits.
pub(crate) fn set_mode(socket: &OwnedFd, mode: Mode) -> io::Result<()> {
    let mut non_blocking = libc::c_int::from(mode == Mode::NonBlocking);
    // SAFETY: FIONBIO reads one integer, which outlives the call (ioctl_tty(2), socket(7)).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONBIO, &mut non_blocking) }).map(drop)
}

fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = std::ptr::from_ref(&value).cast();
    // SAFETY: the pointer and length describe `value` (setsockopt(2)).
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) }).map(drop)
}

/// No Nagle delay, and probes of silent peers. Accepted sockets inherit both from their listener (tcp(7)).
fn set_tcp_options(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPIDLE,
        KEEPALIVE_IDLE_SECONDS,
    )?;
    set_option(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPINTVL,
        KEEPALIVE_INTERVAL_SECONDS,
    )?;
    set_option(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_KEEPCNT,
        KEEPALIVE_PROBES,
    )
}

/// A listening socket and its address. The file of a dead unix socket is replaced.
pub(crate) fn listen(address: &Address, mode: Mode) -> io::Result<(OwnedFd, Address)> {
    let raw = KernelAddress::new(address)?;
    let socket = new_socket(raw.family(), mode)?;
    match address {
        Address::Tcp(_) => {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            set_tcp_options(&socket)?;
        }
        Address::Unix(path) => {
            if path.exists() && is_dead_socket(&raw)? {
                std::fs::remove_file(path)?;
            }
        }
    }
    let (pointer, length) = raw.as_raw();
    // SAFETY: the pointer and length describe `raw` (bind(2)).
    check(unsafe { libc::bind(socket.as_raw_fd(), pointer, length) })?;
    // SAFETY: listen(2) takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    let local = name_of(socket.as_raw_fd(), libc::getsockname)?;
    Ok((socket, local))
}

/// Whether nobody listens on this unix socket's file any more.
fn is_dead_socket(address: &KernelAddress) -> io::Result<bool> {
    let socket = new_socket(libc::AF_UNIX, Mode::NonBlocking)?;
    Ok(
        matches!(start_connect(&socket, address), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused),
    )
}

/// A socket that can be connected to `address`.
pub(crate) fn new_client(
    address: &Address,
    mode: Mode,
) -> io::Result<(OwnedFd, Box<KernelAddress>)> {
    let raw = Box::new(KernelAddress::new(address)?);
    let socket = new_socket(raw.family(), mode)?;
    if matches!(address, Address::Tcp(_)) {
        set_tcp_options(&socket)?;
    }
    Ok((socket, raw))
}

/// connect(2): `Ok` when connected, `InProgress` when it will become writable.
pub(crate) fn start_connect(socket: &OwnedFd, address: &KernelAddress) -> io::Result<()> {
    let (pointer, length) = address.as_raw();
    // SAFETY: the pointer and length describe `address` (connect(2)).
    check(unsafe { libc::connect(socket.as_raw_fd(), pointer, length) }).map(drop)
}

/// The result of a connection attempt that was in progress.
pub(crate) fn finish_connect(socket: RawFd) -> io::Result<()> {
    let mut errno: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut errno).cast();
    // SAFETY: the pointers and length describe `errno` and `length` (getsockopt(2)).
    check(unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            pointer,
            &mut length,
        )
    })?;
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}

type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_of(socket: RawFd, call: NameCall) -> io::Result<Address> {
    let mut address = KernelAddress::empty();
    address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut address.storage).cast();
    // SAFETY: the pointers describe the storage and its size (getsockname(2), getpeername(2)).
    check(unsafe { call(socket, pointer, &mut address.length) })?;
    Ok(address.to_address())
}

/// The other end of a connection. One that is gone already was aborted.
pub(crate) fn peer_of(socket: RawFd) -> io::Result<Address> {
    name_of(socket, libc::getpeername).map_err(|error| match error.kind() {
        io::ErrorKind::NotConnected => io::Error::from_raw_os_error(libc::ECONNABORTED),
        _ => error,
    })
}

/// accept4(2), non-blocking.
pub(crate) fn accept(listener: RawFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null pointers ask for no address.
    let descriptor = check(unsafe {
        libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags)
    })?;
    // SAFETY: the descriptor was just created and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// recv(2), non-blocking.
pub(crate) fn receive(socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `into`.
    check_count(unsafe {
        libc::recv(
            socket,
            into.as_mut_ptr().cast(),
            into.len(),
            libc::MSG_DONTWAIT,
        )
    })
}

/// send(2), non-blocking, without SIGPIPE.
pub(crate) fn send(socket: RawFd, from: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the pointer and length describe `from`.
    check_count(unsafe { libc::send(socket, from.as_ptr().cast(), from.len(), flags) })
}

/// Closes the sending half.
pub(crate) fn shutdown_write(socket: RawFd) -> io::Result<()> {
    // SAFETY: shutdown(2) takes no pointers.
    check(unsafe { libc::shutdown(socket, libc::SHUT_WR) }).map(drop)
}

/// The descriptor of a ring's accept or connect completion becomes owned.
pub(crate) fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel returned this new descriptor to this process, and the caller passes each one here once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_round_trip(address: Address) {
        assert_eq!(KernelAddress::new(&address).unwrap().to_address(), address);
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        let (listener, local) = listen(
            &"127.0.0.1:0".parse::<SocketAddr>().unwrap().into(),
            Mode::Blocking,
        )
        .unwrap();
        let Address::Tcp(local) = local else {
            panic!("{local}")
        };
        let _client = std::net::TcpStream::connect(local).unwrap();
        let accepted = std::net::TcpStream::from(accept(listener.as_raw_fd()).unwrap());
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn a_socket_can_change_how_it_waits() {
        let (socket, _) = new_client(&Address::Unix("unused".into()), Mode::Blocking).unwrap();
        let non_blocking = || {
            // SAFETY: fcntl(2) with F_GETFL takes no pointers.
            let flags = check(unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_GETFL) }).unwrap();
            flags & libc::O_NONBLOCK != 0
        };
        assert!(!non_blocking());
        set_mode(&socket, Mode::NonBlocking).unwrap();
        assert!(non_blocking());
        set_mode(&socket, Mode::Blocking).unwrap();
        assert!(!non_blocking());
    }

    #[test]
    fn addresses_survive_the_kernel_form() {
        check_round_trip(Address::Tcp("127.0.0.1:2379".parse().unwrap()));
        check_round_trip(Address::Tcp("[::1]:2380".parse().unwrap()));
        check_round_trip(Address::Tcp("[fe80::1%3]:1".parse().unwrap()));
        check_round_trip(Address::Unix("/tmp/some/socket".into()));
        assert!(KernelAddress::new(&Address::Unix("x".repeat(108).into())).is_err());
        assert!(KernelAddress::new(&Address::Unix("".into())).is_err());
    }
}
