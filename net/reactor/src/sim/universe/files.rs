//! File operations: how long they take and what they do to the disk. What goes wrong with them stands in `faults`.

use std::path::{Path, PathBuf};

use super::{EventKind, OperationId, Universe, Work, failure};
use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::driver::{Handle, Op, Opened, Outcome};
use crate::file::OpenOptions;
use crate::sim::coverage::FaultKind;
use crate::sim::disk::{Create, Errno, InodeId};
use crate::sim::options::{DiskFault, DiskOperation};

/// What a device writes in one piece.
pub(super) const SECTOR_BYTES: usize = 512;

/// An open file of a process, alive or dead.
pub(super) struct OpenFile {
    pub(super) core: u32,
    pub(super) host: u32,
    pub(super) inode: InodeId,
    pub(super) path: PathBuf,
    direct: bool,
    read: bool,
    write: bool,
    /// Operations that have not completed; a closed file lives until there are none.
    pub(super) in_flight: u32,
    pub(super) closing: Option<Closing>,
}

/// Who closed a file.
#[derive(Clone, Copy)]
pub(super) enum Closing {
    /// Its process, which hears of it.
    Asked(OperationId),
    /// The death of its process.
    Dead,
}

/// A file operation in flight.
pub(super) enum FileWork {
    Open {
        path: PathBuf,
        options: OpenOptions,
        fault: Option<DiskFault>,
    },
    Read {
        file: Handle,
        buffer: AlignedBuffer,
        offset: u64,
        start: usize,
        fault: Option<DiskFault>,
    },
    Write(WriteWork),
    /// The second half of a write with a sync.
    SyncWritten {
        file: Handle,
        buffer: AlignedBuffer,
        count: usize,
        cover: u64,
        fault: Option<DiskFault>,
    },
    Sync {
        file: Handle,
        cover: u64,
        fault: Option<DiskFault>,
    },
    SyncDirectory {
        path: PathBuf,
        cover: u64,
        fault: Option<DiskFault>,
    },
    Metadata {
        op: Op,
        fault: Option<DiskFault>,
    },
    Close {
        file: Handle,
    },
}

/// A write in flight.
pub(super) struct WriteWork {
    pub(super) file: Handle,
    pub(super) buffer: AlignedBuffer,
    pub(super) offset: u64,
    pub(super) start: usize,
    sync: bool,
    fault: Option<DiskFault>,
    /// How many bytes of it a dead process's write gets onto the disk.
    pub(super) ghost_bytes: usize,
}

/// Why an open did not happen.
enum OpenRefusal {
    Failed(Errno),
    /// A dead process's last write still holds the lock.
    Wait(InodeId),
}

impl Universe {
    pub(super) fn submit_file(&mut self, id: OperationId, op: Op) {
        match op {
            Op::Open { path, options } => {
                let fault = self.draw_fault(id, DiskOperation::Open, &path);
                self.start_file(
                    id,
                    DiskOperation::Open,
                    FileWork::Open {
                        path,
                        options,
                        fault,
                    },
                );
            }
            Op::Read {
                file,
                buffer,
                offset,
                start,
            } => {
                let length = buffer.len() - start;
                match self.use_file(file, |open| open.read, offset, length) {
                    Err(errno) => {
                        self.finish_soon(
                            id,
                            Outcome::Read {
                                buffer,
                                result: Err(failure(errno)),
                            },
                        );
                    }
                    Ok(()) => {
                        let fault = self.draw_file_fault(id, DiskOperation::Read, file);
                        let work = FileWork::Read {
                            file,
                            buffer,
                            offset,
                            start,
                            fault,
                        };
                        self.start_file(id, DiskOperation::Read, work);
                    }
                }
            }
            Op::Write {
                file,
                buffer,
                offset,
                start,
                sync,
            } => {
                let length = buffer.len() - start;
                match self.use_file(file, |open| open.write, offset, length) {
                    Err(errno) => {
                        let written = Err(failure(errno));
                        self.finish_soon(
                            id,
                            Outcome::Wrote {
                                buffer,
                                written,
                                synced: None,
                            },
                        );
                    }
                    Ok(()) => {
                        let fault = self.draw_file_fault(id, DiskOperation::Write, file);
                        let ghost_bytes = length;
                        let work = WriteWork {
                            file,
                            buffer,
                            offset,
                            start,
                            sync,
                            fault,
                            ghost_bytes,
                        };
                        self.start_file(id, DiskOperation::Write, FileWork::Write(work));
                    }
                }
            }
            Op::Sync { file } => match self.use_file(file, |_| true, 0, 0) {
                Err(errno) => self.finish_soon(id, Outcome::Done(Err(failure(errno)))),
                Ok(()) => {
                    let cover = self.hosts[self.files[&file].host as usize].disk.cover();
                    let fault = self.draw_file_fault(id, DiskOperation::Sync, file);
                    self.start_file(
                        id,
                        DiskOperation::Sync,
                        FileWork::Sync { file, cover, fault },
                    );
                }
            },
            Op::Length { file } => {
                let length = self
                    .files
                    .get(&file)
                    .map(|open| self.hosts[open.host as usize].disk.length(open.inode));
                self.finish_soon(
                    id,
                    Outcome::Length(length.ok_or_else(|| failure(libc::EBADF))),
                );
            }
            Op::SyncDir { path } => {
                let host = self.operation_mut(id).host as usize;
                let cover = self.hosts[host].disk.cover();
                let fault = self.draw_fault(id, DiskOperation::SyncDirectory, &path);
                let work = FileWork::SyncDirectory { path, cover, fault };
                self.start_file(id, DiskOperation::SyncDirectory, work);
            }
            Op::Close { handle } => self.close_file(id, handle),
            op => {
                let path = metadata_path(&op).to_path_buf();
                let fault = self.draw_fault(id, DiskOperation::Metadata, &path);
                self.start_file(
                    id,
                    DiskOperation::Metadata,
                    FileWork::Metadata { op, fault },
                );
            }
        }
    }

    /// Checks that the file allows the transfer, and counts it.
    fn use_file(
        &mut self,
        file: Handle,
        allowed: impl Fn(&OpenFile) -> bool,
        offset: u64,
        length: usize,
    ) -> Result<(), Errno> {
        let open = self.files.get_mut(&file).ok_or(libc::EBADF)?;
        if open.closing.is_some() || !allowed(open) {
            return Err(libc::EBADF);
        }
        let aligned =
            offset.is_multiple_of(BLOCK_BYTES as u64) && length.is_multiple_of(BLOCK_BYTES);
        if open.direct && !aligned {
            return Err(libc::EINVAL);
        }
        open.in_flight += 1;
        Ok(())
    }

    /// Sends the operation on its way to the disk.
    fn start_file(&mut self, id: OperationId, operation: DiskOperation, work: FileWork) {
        let host = self.operation_mut(id).host as usize;
        let options = &self.hosts[host].disk_options;
        let latency = match operation {
            DiskOperation::Read => options.read,
            DiskOperation::Write => options.write,
            DiskOperation::Sync | DiskOperation::SyncDirectory => options.sync,
            DiskOperation::Open | DiskOperation::Metadata => options.metadata,
        };
        let (nanos, slow) = latency.draw(&mut self.random);
        if slow {
            self.coverage.hit(FaultKind::DiskSlow);
        }
        self.operation_mut(id).work = Work::File(work);
        self.set_due(id, self.now + nanos);
    }

    // --- completions -------------------------------------------------------------------------------------

    pub(super) fn continue_file(&mut self, id: OperationId, work: FileWork) {
        let host = self.operation_mut(id).host as usize;
        let stalled_until = self.hosts[host].disk_stalled_until;
        if stalled_until > self.now && !matches!(work, FileWork::Close { .. }) {
            let later = stalled_until + self.random.below(20_000);
            self.operation_mut(id).work = Work::File(work);
            return self.set_due(id, later);
        }
        match work {
            FileWork::Open {
                path,
                options,
                fault,
            } => self.continue_open(id, path, options, fault),
            FileWork::Read {
                file,
                buffer,
                offset,
                start,
                fault,
            } => {
                self.continue_read(id, file, buffer, (offset, start), fault);
            }
            FileWork::Write(write) if self.operation_mut(id).ghost => self.land_ghost(id, &write),
            FileWork::Write(write) => self.continue_write(id, write),
            FileWork::SyncWritten {
                file,
                buffer,
                count,
                cover,
                fault,
            } => {
                let synced = Some(self.perform_sync(file, cover, fault));
                self.release_file(file);
                self.deliver(
                    id,
                    Outcome::Wrote {
                        buffer,
                        written: Ok(count),
                        synced,
                    },
                );
            }
            FileWork::Sync { file, cover, fault } => {
                let result = self.perform_sync(file, cover, fault);
                self.release_file(file);
                self.deliver(id, Outcome::Done(result));
            }
            FileWork::SyncDirectory { path, cover, fault } => {
                let result = self.perform_sync_directory(host, &path, cover, fault);
                self.deliver(id, Outcome::Done(result.map_err(failure)));
            }
            FileWork::Metadata { op, fault } => {
                let outcome = self.perform_metadata(host, &op, fault);
                self.deliver(id, outcome);
            }
            FileWork::Close { file } => {
                self.forget_file(file);
                self.deliver(id, Outcome::Done(Ok(())));
            }
        }
    }

    fn continue_open(
        &mut self,
        id: OperationId,
        path: PathBuf,
        options: OpenOptions,
        fault: Option<DiskFault>,
    ) {
        let operation = self.operation_mut(id);
        let (host, core) = (operation.host, operation.core);
        match self.perform_open(host, core, &path, &options, fault) {
            Ok(opened) => self.deliver(id, Outcome::Opened(Ok(opened))),
            Err(OpenRefusal::Failed(errno)) => {
                self.deliver(id, Outcome::Opened(Err(failure(errno))));
            }
            Err(OpenRefusal::Wait(inode)) => {
                let operation = self.operation_mut(id);
                operation.work = Work::File(FileWork::Open {
                    path,
                    options,
                    fault,
                });
                operation.due = u64::MAX;
                self.hosts[host as usize].lock_waiters.push((inode, id));
            }
        }
    }

    fn perform_open(
        &mut self,
        host_id: u32,
        core: u32,
        path: &Path,
        options: &OpenOptions,
        fault: Option<DiskFault>,
    ) -> Result<Opened, OpenRefusal> {
        if let Some(DiskFault::Error(errno)) = fault {
            self.note(DiskFault::Error(errno), FaultKind::ReadError);
            return Err(OpenRefusal::Failed(errno));
        }
        let host = &mut self.hosts[host_id as usize];
        let create = if options.create_new {
            Create::New
        } else {
            Create::Never
        };
        let inode = host.disk.open(path, create).map_err(OpenRefusal::Failed)?;
        if options.lock
            && let Some(holder) = host.locks.get(&inode)
        {
            self.coverage.hit(FaultKind::Locked);
            host.disk.close(inode);
            let holder = self.files[holder].core;
            let alive = self.cores[holder as usize].alive;
            return Err(if alive {
                OpenRefusal::Failed(libc::EBUSY)
            } else {
                OpenRefusal::Wait(inode)
            });
        }
        if let Some(length) = options.len_to_reserve
            && let Err(errno) = host.disk.reserve(inode, length)
        {
            self.coverage.hit(FaultKind::NoSpace);
            if options.create_new {
                // As the real drivers do.
                host.disk.remove_file(path).map_err(OpenRefusal::Failed)?;
            }
            host.disk.close(inode);
            return Err(OpenRefusal::Failed(errno));
        }
        let length = host.disk.length(inode);
        let handle = self.new_handle();
        if options.lock {
            self.hosts[host_id as usize].locks.insert(inode, handle);
        }
        self.files.insert(
            handle,
            OpenFile {
                core,
                host: host_id,
                inode,
                path: path.to_path_buf(),
                direct: options.direct,
                read: options.read,
                write: options.write,
                in_flight: 0,
                closing: None,
            },
        );
        Ok(Opened {
            handle,
            length,
            direct: options.direct,
        })
    }

    fn continue_read(
        &mut self,
        id: OperationId,
        file: Handle,
        mut buffer: AlignedBuffer,
        (offset, start): (u64, usize),
        fault: Option<DiskFault>,
    ) {
        let open = &self.files[&file];
        let (host, inode, direct) = (open.host as usize, open.inode, open.direct);
        let mut length = buffer.len() - start;
        let mut result = Ok(());
        match fault {
            Some(DiskFault::Error(errno)) => {
                self.note(DiskFault::Error(errno), FaultKind::ReadError);
                result = Err(failure(errno));
            }
            Some(DiskFault::Short) => length = self.shorten(length, direct, FaultKind::ShortRead),
            Some(DiskFault::BitRot) => self.rot(host, inode, offset, length),
            _ => {}
        }
        let result = result.map(|()| {
            self.hosts[host]
                .disk
                .read(inode, offset, &mut buffer[start..start + length])
        });
        self.release_file(file);
        self.deliver(id, Outcome::Read { buffer, result });
    }

    fn continue_write(&mut self, id: OperationId, write: WriteWork) {
        let WriteWork {
            file,
            buffer,
            offset,
            start,
            sync,
            fault,
            ..
        } = write;
        let written = self.perform_write(file, &buffer[start..], offset, fault);
        let count = match written {
            Ok(count) if sync && start + count == buffer.len() => count,
            written => {
                self.release_file(file);
                let written = written.map_err(failure);
                return self.deliver(
                    id,
                    Outcome::Wrote {
                        buffer,
                        written,
                        synced: None,
                    },
                );
            }
        };
        let cover = self.hosts[self.files[&file].host as usize].disk.cover();
        let fault = self.draw_file_fault(id, DiskOperation::Sync, file);
        let work = FileWork::SyncWritten {
            file,
            buffer,
            count,
            cover,
            fault,
        };
        self.start_file(id, DiskOperation::Sync, work);
    }

    fn perform_write(
        &mut self,
        file: Handle,
        bytes: &[u8],
        offset: u64,
        fault: Option<DiskFault>,
    ) -> Result<usize, Errno> {
        let open = &self.files[&file];
        let (host, inode, direct) = (open.host as usize, open.inode, open.direct);
        let mut offset = offset;
        let mut count = bytes.len();
        match fault {
            Some(DiskFault::Error(errno)) => {
                self.note(DiskFault::Error(errno), FaultKind::WriteError);
                if !matches!(errno, libc::EINTR | libc::EAGAIN | libc::ENOSPC) {
                    let sectors = self.random.index(bytes.len() / SECTOR_BYTES + 1);
                    // How far it got does not change that it failed.
                    if self.hosts[host]
                        .disk
                        .land(inode, offset, &bytes[..sectors * SECTOR_BYTES])
                        .is_err()
                    {
                        self.coverage.hit(FaultKind::NoSpace);
                    }
                }
                return Err(errno);
            }
            Some(DiskFault::Vanish) => {
                self.coverage.hit(FaultKind::WriteVanished);
                return Ok(count);
            }
            Some(DiskFault::Short) => count = self.shorten(count, direct, FaultKind::ShortWrite),
            Some(DiskFault::Misdirect) => {
                let blocks = self.hosts[host]
                    .disk
                    .length(inode)
                    .saturating_sub(count as u64)
                    / BLOCK_BYTES as u64;
                let other = self.random.below(blocks + 1) * BLOCK_BYTES as u64;
                if other != offset {
                    self.coverage.hit(FaultKind::WriteMisdirected);
                    offset = other;
                }
            }
            _ => {}
        }
        match self.hosts[host].disk.land(inode, offset, &bytes[..count]) {
            Ok(()) => Ok(count),
            Err(errno) => {
                self.coverage.hit(FaultKind::NoSpace);
                Err(errno)
            }
        }
    }

    fn perform_sync(
        &mut self,
        file: Handle,
        cover: u64,
        fault: Option<DiskFault>,
    ) -> std::io::Result<()> {
        let open = &self.files[&file];
        let (host, inode) = (open.host as usize, open.inode);
        let disk = &mut self.hosts[host].disk;
        match fault {
            Some(DiskFault::Error(errno)) => {
                disk.abandon(inode, cover);
                self.note(DiskFault::Error(errno), FaultKind::SyncError);
                return Err(failure(errno));
            }
            Some(DiskFault::LoseSync) => {
                if disk.abandon(inode, cover) {
                    self.coverage.hit(FaultKind::SyncedWriteLost);
                }
            }
            _ => disk.sync(inode, cover),
        }
        Ok(())
    }

    fn perform_sync_directory(
        &mut self,
        host: usize,
        path: &Path,
        cover: u64,
        fault: Option<DiskFault>,
    ) -> Result<(), Errno> {
        let disk = &mut self.hosts[host].disk;
        let directory = disk.find_directory(path)?;
        match fault {
            Some(DiskFault::Error(errno)) => {
                disk.abandon_directory(directory, cover);
                self.note(DiskFault::Error(errno), FaultKind::SyncError);
                return Err(errno);
            }
            Some(DiskFault::LoseSync) => {
                disk.abandon_directory(directory, cover);
                self.coverage.hit(FaultKind::SyncedWriteLost);
            }
            _ => disk.sync_directory(directory, cover),
        }
        Ok(())
    }

    fn perform_metadata(&mut self, host: usize, op: &Op, fault: Option<DiskFault>) -> Outcome {
        let result = match fault {
            Some(DiskFault::Error(errno)) => {
                self.note(DiskFault::Error(errno), FaultKind::WriteError);
                Err(errno)
            }
            _ => Ok(()),
        };
        let disk = &mut self.hosts[host].disk;
        let done = match op {
            Op::ListDir { path } => {
                return Outcome::Listed(result.and_then(|()| disk.list(path)).map_err(failure));
            }
            Op::Rename { from, to } => result.and_then(|()| disk.rename(from, to)),
            Op::RemoveFile { path } => result.and_then(|()| disk.remove_file(path)),
            Op::CreateDirAll { path } => result.and_then(|()| disk.create_dir_all(path)),
            other => panic!("{other:?} is not about names"),
        };
        Outcome::Done(done.map_err(failure))
    }

    // --- the end of a file -------------------------------------------------------------------------------

    fn close_file(&mut self, id: OperationId, file: Handle) {
        let Some(open) = self
            .files
            .get_mut(&file)
            .filter(|open| open.closing.is_none())
        else {
            return self.finish_soon(id, Outcome::Done(Err(failure(libc::EBADF))));
        };
        open.closing = Some(Closing::Asked(id));
        let idle = open.in_flight == 0;
        self.operation_mut(id).work = Work::File(FileWork::Close { file });
        if idle {
            self.set_due_after(id, super::SYSTEM_CALL);
        }
    }

    /// One operation on the file has ended; the last one lets a pending close happen.
    pub(super) fn release_file(&mut self, file: Handle) {
        let Some(open) = self.files.get_mut(&file) else {
            return;
        };
        open.in_flight -= 1;
        match open.closing {
            Some(Closing::Asked(id)) if open.in_flight == 0 => {
                self.set_due_after(id, super::SYSTEM_CALL);
            }
            Some(Closing::Dead) if open.in_flight == 0 => self.forget_file(file),
            _ => {}
        }
    }

    /// Closes the file, gives up its lock, and lets those try who waited for it.
    pub(super) fn forget_file(&mut self, file: Handle) {
        let Some(open) = self.files.remove(&file) else {
            return;
        };
        let host = &mut self.hosts[open.host as usize];
        host.disk.close(open.inode);
        if host.locks.get(&open.inode) != Some(&file) {
            return;
        }
        host.locks.remove(&open.inode);
        let mut waiters = Vec::new();
        host.lock_waiters.retain(|&(inode, id)| {
            if inode == open.inode {
                waiters.push(id);
            }
            inode != open.inode
        });
        for id in waiters {
            if self.operation(id).is_some() {
                self.set_due_after(id, super::SYSTEM_CALL);
            }
        }
    }

    /// The write of a dead process reaches the disk, or what there is of it.
    fn land_ghost(&mut self, id: OperationId, write: &WriteWork) {
        let bytes = &write.buffer[write.start..][..write.ghost_bytes];
        if let Some(open) = self.files.get(&write.file)
            && !bytes.is_empty()
        {
            let (host, inode) = (open.host as usize, open.inode);
            let landed = self.hosts[host].disk.land(inode, write.offset, bytes);
            self.coverage.hit(if landed.is_ok() {
                FaultKind::WriteLandedLate
            } else {
                FaultKind::NoSpace
            });
        }
        self.trace.add(self.now ^ (bytes.len() as u64) << 40);
        self.operations.remove(id.slot as usize);
        self.release_file(write.file);
    }

    /// What was on its way when the process died, if it took effect before: nobody hears of it.
    pub(super) fn perform_unheard(&mut self, host: u32, core: u32, work: FileWork) {
        match work {
            FileWork::Open {
                path,
                options,
                fault,
            } => {
                if let Ok(opened) = self.perform_open(host, core, &path, &options, fault) {
                    self.forget_file(opened.handle);
                }
            }
            FileWork::Metadata { op, fault } => {
                drop(self.perform_metadata(host as usize, &op, fault))
            }
            _ => {}
        }
    }

    pub(super) fn reschedule_ghost(&mut self, id: OperationId, at: u64) {
        let operation = self.operation_mut(id);
        operation.ghost = true;
        operation.due = at;
        self.push_event(at, EventKind::Operation(id));
    }
}

impl FileWork {
    /// The open file it works on.
    pub(super) fn file(&self) -> Option<Handle> {
        match self {
            FileWork::Read { file, .. }
            | FileWork::SyncWritten { file, .. }
            | FileWork::Sync { file, .. }
            | FileWork::Write(WriteWork { file, .. }) => Some(*file),
            FileWork::Open { .. }
            | FileWork::SyncDirectory { .. }
            | FileWork::Metadata { .. }
            | FileWork::Close { .. } => None,
        }
    }
}

fn metadata_path(op: &Op) -> &Path {
    match op {
        Op::Rename { to, .. } => to,
        Op::RemoveFile { path } | Op::CreateDirAll { path } | Op::ListDir { path } => path,
        other => panic!("{other:?} is not about names"),
    }
}
