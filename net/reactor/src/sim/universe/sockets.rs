//! Listeners and connections: a reliable, ordered byte stream per direction that is late, cut into pieces, held up by
//! partitions, or reset.
//!
//! ```text
//!   send ──► transit of the other end (in order, each segment with its time of arrival) ──► inbox ──► receive
//! ```
//!
//! Invariants
//! - a direction's unread and travelling bytes stay within the window, except for what goes to an end that is gone
//! - an end with a non-empty transit has one arrival event that counts, unless a partition holds it up

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::{EventKind, OperationId, Universe, Work, failure};
use crate::buffer::ReceiveBuffer;
use crate::driver::{Connected, Handle, Op, Outcome};
use crate::net::Address;
use crate::sim::coverage::FaultKind;
use crate::sim::disk::Errno;

/// All sockets of all hosts.
#[derive(Default)]
pub(super) struct Sockets {
    pub(super) ends: BTreeMap<Handle, End>,
    pub(super) listeners: BTreeMap<Handle, Listener>,
    pub(super) bound: BTreeMap<(u32, Bound), Vec<Handle>>,
    /// Directed links that carry nothing.
    pub(super) blocked: BTreeSet<(u32, u32)>,
}

/// A name that a listener holds on its host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Bound {
    Port(u16),
    Path(PathBuf),
}

pub(super) struct Listener {
    pub(super) core: u32,
    pub(super) host: u32,
    pub(super) bound: Bound,
    /// The IP it listens on; `None` for a unix socket.
    pub(super) ip: Option<IpAddr>,
    pub(super) backlog: VecDeque<Connected>,
    pub(super) accept: Option<OperationId>,
}

/// One end of a connection.
pub(super) struct End {
    host: u32,
    peer: Handle,
    peer_host: u32,
    /// On the way to this end.
    transit: VecDeque<Segment>,
    transit_bytes: usize,
    /// When the arrival event that counts happens; `None` while the transit is empty or a partition holds it up.
    arrival: Option<u64>,
    /// A partition holds the transit up.
    held: bool,
    inbox: VecDeque<Vec<u8>>,
    inbox_bytes: usize,
    /// The other side sends no more.
    ended: bool,
    reset: bool,
    /// This side sends no more.
    shut: bool,
    receive: Option<OperationId>,
    send: Option<OperationId>,
}

struct Segment {
    at: u64,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// A socket operation in flight.
pub(super) enum SocketWork {
    Accept {
        listener: Handle,
    },
    Receive {
        socket: Handle,
    },
    Send {
        socket: Handle,
        buffer: Vec<u8>,
        start: usize,
    },
    Connect {
        address: Address,
    },
}

impl SocketWork {
    /// The outcome if it fails.
    pub(super) fn failed(self, errno: Errno) -> Outcome {
        match self {
            SocketWork::Accept { .. } | SocketWork::Connect { .. } => {
                Outcome::Connected(Err(failure(errno)))
            }
            SocketWork::Receive { .. } => Outcome::Received(Err(failure(errno))),
            SocketWork::Send { buffer, .. } => Outcome::Sent {
                buffer,
                result: Err(failure(errno)),
            },
        }
    }
}

impl Sockets {
    pub(super) fn owns(&self, handle: Handle) -> bool {
        self.ends.contains_key(&handle) || self.listeners.contains_key(&handle)
    }
}

impl Universe {
    pub(super) fn submit_socket(&mut self, id: OperationId, op: Op) {
        match op {
            Op::Listen { address } => {
                let result = self.listen(id, &address);
                self.finish_soon(id, Outcome::Listening(result.map_err(failure)));
            }
            Op::Accept { listener } => self.submit_accept(id, listener),
            Op::Connect { address } => self.submit_connect(id, address),
            Op::Receive { socket } => {
                if let Err(errno) = self.wait_on_end(id, socket, |end| &mut end.receive) {
                    return self.finish_soon(id, Outcome::Received(Err(failure(errno))));
                }
                self.operation_mut(id).work = Work::Socket(SocketWork::Receive { socket });
                self.try_receive(socket);
            }
            Op::Send {
                socket,
                buffer,
                start,
            } => {
                if let Err(errno) = self.wait_on_end(id, socket, |end| &mut end.send) {
                    return self.finish_soon(
                        id,
                        Outcome::Sent {
                            buffer,
                            result: Err(failure(errno)),
                        },
                    );
                }
                self.operation_mut(id).work = Work::Socket(SocketWork::Send {
                    socket,
                    buffer,
                    start,
                });
                self.try_send(socket);
            }
            Op::Shutdown { socket } => {
                let result = self.shut(socket);
                self.finish_soon(id, Outcome::Done(result.map_err(failure)));
            }
            other => panic!("{other:?} is not about sockets"),
        }
    }

    /// An event of a socket operation: only a connect waits for time to pass.
    pub(super) fn continue_socket(&mut self, id: OperationId, work: SocketWork) {
        match work {
            SocketWork::Connect { address } => self.connect(id, &address),
            other => self.operation_mut(id).work = Work::Socket(other),
        }
    }

    /// Ends the wait of an operation that is cancelled. False if it must go on.
    pub(super) fn forget_socket_wait(&mut self, id: OperationId) -> bool {
        let Some(operation) = self.operation(id) else {
            return false;
        };
        let Work::Socket(work) = &operation.work else {
            return false;
        };
        match *work {
            SocketWork::Accept { listener } => {
                if let Some(listener) = self.sockets.listeners.get_mut(&listener) {
                    listener.accept = None;
                }
            }
            SocketWork::Receive { socket } => {
                if let Some(end) = self.sockets.ends.get_mut(&socket) {
                    end.receive = None;
                }
            }
            SocketWork::Send { socket, .. } => {
                if let Some(end) = self.sockets.ends.get_mut(&socket) {
                    end.send = None;
                }
            }
            // Its time comes, and what it opens is closed by the world.
            SocketWork::Connect { .. } => return false,
        }
        true
    }

    // --- bytes -------------------------------------------------------------------------------------------

    /// Notes that the operation waits on one side of the end.
    fn wait_on_end(
        &mut self,
        id: OperationId,
        socket: Handle,
        side: impl Fn(&mut End) -> &mut Option<OperationId>,
    ) -> Result<(), Errno> {
        let end = self.sockets.ends.get_mut(&socket).ok_or(libc::EBADF)?;
        let waiting = side(end);
        if waiting.is_some() {
            return Err(libc::EBUSY);
        }
        *waiting = Some(id);
        Ok(())
    }

    /// Completes the waiting receive if there is something to tell.
    fn try_receive(&mut self, socket: Handle) {
        let Some(end) = self.sockets.ends.get_mut(&socket) else {
            return;
        };
        let Some(id) = end.receive else { return };
        let result = if end.reset {
            Err(failure(libc::ECONNRESET))
        } else if end.inbox_bytes > 0 {
            if self.random.hits(self.options.network.interrupted) {
                self.coverage.hit(FaultKind::Interrupted);
                Err(failure(libc::EINTR))
            } else {
                Ok(())
            }
        } else if end.ended {
            Ok(())
        } else {
            return;
        };
        end.receive = None;
        let peer = end.peer;
        let result = result.map(|()| self.take_from_inbox(socket));
        self.finish_soon(id, Outcome::Received(result));
        self.try_send(peer);
    }

    /// What one receive gets; empty at the end of the stream.
    fn take_from_inbox(&mut self, socket: Handle) -> ReceiveBuffer {
        let network = &self.options.network;
        let end = self
            .sockets
            .ends
            .get_mut(&socket)
            .expect("looked at a moment ago");
        let Some(mut bytes) = end.inbox.pop_front() else {
            return ReceiveBuffer::empty();
        };
        let most = network.receive_bytes_max;
        while bytes.len() < most
            && end
                .inbox
                .front()
                .is_some_and(|next| bytes.len() + next.len() <= most)
        {
            bytes.extend_from_slice(&end.inbox.pop_front().expect("seen a moment ago"));
        }
        let mut taken = bytes.len().min(most);
        if taken > 1 && self.random.hits(network.short_receive) {
            self.coverage.hit(FaultKind::ShortReceive);
            taken = 1 + self.random.index(taken - 1);
        }
        if taken < bytes.len() {
            end.inbox.push_front(bytes.split_off(taken));
        }
        end.inbox_bytes -= taken;
        ReceiveBuffer::from(bytes)
    }

    /// Completes the waiting send if the window has room or the connection is over.
    fn try_send(&mut self, socket: Handle) {
        let Some(end) = self.sockets.ends.get(&socket) else {
            return;
        };
        let Some(id) = end.send else { return };
        let (peer, host, peer_host) = (end.peer, end.host, end.peer_host);
        let over = if end.reset {
            Some(libc::ECONNRESET)
        } else if end.shut {
            Some(libc::EPIPE)
        } else {
            None
        };
        let room = match self.sockets.ends.get(&peer) {
            Some(peer) => self
                .options
                .network
                .window_bytes
                .saturating_sub(peer.inbox_bytes + peer.transit_bytes),
            // Into the void: the answer is a reset, sooner or later.
            None => usize::MAX,
        };
        if over.is_none() && room == 0 {
            return;
        }
        self.sockets
            .ends
            .get_mut(&socket)
            .expect("seen a moment ago")
            .send = None;
        let Work::Socket(SocketWork::Send { buffer, start, .. }) =
            self.operation_mut(id).work.take()
        else {
            panic!("a waiting send is a send")
        };
        let result = match over {
            Some(errno) => Err(failure(errno)),
            None => self.send(socket, (peer, host, peer_host), &buffer[start..], room),
        };
        self.finish_soon(id, Outcome::Sent { buffer, result });
    }

    fn send(
        &mut self,
        socket: Handle,
        (peer, host, peer_host): (Handle, u32, u32),
        bytes: &[u8],
        room: usize,
    ) -> io::Result<usize> {
        let network = &self.options.network;
        if self.random.hits(network.interrupted) {
            self.coverage.hit(FaultKind::Interrupted);
            return Err(failure(libc::EINTR));
        }
        if self.random.hits(network.reset) {
            self.coverage.hit(FaultKind::Reset);
            self.sockets
                .ends
                .get_mut(&socket)
                .expect("the sender's end")
                .reset = true;
            self.travel(peer, (host, peer_host), Content::Reset);
            self.try_receive(socket);
            return Err(failure(libc::ECONNRESET));
        }
        let mut count = bytes.len().min(room);
        if count > 1 && self.random.hits(network.short_send) {
            self.coverage.hit(FaultKind::ShortSend);
            count = 1 + self.random.index(count - 1);
        }
        if self.sockets.ends.contains_key(&peer) {
            self.travel(
                peer,
                (host, peer_host),
                Content::Bytes(bytes[..count].to_vec()),
            );
        } else if self.hosts[peer_host as usize].up {
            self.travel(socket, (peer_host, host), Content::Reset);
        }
        Ok(count)
    }

    fn shut(&mut self, socket: Handle) -> Result<(), Errno> {
        let end = self.sockets.ends.get_mut(&socket).ok_or(libc::EBADF)?;
        if end.reset {
            return Err(libc::ENOTCONN);
        }
        let (peer, link) = (end.peer, (end.host, end.peer_host));
        if !std::mem::replace(&mut end.shut, true) {
            self.travel(peer, link, Content::End);
        }
        Ok(())
    }

    /// Puts something on its way to an end.
    fn travel(&mut self, to: Handle, (from_host, to_host): (u32, u32), content: Content) {
        let nanos = self.draw_latency(from_host, to_host);
        let Some(end) = self.sockets.ends.get_mut(&to) else {
            return;
        };
        let after = end.transit.back().map_or(0, |last| last.at + 1);
        let at = after.max(self.now + nanos);
        if let Content::Bytes(bytes) = &content {
            end.transit_bytes += bytes.len();
        }
        end.transit.push_back(Segment { at, content });
        if end.arrival.is_none() && !end.held {
            self.expect_arrival(to, at);
        }
    }

    /// Has the end look at its transit at `at`, and not at any other time that was planned before.
    fn expect_arrival(&mut self, end: Handle, at: u64) {
        let at = at.max(self.now);
        if let Some(state) = self.sockets.ends.get_mut(&end) {
            state.arrival = Some(at);
            self.push_event(at, EventKind::Arrive(end));
        }
    }

    /// An arrival event of the end happens: takes in what is due.
    pub(super) fn arrive(&mut self, to: Handle, at: u64) {
        let now = self.now;
        let Some(end) = self.sockets.ends.get_mut(&to) else {
            return;
        };
        if end.arrival != Some(at) {
            return;
        }
        end.arrival = None;
        if self.sockets.blocked.contains(&(end.peer_host, end.host)) {
            self.coverage.hit(FaultKind::PartitionHeld);
            end.held = true;
            return;
        }
        while let Some(segment) = end.transit.pop_front_if(|segment| segment.at <= now) {
            end.take_in(segment.content);
        }
        let next = end.transit.front().map(|segment| segment.at);
        let reset = end.reset;
        if let Some(at) = next {
            self.expect_arrival(to, at);
        }
        self.try_receive(to);
        if reset {
            self.try_send(to);
        }
    }

    pub(super) fn draw_latency(&mut self, from: u32, to: u32) -> u64 {
        let network = &self.options.network;
        let latency = if from == to {
            network.within_host
        } else {
            network.between_hosts
        };
        let (nanos, slow) = latency.draw(&mut self.random);
        if slow {
            self.coverage.hit(FaultKind::NetworkSlow);
        }
        nanos
    }

    // --- closing -----------------------------------------------------------------------------------------

    /// Closes a listener or an end; operations that wait on it end first.
    pub(super) fn close_socket(&mut self, id: OperationId, handle: Handle) {
        self.cancel_waits(handle);
        if self.sockets.listeners.contains_key(&handle) {
            self.end_listener(handle);
        } else {
            self.end_connection(handle, false);
        }
        self.finish_soon(id, Outcome::Done(Ok(())));
    }

    fn cancel_waits(&mut self, handle: Handle) {
        let mut waits = Vec::new();
        if let Some(listener) = self.sockets.listeners.get_mut(&handle) {
            waits.extend(listener.accept.take());
        }
        if let Some(end) = self.sockets.ends.get_mut(&handle) {
            waits.extend(end.receive.take());
            waits.extend(end.send.take());
        }
        for id in waits {
            if let Work::Socket(work) = self.operation_mut(id).work.take() {
                self.finish_soon(id, work.failed(libc::ECANCELED));
            }
        }
    }

    fn end_listener(&mut self, handle: Handle) {
        let Some(listener) = self.sockets.listeners.remove(&handle) else {
            return;
        };
        let key = (listener.host, listener.bound);
        if let Some(holders) = self.sockets.bound.get_mut(&key) {
            holders.retain(|&holder| holder != handle);
            if holders.is_empty() {
                self.sockets.bound.remove(&key);
            }
        }
        for connected in listener.backlog {
            self.end_connection(connected.handle, true);
        }
    }

    /// Removes an end and tells the other one: by an orderly end, or by a reset if bytes were left unread.
    pub(super) fn end_connection(&mut self, handle: Handle, reset: bool) {
        let Some(end) = self.sockets.ends.remove(&handle) else {
            return;
        };
        let unread = end.inbox_bytes + end.transit_bytes > 0;
        if reset || unread {
            self.coverage.hit(FaultKind::Reset);
            self.travel(end.peer, (end.host, end.peer_host), Content::Reset);
        } else if !end.shut && !end.reset {
            self.travel(end.peer, (end.host, end.peer_host), Content::End);
        }
    }

    /// The sockets of dead processes. With power, the kernel tells the peers; without, they find out by waiting.
    pub(super) fn end_sockets_of(&mut self, host: u32, powered: bool) {
        let listeners: Vec<Handle> = self
            .sockets
            .listeners
            .iter()
            .filter(|(_, listener)| listener.host == host)
            .map(|(&handle, _)| handle)
            .collect();
        for handle in listeners {
            if let Some(listener) = self.sockets.listeners.get_mut(&handle) {
                listener.accept = None;
            }
            self.end_listener(handle);
        }
        let ends: Vec<Handle> = self
            .sockets
            .ends
            .iter()
            .filter(|(_, end)| end.host == host)
            .map(|(&handle, _)| handle)
            .collect();
        for handle in ends {
            if powered {
                let reset = self.random.below(2) == 0;
                self.end_connection(handle, reset);
                continue;
            }
            let Some(end) = self.sockets.ends.remove(&handle) else {
                continue;
            };
            let most = self.options.network.dead_peer_timeout.as_nanos() as u64;
            let at = self.now + self.random.below(most.max(1));
            if let Some(peer) = self.sockets.ends.get_mut(&end.peer) {
                // What was on its way is lost with the sender.
                peer.transit.clear();
                peer.transit_bytes = 0;
                peer.held = false;
                peer.transit.push_back(Segment {
                    at,
                    content: Content::Reset,
                });
                self.expect_arrival(end.peer, at);
            }
        }
    }

    // --- partitions --------------------------------------------------------------------------------------

    /// From now on nothing that `from` sends arrives at `to`.
    pub(in crate::sim) fn block(&mut self, from: u32, to: u32) {
        if from != to {
            self.sockets.blocked.insert((from, to));
        }
    }

    /// Bytes flow again, those that were held first.
    pub(in crate::sim) fn unblock(&mut self, from: u32, to: u32) {
        if !self.sockets.blocked.remove(&(from, to)) {
            return;
        }
        let held: Vec<Handle> = self
            .sockets
            .ends
            .iter()
            .filter(|(_, end)| end.held && (end.peer_host, end.host) == (from, to))
            .map(|(&handle, _)| handle)
            .collect();
        for end in held {
            let at = self.now + self.draw_latency(from, to);
            if let Some(state) = self.sockets.ends.get_mut(&end) {
                state.held = false;
                self.expect_arrival(end, at);
            }
        }
    }

    pub(in crate::sim) fn blocked_links(&self) -> Vec<(u32, u32)> {
        self.sockets.blocked.iter().copied().collect()
    }
}

impl End {
    pub(super) fn new(host: u32, peer: Handle, peer_host: u32) -> End {
        End {
            host,
            peer,
            peer_host,
            transit: VecDeque::new(),
            transit_bytes: 0,
            arrival: None,
            held: false,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            ended: false,
            reset: false,
            shut: false,
            receive: None,
            send: None,
        }
    }

    /// Whether no operation waits on it.
    pub(super) fn is_idle(&self) -> bool {
        self.receive.is_none() && self.send.is_none()
    }

    fn take_in(&mut self, content: Content) {
        match content {
            Content::Bytes(bytes) => {
                self.transit_bytes -= bytes.len();
                self.inbox_bytes += bytes.len();
                self.inbox.push_back(bytes);
            }
            Content::End => self.ended = true,
            Content::Reset => {
                self.reset = true;
                self.inbox.clear();
                self.inbox_bytes = 0;
            }
        }
    }
}
