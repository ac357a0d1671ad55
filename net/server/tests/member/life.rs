//! Lives of a member on a simulated host, one after the other.

use std::time::Duration;

use reactor::World;
use reactor::sim::{Crash, HostId, Simulation, Step};

/// More than any of these lives takes.
const STEPS_MAX: usize = 8_000_000;

/// Runs `life` on the host to its end, then kills the process and lets its last writes land.
pub(crate) fn run_to_end<F: Future<Output = ()> + 'static>(
    simulation: &mut Simulation,
    host: HostId,
    life: impl FnOnce(World) -> F,
) {
    let core = simulation.start_core(host, life);
    for _ in 0..STEPS_MAX {
        if simulation.main_ended(core) {
            simulation.crash(host, Crash::Kill);
            simulation.run_for(Duration::from_millis(20));
            return;
        }
        assert!(!matches!(simulation.step(), Step::Idle));
    }
    panic!("the life does not end");
}
