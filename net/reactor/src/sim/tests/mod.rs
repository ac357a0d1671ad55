//! The simulation under the executor and the `World` interface that also run in production.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::{AlignedBuffer, OpenOptions, World};

mod cores;
mod crashes;
mod determinism;
mod files;
mod network;
mod scheduling;
mod stress;

/// Long enough for everything in these tests, in simulated nanoseconds.
const FOREVER: u64 = 3_600_000_000_000;

/// A simulation with one host.
fn single(seed: u64, options: SimulationOptions) -> (Simulation, HostId) {
    let mut simulation = Simulation::new(seed, options);
    let host = simulation.add_host("one");
    (simulation, host)
}

/// Runs a core on the host until its main future ends, and returns what it returned.
fn run_on<T, F>(simulation: &mut Simulation, host: HostId, main: impl FnOnce(World) -> F) -> T
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    let result = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&result);
    simulation.start_core(host, |world| {
        let future = main(world);
        async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        }
    });
    let deadline = simulation.now() + FOREVER;
    let end = simulation.run_until(deadline, || result.borrow().is_some());
    assert_eq!(end, RunEnd::Condition, "seed {}", simulation.seed());
    result.take().expect("the condition held")
}

/// Read, write, create.
fn create() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        create_new: true,
        direct: true,
        ..OpenOptions::default()
    }
}

/// Read, write an existing file.
fn existing() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        direct: true,
        ..OpenOptions::default()
    }
}

/// One block of the same byte.
fn block(byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(4096);
    buffer.fill(byte);
    buffer
}

fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}
