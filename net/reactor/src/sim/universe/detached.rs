//! Handles on their way from one core of a process to another.
//!
//! A handle keeps its place in the universe while it travels, so a crash finds it there like any other. What is
//! dropped on the way is put on a list, because whoever drops it may be in the middle of anything, and closed before
//! the next event.

use std::sync::{Arc, Mutex, PoisonError};

use super::Universe;
use crate::driver::Handle;

/// Detached handles that were dropped.
pub(super) type DroppedHandles = Arc<Mutex<Vec<Handle>>>;

/// A handle that no core has. Dropping it closes what it stands for.
pub(crate) struct LooseHandle {
    /// `None` once a core has it again.
    handle: Option<Handle>,
    host: u32,
    process: u32,
    dropped: DroppedHandles,
}

impl Drop for LooseHandle {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.dropped
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(handle);
        }
    }
}

impl Universe {
    /// Takes an open file from its core; `None` if an operation on it is in flight.
    pub(in crate::sim) fn let_go_file(&mut self, core: u32, file: Handle) -> Option<LooseHandle> {
        let open = self.files.get(&file)?;
        let idle = open.in_flight == 0 && open.closing.is_none();
        (idle && self.alive(core)).then(|| self.loosen(core, file))
    }

    /// Takes a connection from its core; `None` if an operation on it is in flight.
    pub(in crate::sim) fn let_go_stream(
        &mut self,
        core: u32,
        socket: Handle,
    ) -> Option<LooseHandle> {
        let idle = self.sockets.ends.get(&socket)?.is_idle();
        (idle && self.alive(core)).then(|| self.loosen(core, socket))
    }

    fn loosen(&mut self, core: u32, handle: Handle) -> LooseHandle {
        self.trace.add(self.now << 20 ^ handle.0 << 4 ^ 1);
        let state = &self.cores[core as usize];
        LooseHandle {
            handle: Some(handle),
            host: state.host,
            process: state.process,
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Gives a core what another one has let go.
    ///
    /// # Panics
    /// If that was a core of another process: descriptors do not leave theirs.
    pub(in crate::sim) fn adopt(&mut self, core: u32, mut loose: LooseHandle) -> Handle {
        let state = &self.cores[core as usize];
        assert!(
            Arc::ptr_eq(&loose.dropped, &self.dropped),
            "a handle of another simulation is attached"
        );
        assert_eq!(
            (loose.host, loose.process),
            (state.host, state.process),
            "a handle of another (host, process) is attached"
        );
        let handle = loose.handle.take().expect("it has not been attached yet");
        self.trace.add(self.now << 20 ^ handle.0 << 4 ^ 2);
        // A dead core's files are gone with its process; it may still hold their names for a moment.
        if let Some(open) = self.files.get_mut(&handle) {
            open.core = core;
        }
        handle
    }

    /// Closes what was dropped while no core had it.
    pub(super) fn close_dropped(&mut self) {
        let dropped = {
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            if dropped.is_empty() {
                return;
            }
            std::mem::take(&mut *dropped)
        };
        for handle in dropped {
            self.trace.add(self.now << 20 ^ handle.0 << 4 ^ 3);
            // Neither does anything if a crash was faster.
            self.forget_file(handle);
            self.end_connection(handle, false);
        }
    }
}
