//! Under which name the program runs, and what follows from it.

use std::path::Path;

/// Whose habits to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Exactly as etcdctl, down to its log lines and its patience.
    Etcdctl,
    /// With errors for people, at once.
    Ringctl,
}

impl Style {
    /// From the first word of the command line.
    pub(crate) fn of(program: &str) -> Self {
        match Path::new(program).file_stem() {
            Some(name) if name == "etcdctl" => Style::Etcdctl,
            _ => Style::Ringctl,
        }
    }

    /// The name that help and errors show.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Style::Etcdctl => "etcdctl",
            Style::Ringctl => "ringctl",
        }
    }
}
