//! Opening files as the log needs them, and the blocking calls on paths. All of it runs on file threads.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{check, check_count, lock};
use crate::buffer::BLOCK_BYTES;
use crate::file::OpenOptions;

/// A file that was opened, and what came of the wish for direct I/O.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    pub(crate) file: OwnedFd,
    pub(crate) length: u64,
    pub(crate) direct: bool,
}

/// Opens a file, locks it, reserves its space.
///
/// # Errors
/// Of the system calls, with the path; of the lock. A file that was created and could not be reserved is removed again.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> io::Result<OpenedFile> {
    let (file, direct) =
        open_direct_or_not(path, options).map_err(|error| at(path, "open", error))?;
    if options.lock {
        lock::lock_exclusively(file.as_fd(), path)?;
    }
    if let Some(length) = options.len_to_reserve
        && let Err(error) = reserve(&file, length)
    {
        if options.create_new {
            // The reservation's error is the one to report.
            fs::remove_file(path).ok();
        }
        return Err(at(path, "reserve space for", error));
    }
    let length = file
        .metadata()
        .map_err(|error| at(path, "stat", error))?
        .len();
    Ok(OpenedFile {
        file: file.into(),
        length,
        direct,
    })
}

/// Adds the path to an error and keeps its kind. `raw_os_error` is lost, so only errors of opening come here.
fn at(path: &Path, what: &str, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        PathError {
            text: format!("{what} {}: {error}", path.display()),
            error,
        },
    )
}

/// An error with the path it concerns; the cause is its source.
#[derive(Debug)]
struct PathError {
    text: String,
    error: io::Error,
}

impl std::fmt::Display for PathError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for PathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

fn open_direct_or_not(path: &Path, options: &OpenOptions) -> io::Result<(fs::File, bool)> {
    let open = |flags: i32, create_new: bool| {
        fs::OpenOptions::new()
            .read(options.read)
            .write(options.write)
            .create_new(create_new)
            .custom_flags(flags)
            .mode(0o600)
            .open(path)
    };
    if !options.direct {
        return Ok((open(0, options.create_new)?, false));
    }
    match open(libc::O_DIRECT, options.create_new) {
        Ok(file) => {
            let direct = is_direct_useful(file.as_fd());
            if !direct {
                clear_direct(file.as_fd())?;
            }
            Ok((file, direct))
        }
        // open(2): the file system knows no O_DIRECT. Linux refuses after it has created the file.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            if options.create_new {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok((open(0, options.create_new)?, false))
        }
        Err(error) => Err(error),
    }
}

/// Whether direct I/O on this file works in blocks of [`BLOCK_BYTES`] and reaches a disk.
fn is_direct_useful(file: BorrowedFd<'_>) -> bool {
    !is_in_memory(file)
        && direct_alignment(file).is_none_or(|bytes| bytes != 0 && bytes <= BLOCK_BYTES)
}

/// tmpfs and ramfs accept O_DIRECT on newer kernels and ignore it.
fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;
    // SAFETY: an all-zero `statfs` is a valid value of that plain structure.
    let mut status: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is a valid place for the result (fstatfs(2)).
    let known = check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut status) }).is_ok();
    known
        && [libc::TMPFS_MAGIC as libc::c_long, RAMFS_MAGIC]
            .contains(&(status.f_type as libc::c_long))
}

/// The larger alignment that direct I/O asks of memory and offset; 0 if the file cannot do it; `None` if the kernel
/// does not say (before Linux 6.1).
fn direct_alignment(file: BorrowedFd<'_>) -> Option<usize> {
    // SAFETY: an all-zero `statx` is a valid value of that plain structure.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path with AT_EMPTY_PATH means the descriptor; `status` is a valid place for the result (statx(2)).
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut status,
        )
    };
    if check(result).is_err() || status.stx_mask & libc::STATX_DIOALIGN == 0 {
        return None;
    }
    let (memory, offset) = (status.stx_dio_mem_align, status.stx_dio_offset_align);
    Some(if memory == 0 || offset == 0 {
        0
    } else {
        memory.max(offset) as usize
    })
}

fn clear_direct(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl(2) with F_GETFL takes no pointers.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: fcntl(2) with F_SETFL takes no pointers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) })?;
    Ok(())
}

/// Reserves disk space and makes the file at least `length` bytes long.
fn reserve(file: &fs::File, length: u64) -> io::Result<()> {
    let size =
        libc::off_t::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    if size == 0 {
        return Ok(());
    }
    loop {
        // SAFETY: fallocate(2) takes no pointers.
        match check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) }) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => break,
            Err(error) => return Err(error),
        }
    }
    // Without fallocate the space cannot be promised; the length can.
    if file.metadata()?.len() < length {
        file.set_len(length)
    } else {
        Ok(())
    }
}

/// pread(2): may be short.
pub(crate) fn read(file: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `into`, which is ours for the call.
    check_count(unsafe {
        libc::pread(
            file.as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            offset as libc::off_t,
        )
    })
}

/// pwrite(2): may be short.
pub(crate) fn write(file: BorrowedFd<'_>, from: &[u8], offset: u64) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `from`, borrowed for the call.
    check_count(unsafe {
        libc::pwrite(
            file.as_raw_fd(),
            from.as_ptr().cast(),
            from.len(),
            offset as libc::off_t,
        )
    })
}

/// fdatasync(2), once: an error, also an interruption, is final.
pub(crate) fn sync_data(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fdatasync(2) takes no pointers.
    check(unsafe { libc::fdatasync(file.as_raw_fd()) }).map(drop)
}

/// The file's length.
pub(crate) fn length(file: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: an all-zero `stat` is a valid value of that plain structure.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is a valid place for the result (fstat(2)).
    check(unsafe { libc::fstat(file.as_raw_fd(), &mut status) })?;
    Ok(status.st_size as u64)
}

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    let text = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `text` is a terminated string that outlives the call (open(2)).
    let descriptor = check(unsafe { libc::open(text.as_ptr(), flags) })?;
    // SAFETY: the descriptor was just created and nobody else owns it.
    let directory: fs::File = unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) };
    directory.sync_all()
}

/// Creates a directory and its missing parents, readable by the owner only.
pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Names and lengths of a directory's entries, sorted by name.
pub(crate) fn list_dir(path: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            Ok(status) => entries.push((name, status.len())),
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    entries.sort();
    Ok(entries)
}
