//! Running a core of the real machine: choosing its driver, pinning it, driving it.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::driver::Driver;
use crate::executor::PanicPolicy;
use crate::fallback::Fallback;
use crate::kernel::memory::{disable_huge_pages, raise_descriptor_limit};
use crate::kernel::pin::pin_thread;
use crate::uring::Uring;
use crate::world::World;

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
    if let Some(processor) = options.pin_to {
        pin_thread(processor)?;
    }
    if !options.huge_pages {
        disable_huge_pages()?;
    }
    raise_descriptor_limit()?;
    let world = World::new(open_driver(options)?, options.panics);
    let stop = StopOnDrop(world.clone());
    let result = world.block_on(main(world.clone()));
    drop(stop);
    Ok(result)
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
