//! The two ways in which a process ends without being asked, and what they leave on the disk.

use super::files::{Closing, FileWork, SECTOR_BYTES};
use super::{OperationId, Universe, Work};
use crate::driver::Handle;
use crate::sim::coverage::FaultKind;
use crate::sim::disk::CutStyle;

impl Universe {
    /// Ends all processes of the host at once. What was written stays; writes in flight land later, in part or never,
    /// and the lock of a file is held until then.
    pub(in crate::sim) fn kill(&mut self, host: u32) {
        self.coverage.hit(FaultKind::Kill);
        self.trace
            .add(self.now << 8 ^ u64::from(host) ^ 0x4B00_0000_0000_0000);
        self.end_cores(host);
        let files = self.files_of(host);
        for file in &files {
            self.files
                .get_mut(file)
                .expect("listed a moment ago")
                .closing = Some(Closing::Dead);
        }
        for id in self.operations_of(host) {
            self.orphan_operation(host, id);
        }
        for file in files {
            if self
                .files
                .get(&file)
                .is_some_and(|open| open.in_flight == 0)
            {
                self.forget_file(file);
            }
        }
        self.end_sockets_of(host, true);
    }

    /// Takes the power from the host. Nobody tells the peers.
    pub(in crate::sim) fn power_cut(&mut self, host: u32, style: CutStyle) {
        self.coverage.hit(FaultKind::PowerCut);
        self.trace
            .add(self.now << 8 ^ u64::from(host) ^ 0x5000_0000_0000_0000);
        self.end_cores(host);
        self.settle_in_flight(host, style);
        self.end_sockets_of(host, false);
        for file in self.files_of(host) {
            self.files.remove(&file);
        }
        let state = &mut self.hosts[host as usize];
        state.up = false;
        state.locks.clear();
        state.lock_waiters.clear();
        state.disk_stalled_until = 0;
        state
            .disk
            .power_cut(style, &mut self.random, &mut self.coverage);
    }

    /// Gives power to the host again; its monotonic clock starts anew.
    pub(in crate::sim) fn restart(&mut self, host: u32) {
        let state = &mut self.hosts[host as usize];
        if !state.up {
            state.up = true;
            state.booted = self.now;
        }
    }

    pub(in crate::sim) fn end_cores(&mut self, host: u32) {
        for core in self.cores.iter_mut().filter(|core| core.host == host) {
            core.alive = false;
            core.ready = Vec::new();
            core.keys = Vec::new();
        }
        let state = &mut self.hosts[host as usize];
        state.process += 1;
        state.signals.clear();
        state.signal_waiter = None;
        state.crash_due = None;
        state.crash_plan = None;
    }

    /// Whether files of the host are open, those of dead processes with a write in flight included.
    pub(in crate::sim) fn has_open_files(&self, host: u32) -> bool {
        self.files.values().any(|open| open.host == host)
    }

    fn operations_of(&self, host: u32) -> Vec<OperationId> {
        let ours = self
            .operations
            .iter()
            .filter(|(_, operation)| operation.host == host);
        ours.map(|(slot, operation)| OperationId {
            slot: slot as u32,
            serial: operation.serial,
        })
        .collect()
    }

    fn files_of(&self, host: u32) -> Vec<Handle> {
        let ours = self.files.iter().filter(|(_, open)| open.host == host);
        ours.map(|(&handle, _)| handle).collect()
    }

    /// Decides what the operation of a killed process still does.
    fn orphan_operation(&mut self, host: u32, id: OperationId) {
        let operation = self.operation_mut(id);
        if operation.ghost {
            return;
        }
        let core = operation.core;
        match operation.work.take() {
            Work::File(FileWork::Write(mut write)) => {
                let length = write.ghost_bytes;
                write.ghost_bytes = match self.random.below(4) {
                    0 => {
                        self.coverage.hit(FaultKind::WriteDropped);
                        0
                    }
                    1 if length > SECTOR_BYTES => {
                        self.coverage.hit(FaultKind::WriteLandedPartly);
                        self.random.index(length / SECTOR_BYTES) * SECTOR_BYTES
                    }
                    _ => length,
                };
                let most = self.hosts[host as usize]
                    .disk_options
                    .late_write_most
                    .as_nanos() as u64;
                // Mostly soon, sometimes after seconds.
                let most = if self.random.below(4) == 0 {
                    most
                } else {
                    most / 1_000
                };
                let at = self.now + self.random.below(most.max(1));
                self.operation_mut(id).work = Work::File(FileWork::Write(write));
                self.reschedule_ghost(id, at);
            }
            work => {
                self.operations.remove(id.slot as usize);
                let Work::File(work) = work else { return };
                match work.file() {
                    Some(file) => self.release_file(file),
                    None if self.random.below(2) == 0 => self.perform_unheard(host, core, work),
                    None => {}
                }
            }
        }
    }

    /// Writes that the power cut caught: some of their sectors may be on the medium.
    fn settle_in_flight(&mut self, host: u32, style: CutStyle) {
        let mut writes = Vec::new();
        for id in self.operations_of(host) {
            let operation = self.operations.remove(id.slot as usize);
            match operation.work {
                Work::File(FileWork::Write(write)) => writes.push(write),
                Work::File(work) if work.file().is_none() => {
                    let happened = style == CutStyle::Seeded && self.random.below(2) == 0;
                    if happened {
                        self.perform_unheard(host, operation.core, work);
                    }
                }
                _ => {}
            }
        }
        while !writes.is_empty() {
            let position = self.random.index(writes.len());
            let write = writes.swap_remove(position);
            let Some(open) = self.files.get(&write.file) else {
                continue;
            };
            let inode = open.inode;
            self.coverage.hit(FaultKind::WriteCutInFlight);
            let bytes = &write.buffer[write.start..][..write.ghost_bytes];
            if !bytes.is_empty()
                && self.hosts[host as usize]
                    .disk
                    .land(inode, write.offset, bytes)
                    .is_err()
            {
                self.coverage.hit(FaultKind::NoSpace);
            }
        }
    }
}
