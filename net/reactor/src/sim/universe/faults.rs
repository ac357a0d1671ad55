//! Which disk operation goes wrong, and how: planned faults first, then those that the rates ask for.

use std::path::Path;

use super::files::SECTOR_BYTES;
use super::{OperationId, Universe};
use crate::driver::Handle;
use crate::sim::coverage::FaultKind;
use crate::sim::disk::InodeId;
use crate::sim::options::{DiskFault, DiskOperation};
use crate::sim::random::Rate;

impl Universe {
    pub(super) fn draw_file_fault(
        &mut self,
        id: OperationId,
        operation: DiskOperation,
        file: Handle,
    ) -> Option<DiskFault> {
        let host = self.operation_mut(id).host as usize;
        if self.hosts[host].planned.is_empty() {
            return self.draw_random_fault(host, operation);
        }
        let path = self.files[&file].path.clone();
        self.draw_fault(id, operation, &path)
    }

    pub(super) fn draw_fault(
        &mut self,
        id: OperationId,
        operation: DiskOperation,
        path: &Path,
    ) -> Option<DiskFault> {
        let host = self.operation_mut(id).host as usize;
        let planned = self.take_planned_fault(host, operation, path);
        match planned {
            Some(DiskFault::Stall(duration)) => {
                self.stall_disk(host, duration.as_nanos() as u64);
                None
            }
            Some(fault) => Some(fault),
            None => self.draw_random_fault(host, operation),
        }
    }

    fn take_planned_fault(
        &mut self,
        host: usize,
        operation: DiskOperation,
        path: &Path,
    ) -> Option<DiskFault> {
        let planned = &mut self.hosts[host].planned;
        if planned.is_empty() {
            return None;
        }
        let path = path.to_string_lossy();
        let mut hit = None;
        planned.retain_mut(|plan| {
            if plan.operation != operation || !path.contains(&plan.path_contains) {
                return true;
            }
            if plan.after > 0 {
                plan.after -= 1;
                return true;
            }
            if hit.is_some() {
                return true;
            }
            hit = Some(plan.fault);
            plan.repeat
        });
        hit
    }

    fn draw_random_fault(&mut self, host: usize, operation: DiskOperation) -> Option<DiskFault> {
        let options = &self.hosts[host].disk_options;
        let eio = DiskFault::Error(libc::EIO);
        let interrupted = (options.interrupted, DiskFault::Error(libc::EINTR));
        let try_again = (options.try_again, DiskFault::Error(libc::EAGAIN));
        let none = (Rate::NEVER, eio);
        let rates = match operation {
            DiskOperation::Read => [
                (options.read_error, eio),
                (options.short_read, DiskFault::Short),
                interrupted,
                try_again,
                (options.bit_rot, DiskFault::BitRot),
                none,
            ],
            DiskOperation::Write => [
                (options.write_error, eio),
                (options.short_write, DiskFault::Short),
                interrupted,
                try_again,
                (options.write_vanished, DiskFault::Vanish),
                (options.write_misdirected, DiskFault::Misdirect),
            ],
            DiskOperation::Sync | DiskOperation::SyncDirectory => [
                (options.sync_error, eio),
                (options.synced_write_lost, DiskFault::LoseSync),
                none,
                none,
                none,
                none,
            ],
            DiskOperation::Open | DiskOperation::Metadata => return None,
        };
        let (stall, stall_most) = (options.stall, options.stall_most.as_nanos() as u64);
        let sum: u64 = rates.iter().map(|(rate, _)| u64::from(rate.0)).sum();
        if sum + u64::from(stall.0) == 0 {
            return None;
        }
        // One draw decides between all of them.
        let mut drawn = self.random.below(1_000_000);
        for (rate, fault) in rates {
            if drawn < u64::from(rate.0) {
                return Some(fault);
            }
            drawn -= u64::from(rate.0);
        }
        if drawn < u64::from(stall.0) {
            let nanos = self.random.below(stall_most);
            self.stall_disk(host, nanos);
        }
        None
    }

    fn stall_disk(&mut self, host: usize, nanos: u64) {
        self.coverage.hit(FaultKind::DiskStall);
        let until = self.now + nanos;
        let host = &mut self.hosts[host];
        host.disk_stalled_until = host.disk_stalled_until.max(until);
    }

    pub(super) fn note(&mut self, fault: DiskFault, otherwise: FaultKind) {
        self.coverage.hit(fault.kind().unwrap_or(otherwise));
    }

    /// Fewer than `length`, more than none; whole sectors if the transfer is direct.
    pub(super) fn shorten(&mut self, length: usize, direct: bool, kind: FaultKind) -> usize {
        let unit = if direct { SECTOR_BYTES } else { 1 };
        let units = length / unit;
        if units < 2 {
            return length;
        }
        self.coverage.hit(kind);
        (1 + self.random.index(units - 1)) * unit
    }

    pub(super) fn rot(&mut self, host: usize, inode: InodeId, offset: u64, length: usize) {
        let readable = self.hosts[host]
            .disk
            .length(inode)
            .saturating_sub(offset)
            .min(length as u64);
        if readable > 0 {
            self.coverage.hit(FaultKind::BitRot);
            let at = offset + self.random.below(readable);
            let bit = self.random.below(8) as u8;
            self.hosts[host].disk.flip_bit(inode, at, bit);
        }
    }
}

impl DiskFault {
    /// The kind it counts as, if that does not depend on the operation.
    fn kind(self) -> Option<FaultKind> {
        match self {
            DiskFault::Error(libc::EINTR) => Some(FaultKind::Interrupted),
            DiskFault::Error(libc::EAGAIN) => Some(FaultKind::TryAgain),
            DiskFault::Error(libc::ENOSPC) => Some(FaultKind::NoSpace),
            DiskFault::Stall(_) => Some(FaultKind::DiskStall),
            _ => None,
        }
    }
}
