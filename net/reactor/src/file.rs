//! Files of a core: whole reads and writes over drivers that may do only part of them.
//!
//! Owns the continuation of short reads and writes and the retry of interrupted ones. A sync is asked for once:
//! its failure is final for the file, and the error says whether the write or the sync failed.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::detached::DetachedFile;
use crate::driver::{Handle, Op, Outcome};
use crate::world::{World, unexpected};

/// Attempts of one read or write that made no progress before it is given up.
const IDLE_ATTEMPTS_MAX: u32 = 16;

/// How [`World::open`] opens a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Allow reads.
    pub read: bool,
    /// Allow writes.
    pub write: bool,
    /// Create the file; fail with `AlreadyExists` if it exists.
    pub create_new: bool,
    /// Reserve disk space for this many bytes and make the file at least this long.
    pub len_to_reserve: Option<u64>,
    /// Bypass the page cache where the file system can; see [`File::is_direct`].
    pub direct: bool,
    /// Take the exclusive lock of the file itself. Held by a live process: fails with `ResourceBusy` naming it. Held
    /// by a dead one, whose last write is still on its way to the disk: waits for it.
    pub lock: bool,
}

/// Why [`File::write_at_and_sync`] failed.
#[derive(Debug)]
pub enum WriteError {
    /// The write failed; nothing was synced.
    Write {
        /// First byte of the file that was to be written.
        offset: u64,
        /// The cause.
        error: io::Error,
    },
    /// The write succeeded and the sync failed: what the file holds after a crash is unknown. Never sync again.
    Sync {
        /// First byte of the file that was to be written.
        offset: u64,
        /// The cause.
        error: io::Error,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Write { offset, error } => {
                write!(formatter, "write at byte {offset}: {error}")
            }
            WriteError::Sync { offset, error } => {
                write!(formatter, "sync after the write at byte {offset}: {error}")
            }
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WriteError::Write { error, .. } | WriteError::Sync { error, .. } => Some(error),
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(failure: WriteError) -> io::Error {
        match failure {
            WriteError::Write { error, .. } | WriteError::Sync { error, .. } => error,
        }
    }
}

/// An open file. Clones share it; it closes when the last one is dropped and its operations have ended.
#[derive(Clone)]
pub struct File {
    inner: Rc<FileInner>,
}

struct FileInner {
    world: World,
    handle: Handle,
    direct: bool,
    /// The handle has left this core.
    detached: Cell<bool>,
}

impl Drop for FileInner {
    fn drop(&mut self) {
        if !self.detached.get() {
            self.world.close(self.handle);
        }
    }
}

impl File {
    pub(crate) fn new(world: World, handle: Handle, direct: bool) -> File {
        let detached = Cell::new(false);
        File {
            inner: Rc::new(FileInner {
                world,
                handle,
                direct,
                detached,
            }),
        }
    }

    /// Takes the file from its core, for another one's [`World::attach_file`]. Its lock goes with it.
    ///
    /// # Errors
    /// The file itself if there are other clones of it, or an operation on it has not ended (one whose future was
    /// dropped counts until its completion is there).
    pub fn detach(self) -> Result<DetachedFile, File> {
        let inner = Rc::try_unwrap(self.inner).map_err(|inner| File { inner })?;
        let direct = inner.direct;
        let released = inner.world.driver().release_file(inner.handle);
        match released {
            Some(detached) => {
                inner.detached.set(true);
                Ok(DetachedFile { detached, direct })
            }
            None => {
                let inner = Rc::new(inner);
                Err(File { inner })
            }
        }
    }

    /// Whether reads and writes bypass the page cache: offsets and lengths are then multiples of [`BLOCK_BYTES`].
    pub fn is_direct(&self) -> bool {
        self.inner.direct
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Of the system call.
    pub async fn len(&self) -> io::Result<u64> {
        match self
            .operate(Op::Length {
                file: self.inner.handle,
            })
            .await
        {
            Outcome::Length(result) => result,
            other => unexpected(&other),
        }
    }

    /// Up to `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `InvalidInput` for a misaligned direct read, or of the system call.
    pub async fn read_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let buffer = self.read_into(self.inner.world.buffer(len), offset).await?;
        let bytes = buffer.to_vec();
        self.inner.world.recycle(buffer);
        Ok(bytes)
    }

    /// Fills `buffer` from `offset`; its length shrinks to what there was before the end of the file.
    ///
    /// # Errors
    /// As [`File::read_at`]; `UnexpectedEof` if direct reads keep ending inside of the same block.
    pub async fn read_into(&self, buffer: AlignedBuffer, offset: u64) -> io::Result<AlignedBuffer> {
        self.check_alignment(buffer.len(), offset)?;
        let len = buffer.len();
        let mut buffer = buffer;
        let mut start = 0;
        let mut filled = 0;
        let mut idle_attempts = 0;
        while start < len {
            let op = Op::Read {
                file: self.inner.handle,
                buffer,
                offset: offset + start as u64,
                start,
            };
            let Outcome::Read {
                buffer: returned,
                result,
            } = self.operate(op).await
            else {
                panic!("the driver answered a read with something else")
            };
            buffer = returned;
            match result {
                Ok(0) => break,
                Ok(count) => {
                    let end = start + count;
                    filled = filled.max(end);
                    if end == len {
                        break;
                    }
                    let next = self.align_down(end);
                    // Inside of a block a direct read has met the end of the file, or was cut short there.
                    if next < end && offset + end as u64 >= self.len().await? {
                        break;
                    }
                    idle_attempts = if next > start { 0 } else { idle_attempts + 1 };
                    if idle_attempts > IDLE_ATTEMPTS_MAX {
                        let at = offset + end as u64;
                        let text = format!("reads end at byte {at}, inside of the file");
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                    }
                    start = next;
                }
                Err(error) => {
                    idle_attempts += 1;
                    self.after_failure(error, idle_attempts).await?;
                }
            }
        }
        buffer.set_len(filled);
        Ok(buffer)
    }

    /// Writes all of `buffer` at `offset` and returns the buffer. Durable after [`File::sync_data`].
    ///
    /// # Errors
    /// `InvalidInput` for a misaligned direct write, `WriteZero` if it makes no progress, or of the system call.
    pub async fn write_at(&self, buffer: AlignedBuffer, offset: u64) -> io::Result<AlignedBuffer> {
        Ok(self.write(buffer, offset, false).await?)
    }

    /// Writes all of `buffer` at `offset` and syncs the file's data: one request to the kernel where it can link them.
    ///
    /// # Errors
    /// Which of the two failed. After a failed sync the file must not be used.
    pub async fn write_at_and_sync(
        &self,
        buffer: AlignedBuffer,
        offset: u64,
    ) -> Result<AlignedBuffer, WriteError> {
        self.write(buffer, offset, true).await
    }

    async fn write(
        &self,
        buffer: AlignedBuffer,
        offset: u64,
        sync: bool,
    ) -> Result<AlignedBuffer, WriteError> {
        let write_failed = |error| WriteError::Write { offset, error };
        self.check_alignment(buffer.len(), offset)
            .map_err(write_failed)?;
        let len = buffer.len();
        let mut buffer = buffer;
        let mut start = 0;
        let mut idle_attempts = 0;
        loop {
            let at = offset + start as u64;
            let op = Op::Write {
                file: self.inner.handle,
                buffer,
                offset: at,
                start,
                sync,
            };
            let Outcome::Wrote {
                buffer: returned,
                written,
                synced,
            } = self.operate(op).await
            else {
                panic!("the driver answered a write with something else")
            };
            buffer = returned;
            match written {
                Ok(count) if start + count == len => {
                    return match synced {
                        Some(Err(error)) => Err(WriteError::Sync { offset, error }),
                        Some(Ok(())) => Ok(buffer),
                        None => {
                            assert!(!sync, "the driver skipped a sync");
                            Ok(buffer)
                        }
                    };
                }
                Ok(count) => {
                    let next = self.align_down(start + count);
                    idle_attempts = if next > start { 0 } else { idle_attempts + 1 };
                    start = next;
                    if idle_attempts > IDLE_ATTEMPTS_MAX {
                        return Err(write_failed(io::ErrorKind::WriteZero.into()));
                    }
                }
                Err(error) => {
                    idle_attempts += 1;
                    self.after_failure(error, idle_attempts)
                        .await
                        .map_err(write_failed)?;
                }
            }
        }
    }

    /// Makes all completed writes durable (`fdatasync`).
    ///
    /// # Errors
    /// Of the system call. Final: the file must not be used afterwards.
    pub async fn sync_data(&self) -> io::Result<()> {
        match self
            .operate(Op::Sync {
                file: self.inner.handle,
            })
            .await
        {
            Outcome::Done(result) => result,
            other => unexpected(&other),
        }
    }

    fn operate(&self, op: Op) -> crate::world::Operation {
        self.inner.world.operate(op)
    }

    /// Interrupted and would-block attempts may be repeated a bounded number of times.
    async fn after_failure(&self, error: io::Error, idle_attempts: u32) -> io::Result<()> {
        let repeat = matches!(
            error.kind(),
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
        );
        if !repeat || idle_attempts > IDLE_ATTEMPTS_MAX {
            return Err(error);
        }
        self.inner.world.yield_now().await;
        Ok(())
    }

    fn align_down(&self, position: usize) -> usize {
        if self.inner.direct {
            position - position % BLOCK_BYTES
        } else {
            position
        }
    }

    fn check_alignment(&self, len: usize, offset: u64) -> io::Result<()> {
        let aligned = len.is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(BLOCK_BYTES as u64);
        if self.inner.direct && !aligned {
            let text = format!(
                "direct I/O of {len} bytes at byte {offset}: not whole blocks of {BLOCK_BYTES}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}
