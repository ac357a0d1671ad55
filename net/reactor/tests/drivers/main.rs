//! One suite, run on both real drivers: `both!` makes a test per driver from each function.

mod cores;
mod files;
mod mailboxes;
mod network;
mod processes;
mod tasks;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{DriverChoice, PanicPolicy, RunOptions, World, run};

/// Defines `uring::name` and `fallback::name` for each test function `async fn name(world: World)`.
macro_rules! both {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test]
            fn $name() {
                crate::on(reactor::DriverChoice::Uring, super::$name);
            })*
        }
        mod fallback {
            $(#[test]
            fn $name() {
                crate::on(reactor::DriverChoice::Fallback, super::$name);
            })*
        }
    };
}
pub(crate) use both;

/// Runs a test as the main task of a core.
fn on<F: Future<Output = ()> + 'static>(driver: DriverChoice, test: impl FnOnce(World) -> F) {
    run(&options(driver), test).expect("the driver is available");
}

fn options(driver: DriverChoice) -> RunOptions {
    RunOptions {
        driver,
        panics: PanicPolicy::Propagate,
        ..RunOptions::default()
    }
}

/// The driver that `world` runs on, for a second core of the same kind.
fn same_driver(world: &World) -> DriverChoice {
    match world.driver_kind() {
        reactor::driver::DriverKind::Uring => DriverChoice::Uring,
        _ => DriverChoice::Fallback,
    }
}

/// A directory on disk that is removed with its contents.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch::in_dir(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn in_dir(parent: &Path) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("reactor-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("scratch directory");
        Scratch { path }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).ok();
    }
}
