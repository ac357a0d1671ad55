//! The handle through which tasks see their core: clock, randomness, tasks, timers, files, sockets.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::buffer::{AlignedBuffer, BufferPool};
use crate::detached::{DetachedFile, DetachedStream};
use crate::driver::{
    Completion, Connected, Driver, DriverKind, Handle, Op, OpKey, Opened, Outcome, Park,
};
use crate::executor::{BACKGROUND_SLICE, Class, Executor, PanicPolicy, TurnOutcome};
use crate::file::{File, OpenOptions};
use crate::load::Load;
use crate::net::{Address, Listener, Signals, Stream, UNSENT_BYTES_MAX, Unsent};
use crate::task::{JoinHandle, Task};
use crate::time::{Elapsed, Sleep, Timers, Timestamp};

/// Send buffers that a core keeps for reuse: how many, the largest, and bytes of all. The largest is what a stream
/// that is never idle sends: else it would grow one anew for each send.
const POOLED_VECTORS_MAX: usize = 64;
const POOLED_VECTOR_BYTES_MAX: usize = 2 * UNSENT_BYTES_MAX;
const POOLED_BYTES_MAX: usize = 4 << 20;

/// How long an address in use is waited for, and between attempts.
const ADDRESS_WAIT: Duration = Duration::from_secs(1);
const ADDRESS_RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Empty vectors whose memory waits for reuse.
#[derive(Default)]
struct SpareBytes {
    vectors: Vec<Vec<u8>>,
    /// Sum of their capacities.
    capacity: usize,
}

impl SpareBytes {
    fn take(&mut self) -> Vec<u8> {
        let bytes = self.vectors.pop().unwrap_or_default();
        self.capacity -= bytes.capacity();
        bytes
    }

    fn give(&mut self, mut bytes: Vec<u8>) {
        let capacity = bytes.capacity();
        if (1..=POOLED_VECTOR_BYTES_MAX).contains(&capacity)
            && self.vectors.len() < POOLED_VECTORS_MAX
            && self.capacity + capacity <= POOLED_BYTES_MAX
        {
            bytes.clear();
            self.capacity += capacity;
            self.vectors.push(bytes);
        }
    }
}

/// One core: cheap to clone, never leaves its thread.
#[derive(Clone)]
pub struct World {
    inner: Rc<Inner>,
}

struct Inner {
    executor: Executor,
    driver: RefCell<Box<dyn Driver>>,
    operations: RefCell<Operations>,
    timers: RefCell<Timers>,
    buffers: RefCell<BufferPool>,
    /// Memory of sends for reuse.
    bytes: RefCell<SpareBytes>,
    /// Streams with bytes to send once the tasks of this turn have run.
    unsent: RefCell<Vec<Unsent>>,
    completions: RefCell<Vec<Completion>>,
    turn_began: Cell<Timestamp>,
    /// When the last park ended, until the next turn begins.
    woke: Cell<Option<Timestamp>>,
    load: Load,
}

/// Operations in flight, by key.
#[derive(Default)]
struct Operations {
    slots: Slab<OperationSlot>,
    generation: u32,
}

struct OperationSlot {
    generation: u32,
    state: OperationState,
}

enum OperationState {
    /// In the driver; nobody has asked yet.
    Started,
    /// In the driver; wake this when it completes.
    Awaited(Waker),
    /// Completed, not fetched.
    Completed(Outcome),
    /// In the driver; the outcome goes there.
    Directed(Rc<dyn CompletionSink>),
    /// In the driver; nobody will ask.
    Abandoned,
}

/// Takes the outcome of an operation that no future waits for.
pub(crate) trait CompletionSink {
    /// Called once, while the operation's driver reaps.
    fn complete(self: Rc<Self>, outcome: Outcome);
}

impl World {
    /// A core on this driver. Somebody must drive it: [`World::block_on`], or an outer loop of
    /// [`World::turn`]s as in the simulation.
    pub fn new(driver: Box<dyn Driver>, policy: PanicPolicy) -> World {
        let load = Load::new(driver.as_ref());
        let executor = Executor::new(driver.remote_wake(), policy);
        let inner = Inner {
            executor,
            driver: RefCell::new(driver),
            operations: RefCell::default(),
            timers: RefCell::default(),
            buffers: RefCell::default(),
            bytes: RefCell::default(),
            unsent: RefCell::default(),
            completions: RefCell::default(),
            turn_began: Cell::default(),
            woke: Cell::default(),
            load,
        };
        World {
            inner: Rc::new(inner),
        }
    }

    // The clock and randomness.

    /// The monotonic clock.
    pub fn now(&self) -> Timestamp {
        self.inner.driver.borrow().now()
    }

    /// Time since 1970 by the host's wall clock; may jump.
    pub fn unix_time(&self) -> Duration {
        self.inner.driver.borrow().unix_time()
    }

    /// A random number; in the simulation a function of the seed.
    pub fn random_u64(&self) -> u64 {
        self.inner.driver.borrow_mut().random()
    }

    /// Which driver carries this core.
    pub fn driver_kind(&self) -> DriverKind {
        self.inner.driver.borrow().kind()
    }

    /// Why io_uring was refused, if it was wanted and another driver runs.
    pub fn driver_refusal(&self) -> Option<String> {
        self.inner.driver.borrow().refusal().map(str::to_owned)
    }

    /// How long this core has worked since it started, in nanoseconds: the time that it was not parked. 0 in the
    /// simulation.
    ///
    /// A parked driver also works for a while, because one system call starts what was asked for, waits, and brings
    /// what ended. So of each stretch between two calls of this function the larger of two figures counts: the time
    /// outside of parking, and the processor time that the thread has used. Looking for work before a sleep is none.
    pub fn busy_nanos(&self) -> u64 {
        let driver = self.inner.driver.borrow();
        if driver.kind() == DriverKind::Simulated {
            return 0;
        }
        self.inner
            .load
            .busy_nanos(driver.now(), driver.processor_nanos())
    }

    // Tasks.

    /// Starts a task. A panic in it stops the process (see [`PanicPolicy`]).
    pub fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) -> Task {
        let id = self.inner.executor.spawn(class, false, Box::pin(future));
        Task::new(self.clone(), id)
    }

    /// Starts a task whose panic ends only itself. Only for work that shares no changeable state with other tasks,
    /// such as decoding one connection's bytes. Has that effect only in builds that unwind: the release profile aborts.
    pub fn spawn_contained(
        &self,
        class: Class,
        future: impl Future<Output = ()> + 'static,
    ) -> Task {
        let id = self.inner.executor.spawn(class, true, Box::pin(future));
        Task::new(self.clone(), id)
    }

    /// Starts a task with a result.
    pub fn spawn_joinable<T: 'static>(
        &self,
        class: Class,
        future: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let task = self.spawn(class, async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        JoinHandle::new(task, result)
    }

    /// Lets the other runnable tasks of the core run.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Yields if the present turn has lasted a time slice: long background work calls this often.
    pub async fn yield_if_due(&self) {
        if self.now().since(self.inner.turn_began.get()) >= BACKGROUND_SLICE {
            self.yield_now().await;
        }
    }

    /// Tasks that have not ended.
    pub fn live_tasks(&self) -> usize {
        self.inner.executor.live()
    }

    // Time.

    /// Waits for `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Waits for an instant.
    pub fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Sleep::new(self.clone(), deadline)
    }

    /// The future's result, or [`Elapsed`] (and the future is dropped) if it takes longer than `duration`.
    pub async fn timeout<T>(
        &self,
        duration: Duration,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut future = std::pin::pin!(future);
        let mut sleep = self.sleep(duration);
        std::future::poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(value));
            }
            Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed))
        })
        .await
    }

    // Files.

    /// Opens a file. See [`OpenOptions`].
    pub async fn open(&self, path: impl AsRef<Path>, options: OpenOptions) -> io::Result<File> {
        let path = path.as_ref().to_path_buf();
        match self.operate(Op::Open { path, options }).await {
            Outcome::Opened(result) => {
                let Opened { handle, direct, .. } = result?;
                Ok(File::new(self.clone(), handle, direct))
            }
            other => unexpected(&other),
        }
    }

    /// Takes in a file that another core of the process has detached.
    ///
    /// # Panics
    /// If the other core was a simulated one of another process, or one of the two was real and one simulated.
    pub fn attach_file(&self, file: DetachedFile) -> File {
        let DetachedFile { detached, direct } = file;
        let handle = self.driver().adopt_file(detached);
        File::new(self.clone(), handle, direct)
    }

    /// Creates a directory and its missing parents.
    pub async fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.operate_done(Op::CreateDirAll {
            path: path.as_ref().to_path_buf(),
        })
        .await
    }

    /// Removes a file. Durable after [`World::sync_dir`].
    pub async fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.operate_done(Op::RemoveFile {
            path: path.as_ref().to_path_buf(),
        })
        .await
    }

    /// Renames a file, replacing `to`. Durable after [`World::sync_dir`].
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to): (PathBuf, PathBuf) = (from.as_ref().into(), to.as_ref().into());
        self.operate_done(Op::Rename { from, to }).await
    }

    /// Makes creations, renames and removals in a directory durable.
    pub async fn sync_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.operate_done(Op::SyncDir {
            path: path.as_ref().to_path_buf(),
        })
        .await
    }

    /// Names and lengths in bytes of a directory's entries, sorted by name.
    pub async fn list_dir(&self, path: impl AsRef<Path>) -> io::Result<Vec<(String, u64)>> {
        match self
            .operate(Op::ListDir {
                path: path.as_ref().to_path_buf(),
            })
            .await
        {
            Outcome::Listed(result) => result,
            other => unexpected(&other),
        }
    }

    /// A block-aligned buffer of `len` bytes from the core's pool; its contents are unspecified.
    pub fn buffer(&self, len: usize) -> AlignedBuffer {
        self.inner.buffers.borrow_mut().take(len)
    }

    /// Returns a buffer to the core's pool.
    pub fn recycle(&self, buffer: AlignedBuffer) {
        self.inner.buffers.borrow_mut().give(buffer);
    }

    // Sockets and signals.

    /// Listens on an address; port 0 lets the kernel choose.
    ///
    /// An address in use is tried again for a second: the kernel takes a killed process's ring apart in the
    /// background, and until then its listener stays.
    ///
    /// # Errors
    /// Of the system calls.
    pub async fn listen(&self, address: &Address) -> io::Result<Listener> {
        let deadline = self.now() + ADDRESS_WAIT;
        loop {
            match self
                .operate(Op::Listen {
                    address: address.clone(),
                })
                .await
            {
                Outcome::Listening(Err(error))
                    if error.kind() == io::ErrorKind::AddrInUse && self.now() < deadline =>
                {
                    self.sleep(ADDRESS_RETRY_PAUSE).await;
                }
                Outcome::Listening(result) => return Ok(Listener::new(self.clone(), result?)),
                other => unexpected(&other),
            }
        }
    }

    /// Connects to an address.
    pub async fn connect(&self, address: &Address) -> io::Result<Stream> {
        match self
            .operate(Op::Connect {
                address: address.clone(),
            })
            .await
        {
            Outcome::Connected(result) => Ok(Stream::new(self.clone(), result?)),
            other => unexpected(&other),
        }
    }

    /// Takes in a connection that another core of the process has detached.
    ///
    /// # Errors
    /// Of the system calls that make it known to this core, for lack of memory; the connection is then closed.
    ///
    /// # Panics
    /// As [`World::attach_file`].
    pub fn attach_stream(&self, stream: DetachedStream) -> io::Result<Stream> {
        let DetachedStream { detached, peer } = stream;
        let handle = self.driver().adopt_stream(detached)?;
        Ok(Stream::new(self.clone(), Connected { handle, peer }))
    }

    /// The process's SIGTERM, SIGINT and SIGHUP from now on. One core of the process can have them.
    pub fn signals(&self) -> Signals {
        Signals::new(self.clone())
    }

    // Driving.

    /// Reaps without waiting, runs what is runnable within a turn's bound, and starts what the tasks asked for.
    pub fn turn(&self) -> TurnOutcome {
        self.reap(Park::Poll);
        self.run_ready()
    }

    /// Polls runnable tasks within a turn's bound.
    pub fn run_ready(&self) -> TurnOutcome {
        // Spares a look at the clock: only completions were handled since.
        let began = self.inner.woke.take().unwrap_or_else(|| self.now());
        self.inner.turn_began.set(began);
        self.fire_timers();
        self.inner.executor.drain_remote();
        self.inner.executor.run(|| self.now());
        self.send_unsent();
        if self.inner.executor.is_busy() {
            return TurnOutcome::Busy;
        }
        TurnOutcome::Idle {
            until: self.next_timer(),
        }
    }

    /// Starts submitted operations, sleeps as `park` allows, and hands completions to their tasks.
    pub fn reap(&self, park: Park) {
        let mut completions = self.inner.completions.take();
        let mut driver = self.inner.driver.borrow_mut();
        if park == Park::Poll {
            driver.poll(park, &mut completions);
        } else {
            let began = driver.now();
            driver.poll(park, &mut completions);
            let woke = driver.now();
            self.inner.load.parked(woke.since(began));
            self.inner.woke.set(Some(woke));
        }
        drop(driver);
        self.inner.executor.within(|| {
            for completion in completions.drain(..) {
                self.complete(completion);
            }
        });
        self.inner.completions.replace(completions);
    }

    /// The earliest pending timer.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers().next_deadline()
    }

    /// Drives the core until `main` ends, and returns its result. Other tasks stay as they are.
    pub fn block_on<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.spawn(Class::Request, async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            let outcome = self.run_ready();
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            self.reap(match outcome {
                TurnOutcome::Busy => Park::Poll,
                TurnOutcome::Idle {
                    until: Some(deadline),
                } => Park::Until(deadline),
                TurnOutcome::Idle { until: None } => Park::Forever,
            });
        }
    }

    /// Drops all tasks and refuses new ones: the end of the core. Needed because tasks hold the world and it holds them.
    pub fn stop(&self) {
        self.inner.executor.stop();
        // Streams that send hold the world, and the operation table holds them.
        let sinks: Vec<_> = self.inner.operations.borrow_mut().abandon_directed();
        drop(sinks);
        self.inner.unsent.borrow_mut().clear();
    }

    fn fire_timers(&self) {
        let now = self.inner.turn_began.get();
        self.inner.executor.within(|| {
            loop {
                let due = self.timers().pop_due(now);
                let Some(waker) = due else { return };
                waker.wake();
            }
        });
    }

    fn send_unsent(&self) {
        let mut unsent = self.inner.unsent.take();
        self.inner
            .executor
            .within(|| unsent.drain(..).for_each(Unsent::start));
        // Starting a send may put nothing new on the list: the allocation is kept.
        let mut list = self.inner.unsent.borrow_mut();
        if list.is_empty() {
            *list = unsent;
        }
    }

    fn complete(&self, completion: Completion) {
        let Completion { key, outcome } = completion;
        let mut operations = self.inner.operations.borrow_mut();
        let slot = operations.slot(key);
        match std::mem::replace(&mut slot.state, OperationState::Abandoned) {
            OperationState::Started => slot.state = OperationState::Completed(outcome),
            OperationState::Awaited(waker) => {
                slot.state = OperationState::Completed(outcome);
                drop(operations);
                waker.wake();
            }
            OperationState::Directed(sink) => {
                operations.slots.remove(key.index as usize);
                drop(operations);
                sink.complete(outcome);
            }
            OperationState::Abandoned => {
                operations.slots.remove(key.index as usize);
                drop(operations);
                self.discard(outcome);
            }
            OperationState::Completed(_) => panic!("operation {key:?} completed twice"),
        }
    }

    /// Deals with the outcome of an operation that nobody waits for.
    fn discard(&self, outcome: Outcome) {
        if let Some(handle) = outcome.handle() {
            self.close(handle);
        }
        match outcome {
            Outcome::Read { buffer, .. } | Outcome::Wrote { buffer, .. } => self.recycle(buffer),
            other => drop(other),
        }
    }

    // For the other modules of the crate.

    pub(crate) fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    pub(crate) fn driver(&self) -> RefMut<'_, Box<dyn Driver>> {
        self.inner.driver.borrow_mut()
    }

    pub(crate) fn timers(&self) -> RefMut<'_, Timers> {
        self.inner.timers.borrow_mut()
    }

    /// Notes a stream whose bytes are sent when this turn's tasks have run.
    pub(crate) fn send_later(&self, unsent: Unsent) {
        self.inner.unsent.borrow_mut().push(unsent);
    }

    /// Starts an operation.
    pub(crate) fn operate(&self, op: Op) -> Operation {
        let key = self
            .inner
            .operations
            .borrow_mut()
            .insert(OperationState::Started);
        self.inner.driver.borrow_mut().submit(key, op);
        Operation {
            world: self.clone(),
            key: Some(key),
        }
    }

    /// Starts an operation whose outcome goes to `sink`.
    pub(crate) fn operate_into(&self, op: Op, sink: Rc<dyn CompletionSink>) -> OpKey {
        let key = self
            .inner
            .operations
            .borrow_mut()
            .insert(OperationState::Directed(sink));
        self.inner.driver.borrow_mut().submit(key, op);
        key
    }

    /// An empty byte vector, with memory if one was given back.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        self.inner.bytes.borrow_mut().take()
    }

    /// Gives a byte vector's memory back to the core.
    pub(crate) fn give_bytes(&self, bytes: Vec<u8>) {
        self.inner.bytes.borrow_mut().give(bytes);
    }

    async fn operate_done(&self, op: Op) -> io::Result<()> {
        match self.operate(op).await {
            Outcome::Done(result) => result,
            other => unexpected(&other),
        }
    }

    /// Closes a handle whose owner is gone.
    pub(crate) fn close(&self, handle: Handle) {
        let key = self
            .inner
            .operations
            .borrow_mut()
            .insert(OperationState::Abandoned);
        self.inner
            .driver
            .borrow_mut()
            .submit(key, Op::Close { handle });
    }
}

impl Operations {
    fn insert(&mut self, state: OperationState) -> OpKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.slots.insert(OperationSlot { generation, state });
        OpKey {
            index: u32::try_from(index).expect("fewer than 2^32 operations"),
            generation,
        }
    }

    /// Takes the sinks of all directed operations.
    fn abandon_directed(&mut self) -> Vec<OperationState> {
        let directed =
            |slot: &&mut OperationSlot| matches!(slot.state, OperationState::Directed(_));
        let slots = self.slots.iter_mut().map(|(_, slot)| slot).filter(directed);
        slots
            .map(|slot| std::mem::replace(&mut slot.state, OperationState::Abandoned))
            .collect()
    }

    fn slot(&mut self, key: OpKey) -> &mut OperationSlot {
        let slot = self.slots.get_mut(key.index as usize);
        match slot {
            Some(slot) if slot.generation == key.generation => slot,
            _ => panic!("the driver completed {key:?}, which is not in flight"),
        }
    }
}

/// A driver's answer of the wrong kind is a bug of the driver.
pub(crate) fn unexpected(outcome: &Outcome) -> ! {
    panic!("the driver answered with {outcome:?}")
}

/// One operation in flight. Dropping it cancels the operation; its buffer stays in the driver until it is reaped.
pub(crate) struct Operation {
    world: World,
    /// `None` once the outcome has been taken.
    key: Option<OpKey>,
}

impl Future for Operation {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let key = self.key.expect("an operation yields its outcome once");
        let mut operations = self.world.inner.operations.borrow_mut();
        let slot = operations.slot(key);
        match &mut slot.state {
            OperationState::Awaited(waker) => {
                waker.clone_from(context.waker());
                return Poll::Pending;
            }
            OperationState::Started => {
                slot.state = OperationState::Awaited(context.waker().clone());
                return Poll::Pending;
            }
            OperationState::Completed(_) => {}
            OperationState::Directed(_) | OperationState::Abandoned => {
                unreachable!("operation {key:?} has a future")
            }
        }
        let slot = operations.slots.remove(key.index as usize);
        drop(operations);
        self.key = None;
        match slot.state {
            OperationState::Completed(outcome) => Poll::Ready(outcome),
            _ => unreachable!("seen above"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut operations = self.world.inner.operations.borrow_mut();
        let state = std::mem::replace(&mut operations.slot(key).state, OperationState::Abandoned);
        if let OperationState::Completed(outcome) = state {
            operations.slots.remove(key.index as usize);
            drop(operations);
            self.world.discard(outcome);
        } else {
            drop(operations);
            self.world.inner.driver.borrow_mut().cancel(key);
        }
    }
}
