//! The driver for hosts that refuse io_uring: epoll for sockets, a few threads for files.
//!
//! Socket calls are tried when they are submitted and again after an edge says that they can go on. Edges may be
//! missed only by asking before the kernel is exhausted, so a descriptor counts as readable until a call would block
//! or a stream receive comes back short, and always once the peer has ended it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{ChunkPool, ReceiveBuffer};
use crate::detached::{Detached, Loose};
use crate::driver::{
    Completion, Connected, Driver, DriverKind, Handle, Listening, Op, OpKey, Outcome, Park,
    RemoteWake,
};
use crate::kernel::clock::{self, Random};
use crate::kernel::descriptor::{Descriptor, Descriptors};
use crate::kernel::epoll::{Epoll, Readiness};
use crate::kernel::signal::SignalSource;
use crate::kernel::socket::Mode;
use crate::kernel::spin::Spin;
use crate::kernel::threads::{FileDone, FileThreads, FileWork};
use crate::kernel::wake::WakeEvent;
use crate::kernel::{cancelled, socket};
use crate::net::Address;
use crate::time::Timestamp;

/// Threads for files: as many writes as go on at once.
const FILE_THREADS_MAX: usize = 4;

/// Bytes that one receive takes at most, and chunks kept for reuse.
const RECEIVE_CHUNK_BYTES: usize = 16 << 10;
const FREE_CHUNKS_MAX: usize = 128;

const WAKE_TAG: u64 = u64::MAX;
const SIGNAL_TAG: u64 = u64::MAX - 1;

/// epoll and file threads.
pub(crate) struct Fallback {
    epoll: Epoll,
    wake: Arc<WakeEvent>,
    threads: FileThreads,
    finished: Vec<(OpKey, FileDone)>,
    descriptors: Descriptors<Socket>,
    /// Operations that wait, by the handle they wait for. Never iterated.
    waiting: HashMap<OpKey, Handle>,
    done: Vec<Completion>,
    chunks: ChunkPool,
    signals: Option<SignalSource>,
    signal_waiter: Option<OpKey>,
    random: Random,
    spin: Spin,
    refusal: Option<String>,
}

/// What a socket can do and what waits for it. Unused for files.
#[derive(Default)]
struct Socket {
    readable: bool,
    writable: bool,
    ended: bool,
    accepting: Option<OpKey>,
    connecting: Option<(OpKey, Address)>,
    receiving: Option<OpKey>,
    sending: Option<Sending>,
}

impl Socket {
    /// Whether no operation waits on it.
    fn is_idle(&self) -> bool {
        let waits = self.accepting.is_some() || self.connecting.is_some();
        !waits && self.receiving.is_none() && self.sending.is_none()
    }
}

struct Sending {
    key: OpKey,
    buffer: Vec<u8>,
    start: usize,
}

impl Fallback {
    /// `refusal`: why the ring was not used, if it was wanted.
    pub(crate) fn new(spin: Duration, refusal: Option<String>) -> io::Result<Fallback> {
        let wake = Arc::new(WakeEvent::new()?);
        let epoll = Epoll::new()?;
        epoll.register(wake.descriptor(), WAKE_TAG)?;
        Ok(Fallback {
            epoll,
            threads: FileThreads::new(FILE_THREADS_MAX, Arc::clone(&wake)),
            wake,
            finished: Vec::new(),
            descriptors: Descriptors::new(),
            waiting: HashMap::new(),
            done: Vec::new(),
            chunks: ChunkPool::new(RECEIVE_CHUNK_BYTES, FREE_CHUNKS_MAX),
            signals: None,
            signal_waiter: None,
            random: Random::from_kernel()?,
            spin: Spin::new(spin),
            refusal,
        })
    }

    fn finish(&mut self, key: OpKey, outcome: Outcome) {
        self.done.push(Completion { key, outcome });
    }

    // Files.

    /// The file for a thread's use: it stays open until the thread has finished `key`.
    fn lend(&mut self, key: OpKey, handle: Handle) -> io::Result<Arc<OwnedFd>> {
        let descriptor = self.descriptors.open(handle)?;
        descriptor.flying += 1;
        self.waiting.insert(key, handle);
        Ok(Arc::clone(&descriptor.file))
    }

    fn start_file_op(&mut self, key: OpKey, op: Op) {
        let work = match op {
            Op::Read {
                file,
                buffer,
                offset,
                start,
            } => match self.lend(key, file) {
                Ok(file) => FileWork::Read {
                    file,
                    buffer,
                    offset,
                    start,
                },
                Err(error) => {
                    return self.finish(
                        key,
                        Outcome::Read {
                            buffer,
                            result: Err(error),
                        },
                    );
                }
            },
            Op::Write {
                file,
                buffer,
                offset,
                start,
                sync,
            } => match self.lend(key, file) {
                Ok(file) => FileWork::Write {
                    file,
                    buffer,
                    offset,
                    start,
                    sync,
                },
                Err(error) => {
                    return self.finish(
                        key,
                        Outcome::Wrote {
                            buffer,
                            written: Err(error),
                            synced: None,
                        },
                    );
                }
            },
            Op::Sync { file } => match self.lend(key, file) {
                Ok(file) => FileWork::Sync { file },
                Err(error) => return self.finish(key, Outcome::Done(Err(error))),
            },
            other => FileWork::on_paths(other),
        };
        self.threads.submit(key, work);
    }

    fn take_finished_work(&mut self) {
        let mut finished = std::mem::take(&mut self.finished);
        self.threads.take_finished(&mut finished);
        for (key, done) in finished.drain(..) {
            self.finish_work(key, done);
        }
        self.finished = finished;
    }

    fn finish_work(&mut self, key: OpKey, done: FileDone) {
        let outcome = done.into_outcome(|file| self.descriptors.insert(file, Socket::default()));
        self.finish(key, outcome);
        let Some(handle) = self.waiting.remove(&key) else {
            return;
        };
        if let Some(descriptor) = self.descriptors.find(handle) {
            descriptor.flying -= 1;
        }
        self.close_if_idle(handle);
    }

    fn close(&mut self, key: OpKey, handle: Handle) {
        match self.descriptors.open(handle) {
            Ok(descriptor) => descriptor.closing = Some(key),
            Err(error) => return self.finish(key, Outcome::Done(Err(error))),
        }
        self.end_socket(handle);
        self.close_if_idle(handle);
    }

    fn close_if_idle(&mut self, handle: Handle) {
        if let Some((key, file)) = self.descriptors.take_closable(handle) {
            drop(file);
            self.finish(key, Outcome::Done(Ok(())));
        }
    }

    // Sockets.

    fn listen(&mut self, address: &Address) -> io::Result<Listening> {
        let state = Socket {
            readable: true,
            ..Socket::default()
        };
        let listening = self.descriptors.listen(address, Mode::NonBlocking, state)?;
        self.register(listening.handle)?;
        Ok(listening)
    }

    /// Has edges of the descriptor reported; closes it if that fails.
    fn register(&mut self, handle: Handle) -> io::Result<()> {
        let raw = self.descriptors.open(handle)?.raw();
        let registered = self.epoll.register(raw, handle.0);
        if registered.is_err() {
            self.descriptors.remove(handle);
        }
        registered
    }

    /// Makes a connected socket known.
    fn adopt(&mut self, connection: OwnedFd) -> io::Result<Connected> {
        let peer = socket::peer_of(connection.as_raw_fd())?;
        let handle = self.register_stream(connection)?;
        Ok(Connected { handle, peer })
    }

    fn register_stream(&mut self, connection: OwnedFd) -> io::Result<Handle> {
        let state = Socket {
            readable: true,
            writable: true,
            ..Socket::default()
        };
        let handle = self.descriptors.insert(connection, state);
        self.register(handle)?;
        Ok(handle)
    }

    fn start_connect(&mut self, key: OpKey, address: Address) {
        let started = socket::new_client(&address, Mode::NonBlocking).and_then(|(client, raw)| {
            match socket::start_connect(&client, &raw) {
                Ok(()) => Ok((client, true)),
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    Ok((client, false))
                }
                Err(error) => Err(error),
            }
        });
        let (client, connected) = match started {
            Ok(started) => started,
            Err(error) => return self.finish(key, Outcome::Connected(Err(error))),
        };
        if connected {
            let adopted = self.adopt(client);
            return self.finish(key, Outcome::Connected(adopted));
        }
        let handle = self.descriptors.insert(client, Socket::default());
        let registered = self.descriptors.open(handle).and_then(|descriptor| {
            descriptor.state.connecting = Some((key, address));
            self.epoll.register(descriptor.raw(), handle.0)
        });
        match registered {
            Ok(()) => drop(self.waiting.insert(key, handle)),
            Err(error) => {
                self.descriptors.remove(handle);
                self.finish(key, Outcome::Connected(Err(error)));
            }
        }
    }

    /// Puts an operation into its socket and tries it.
    fn start_on(
        &mut self,
        key: OpKey,
        handle: Handle,
        place: impl FnOnce(&mut Socket),
    ) -> io::Result<()> {
        let descriptor = self.descriptors.open(handle)?;
        place(&mut descriptor.state);
        self.waiting.insert(key, handle);
        self.advance(handle);
        Ok(())
    }

    fn start_send(&mut self, sending: Sending, handle: Handle) {
        let key = sending.key;
        match self.descriptors.open(handle) {
            Ok(descriptor) => {
                assert!(
                    descriptor.state.sending.is_none(),
                    "two sends on one socket"
                );
                descriptor.state.sending = Some(sending);
                self.waiting.insert(key, handle);
                self.advance(handle);
            }
            Err(error) => {
                let buffer = sending.buffer;
                self.finish(
                    key,
                    Outcome::Sent {
                        buffer,
                        result: Err(error),
                    },
                );
            }
        }
    }

    fn note(&mut self, readiness: Readiness) {
        let handle = Handle(readiness.tag);
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        descriptor.state.readable |= readiness.readable;
        descriptor.state.writable |= readiness.writable;
        descriptor.state.ended |= readiness.ended;
        self.advance(handle);
    }

    /// Carries out what waits on the socket and can go on.
    fn advance(&mut self, handle: Handle) {
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        if descriptor.state.connecting.is_some() {
            if descriptor.state.writable {
                self.finish_connect(handle);
            }
            return;
        }
        if let Some((key, outcome)) = advance_receive(descriptor, &self.chunks) {
            self.waiting.remove(&key);
            self.finish(key, outcome);
        }
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        if let Some((key, outcome)) = advance_send(descriptor) {
            self.waiting.remove(&key);
            self.finish(key, outcome);
        }
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        if let Some((key, result)) = advance_accept(descriptor) {
            self.waiting.remove(&key);
            let outcome = result.and_then(|connection| self.adopt(connection));
            self.finish(key, Outcome::Connected(outcome));
        }
    }

    fn finish_connect(&mut self, handle: Handle) {
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        let Some((key, peer)) = descriptor.state.connecting.take() else {
            return;
        };
        let result = socket::finish_connect(descriptor.raw());
        descriptor.state.readable = true;
        if result.is_err() {
            self.descriptors.remove(handle);
        }
        self.waiting.remove(&key);
        self.finish(
            key,
            Outcome::Connected(result.map(|()| Connected { handle, peer })),
        );
    }

    /// Ends everything that waits on the socket.
    fn end_socket(&mut self, handle: Handle) {
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        let state = std::mem::take(&mut descriptor.state);
        if let Some(key) = state.receiving {
            self.end(key, Outcome::Received(Err(cancelled())));
        }
        if let Some(key) = state.accepting {
            self.end(key, Outcome::Connected(Err(cancelled())));
        }
        if let Some(Sending { key, buffer, .. }) = state.sending {
            self.end(
                key,
                Outcome::Sent {
                    buffer,
                    result: Err(cancelled()),
                },
            );
        }
    }

    fn end(&mut self, key: OpKey, outcome: Outcome) {
        self.waiting.remove(&key);
        self.finish(key, outcome);
    }

    // Signals.

    fn start_signal(&mut self, key: OpKey) {
        if let Err(error) = self.watch_signals() {
            return self.finish(key, Outcome::Signal(Err(error)));
        }
        self.signal_waiter = Some(key);
        self.advance_signal();
    }

    fn watch_signals(&mut self) -> io::Result<()> {
        if self.signals.is_none() {
            let source = SignalSource::take()?;
            self.epoll.register(source.descriptor(), SIGNAL_TAG)?;
            self.signals = Some(source);
        }
        Ok(())
    }

    fn advance_signal(&mut self) {
        let (Some(source), Some(key)) = (&self.signals, self.signal_waiter) else {
            return;
        };
        if let Some(signal) = source.next() {
            self.signal_waiter = None;
            self.finish(key, Outcome::Signal(Ok(signal)));
        }
    }

    /// Gathers readiness, sleeping if nothing else is to be done; returns the number of events.
    fn look_or_sleep(&mut self, park: Park) -> usize {
        let timeout = match park {
            _ if !self.done.is_empty() => Some(Duration::ZERO),
            Park::Poll => Some(Duration::ZERO),
            Park::Until(deadline) => Some(deadline.since(clock::monotonic())),
            Park::Forever => None,
        };
        if timeout == Some(Duration::ZERO) {
            return self.wait(timeout);
        }
        let mut count = 0;
        let (wake, epoll) = (&self.wake, &mut self.epoll);
        let found = self.spin.run(|| {
            count = epoll.wait(Some(Duration::ZERO)).unwrap_or(0);
            count > 0 || wake.is_notified()
        });
        if found {
            return count;
        }
        let timeout = if self.wake.park() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
        self.wait(timeout)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> usize {
        let result = self.epoll.wait(timeout);
        match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => panic!("epoll_wait: {error}"),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn advance_receive(
    descriptor: &mut Descriptor<Socket>,
    chunks: &ChunkPool,
) -> Option<(OpKey, Outcome)> {
    let raw = descriptor.raw();
    let state = &mut descriptor.state;
    let key = state.receiving.filter(|_| state.readable)?;
    let mut chunk = chunks.take();
    let result = socket::receive(raw, &mut chunk);
    if let Err(error) = &result
        && would_block(error)
    {
        state.readable = false;
        chunks.give(chunk);
        return None;
    }
    state.receiving = None;
    let outcome = match result {
        Ok(0) => {
            chunks.give(chunk);
            Ok(ReceiveBuffer::empty())
        }
        Ok(count) => {
            state.readable = count == chunk.len() || state.ended;
            Ok(chunks.filled(chunk, count))
        }
        Err(error) => {
            chunks.give(chunk);
            Err(error)
        }
    };
    Some((key, Outcome::Received(outcome)))
}

fn advance_send(descriptor: &mut Descriptor<Socket>) -> Option<(OpKey, Outcome)> {
    let raw = descriptor.raw();
    let state = &mut descriptor.state;
    if !state.writable {
        return None;
    }
    let Sending { key, buffer, start } = state.sending.take()?;
    let result = socket::send(raw, &buffer[start..]);
    if let Err(error) = &result
        && would_block(error)
    {
        state.writable = false;
        state.sending = Some(Sending { key, buffer, start });
        return None;
    }
    Some((key, Outcome::Sent { buffer, result }))
}

fn advance_accept(descriptor: &mut Descriptor<Socket>) -> Option<(OpKey, io::Result<OwnedFd>)> {
    let raw = descriptor.raw();
    let state = &mut descriptor.state;
    let key = state.accepting.filter(|_| state.readable)?;
    let result = socket::accept(raw);
    if let Err(error) = &result
        && would_block(error)
    {
        state.readable = false;
        return None;
    }
    state.accepting = None;
    Some((key, result))
}

impl Driver for Fallback {
    fn submit(&mut self, key: OpKey, op: Op) {
        match op {
            Op::Length { file } => {
                let length = self.descriptors.length(file);
                self.finish(key, Outcome::Length(length));
            }
            Op::Listen { address } => {
                let listening = self.listen(&address);
                self.finish(key, Outcome::Listening(listening));
            }
            Op::Accept { listener } => {
                let started = self.start_on(key, listener, |socket| socket.accepting = Some(key));
                if let Err(error) = started {
                    self.finish(key, Outcome::Connected(Err(error)));
                }
            }
            Op::Connect { address } => self.start_connect(key, address),
            Op::Receive { socket } => {
                let started = self.start_on(key, socket, |socket| socket.receiving = Some(key));
                if let Err(error) = started {
                    self.finish(key, Outcome::Received(Err(error)));
                }
            }
            Op::Send {
                socket,
                buffer,
                start,
            } => self.start_send(Sending { key, buffer, start }, socket),
            Op::Shutdown { socket } => {
                let result = self
                    .descriptors
                    .open(socket)
                    .and_then(|socket| socket::shutdown_write(socket.raw()));
                self.finish(key, Outcome::Done(result));
            }
            Op::Close { handle } => self.close(key, handle),
            Op::Signal => self.start_signal(key),
            file_op => self.start_file_op(key, file_op),
        }
    }

    fn cancel(&mut self, key: OpKey) {
        if self.signal_waiter == Some(key) {
            self.signal_waiter = None;
            return self.finish(key, Outcome::Signal(Err(cancelled())));
        }
        let Some(&handle) = self.waiting.get(&key) else {
            return;
        };
        let Some(descriptor) = self.descriptors.find(handle) else {
            return;
        };
        let state = &mut descriptor.state;
        if state.receiving == Some(key) {
            state.receiving = None;
            self.end(key, Outcome::Received(Err(cancelled())));
        } else if state.accepting == Some(key) {
            state.accepting = None;
            self.end(key, Outcome::Connected(Err(cancelled())));
        } else if state
            .connecting
            .as_ref()
            .is_some_and(|(waiter, _)| *waiter == key)
        {
            self.descriptors.remove(handle);
            self.end(key, Outcome::Connected(Err(cancelled())));
        } else if state
            .sending
            .as_ref()
            .is_some_and(|sending| sending.key == key)
            && let Some(Sending { buffer, .. }) = state.sending.take()
        {
            self.end(
                key,
                Outcome::Sent {
                    buffer,
                    result: Err(cancelled()),
                },
            );
        }
    }

    fn release_file(&mut self, file: Handle) -> Option<Detached> {
        let file = self.descriptors.take_idle(file)?;
        Some(Detached(Loose::File(file)))
    }

    fn release_stream(&mut self, socket: Handle) -> Option<Detached> {
        let descriptor = self.descriptors.find(socket)?;
        if !descriptor.state.is_idle() || descriptor.closing.is_some() {
            return None;
        }
        // The descriptor stays open, so the kernel would go on to report it here.
        self.epoll.unregister(descriptor.raw()).ok()?;
        let socket = self.descriptors.take_idle(socket)?;
        Some(Detached(Loose::Socket(socket, Mode::NonBlocking)))
    }

    fn adopt_file(&mut self, file: Detached) -> Handle {
        match file.0 {
            Loose::File(file) => self.descriptors.insert(file, Socket::default()),
            _ => panic!("{file:?} is attached as a file of epoll"),
        }
    }

    fn adopt_stream(&mut self, socket: Detached) -> io::Result<Handle> {
        let Loose::Socket(socket, mode) = socket.0 else {
            panic!("{socket:?} is attached as a stream of epoll")
        };
        if mode != Mode::NonBlocking {
            socket::set_mode(&socket, Mode::NonBlocking)?;
        }
        self.register_stream(socket)
    }

    fn poll(&mut self, park: Park, completions: &mut Vec<Completion>) {
        let count = self.look_or_sleep(park);
        self.wake.unpark();
        for index in 0..count {
            let readiness = self.epoll.event(index);
            match readiness.tag {
                // Every raise of the counter is an edge, whatever it stood at.
                WAKE_TAG => {}
                SIGNAL_TAG => self.advance_signal(),
                _ => self.note(readiness),
            }
        }
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
        DriverKind::Fallback
    }

    fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// The descriptor of a detached stream stays open, and the kernel must not go on to report it.
    #[test]
    fn a_stream_that_left_wakes_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = OwnedFd::from(listener.accept().unwrap().0);
        let mut driver = Fallback::new(Duration::ZERO, None).unwrap();
        let handle = driver.adopt_stream(Detached(Loose::Socket(accepted, Mode::Blocking)));
        driver.poll(Park::Poll, &mut Vec::new());
        let stream = driver.release_stream(handle.unwrap()).unwrap();
        client.write_all(b"for another core").unwrap();
        assert_eq!(driver.wait(Some(Duration::from_millis(20))), 0);
        drop(stream);
    }

    #[test]
    fn a_socket_that_cannot_be_watched_is_closed() {
        let mut driver = Fallback::new(Duration::ZERO, None).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        // The number of a descriptor that is watched already: what the kernel refuses.
        let twice = driver.descriptors.insert(reader.into(), Socket::default());
        driver.register(twice).unwrap();
        assert!(driver.register(twice).is_err());
        assert!(driver.descriptors.find(twice).is_none());
        let error = writer.write(b"nobody reads").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
