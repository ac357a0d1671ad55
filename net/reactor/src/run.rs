//! Running a core of the real machine: choosing its driver, pinning it, driving it.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::driver::Driver;
use crate::executor::PanicPolicy;
use crate::fallback::Fallback;
use crate::kernel::memory::{disable_huge_pages, raise_descriptor_limit};
use crate::kernel::pin::pin_thread;
use crate::uring::Uring;
use crate::world::World;

/// Stack of a further core's thread: what the first thread of a process usually has.
const STACK_BYTES: usize = 8 << 20;

/// Which driver a core asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DriverChoice {
    /// io_uring, or epoll where it is refused; [`World::driver_refusal`] then says why.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Fallback,
}

/// How a core runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The driver.
    pub driver: DriverChoice,
    /// Processor to stay on.
    pub pin_to: Option<usize>,
    /// How long to look for work before sleeping; zero sleeps at once. Fruitless spins become rarer.
    pub spin: Duration,
    /// What a panic does.
    pub panics: PanicPolicy,
    /// Let the kernel back memory with huge pages. A store that grows record by record pays for each of
    /// them at its first touch, and an idle one holds more than it uses.
    pub huge_pages: bool,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            driver: DriverChoice::Auto,
            pin_to: None,
            spin: Duration::ZERO,
            panics: PanicPolicy::Abort,
            huge_pages: false,
        }
    }
}

/// Makes the calling thread a core and drives `main` on it until it ends; its other tasks are then dropped.
///
/// # Errors
/// If the driver cannot be set up, or the thread not pinned.
pub fn run<T, F>(options: &RunOptions, main: impl FnOnce(World) -> F) -> io::Result<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    Ok(drive(set_up(options)?, main))
}

/// Makes a further core of the process on a thread of its own, and drives `main` on it until it ends.
///
/// Returns when the core's driver stands; `main` itself is called on the new thread. A panic there stops the process
/// as one on the first core does; with [`PanicPolicy::Propagate`] it comes out of [`CoreThread::join`].
///
/// The thread inherits the set of processors of the calling one: a caller that is pinned names another processor in
/// `options`. Signals keep going to the core that asked for them, whichever thread the kernel interrupts.
///
/// # Errors
/// If the thread cannot be started or pinned, or its driver not be set up.
pub fn spawn_core<F>(
    name: &str,
    options: RunOptions,
    main: impl FnOnce(World) -> F + Send + 'static,
) -> io::Result<CoreThread>
where
    F: Future<Output = ()> + 'static,
{
    let (report, reported) = mpsc::sync_channel(1);
    let policy = options.panics;
    let builder = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        end_process_on_panic(policy, || match set_up(&options) {
            Ok(world) => {
                tell(&report, Ok(()));
                drive(world, main);
            }
            Err(error) => tell(&report, Err(error)),
        });
    })?;
    let core = CoreThread { thread };
    match reported.recv() {
        Ok(Ok(())) => Ok(core),
        Ok(Err(error)) => {
            core.join();
            Err(error)
        }
        Err(mpsc::RecvError) => {
            core.join();
            unreachable!("a core reports unless it panics, and that came out of `join`")
        }
    }
}

/// The starter of a core waits for exactly one report.
fn tell(report: &mpsc::SyncSender<io::Result<()>>, result: io::Result<()>) {
    let sent = report.send(result);
    assert!(sent.is_ok(), "nobody waits for the new core");
}

/// Panics in tasks are dealt with by the executor; this is for those around them.
fn end_process_on_panic(policy: PanicPolicy, body: impl FnOnce()) {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) => {}
        Err(panic) if policy == PanicPolicy::Propagate => resume_unwind(panic),
        // The panic hook has printed the message and the place already.
        Err(_) => std::process::abort(),
    }
}

/// A core that [`spawn_core`] started. Dropping it lets the core go on.
#[must_use = "a process that ends does not wait for its cores"]
pub struct CoreThread {
    thread: thread::JoinHandle<()>,
}

impl CoreThread {
    /// Blocks the thread until the core has ended. Not for a task whose own core the other one may still need: while
    /// it blocks, nothing that its core has asked for or closed is carried out.
    pub fn join(self) {
        if let Err(panic) = self.thread.join() {
            resume_unwind(panic);
        }
    }

    /// Whether the core has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// The calling thread's world, on the driver that `options` ask for.
fn set_up(options: &RunOptions) -> io::Result<World> {
    if let Some(processor) = options.pin_to {
        pin_thread(processor)?;
    }
    if !options.huge_pages {
        disable_huge_pages()?;
    }
    raise_descriptor_limit()?;
    Ok(World::new(open_driver(options)?, options.panics))
}

fn drive<T, F>(world: World, main: impl FnOnce(World) -> F) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let _stop = StopOnDrop(world.clone());
    world.block_on(main(world.clone()))
}

/// Tasks hold the world that holds them: without this neither would ever be freed.
struct StopOnDrop(World);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The driver that `options` ask for. It belongs to the calling thread.
///
/// # Errors
/// What the kernel refused, and what to do about it.
pub fn open_driver(options: &RunOptions) -> io::Result<Box<dyn Driver>> {
    let refusal = match options.driver {
        DriverChoice::Fallback => None,
        DriverChoice::Uring => return Ok(Box::new(Uring::new(options.spin)?)),
        DriverChoice::Auto => match Uring::new(options.spin) {
            Ok(uring) => return Ok(Box::new(uring)),
            Err(error) => Some(error.to_string()),
        },
    };
    Ok(Box::new(Fallback::new(options.spin, refusal)?))
}
