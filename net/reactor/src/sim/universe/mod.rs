//! The machine room of the simulation: one clock, one queue of events, all hosts, all operations in flight.
//!
//! Owns the order of everything. What a file or a socket does stands in the modules below; who gets to run
//! (and the worlds themselves) in [`super::simulation`]. Nothing here ever runs a task: while a core's turn
//! lasts, its driver only adds operations.
//!
//! Invariants
//! - `now` never goes back; events are taken in the order of (time, seeded tie-breaker, serial)
//! - an operation has at most one event that counts: the one at its `due` time
//! - a dead core gets no completions and submits nothing

mod connecting;
mod crash;
mod detached;
mod faults;
mod files;
mod sockets;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use slab::Slab;

pub(super) use self::connecting::host_ip;
use self::detached::DroppedHandles;
pub(crate) use self::detached::LooseHandle;
use self::files::{FileWork, OpenFile};

use self::sockets::{SocketWork, Sockets};
use super::coverage::{Coverage, FaultKind, Trace};
use super::disk::Disk;
use super::options::{DiskOptions, Latency, PlannedFault, SimulationOptions};
use super::random::Random;
use super::simulation::{Crash, CrashPoint};
use crate::driver::{Completion, Handle, Op, OpKey, Outcome, RemoteWake};
use crate::net::Signal;

/// What a look at the clock costs, so that a loop that waits for time to pass ends.
const CLOCK_READ_NANOS: u64 = 20;

/// From a submission to its completion when there is nothing to wait for.
const SYSTEM_CALL: Latency = Latency {
    least: 300,
    spread: 1_500,
    slow: super::random::Rate::NEVER,
    slow_most: 0,
};

/// Wall clock at the start of every simulation: 2026-01-01 00:00:00 UTC.
const EPOCH_NANOS: i128 = 1_767_225_600_000_000_000;

/// A machine: its disk and clocks outlive its processes.
pub(super) struct Host {
    pub(super) name: String,
    /// Has power.
    pub(super) up: bool,
    pub(super) disk: Disk,
    pub(super) disk_options: DiskOptions,
    /// No disk operation completes before this time.
    disk_stalled_until: u64,
    planned: Vec<PlannedFault>,
    /// Locked files.
    locks: BTreeMap<super::disk::InodeId, Handle>,
    /// Opens that wait for the lock of a dead process.
    lock_waiters: Vec<(super::disk::InodeId, OperationId)>,
    /// Origin of the monotonic clock in simulated time.
    booted: u64,
    /// How much faster than simulated time the monotonic clock runs, in parts per million.
    pub(super) drift_ppm: i64,
    /// Wall clock minus simulated time.
    pub(super) wall_offset: i128,
    /// Counts the host's processes: one ends with each crash.
    process: u32,
    signals: VecDeque<Signal>,
    signal_waiter: Option<OperationId>,
    next_port: u16,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) crash_plan: Option<(CrashPoint, Crash)>,
    /// The planned crash point was passed: nothing this host does counts any more.
    pub(super) crash_due: Option<Crash>,
}

/// A core of a process. Never used again after its process died.
struct Core {
    host: u32,
    process: u32,
    alive: bool,
    random: Random,
    ready: Vec<Completion>,
    /// Operation of each executor slot, to find what is cancelled.
    keys: Vec<Option<(u32, OperationId)>>,
    busy_until: u64,
    /// Time and token of the run event that counts.
    scheduled: Option<u64>,
    token: u32,
}

/// Finds an operation, and notices if it has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct OperationId {
    slot: u32,
    serial: u64,
}

struct Operation {
    serial: u64,
    key: OpKey,
    core: u32,
    host: u32,
    /// When its event happens; `u64::MAX` while it waits for something else.
    due: u64,
    /// Its process is dead.
    ghost: bool,
    work: Work,
}

/// What an operation still has to do.
enum Work {
    /// Deliver this.
    Finished(Outcome),
    File(FileWork),
    Socket(SocketWork),
    /// Wait for a signal.
    Signal,
    /// Somebody is looking at it right now.
    InHand,
}

impl Work {
    fn take(&mut self) -> Work {
        std::mem::replace(self, Work::InHand)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EventKind {
    /// A core's turn.
    Run { core: u32, token: u32 },
    /// An operation goes on.
    Operation(OperationId),
    /// Something arrives at one end of a connection.
    Arrive(Handle),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Event {
    at: u64,
    tie: u32,
    serial: u64,
    kind: EventKind,
}

impl Ord for Event {
    /// The earliest event is the greatest: it leaves the heap first.
    fn cmp(&self, other: &Event) -> Ordering {
        (other.at, other.tie, other.serial).cmp(&(self.at, self.tie, self.serial))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Cores that were woken from outside of their own turn.
#[derive(Default)]
struct WakeList {
    cores: Mutex<Vec<u32>>,
}

/// One core's door bell.
pub(super) struct SimulatedWake {
    core: u32,
    rung: AtomicBool,
    list: Arc<WakeList>,
}

impl RemoteWake for SimulatedWake {
    fn wake(&self) {
        if !self.rung.swap(true, AtomicOrdering::AcqRel) {
            self.list
                .cores
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.core);
        }
    }
}

/// What [`Universe::advance`] found to do.
pub(super) enum Advance {
    /// It is this core's turn.
    Run(u32),
    /// Something happened inside.
    Happened,
    /// A host has to be crashed before anything else happens.
    Crash { host: u32, crash: Crash },
    /// Nothing will ever happen again, unless from outside.
    Idle,
}

/// See the module.
pub(super) struct Universe {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) trace: Trace,
    pub(super) coverage: Coverage,
    pub(super) options: SimulationOptions,
    pub(super) hosts: Vec<Host>,
    pub(super) steps: u64,
    events: BinaryHeap<Event>,
    next_event: u64,
    cores: Vec<Core>,
    wakes: Vec<Arc<SimulatedWake>>,
    wake_list: Arc<WakeList>,
    operations: Slab<Operation>,
    next_serial: u64,
    next_handle: u64,
    files: BTreeMap<Handle, OpenFile>,
    sockets: Sockets,
    dropped: DroppedHandles,
    crashes_due: Vec<u32>,
}

impl Universe {
    pub(super) fn new(seed: u64, options: SimulationOptions) -> Universe {
        Universe {
            now: 1_000,
            random: Random::new(seed),
            trace: Trace::new(seed),
            coverage: Coverage::default(),
            options,
            hosts: Vec::new(),
            steps: 0,
            events: BinaryHeap::new(),
            next_event: 0,
            cores: Vec::new(),
            wakes: Vec::new(),
            wake_list: Arc::default(),
            operations: Slab::new(),
            next_serial: 0,
            next_handle: 1,
            files: BTreeMap::new(),
            sockets: Sockets::default(),
            dropped: DroppedHandles::default(),
            crashes_due: Vec::new(),
        }
    }

    // --- hosts and cores ---------------------------------------------------------------------------------

    pub(super) fn add_host(&mut self, name: &str) -> u32 {
        let host = self.hosts.len() as u32;
        self.trace.add_bytes(name.as_bytes());
        self.hosts.push(Host {
            name: name.to_owned(),
            up: true,
            disk: Disk::new(),
            disk_options: self.options.disk.clone(),
            disk_stalled_until: 0,
            planned: Vec::new(),
            locks: BTreeMap::new(),
            lock_waiters: Vec::new(),
            booted: 0,
            drift_ppm: 0,
            wall_offset: 0,
            process: 0,
            signals: VecDeque::new(),
            signal_waiter: None,
            next_port: 32_768,
            submitted: 0,
            completed: 0,
            crash_plan: None,
            crash_due: None,
        });
        host
    }

    pub(super) fn add_core(&mut self, host: u32) -> u32 {
        assert!(
            self.hosts[host as usize].up,
            "host {} has no power",
            self.hosts[host as usize].name
        );
        let core = self.cores.len() as u32;
        self.cores.push(Core {
            host,
            process: self.hosts[host as usize].process,
            alive: true,
            random: self.random.fork(),
            ready: Vec::new(),
            keys: Vec::new(),
            busy_until: self.now,
            scheduled: None,
            token: 0,
        });
        let list = Arc::clone(&self.wake_list);
        self.wakes.push(Arc::new(SimulatedWake {
            core,
            rung: AtomicBool::new(false),
            list,
        }));
        self.trace.add(u64::from(core) << 8 | 1);
        self.schedule(core, self.now);
        core
    }

    pub(super) fn alive(&self, core: u32) -> bool {
        self.cores[core as usize].alive
    }

    pub(super) fn core_random(&mut self, core: u32) -> u64 {
        self.cores[core as usize].random.next_u64()
    }

    pub(super) fn remote_wake(&self, core: u32) -> Arc<SimulatedWake> {
        Arc::clone(&self.wakes[core as usize])
    }

    /// What a task of the host sees as the monotonic clock.
    pub(super) fn read_clock(&mut self, host: u32) -> u64 {
        self.now += CLOCK_READ_NANOS;
        self.host_time(host, self.now)
    }

    fn host_time(&self, host: u32, at: u64) -> u64 {
        let host = &self.hosts[host as usize];
        let elapsed = at.saturating_sub(host.booted);
        if host.drift_ppm == 0 {
            return elapsed;
        }
        (i128::from(elapsed) * i128::from(1_000_000 + host.drift_ppm) / 1_000_000) as u64
    }

    /// The simulated time at which the host's monotonic clock shows `deadline` or more.
    fn simulated_time(&self, host: u32, deadline: u64) -> u64 {
        let host = &self.hosts[host as usize];
        let elapsed = if host.drift_ppm == 0 {
            deadline
        } else {
            let exact = u128::from(deadline) * 1_000_000;
            u64::try_from(exact.div_ceil((1_000_000 + host.drift_ppm) as u128)).unwrap_or(u64::MAX)
        };
        host.booted.saturating_add(elapsed)
    }

    pub(super) fn wall_nanos(&self, host: u32) -> i128 {
        EPOCH_NANOS + i128::from(self.now) + self.hosts[host as usize].wall_offset
    }

    // --- events ------------------------------------------------------------------------------------------

    fn push_event(&mut self, at: u64, kind: EventKind) {
        let tie = self.random.next_u64() as u32;
        let serial = self.next_event;
        self.next_event += 1;
        self.events.push(Event {
            at: at.max(self.now),
            tie,
            serial,
            kind,
        });
    }

    /// Lets the core run at `at`, or earlier if it will run earlier anyway.
    fn schedule(&mut self, core: u32, at: u64) {
        let state = &mut self.cores[core as usize];
        let at = at.max(state.busy_until);
        if !state.alive || state.scheduled.is_some_and(|scheduled| scheduled <= at) {
            return;
        }
        state.scheduled = Some(at);
        state.token = state.token.wrapping_add(1);
        let token = state.token;
        self.push_event(at, EventKind::Run { core, token });
    }

    /// Something happened that the core waits for.
    fn rouse(&mut self, core: u32) {
        let (mut delay, _) = self.options.scheduling.wake.draw(&mut self.random);
        if self.random.hits(self.options.scheduling.stall) {
            self.coverage.hit(FaultKind::CoreStall);
            delay += self
                .random
                .below(self.options.scheduling.stall_most.as_nanos() as u64);
            let state = &mut self.cores[core as usize];
            state.busy_until = state.busy_until.max(self.now + delay);
        }
        self.schedule(core, self.now + delay);
    }

    /// The core's turn is over; `next` is when its own clock wants it again.
    pub(super) fn turn_ended(&mut self, core: u32, busy: bool, next: Option<u64>) {
        let (cost, _) = self.options.scheduling.turn.draw(&mut self.random);
        let state = &mut self.cores[core as usize];
        state.busy_until = self.now + cost;
        let ready = busy || !state.ready.is_empty();
        let host = state.host;
        if ready {
            self.schedule(core, self.now);
        } else if let Some(deadline) = next {
            self.schedule(core, self.simulated_time(host, deadline));
        }
    }

    /// Cores whose bell was rung, by other cores or from outside of the simulation.
    fn answer_bells(&mut self) {
        let rung = {
            let mut cores = self
                .wake_list
                .cores
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if cores.is_empty() {
                return;
            }
            std::mem::take(&mut *cores)
        };
        for core in rung {
            self.wakes[core as usize]
                .rung
                .store(false, AtomicOrdering::Release);
            self.rouse(core);
        }
    }

    /// When the next thing happens.
    pub(super) fn next_event_at(&mut self) -> Option<u64> {
        self.close_dropped();
        self.answer_bells();
        if !self.crashes_due.is_empty() {
            return Some(self.now);
        }
        self.events.peek().map(|event| event.at)
    }

    /// Takes the next event and does what it says, except for running a core.
    pub(super) fn advance(&mut self) -> Advance {
        self.close_dropped();
        self.answer_bells();
        if let Some(host) = self.crashes_due.pop()
            && let Some(crash) = self.hosts[host as usize].crash_due.take()
        {
            return Advance::Crash { host, crash };
        }
        let Some(event) = self.events.pop() else {
            return Advance::Idle;
        };
        self.now = self.now.max(event.at);
        self.steps += 1;
        match event.kind {
            EventKind::Run { core, token } => {
                let state = &mut self.cores[core as usize];
                if !state.alive || state.token != token {
                    return Advance::Happened;
                }
                state.scheduled = None;
                self.trace.add(self.now << 20 ^ u64::from(core));
                Advance::Run(core)
            }
            EventKind::Operation(id) => {
                if self
                    .operation(id)
                    .is_some_and(|operation| operation.due == event.at)
                {
                    self.continue_operation(id);
                }
                Advance::Happened
            }
            EventKind::Arrive(end) => {
                self.trace.add(self.now << 20 ^ end.0);
                self.arrive(end, event.at);
                Advance::Happened
            }
        }
    }

    // --- operations --------------------------------------------------------------------------------------

    pub(super) fn submit(&mut self, core: u32, key: OpKey, op: Op) {
        let host = self.cores[core as usize].host;
        if !self.cores[core as usize].alive || self.hosts[host as usize].crash_due.is_some() {
            return;
        }
        self.hosts[host as usize].submitted += 1;
        if self.reached(
            host,
            CrashPoint::Submission(self.hosts[host as usize].submitted),
        ) {
            return;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let operation = Operation {
            serial,
            key,
            core,
            host,
            due: u64::MAX,
            ghost: false,
            work: Work::InHand,
        };
        let slot = self.operations.insert(operation) as u32;
        let id = OperationId { slot, serial };
        let keys = &mut self.cores[core as usize].keys;
        if keys.len() <= key.index as usize {
            keys.resize(key.index as usize + 1, None);
        }
        keys[key.index as usize] = Some((key.generation, id));
        self.trace
            .add(u64::from(core) << 40 ^ u64::from(key.index) << 8 ^ op_code(&op));
        match op {
            Op::Listen { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Receive { .. }
            | Op::Send { .. }
            | Op::Shutdown { .. } => self.submit_socket(id, op),
            Op::Close { handle } if self.sockets.owns(handle) => self.close_socket(id, handle),
            Op::Signal => self.submit_signal(id),
            file => self.submit_file(id, file),
        }
    }

    pub(super) fn cancel(&mut self, core: u32, key: OpKey) {
        let known = self.cores[core as usize]
            .keys
            .get(key.index as usize)
            .copied()
            .flatten();
        let Some((generation, id)) = known else {
            return;
        };
        let host = self.cores[core as usize].host as usize;
        if generation != key.generation || !self.cores[core as usize].alive {
            return;
        }
        let Some(operation) = self.operation(id) else {
            return;
        };
        match &operation.work {
            // Files run to their end, and what is done is done.
            Work::Finished(_) | Work::File(_) | Work::InHand => return,
            Work::Signal => self.hosts[host].signal_waiter = None,
            Work::Socket(_) => {
                if !self.forget_socket_wait(id) {
                    return;
                }
            }
        }
        self.coverage.hit(FaultKind::Cancelled);
        let work = self.operation_mut(id).work.take();
        let outcome = match work {
            Work::Socket(work) => work.failed(libc::ECANCELED),
            _ => Outcome::Signal(Err(io::Error::from_raw_os_error(libc::ECANCELED))),
        };
        self.finish_soon(id, outcome);
    }

    fn operation(&self, id: OperationId) -> Option<&Operation> {
        self.operations
            .get(id.slot as usize)
            .filter(|operation| operation.serial == id.serial)
    }

    /// The operation, which must not have ended.
    fn operation_mut(&mut self, id: OperationId) -> &mut Operation {
        let operation = &mut self.operations[id.slot as usize];
        assert_eq!(
            operation.serial, id.serial,
            "an operation that ended is used"
        );
        operation
    }

    /// The operation goes on at `at`.
    fn set_due(&mut self, id: OperationId, at: u64) {
        let at = at.max(self.now);
        self.operation_mut(id).due = at;
        self.push_event(at, EventKind::Operation(id));
    }

    fn set_due_after(&mut self, id: OperationId, latency: Latency) {
        let (nanos, _) = latency.draw(&mut self.random);
        self.set_due(id, self.now + nanos);
    }

    /// The outcome is settled; the core hears of it after the time of a system call.
    fn finish_soon(&mut self, id: OperationId, outcome: Outcome) {
        self.operation_mut(id).work = Work::Finished(outcome);
        self.set_due_after(id, SYSTEM_CALL);
    }

    fn continue_operation(&mut self, id: OperationId) {
        let operation = self.operation_mut(id);
        match operation.work.take() {
            Work::Finished(outcome) => self.deliver(id, outcome),
            Work::File(work) => self.continue_file(id, work),
            Work::Socket(work) => self.continue_socket(id, work),
            Work::Signal | Work::InHand => {}
        }
    }

    /// Ends the operation and tells its core.
    fn deliver(&mut self, id: OperationId, outcome: Outcome) {
        let operation = self.operations.remove(id.slot as usize);
        assert_eq!(operation.serial, id.serial, "an operation ends once");
        let Operation {
            key, core, host, ..
        } = operation;
        if !self.cores[core as usize].alive || self.hosts[host as usize].crash_due.is_some() {
            return;
        }
        self.hosts[host as usize].completed += 1;
        if self.reached(
            host,
            CrashPoint::Completion(self.hosts[host as usize].completed),
        ) {
            return;
        }
        self.trace.add(self.now);
        self.trace
            .add(u64::from(core) << 40 ^ u64::from(key.index) << 8 ^ digest(&outcome) << 20);
        let state = &mut self.cores[core as usize];
        state.keys[key.index as usize] = None;
        state.ready.push(Completion { key, outcome });
        self.rouse(core);
    }

    pub(super) fn take_completions(&mut self, core: u32, completions: &mut Vec<Completion>) {
        completions.append(&mut self.cores[core as usize].ready);
    }

    fn new_handle(&mut self) -> Handle {
        self.next_handle += 1;
        Handle(self.next_handle - 1)
    }

    /// Whether the host's planned crash is at this point; from then on the host does nothing more.
    fn reached(&mut self, host: u32, point: CrashPoint) -> bool {
        let state = &mut self.hosts[host as usize];
        match state.crash_plan {
            Some((planned, crash)) if planned == point => {
                state.crash_plan = None;
                state.crash_due = Some(crash);
                self.crashes_due.push(host);
                true
            }
            _ => false,
        }
    }

    // --- signals -----------------------------------------------------------------------------------------

    fn submit_signal(&mut self, id: OperationId) {
        let host = self.operation_mut(id).host as usize;
        if let Some(waiting) = self.hosts[host].signal_waiter
            && self.operation(waiting).is_some()
        {
            return self.finish_soon(
                id,
                Outcome::Signal(Err(io::Error::from_raw_os_error(libc::EBUSY))),
            );
        }
        match self.hosts[host].signals.pop_front() {
            Some(signal) => self.finish_soon(id, Outcome::Signal(Ok(signal))),
            None => {
                self.hosts[host].signal_waiter = Some(id);
                self.operation_mut(id).work = Work::Signal;
            }
        }
    }

    pub(super) fn signal(&mut self, host: u32, signal: Signal) {
        let waiter = self.hosts[host as usize].signal_waiter.take();
        match waiter.filter(|&id| self.operation(id).is_some()) {
            Some(id) => self.finish_soon(id, Outcome::Signal(Ok(signal))),
            None => self.hosts[host as usize].signals.push_back(signal),
        }
    }

    pub(super) fn plan_fault(&mut self, host: u32, fault: PlannedFault) {
        self.hosts[host as usize].planned.push(fault);
    }

    pub(super) fn clear_planned_faults(&mut self, host: u32) {
        self.hosts[host as usize].planned.clear();
    }
}

fn op_code(op: &Op) -> u64 {
    match op {
        Op::Open { .. } => 1,
        Op::Read { offset, .. } => 2 ^ offset << 8,
        Op::Write { offset, buffer, .. } => 3 ^ offset << 8 ^ (buffer.len() as u64) << 32,
        Op::Sync { .. } => 4,
        Op::Length { .. } => 5,
        Op::Rename { .. } => 6,
        Op::RemoveFile { .. } => 7,
        Op::CreateDirAll { .. } => 8,
        Op::SyncDir { .. } => 9,
        Op::ListDir { .. } => 10,
        Op::Listen { .. } => 11,
        Op::Accept { .. } => 12,
        Op::Connect { .. } => 13,
        Op::Receive { .. } => 14,
        Op::Send { buffer, .. } => 15 ^ (buffer.len() as u64) << 32,
        Op::Shutdown { .. } => 16,
        Op::Close { .. } => 17,
        Op::Signal => 18,
    }
}

/// A few bits of an outcome for the trace: what kind, how much, which error.
fn digest(outcome: &Outcome) -> u64 {
    fn of<T>(kind: u64, result: &io::Result<T>, amount: impl Fn(&T) -> u64) -> u64 {
        match result {
            Ok(value) => kind ^ amount(value) << 5,
            Err(error) => kind ^ 16 ^ (error.raw_os_error().unwrap_or(0) as u64) << 5,
        }
    }
    fn bytes(bytes: &[u8]) -> u64 {
        let edge = |word: Option<&[u8; 8]>| word.map_or(0, |word| u64::from_le_bytes(*word));
        bytes.len() as u64 ^ edge(bytes.first_chunk()) ^ edge(bytes.last_chunk()).rotate_left(32)
    }
    match outcome {
        Outcome::Opened(result) => of(1, result, |opened| opened.handle.0),
        Outcome::Read { buffer, result } => of(2, result, |&count| {
            bytes(&buffer[..buffer.len().min(count)])
        }),
        Outcome::Wrote {
            written, synced, ..
        } => {
            let synced = synced.as_ref().map_or(0, |synced| of(1, synced, |()| 0));
            of(3, written, |&count| count as u64) ^ synced << 50
        }
        Outcome::Length(result) => of(4, result, |&length| length),
        Outcome::Done(result) => of(5, result, |()| 0),
        Outcome::Listed(result) => of(6, result, |names| names.len() as u64),
        Outcome::Listening(result) => of(7, result, |listening| listening.handle.0),
        Outcome::Connected(result) => of(8, result, |connected| connected.handle.0),
        Outcome::Received(result) => of(9, result, |received| bytes(received)),
        Outcome::Sent { result, .. } => of(10, result, |&count| count as u64),
        Outcome::Signal(result) => of(11, result, |&signal| signal as u64),
    }
}

/// The error of an errno.
fn failure(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
