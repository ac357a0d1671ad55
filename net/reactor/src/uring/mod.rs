//! The io_uring driver: one system call per turn starts what was asked for, waits, and brings what ended.
//!
//! - accepts are multishot; connections that nobody has asked for yet wait with their listener
//! - receives take a chunk from a ring of provided buffers only when bytes have come
//! - a write that is to be synced is linked to its sync
//! - path operations and opening run on a file thread, because they block
//!
//! Invariants
//! - a flight stays in `flights`, with its memory, until its last completion is reaped
//! - `flying` of a descriptor counts its flights; it is closed when that is 0

mod flight;
mod receive;
mod ring;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, FsyncFlags};
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;

use self::flight::{CANCEL_TAG, Flight, Part, WAKE_TAG, WriteFlight, tag, untag};
use self::receive::{GROUP, ReceiveRing};
use self::ring::{Posted, Ring, Wait};
use crate::buffer::{AlignedBuffer, ReceiveBuffer};
use crate::detached::{Detached, Loose};
use crate::driver::{
    Completion, Connected, Driver, DriverKind, Handle, Op, OpKey, Outcome, Park, RemoteWake,
};
use crate::kernel::clock::{self, Random};
use crate::kernel::descriptor::Descriptors;
use crate::kernel::signal::SignalSource;
use crate::kernel::socket::Mode;
use crate::kernel::spin::Spin;
use crate::kernel::threads::{FileDone, FileThreads, FileWork};
use crate::kernel::wake::WakeEvent;
use crate::kernel::{cancelled, check_completion, socket};
use crate::net::Address;
use crate::time::Timestamp;

/// Threads for opening files and for path operations.
const FILE_THREADS_MAX: usize = 2;

/// Accepted connections that may wait for somebody to ask for them; more stay in the kernel's backlog.
const ACCEPTED_MAX: usize = 64;

/// How long a driver that is dropped waits for the kernel to give buffers back before it leaks them.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// IORING_RECVSEND_POLL_FIRST: do not try before the socket says that it is readable.
const POLL_FIRST: u16 = 1;

/// io_uring and a file thread.
pub(crate) struct Uring {
    // Dropped in this order: the ring is closed before the chunks that it fills are freed.
    ring: Ring,
    receive: ReceiveRing,
    flights: Slab<Flight>,
    /// For each operation slot the flight that was started last for it.
    flight_of: Vec<u32>,
    descriptors: Descriptors<State>,
    /// Operations that wait for a connection: at most one per listener.
    acceptors: Vec<(OpKey, Handle)>,
    posted: Vec<Posted>,
    done: Vec<Completion>,
    threads: FileThreads,
    finished: Vec<(OpKey, FileDone)>,
    wake: Arc<WakeEvent>,
    signals: Option<SignalSource>,
    signal_waiter: Option<OpKey>,
    signal_armed: bool,
    random: Random,
    spin: Spin,
}

/// What the driver knows about a listener or socket.
#[derive(Default)]
struct State {
    accept: Option<usize>,
    accepted: VecDeque<OwnedFd>,
    acceptor: Option<OpKey>,
    receive: Option<usize>,
    send: Option<usize>,
    /// The last receive left bytes behind.
    more_to_receive: bool,
}

impl Uring {
    /// # Errors
    /// What the kernel refused and what can be done about it.
    pub(crate) fn new(spin: Duration) -> io::Result<Uring> {
        let ring = Ring::new()?;
        let receive = ReceiveRing::new(&ring)?;
        let wake = Arc::new(WakeEvent::new()?);
        let mut uring = Uring {
            ring,
            receive,
            flights: Slab::new(),
            flight_of: Vec::new(),
            descriptors: Descriptors::new(),
            acceptors: Vec::new(),
            posted: Vec::new(),
            done: Vec::new(),
            threads: FileThreads::new(FILE_THREADS_MAX, Arc::clone(&wake)),
            finished: Vec::new(),
            wake,
            signals: None,
            signal_waiter: None,
            signal_armed: false,
            random: Random::from_kernel()?,
            spin: Spin::new(spin),
        };
        uring.arm_wake();
        Ok(uring)
    }

    fn finish(&mut self, key: OpKey, outcome: Outcome) {
        self.done.push(Completion { key, outcome });
    }

    /// Queues one entry.
    ///
    /// # Safety
    /// Its memory and descriptor belong to a flight, or to the driver itself, until it is reaped.
    unsafe fn push(&mut self, entry: squeue::Entry, tag: u64) {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.push(&[entry.user_data(tag)]) }
    }

    /// Enters a flight in the table and counts it on its handle.
    fn launch(&mut self, flight: Flight) -> usize {
        if let Some(descriptor) = flight
            .handle()
            .and_then(|handle| self.descriptors.find(handle))
        {
            descriptor.flying += 1;
        }
        let key = flight.key();
        let index = self.flights.insert(flight);
        if let Some(key) = key {
            let slot = key.index as usize;
            if self.flight_of.len() <= slot {
                self.flight_of.resize(slot + 1, u32::MAX);
            }
            self.flight_of[slot] = index as u32;
        }
        index
    }

    /// Takes a flight whose last completion was reaped.
    fn land(&mut self, index: usize) -> Flight {
        let flight = self.flights.remove(index);
        if let Some(descriptor) = flight
            .handle()
            .and_then(|handle| self.descriptors.find(handle))
        {
            descriptor.flying -= 1;
        }
        flight
    }

    fn cancel_flight(&mut self, index: usize) {
        let entry = opcode::AsyncCancel::new(tag(index, Part::First)).build();
        // SAFETY: the entry points at no memory.
        unsafe { self.push(entry, CANCEL_TAG) }
    }

    // Files.

    fn start_read(
        &mut self,
        key: OpKey,
        file: Handle,
        buffer: AlignedBuffer,
        offset: u64,
        start: usize,
    ) {
        let descriptor = match self.descriptors.open(file) {
            Ok(descriptor) => Fd(descriptor.raw()),
            Err(error) => {
                return self.finish(
                    key,
                    Outcome::Read {
                        buffer,
                        result: Err(error),
                    },
                );
            }
        };
        let mut buffer = buffer;
        let space = &mut buffer[start..];
        let entry = opcode::Read::new(descriptor, space.as_mut_ptr(), length_of(space))
            .offset(offset)
            .build();
        let index = self.launch(Flight::Read { key, file, buffer });
        // SAFETY: the flight owns the buffer, and the descriptor counts the flight.
        unsafe { self.push(entry, tag(index, Part::First)) }
    }

    fn start_write(&mut self, key: OpKey, file: Handle, write: WriteFlight, offset: u64) {
        let descriptor = match self.descriptors.open(file) {
            Ok(descriptor) => Fd(descriptor.raw()),
            Err(error) => {
                let outcome = Outcome::Wrote {
                    buffer: write.buffer,
                    written: Err(error),
                    synced: None,
                };
                return self.finish(key, outcome);
            }
        };
        let bytes = &write.buffer[write.start..];
        let entry = opcode::Write::new(descriptor, bytes.as_ptr(), length_of(bytes))
            .offset(offset)
            .build();
        let linked = write.sync.is_some();
        let index = self.launch(Flight::Write(write));
        let entry = entry.user_data(tag(index, Part::First));
        if linked {
            let sync = sync_entry(descriptor).user_data(tag(index, Part::LinkedSync));
            // SAFETY: the flight owns the buffer and lands after both completions; the descriptor counts it.
            unsafe { self.ring.push(&[entry.flags(squeue::Flags::IO_LINK), sync]) }
        } else {
            // SAFETY: as above.
            unsafe { self.ring.push(&[entry]) }
        }
    }

    fn start_sync(&mut self, key: OpKey, file: Handle) {
        let descriptor = match self.descriptors.open(file) {
            Ok(descriptor) => Fd(descriptor.raw()),
            Err(error) => return self.finish(key, Outcome::Done(Err(error))),
        };
        let index = self.launch(Flight::Sync { key, file });
        // SAFETY: the entry points at no memory, and the descriptor counts the flight.
        unsafe { self.push(sync_entry(descriptor), tag(index, Part::First)) }
    }

    fn take_finished_work(&mut self) {
        let mut finished = std::mem::take(&mut self.finished);
        self.threads.take_finished(&mut finished);
        for (key, done) in finished.drain(..) {
            let outcome = done.into_outcome(|file| self.descriptors.insert(file, State::default()));
            self.finish(key, outcome);
        }
        self.finished = finished;
    }

    // Closing.

    fn close(&mut self, key: OpKey, handle: Handle) {
        let descriptor = match self.descriptors.open(handle) {
            Ok(descriptor) => descriptor,
            Err(error) => return self.finish(key, Outcome::Done(Err(error))),
        };
        descriptor.closing = Some(key);
        let state = &mut descriptor.state;
        state.accepted.clear();
        let acceptor = state.acceptor.take();
        let flights = [state.accept, state.receive, state.send];
        flights
            .into_iter()
            .flatten()
            .for_each(|index| self.cancel_flight(index));
        if let Some(acceptor) = acceptor {
            self.acceptors.retain(|(key, _)| *key != acceptor);
            self.finish(acceptor, Outcome::Connected(Err(cancelled())));
        }
        self.close_if_idle(handle);
    }

    fn close_if_idle(&mut self, handle: Handle) {
        let Some((key, file)) = self.descriptors.take_closable(handle) else {
            return;
        };
        let Some(file) = Arc::into_inner(file) else {
            return self.finish(key, Outcome::Done(Ok(())));
        };
        let index = self.launch(Flight::Close { key });
        // SAFETY: the entry points at no memory, and owns the descriptor from here on.
        unsafe {
            self.push(
                opcode::Close::new(Fd(file.into_raw_fd())).build(),
                tag(index, Part::First),
            )
        }
    }

    // Listeners.

    fn start_accept(&mut self, key: OpKey, listener: Handle) {
        let descriptor = match self.descriptors.open(listener) {
            Ok(descriptor) => descriptor,
            Err(error) => return self.finish(key, Outcome::Connected(Err(error))),
        };
        let raw = descriptor.raw();
        let state = &mut descriptor.state;
        let waiting = state.accepted.pop_front();
        let armed = state.accept.is_some();
        if waiting.is_none() {
            state.acceptor = Some(key);
            self.acceptors.push((key, listener));
        }
        if !armed {
            let index = self.launch(Flight::Accept { listener });
            if let Some(descriptor) = self.descriptors.find(listener) {
                descriptor.state.accept = Some(index);
            }
            let entry = opcode::AcceptMulti::new(Fd(raw))
                .flags(libc::SOCK_CLOEXEC)
                .build();
            // SAFETY: the entry points at no memory, and the descriptor counts the flight.
            unsafe { self.push(entry, tag(index, Part::First)) }
        }
        if let Some(connection) = waiting {
            let connected = self.adopt(connection);
            self.finish(key, Outcome::Connected(connected));
        }
    }

    /// One completion of a multishot accept: a connection, or the end of the flight.
    fn accepted(&mut self, index: usize, listener: Handle, posted: Posted) {
        let result = check_completion(posted.result).map(|_| socket::owned(posted.result));
        let ended = !cqueue::more(posted.flags);
        let Some(descriptor) = self.descriptors.find(listener) else {
            return;
        };
        let closing = descriptor.closing.is_some();
        let state = &mut descriptor.state;
        if ended {
            state.accept = None;
        }
        let acceptor = state.acceptor.take();
        self.acceptors.retain(|(_, waiting)| *waiting != listener);
        match (result, acceptor) {
            (Ok(connection), _) if closing => drop(connection),
            (Ok(connection), None) => {
                state.accepted.push_back(connection);
                if state.accepted.len() >= ACCEPTED_MAX && !ended {
                    self.cancel_flight(index);
                }
            }
            (Ok(connection), Some(key)) => {
                let connected = self.adopt(connection);
                self.finish(key, Outcome::Connected(connected));
            }
            // We ended it because too many waited; by now somebody asks again.
            (Err(error), Some(key)) if is_cancelled(&error) && !closing => {
                self.land(index);
                return self.start_accept(key, listener);
            }
            // Nobody waits: the next accept starts a new flight and meets the error again if it persists.
            (Err(_), None) => {}
            (Err(error), Some(key)) => self.finish(key, Outcome::Connected(Err(error))),
        }
        if ended {
            self.land(index);
            self.close_if_idle(listener);
        }
    }

    /// Makes a connected socket known.
    fn adopt(&mut self, connection: OwnedFd) -> io::Result<Connected> {
        let peer = socket::peer_of(connection.as_raw_fd())?;
        let handle = self.descriptors.insert(connection, State::default());
        Ok(Connected { handle, peer })
    }

    // Streams.

    fn start_connect(&mut self, key: OpKey, peer: Address) {
        let (client, raw) = match socket::new_client(&peer, Mode::Blocking) {
            Ok(client) => client,
            Err(error) => return self.finish(key, Outcome::Connected(Err(error))),
        };
        let (pointer, length) = raw.as_raw();
        let entry = opcode::Connect::new(Fd(client.as_raw_fd()), pointer, length).build();
        let index = self.launch(Flight::Connect {
            key,
            socket: client,
            peer,
            _raw: raw,
        });
        // SAFETY: the flight owns the boxed address and the socket.
        unsafe { self.push(entry, tag(index, Part::First)) }
    }

    fn start_receive(&mut self, key: OpKey, handle: Handle) {
        if let Err(error) = self.descriptors.open(handle) {
            return self.finish(key, Outcome::Received(Err(error)));
        }
        let index = self.launch(Flight::Receive {
            key,
            socket: handle,
        });
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        assert!(
            descriptor.state.receive.is_none(),
            "two receives on one socket"
        );
        descriptor.state.receive = Some(index);
        let priority = if descriptor.state.more_to_receive {
            0
        } else {
            POLL_FIRST
        };
        let raw = descriptor.raw();
        self.push_receive(index, raw, priority);
    }

    fn push_receive(&mut self, index: usize, raw: i32, priority: u16) {
        let entry = opcode::Recv::new(Fd(raw), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .ioprio(priority)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        // SAFETY: the kernel fills a chunk of the receive ring, which outlives the ring; the descriptor counts the flight.
        unsafe { self.push(entry, tag(index, Part::First)) }
    }

    fn received(&mut self, index: usize, handle: Handle, posted: Posted) {
        let result = check_completion(posted.result);
        let chunk = cqueue::buffer_select(posted.flags);
        if let Err(error) = &result
            && error.raw_os_error() == Some(libc::ENOBUFS)
            && let Some(descriptor) = self.descriptors.find(handle)
            && descriptor.closing.is_none()
        {
            // Every chunk was picked within one turn: they are back in the ring by now.
            let raw = descriptor.raw();
            return self.push_receive(index, raw, 0);
        }
        let received = match (result, chunk) {
            (Ok(count), Some(id)) if count > 0 => Ok(self.receive.take(id, count)),
            (result, chunk) => {
                if let Some(id) = chunk {
                    self.receive.publish(id);
                }
                result.map(|_| ReceiveBuffer::empty())
            }
        };
        let Flight::Receive { key, .. } = self.land(index) else {
            return;
        };
        if let Some(descriptor) = self.descriptors.find(handle) {
            descriptor.state.receive = None;
            descriptor.state.more_to_receive = cqueue::sock_nonempty(posted.flags);
        }
        self.finish(key, Outcome::Received(received));
        self.close_if_idle(handle);
    }

    fn start_send(&mut self, key: OpKey, handle: Handle, buffer: Vec<u8>, start: usize) {
        let descriptor = match self.descriptors.open(handle) {
            Ok(descriptor) => Fd(descriptor.raw()),
            Err(error) => {
                return self.finish(
                    key,
                    Outcome::Sent {
                        buffer,
                        result: Err(error),
                    },
                );
            }
        };
        let bytes = &buffer[start..];
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(descriptor, bytes.as_ptr(), length_of(bytes))
            .flags(flags)
            .build();
        let index = self.launch(Flight::Send {
            key,
            socket: handle,
            buffer,
        });
        if let Some(descriptor) = self.descriptors.find(handle) {
            assert!(descriptor.state.send.is_none(), "two sends on one socket");
            descriptor.state.send = Some(index);
        }
        // SAFETY: the flight owns the buffer's heap memory, which moving the vector does not move; the descriptor counts it.
        unsafe { self.push(entry, tag(index, Part::First)) }
    }

    // Wakes and signals.

    fn arm_wake(&mut self) {
        let readable = libc::POLLIN as u32;
        let entry = opcode::PollAdd::new(Fd(self.wake.descriptor()), readable)
            .multi(true)
            .build();
        // SAFETY: the entry points at no memory; the wake event lives as long as the driver.
        unsafe { self.push(entry, WAKE_TAG) }
    }

    fn start_signal(&mut self, key: OpKey) {
        if self.signals.is_none() {
            match SignalSource::take() {
                Ok(source) => self.signals = Some(source),
                Err(error) => return self.finish(key, Outcome::Signal(Err(error))),
            }
        }
        self.signal_waiter = Some(key);
        self.advance_signal();
    }

    fn advance_signal(&mut self) {
        let (Some(source), Some(key)) = (&self.signals, self.signal_waiter) else {
            return;
        };
        if let Some(signal) = source.next() {
            self.signal_waiter = None;
            return self.finish(key, Outcome::Signal(Ok(signal)));
        }
        if self.signal_armed {
            return;
        }
        let entry = opcode::PollAdd::new(Fd(source.descriptor()), libc::POLLIN as u32).build();
        self.signal_armed = true;
        let index = self.launch(Flight::Signal);
        // SAFETY: the entry points at no memory; the signal event lives as long as the process.
        unsafe { self.push(entry, tag(index, Part::First)) }
    }

    // Completions.

    fn reap(&mut self) {
        let mut posted = std::mem::take(&mut self.posted);
        self.ring.reap(&mut posted);
        for posted in posted.drain(..) {
            match posted.tag {
                CANCEL_TAG => {}
                WAKE_TAG if cqueue::more(posted.flags) => {}
                WAKE_TAG => {
                    self.wake.drain();
                    self.arm_wake();
                }
                _ => self.complete(posted),
            }
        }
        self.posted = posted;
    }

    fn complete(&mut self, posted: Posted) {
        let (index, part) = untag(posted.tag);
        match &mut self.flights[index] {
            Flight::Accept { listener } => {
                let listener = *listener;
                return self.accepted(index, listener, posted);
            }
            Flight::Receive { socket, .. } => {
                let socket = *socket;
                return self.received(index, socket, posted);
            }
            Flight::Write(write) => {
                let complete = write.note(part, check_completion(posted.result));
                if !complete {
                    return;
                }
            }
            _ => {}
        }
        let flight = self.land(index);
        let handle = flight.handle();
        self.finish_flight(flight, check_completion(posted.result));
        if let Some(handle) = handle {
            self.close_if_idle(handle);
        }
    }

    fn finish_flight(&mut self, flight: Flight, result: io::Result<usize>) {
        match flight {
            Flight::Read { key, buffer, .. } => self.finish(key, Outcome::Read { buffer, result }),
            Flight::Write(write) => self.finish(write.key, write.outcome()),
            Flight::Sync { key, .. } | Flight::Close { key } => {
                self.finish(key, Outcome::Done(result.map(drop)));
            }
            Flight::Connect {
                key, socket, peer, ..
            } => {
                let connected = result.map(|_| {
                    let handle = self.descriptors.insert(socket, State::default());
                    Connected { handle, peer }
                });
                self.finish(key, Outcome::Connected(connected));
            }
            Flight::Send {
                key,
                socket,
                buffer,
            } => {
                if let Some(descriptor) = self.descriptors.find(socket) {
                    descriptor.state.send = None;
                }
                self.finish(key, Outcome::Sent { buffer, result });
            }
            Flight::Signal => {
                self.signal_armed = false;
                self.advance_signal();
            }
            Flight::Accept { .. } | Flight::Receive { .. } => unreachable!("handled on completion"),
        }
    }

    /// Submits, and sleeps if nothing else is to be done.
    fn enter(&mut self, park: Park) {
        let mut wait = match park {
            _ if !self.done.is_empty() => Wait::No,
            Park::Poll => Wait::No,
            Park::Forever => Wait::Forever,
            Park::Until(deadline) => match deadline.since(clock::monotonic()) {
                Duration::ZERO => Wait::No,
                time => Wait::AtMost(time),
            },
        };
        if wait != Wait::No && self.spin.is_on() {
            self.ring.enter(Wait::No);
            let (ring, wake) = (&mut self.ring, &self.wake);
            if self.spin.run(|| ring.has_posted() || wake.is_notified()) {
                wait = Wait::No;
            }
        }
        if wait != Wait::No && !self.wake.park() {
            wait = Wait::No;
        }
        self.ring.enter(wait);
        self.wake.unpark();
    }

    /// Ends everything and waits until the kernel uses no memory of ours any more; whether that came about.
    fn drain(&mut self) -> bool {
        self.signal_waiter = None;
        for (_, listener) in std::mem::take(&mut self.acceptors) {
            if let Some(descriptor) = self.descriptors.find(listener) {
                descriptor.state.acceptor = None;
            }
        }
        let began = Instant::now();
        let cancel = || opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
        while !self.flights.is_empty() {
            if began.elapsed() > DRAIN_TIME {
                return false;
            }
            // SAFETY: the entry points at no memory.
            unsafe { self.push(cancel(), CANCEL_TAG) }
            self.ring.enter(Wait::AtMost(Duration::from_millis(20)));
            self.reap();
            self.done.clear();
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.drain() {
            self.receive.leak();
            std::mem::forget(std::mem::take(&mut self.flights));
        }
    }
}

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

fn sync_entry(file: Fd) -> squeue::Entry {
    opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build()
}

/// The kernel's length of a buffer: more than 4 GiB is done in part, which the caller continues.
fn length_of(bytes: &[u8]) -> u32 {
    const WHOLE_BLOCKS_MAX: u32 = 1 << 30;
    u32::try_from(bytes.len()).unwrap_or(WHOLE_BLOCKS_MAX)
}

impl Driver for Uring {
    fn submit(&mut self, key: OpKey, op: Op) {
        match op {
            Op::Read {
                file,
                buffer,
                offset,
                start,
            } => self.start_read(key, file, buffer, offset, start),
            Op::Write {
                file,
                buffer,
                offset,
                start,
                sync,
            } => {
                let sync = sync.then_some(None);
                let write = WriteFlight {
                    key,
                    file,
                    buffer,
                    start,
                    written: None,
                    sync,
                };
                self.start_write(key, file, write, offset);
            }
            Op::Sync { file } => self.start_sync(key, file),
            Op::Length { file } => {
                let length = self.descriptors.length(file);
                self.finish(key, Outcome::Length(length));
            }
            Op::Listen { address } => {
                let listening = self
                    .descriptors
                    .listen(&address, Mode::Blocking, State::default());
                self.finish(key, Outcome::Listening(listening));
            }
            Op::Accept { listener } => self.start_accept(key, listener),
            Op::Connect { address } => self.start_connect(key, address),
            Op::Receive { socket } => self.start_receive(key, socket),
            Op::Send {
                socket,
                buffer,
                start,
            } => self.start_send(key, socket, buffer, start),
            Op::Shutdown { socket } => {
                let open = self.descriptors.open(socket);
                let result = open.and_then(|descriptor| socket::shutdown_write(descriptor.raw()));
                self.finish(key, Outcome::Done(result));
            }
            Op::Close { handle } => self.close(key, handle),
            Op::Signal => self.start_signal(key),
            path_op => self.threads.submit(key, FileWork::on_paths(path_op)),
        }
    }

    fn cancel(&mut self, key: OpKey) {
        if self.signal_waiter == Some(key) {
            self.signal_waiter = None;
            return self.finish(key, Outcome::Signal(Err(cancelled())));
        }
        if let Some(position) = self
            .acceptors
            .iter()
            .position(|(acceptor, _)| *acceptor == key)
        {
            let (_, listener) = self.acceptors.swap_remove(position);
            if let Some(descriptor) = self.descriptors.find(listener) {
                descriptor.state.acceptor = None;
            }
            return self.finish(key, Outcome::Connected(Err(cancelled())));
        }
        let Some(&index) = self.flight_of.get(key.index as usize) else {
            return;
        };
        let index = index as usize;
        let ours = |flight: &&Flight| flight.key() == Some(key) && flight.is_cancellable();
        if self.flights.get(index).filter(ours).is_some() {
            self.cancel_flight(index);
        }
    }

    fn release_file(&mut self, file: Handle) -> Option<Detached> {
        let file = self.descriptors.take_idle(file)?;
        Some(Detached(Loose::File(file)))
    }

    fn release_stream(&mut self, socket: Handle) -> Option<Detached> {
        let socket = self.descriptors.take_idle(socket)?;
        Some(Detached(Loose::Socket(socket, Mode::Blocking)))
    }

    fn adopt_file(&mut self, file: Detached) -> Handle {
        match file.0 {
            Loose::File(file) => self.descriptors.insert(file, State::default()),
            _ => panic!("{file:?} is attached as a file of the ring"),
        }
    }

    fn adopt_stream(&mut self, socket: Detached) -> io::Result<Handle> {
        let Loose::Socket(socket, mode) = socket.0 else {
            panic!("{socket:?} is attached as a stream of the ring")
        };
        if mode != Mode::Blocking {
            socket::set_mode(&socket, Mode::Blocking)?;
        }
        Ok(self.descriptors.insert(socket, State::default()))
    }

    fn poll(&mut self, park: Park, completions: &mut Vec<Completion>) {
        self.enter(park);
        self.reap();
        self.take_finished_work();
        completions.append(&mut self.done);
    }

    fn now(&self) -> Timestamp {
        clock::monotonic()
    }

    fn unix_time(&self) -> Duration {
        clock::unix_time()
    }

    fn processor_nanos(&self) -> u64 {
        let looked = self.spin.spent().as_nanos() as u64;
        clock::thread_processor_nanos().saturating_sub(looked)
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn remote_wake(&self) -> Arc<dyn RemoteWake> {
        Arc::clone(&self.wake) as Arc<dyn RemoteWake>
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Uring
    }
}
