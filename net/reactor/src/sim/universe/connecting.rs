//! Listening, accepting and connecting: who is reached under which address.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::sockets::{Bound, End, Listener, SocketWork};
use super::{OperationId, Universe, Work, failure};
use crate::driver::{Connected, Handle, Listening, Outcome};
use crate::net::Address;
use crate::sim::coverage::FaultKind;
use crate::sim::disk::Errno;

/// First and last port that a host hands out by itself.
const PORT_FIRST: u16 = 32_768;
const PORT_LAST: u16 = 60_999;

impl Universe {
    // --- listeners ---------------------------------------------------------------------------------------

    pub(super) fn listen(
        &mut self,
        id: OperationId,
        address: &Address,
    ) -> Result<Listening, Errno> {
        let operation = self.operation_mut(id);
        let (core, host) = (operation.core, operation.host);
        let (bound, ip, local) = match address {
            Address::Unix(path) => (Bound::Path(path.clone()), None, address.clone()),
            Address::Tcp(socket) => {
                let ip = socket.ip();
                if !ip.is_unspecified() && !ip.is_loopback() && ip != host_ip(host) {
                    return Err(libc::EADDRNOTAVAIL);
                }
                let port = match socket.port() {
                    0 => self.free_port(host),
                    port => port,
                };
                (
                    Bound::Port(port),
                    Some(ip),
                    Address::Tcp(SocketAddr::new(ip, port)),
                )
            }
        };
        let holders = self.sockets.bound.entry((host, bound.clone())).or_default();
        let listeners = &self.sockets.listeners;
        let conflict = holders.iter().any(|holder| {
            let holder = &listeners[holder];
            let overlap = match (holder.ip, ip) {
                (Some(one), Some(other)) => {
                    one == other || one.is_unspecified() || other.is_unspecified()
                }
                _ => true,
            };
            overlap && (holder.core == core || ip.is_none())
        });
        if conflict {
            return Err(libc::EADDRINUSE);
        }
        self.next_handle += 1;
        let handle = Handle(self.next_handle - 1);
        holders.push(handle);
        let listener = Listener {
            core,
            host,
            bound,
            ip,
            backlog: VecDeque::new(),
            accept: None,
        };
        self.sockets.listeners.insert(handle, listener);
        Ok(Listening { handle, local })
    }

    fn free_port(&mut self, host: u32) -> u16 {
        loop {
            let state = &mut self.hosts[host as usize];
            let port = state.next_port;
            state.next_port = if port == PORT_LAST {
                PORT_FIRST
            } else {
                port + 1
            };
            if !self.sockets.bound.contains_key(&(host, Bound::Port(port))) {
                return port;
            }
        }
    }

    pub(super) fn submit_accept(&mut self, id: OperationId, handle: Handle) {
        let work = SocketWork::Accept { listener: handle };
        let Some(listener) = self.sockets.listeners.get_mut(&handle) else {
            return self.finish_soon(id, work.failed(libc::EBADF));
        };
        if listener.accept.is_some() {
            return self.finish_soon(id, work.failed(libc::EBUSY));
        }
        if self.random.hits(self.options.network.interrupted) {
            self.coverage.hit(FaultKind::Interrupted);
            return self.finish_soon(id, work.failed(libc::EINTR));
        }
        match listener.backlog.pop_front() {
            Some(connected) => self.finish_soon(id, Outcome::Connected(Ok(connected))),
            None => {
                listener.accept = Some(id);
                self.operation_mut(id).work = Work::Socket(work);
            }
        }
    }

    // --- connecting --------------------------------------------------------------------------------------

    pub(super) fn submit_connect(&mut self, id: OperationId, address: Address) {
        let host = self.operation_mut(id).host;
        let target = self.host_at(host, &address);
        self.operation_mut(id).work = Work::Socket(SocketWork::Connect { address });
        let nanos = 2 * self.draw_latency(host, target.unwrap_or(host));
        self.set_due(id, self.now + nanos);
    }

    pub(super) fn connect(&mut self, id: OperationId, address: &Address) {
        let host = self.operation_mut(id).host;
        let reachable = self.host_at(host, address).filter(|&target| {
            let cut = |link| self.sockets.blocked.contains(&link);
            self.hosts[target as usize].up && !cut((host, target)) && !cut((target, host))
        });
        let Some(target) = reachable else {
            self.coverage.hit(FaultKind::ConnectTimedOut);
            let timeout = self.options.network.connect_timeout.as_nanos() as u64;
            self.operation_mut(id).work =
                Work::Finished(Outcome::Connected(Err(failure(libc::ETIMEDOUT))));
            return self.set_due(id, self.now + timeout);
        };
        let Some(listener) = self.listener_for(host, target, address) else {
            self.coverage.hit(FaultKind::ConnectRefused);
            let errno = match address {
                Address::Tcp(_) => libc::ECONNREFUSED,
                Address::Unix(_) => libc::ENOENT,
            };
            return self.finish_soon(id, Outcome::Connected(Err(failure(errno))));
        };
        let (ours, theirs) = (self.new_handle(), self.new_handle());
        self.sockets
            .ends
            .insert(ours, End::new(host, theirs, target));
        self.sockets
            .ends
            .insert(theirs, End::new(target, ours, host));
        let client = match address {
            Address::Unix(_) => Address::Unix(PathBuf::new()),
            Address::Tcp(socket) => {
                let ip = if socket.ip().is_loopback() {
                    socket.ip()
                } else {
                    host_ip(host)
                };
                Address::Tcp(SocketAddr::new(ip, self.free_port(host)))
            }
        };
        self.enqueue_connection(
            listener,
            Connected {
                handle: theirs,
                peer: client,
            },
        );
        self.finish_soon(
            id,
            Outcome::Connected(Ok(Connected {
                handle: ours,
                peer: address.clone(),
            })),
        );
    }

    fn enqueue_connection(&mut self, listener: Handle, connected: Connected) {
        let state = self
            .sockets
            .listeners
            .get_mut(&listener)
            .expect("found a moment ago");
        match state.accept.take() {
            Some(id) => self.finish_soon(id, Outcome::Connected(Ok(connected))),
            None => state.backlog.push_back(connected),
        }
    }

    /// One of the listeners that would get the connection, if any has room.
    fn listener_for(&mut self, from: u32, target: u32, address: &Address) -> Option<Handle> {
        let bound = match address {
            Address::Tcp(socket) => Bound::Port(socket.port()),
            Address::Unix(path) => Bound::Path(path.clone()),
        };
        let backlog_max = self.options.network.backlog_max;
        let holders = self.sockets.bound.get(&(target, bound))?;
        let listeners = &self.sockets.listeners;
        let fits = |holder: &&Handle| {
            let listener = &listeners[holder];
            let reached = match (listener.ip, address) {
                (Some(ip), Address::Tcp(socket)) => {
                    ip.is_unspecified()
                        || ip == socket.ip() && (from == target || !ip.is_loopback())
                }
                _ => true,
            };
            reached && listener.backlog.len() < backlog_max
        };
        let fitting: Vec<Handle> = holders.iter().filter(fits).copied().collect();
        match fitting.len() {
            0 => None,
            1 => Some(fitting[0]),
            count => Some(fitting[self.random.index(count)]),
        }
    }

    /// The host behind an address, as seen from a host.
    fn host_at(&self, from: u32, address: &Address) -> Option<u32> {
        match address {
            Address::Unix(_) => Some(from),
            Address::Tcp(socket) if socket.ip().is_loopback() || socket.ip().is_unspecified() => {
                Some(from)
            }
            Address::Tcp(socket) => {
                (0..self.hosts.len() as u32).find(|&host| host_ip(host) == socket.ip())
            }
        }
    }
}

/// The address of a host in the simulated network.
pub(in crate::sim) fn host_ip(host: u32) -> IpAddr {
    let [_, _, high, low] = (host + 1).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}
