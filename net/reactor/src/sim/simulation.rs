//! What a test holds in its hands: hosts, crashes, clocks, disks, and the button that lets time pass.

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::coverage::Coverage;
use super::disk::{CutStyle, DiskImage};
use super::options::{
    DiskOptions, NetworkOptions, PlannedFault, SchedulingOptions, SimulationOptions,
};
use super::random::Random;
use super::universe::{Advance, Universe, host_ip};
use crate::detached::{Detached, Loose};
use crate::driver::{Completion, Driver, DriverKind, Handle, Op, OpKey, Park, RemoteWake};
use crate::executor::{Class, PanicPolicy, TurnOutcome};
use crate::net::Signal;
use crate::time::Timestamp;
use crate::world::World;

/// A host of a simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(u32);

/// A core of a process on some host. It ends with its process; a new process has new cores.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(u32);

/// How the processes of a host end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// All processes die at once. What they wrote stays visible. Writes in flight land later, in part, or never; the lock
    /// of a file is held until its last one has. The host stays up.
    Kill,
    /// The power goes. Each sector and directory change that no sync covered is kept, lost or (sectors) torn, by the
    /// seed. The host is down until [`Simulation::restart`].
    PowerCut,
    /// A power cut after which nothing is there but what was synced.
    PowerCutAllLost,
    /// A power cut after which everything is there, synced or not.
    PowerCutAllKept,
}

/// A moment in the life of a host, for crashing it exactly there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashPoint {
    /// Instead of the host's n-th submission of an operation ([`Simulation::operations_submitted`]).
    Submission(u64),
    /// Instead of telling the host of its n-th completion ([`Simulation::operations_completed`]). What the operation
    /// did has happened.
    Completion(u64),
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A core had a turn.
    Ran(CoreId),
    /// Something moved in the hardware.
    Happened,
    /// A planned crash took place.
    Crashed(HostId),
    /// There is nothing left to happen; time stands still.
    Idle,
}

/// Why [`Simulation::run_until`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunEnd {
    /// The condition holds.
    Condition,
    /// The time ran out.
    Deadline,
    /// Nothing will ever happen again.
    Idle,
}

struct CoreState {
    host: HostId,
    world: Option<World>,
    ended: Rc<RefCell<bool>>,
}

/// Hosts, their disks and the network between them, driven by one seed.
///
/// The same calls with the same seed give the same run, instruction by instruction; [`Simulation::trace_hash`]
/// proves it.
pub struct Simulation {
    seed: u64,
    universe: Rc<RefCell<Universe>>,
    cores: Vec<CoreState>,
}

impl Simulation {
    /// An empty simulation.
    pub fn new(seed: u64, options: SimulationOptions) -> Simulation {
        let universe = Rc::new(RefCell::new(Universe::new(seed, options)));
        Simulation {
            seed,
            universe,
            cores: Vec::new(),
        }
    }

    /// The seed it was made with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    // --- hosts and processes -----------------------------------------------------------------------------

    /// A new host with an empty disk. The first one has the address 10.0.0.1, the next 10.0.0.2.
    pub fn add_host(&mut self, name: &str) -> HostId {
        HostId(self.universe().add_host(name))
    }

    /// The host's name.
    pub fn host_name(&self, host: HostId) -> String {
        self.universe().hosts[host.0 as usize].name.clone()
    }

    /// The host's IP address.
    pub fn host_address(&self, host: HostId) -> IpAddr {
        host_ip(host.0)
    }

    /// Starts a core on the host: `main` gets its world, and the future it makes is the core's first task. Cores of one
    /// host between two crashes are one process.
    ///
    /// # Panics
    /// If the host has no power.
    pub fn start_core<F>(&mut self, host: HostId, main: impl FnOnce(World) -> F) -> CoreId
    where
        F: Future<Output = ()> + 'static,
    {
        let core = self.universe().add_core(host.0);
        let driver = SimulatedDriver {
            universe: Rc::clone(&self.universe),
            core,
            host: host.0,
        };
        let world = World::new(Box::new(driver), PanicPolicy::Propagate);
        let ended = Rc::new(RefCell::new(false));
        let future = main(world.clone());
        let flag = Rc::clone(&ended);
        world.spawn(Class::Request, async move {
            future.await;
            *flag.borrow_mut() = true;
        });
        assert_eq!(self.cores.len(), core as usize);
        self.cores.push(CoreState {
            host,
            world: Some(world),
            ended,
        });
        CoreId(core)
    }

    /// Whether the core's first task has run to its end. Its other tasks go on until the process is ended.
    pub fn main_ended(&self, core: CoreId) -> bool {
        *self.cores[core.0 as usize].ended.borrow()
    }

    /// Whether the core's process lives.
    pub fn is_alive(&self, core: CoreId) -> bool {
        self.universe().alive(core.0)
    }

    /// Whether a core lives on the host.
    pub fn has_process(&self, host: HostId) -> bool {
        self.cores
            .iter()
            .any(|core| core.host == host && core.world.is_some())
    }

    /// Whether the host has power.
    pub fn is_up(&self, host: HostId) -> bool {
        self.universe().hosts[host.0 as usize].up
    }

    /// Ends all processes of the host: their tasks are dropped, nothing they still ask for happens.
    pub fn crash(&mut self, host: HostId, crash: Crash) {
        match crash {
            Crash::Kill => self.universe().kill(host.0),
            Crash::PowerCut => self.universe().power_cut(host.0, CutStyle::Seeded),
            Crash::PowerCutAllLost => self.universe().power_cut(host.0, CutStyle::AllLost),
            Crash::PowerCutAllKept => self.universe().power_cut(host.0, CutStyle::AllKept),
        }
        for core in self.cores.iter_mut().filter(|core| core.host == host) {
            if let Some(world) = core.world.take() {
                world.stop();
            }
        }
    }

    /// Crashes the host at exactly that point; later calls replace the plan, a crash before clears it.
    pub fn plan_crash(&mut self, host: HostId, point: CrashPoint, crash: Crash) {
        self.universe().hosts[host.0 as usize].crash_plan = Some((point, crash));
    }

    /// Operations that the host's processes have submitted since the beginning.
    pub fn operations_submitted(&self, host: HostId) -> u64 {
        self.universe().hosts[host.0 as usize].submitted
    }

    /// Completions that the host's processes were told of since the beginning.
    pub fn operations_completed(&self, host: HostId) -> u64 {
        self.universe().hosts[host.0 as usize].completed
    }

    /// Gives power to a host after a power cut. Its disk is what the cut left; start its cores anew.
    pub fn restart(&mut self, host: HostId) {
        self.universe().restart(host.0);
    }

    /// Sends a signal to the host's process. Kept until the process asks for it.
    pub fn signal(&mut self, host: HostId, signal: Signal) {
        self.universe().signal(host.0, signal);
    }

    // --- time --------------------------------------------------------------------------------------------

    /// Simulated time since the start, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.universe().now
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.universe().steps
    }

    /// Lets the next thing happen.
    pub fn step(&mut self) -> Step {
        let advance = self.universe().advance();
        match advance {
            Advance::Happened => Step::Happened,
            Advance::Idle => Step::Idle,
            Advance::Crash { host, crash } => {
                self.crash(HostId(host), crash);
                Step::Crashed(HostId(host))
            }
            Advance::Run(core) => {
                let world = self.cores[core as usize]
                    .world
                    .clone()
                    .expect("a live core has its world");
                let (busy, next) = match world.turn() {
                    TurnOutcome::Busy => (true, None),
                    TurnOutcome::Idle { until } => (false, until.map(Timestamp::nanos)),
                };
                self.universe().turn_ended(core, busy, next);
                Step::Ran(CoreId(core))
            }
        }
    }

    /// Steps until the condition holds (asked before each step) or simulated time reaches `deadline` nanoseconds.
    pub fn run_until(&mut self, deadline: u64, mut condition: impl FnMut() -> bool) -> RunEnd {
        loop {
            if condition() {
                return RunEnd::Condition;
            }
            let next = self.universe().next_event_at();
            if next.is_some_and(|next| next >= deadline) || next.is_none() && self.now() >= deadline
            {
                let mut universe = self.universe();
                universe.now = universe.now.max(deadline);
                return RunEnd::Deadline;
            }
            if self.step() == Step::Idle {
                return RunEnd::Idle;
            }
        }
    }

    /// Lets so much time pass, even if nothing happens in it.
    pub fn run_for(&mut self, duration: Duration) -> RunEnd {
        let deadline = self.now() + duration.as_nanos() as u64;
        let end = self.run_until(deadline, || false);
        let mut universe = self.universe();
        universe.now = universe.now.max(deadline);
        end
    }

    /// Moves the host's wall clock by so many nanoseconds; its monotonic clock does not notice.
    pub fn jump_wall_clock(&mut self, host: HostId, nanos: i64) {
        let mut universe = self.universe();
        universe.coverage.hit(super::FaultKind::WallClockJump);
        universe.hosts[host.0 as usize].wall_offset += i128::from(nanos);
    }

    /// Lets the host's monotonic clock run faster (or slower) than simulated time by parts per million. Call it before
    /// the host's first core starts: a change of rate moves the clock's reading.
    pub fn set_clock_drift(&mut self, host: HostId, parts_per_million: i64) {
        assert!(
            parts_per_million.abs() < 500_000,
            "{parts_per_million} ppm is no clock"
        );
        self.universe().hosts[host.0 as usize].drift_ppm = parts_per_million;
    }

    // --- disks -------------------------------------------------------------------------------------------

    /// What reads on the host see now, as path → bytes.
    pub fn disk_image(&self, host: HostId) -> DiskImage {
        self.universe().hosts[host.0 as usize].disk.image()
    }

    /// What a power cut that keeps nothing un-synced would leave.
    pub fn durable_image(&self, host: HostId) -> DiskImage {
        self.universe().hosts[host.0 as usize].disk.durable_image()
    }

    /// Replaces the host's disk, all of it durable. Its processes must be dead.
    ///
    /// # Panics
    /// If a core of the host is alive, or a write of a dead one has not landed.
    pub fn restore_disk(&mut self, host: HostId, image: &DiskImage) {
        assert!(
            !self.has_process(host),
            "the disk of a running process is not exchanged"
        );
        assert!(
            !self.universe().has_open_files(host.0),
            "writes of a dead process are in flight"
        );
        self.universe().hosts[host.0 as usize].disk.restore(image);
    }

    /// Replaces bytes of a file on the medium, below all caches; false if there is no such file.
    pub fn damage(&mut self, host: HostId, path: &str, offset: u64, bytes: &[u8]) -> bool {
        self.universe().hosts[host.0 as usize]
            .disk
            .overwrite(Path::new(path), offset, bytes)
    }

    /// Whether anything on the host's disk is not durable.
    pub fn has_unsynced_changes(&self, host: HostId) -> bool {
        self.universe().hosts[host.0 as usize].disk.has_pending()
    }

    /// Bytes that the host's files may occupy; `u64::MAX` at first.
    pub fn set_disk_capacity(&mut self, host: HostId, bytes: u64) {
        self.universe().hosts[host.0 as usize]
            .disk
            .set_capacity(bytes);
    }

    /// How the host's disk behaves, to be changed at any time.
    pub fn disk_options_mut(&mut self, host: HostId) -> RefMut<'_, DiskOptions> {
        RefMut::map(self.universe(), |universe| {
            &mut universe.hosts[host.0 as usize].disk_options
        })
    }

    /// Has a certain future operation of the host's disk go wrong.
    pub fn plan_fault(&mut self, host: HostId, fault: PlannedFault) {
        self.universe().plan_fault(host.0, fault);
    }

    /// Forgets the planned faults of the host.
    pub fn clear_planned_faults(&mut self, host: HostId) {
        self.universe().clear_planned_faults(host.0);
    }

    // --- network and cores -------------------------------------------------------------------------------

    /// Nothing passes between the two hosts any more, in either direction.
    pub fn partition(&mut self, one: HostId, other: HostId) {
        self.block(one, other);
        self.block(other, one);
    }

    /// Nothing that `from` sends arrives at `to` any more.
    pub fn block(&mut self, from: HostId, to: HostId) {
        self.universe().block(from.0, to.0);
    }

    /// Everything passes between the two hosts again.
    pub fn heal(&mut self, one: HostId, other: HostId) {
        self.universe().unblock(one.0, other.0);
        self.universe().unblock(other.0, one.0);
    }

    /// Everything passes everywhere.
    pub fn heal_all(&mut self) {
        let links = self.universe().blocked_links();
        for (from, to) in links {
            self.universe().unblock(from, to);
        }
    }

    /// How the network behaves, to be changed at any time.
    pub fn network_options_mut(&mut self) -> RefMut<'_, NetworkOptions> {
        RefMut::map(self.universe(), |universe| &mut universe.options.network)
    }

    /// How cores are scheduled, to be changed at any time.
    pub fn scheduling_options_mut(&mut self) -> RefMut<'_, SchedulingOptions> {
        RefMut::map(self.universe(), |universe| &mut universe.options.scheduling)
    }

    // --- reports -----------------------------------------------------------------------------------------

    /// How often each fault happened so far.
    pub fn coverage(&self) -> Coverage {
        self.universe().coverage.clone()
    }

    /// Fingerprint of every decision and completion so far.
    pub fn trace_hash(&self) -> u64 {
        self.universe().trace.hash()
    }

    /// Puts something of the test's own into the fingerprint.
    pub fn trace(&mut self, bytes: &[u8]) {
        self.universe().trace.add_bytes(bytes);
    }

    /// A random stream of the test's own, made from the simulation's.
    pub fn fork_random(&mut self) -> Random {
        self.universe().random.fork()
    }

    /// Asserts the invariants of the hosts' disks.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.universe()
            .hosts
            .iter()
            .for_each(|host| host.disk.check());
    }

    fn universe(&self) -> RefMut<'_, Universe> {
        self.universe.borrow_mut()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The tasks are leaked: their destructors would run on state that a panic left half changed.
            if let Ok(universe) = self.universe.try_borrow() {
                eprintln!(
                    "simulation failed: seed {}, step {}, simulated time {} ns",
                    self.seed, universe.steps, universe.now
                );
            }
            std::mem::forget(std::mem::take(&mut self.cores));
            return;
        }
        let hosts = self.universe().hosts.len() as u32;
        for host in 0..hosts {
            self.universe().end_cores(host);
        }
        for core in &mut self.cores {
            if let Some(world) = core.world.take() {
                world.stop();
            }
        }
    }
}

/// The driver of one simulated core.
struct SimulatedDriver {
    universe: Rc<RefCell<Universe>>,
    core: u32,
    host: u32,
}

impl Driver for SimulatedDriver {
    fn submit(&mut self, key: OpKey, op: Op) {
        self.universe.borrow_mut().submit(self.core, key, op);
    }

    fn cancel(&mut self, key: OpKey) {
        self.universe.borrow_mut().cancel(self.core, key);
    }

    fn release_file(&mut self, file: Handle) -> Option<Detached> {
        let loose = self.universe.borrow_mut().let_go_file(self.core, file)?;
        Some(Detached(Loose::Simulated(loose)))
    }

    fn release_stream(&mut self, socket: Handle) -> Option<Detached> {
        let loose = self
            .universe
            .borrow_mut()
            .let_go_stream(self.core, socket)?;
        Some(Detached(Loose::Simulated(loose)))
    }

    fn adopt_file(&mut self, file: Detached) -> Handle {
        let Loose::Simulated(loose) = file.0 else {
            panic!("{file:?} of a real core is attached in the simulation")
        };
        self.universe.borrow_mut().adopt(self.core, loose)
    }

    fn adopt_stream(&mut self, socket: Detached) -> io::Result<Handle> {
        Ok(self.adopt_file(socket))
    }

    fn poll(&mut self, park: Park, completions: &mut Vec<Completion>) {
        assert_eq!(
            park,
            Park::Poll,
            "a simulated core is driven by Simulation::step and never sleeps by itself"
        );
        self.universe
            .borrow_mut()
            .take_completions(self.core, completions);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.universe.borrow_mut().read_clock(self.host))
    }

    fn unix_time(&self) -> Duration {
        let nanos = self.universe.borrow().wall_nanos(self.host).max(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn processor_nanos(&self) -> u64 {
        0
    }

    fn random(&mut self) -> u64 {
        self.universe.borrow_mut().core_random(self.core)
    }

    fn remote_wake(&self) -> Arc<dyn RemoteWake> {
        self.universe.borrow().remote_wake(self.core)
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Simulated
    }
}
