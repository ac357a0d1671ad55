//! Metrics of a member, in etcd's names where etcd has them.
//!
//! ```text
//! core ──relaxed stores──► CoreMetrics ─┐
//! core ──relaxed stores──► CoreMetrics ─┤ read by the core that is asked ──► gather ──► text
//! home ──relaxed stores──► MemberMetrics┘        + board, + what home says now, + process
//! ```
//!
//! Each word has one core that writes it ([`instrument`]), so counting costs no lock and no atomic operation that others
//! wait for. `/metrics` is answered by whichever core has the connection: it reads the words of all cores, and asks home
//! for what is only there. What is shown, with name, type, labels and meaning, is in [`catalogue`]; nothing else can be
//! written, and `docs/METRICS.md` says the same, which a test compares.

pub mod catalogue;
pub mod core;
mod gather;
pub mod instrument;
pub mod member;
mod process;
pub mod text;

use std::sync::atomic::{AtomicBool, Ordering};

pub use self::core::{CoreMetrics, FileKind};
pub(crate) use gather::page;
pub use member::{ApplyKind, HealthCheck, MemberMetrics, Phase};

/// What all cores of a member count.
#[derive(Debug)]
pub struct Metrics {
    cores: Vec<CoreMetrics>,
    /// What exists once.
    pub member: MemberMetrics,
    is_extensive: AtomicBool,
}

impl Metrics {
    /// Of a member with `cores` cores.
    pub fn new(cores: u16) -> Metrics {
        Metrics {
            cores: (0..cores).map(|_| CoreMetrics::new(cores)).collect(),
            member: MemberMetrics::default(),
            is_extensive: AtomicBool::new(false),
        }
    }

    /// What `core` counts.
    pub fn core(&self, core: u16) -> &CoreMetrics {
        &self.cores[usize::from(core)]
    }

    /// What each core counts, by core.
    pub fn cores(&self) -> &[CoreMetrics] {
        &self.cores
    }

    /// Also shows how long calls take, by method.
    pub fn show_extensive(&self) {
        self.is_extensive.store(true, Ordering::Relaxed);
    }

    fn is_extensive(&self) -> bool {
        self.is_extensive.load(Ordering::Relaxed)
    }
}
