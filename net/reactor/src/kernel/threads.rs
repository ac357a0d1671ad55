//! A few threads for calls that block: all file work of the fallback driver, path operations of the ring's.
//!
//! A thread starts when there is work that no idle thread will take, up to a bound, and stays. A job owns its buffers
//! and shares its descriptor, so nothing is closed or freed under it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::file::{self, OpenedFile};
use super::wake::WakeEvent;
use crate::buffer::AlignedBuffer;
use crate::driver::{Handle, Op, OpKey, Opened, Outcome, RemoteWake};
use crate::file::OpenOptions;

const STACK_BYTES: usize = 256 << 10;

/// Work for a file thread.
pub(crate) enum FileWork {
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    Read {
        file: Arc<OwnedFd>,
        buffer: AlignedBuffer,
        offset: u64,
        start: usize,
    },
    Write {
        file: Arc<OwnedFd>,
        buffer: AlignedBuffer,
        offset: u64,
        start: usize,
        sync: bool,
    },
    Sync {
        file: Arc<OwnedFd>,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    RemoveFile {
        path: PathBuf,
    },
    CreateDirAll {
        path: PathBuf,
    },
    SyncDir {
        path: PathBuf,
    },
    ListDir {
        path: PathBuf,
    },
}

/// What became of it.
pub(crate) enum FileDone {
    Opened(io::Result<OpenedFile>),
    Read {
        buffer: AlignedBuffer,
        result: io::Result<usize>,
    },
    Wrote {
        buffer: AlignedBuffer,
        written: io::Result<usize>,
        synced: Option<io::Result<()>>,
    },
    Done(io::Result<()>),
    Listed(io::Result<Vec<(String, u64)>>),
}

impl FileDone {
    /// The operation's outcome; `insert` gives an opened file its handle.
    pub(crate) fn into_outcome(self, insert: impl FnOnce(OwnedFd) -> Handle) -> Outcome {
        match self {
            FileDone::Opened(result) => Outcome::Opened(result.map(|opened| {
                let OpenedFile {
                    file,
                    length,
                    direct,
                } = opened;
                Opened {
                    handle: insert(file),
                    length,
                    direct,
                }
            })),
            FileDone::Read { buffer, result } => Outcome::Read { buffer, result },
            FileDone::Wrote {
                buffer,
                written,
                synced,
            } => Outcome::Wrote {
                buffer,
                written,
                synced,
            },
            FileDone::Done(result) => Outcome::Done(result),
            FileDone::Listed(result) => Outcome::Listed(result),
        }
    }
}

impl FileWork {
    /// The work of an operation that names files by path.
    ///
    /// # Panics
    /// If `op` is of another kind: a bug of the driver.
    pub(crate) fn on_paths(op: Op) -> FileWork {
        match op {
            Op::Open { path, options } => FileWork::Open { path, options },
            Op::Rename { from, to } => FileWork::Rename { from, to },
            Op::RemoveFile { path } => FileWork::RemoveFile { path },
            Op::CreateDirAll { path } => FileWork::CreateDirAll { path },
            Op::SyncDir { path } => FileWork::SyncDir { path },
            Op::ListDir { path } => FileWork::ListDir { path },
            other => panic!("{other:?} is not work on a path"),
        }
    }

    fn run(self) -> FileDone {
        match self {
            FileWork::Open { path, options } => FileDone::Opened(file::open(&path, &options)),
            FileWork::Read {
                file,
                mut buffer,
                offset,
                start,
            } => {
                let result = file::read(file.as_fd(), &mut buffer[start..], offset);
                FileDone::Read { buffer, result }
            }
            FileWork::Write {
                file,
                buffer,
                offset,
                start,
                sync,
            } => {
                let written = file::write(file.as_fd(), &buffer[start..], offset);
                let whole = written
                    .as_ref()
                    .is_ok_and(|&count| start + count == buffer.len());
                let synced = (sync && whole).then(|| file::sync_data(file.as_fd()));
                FileDone::Wrote {
                    buffer,
                    written,
                    synced,
                }
            }
            FileWork::Sync { file } => FileDone::Done(file::sync_data(file.as_fd())),
            FileWork::Rename { from, to } => FileDone::Done(std::fs::rename(from, to)),
            FileWork::RemoveFile { path } => FileDone::Done(std::fs::remove_file(path)),
            FileWork::CreateDirAll { path } => FileDone::Done(file::create_dir_all(&path)),
            FileWork::SyncDir { path } => FileDone::Done(file::sync_dir(&path)),
            FileWork::ListDir { path } => FileDone::Listed(file::list_dir(&path)),
        }
    }
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    finished: Mutex<Vec<(OpKey, FileDone)>>,
    wake: Arc<WakeEvent>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(OpKey, FileWork)>,
    idle: usize,
    stopping: bool,
}

/// The threads of one driver.
pub(crate) struct FileThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    threads_max: usize,
}

impl FileThreads {
    /// No thread yet, at most `threads_max` later; `wake` is told when work is finished.
    pub(crate) fn new(threads_max: usize, wake: Arc<WakeEvent>) -> FileThreads {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            finished: Mutex::default(),
            wake,
        });
        FileThreads {
            shared,
            threads: Vec::new(),
            threads_max,
        }
    }

    /// Queues work. If not even the first thread can be started the work is done here and now.
    pub(crate) fn submit(&mut self, key: OpKey, work: FileWork) {
        let mut state = lock(&self.shared.state);
        state.queue.push_back((key, work));
        let wants_thread = state.queue.len() > state.idle && self.threads.len() < self.threads_max;
        drop(state);
        self.shared.work.notify_one();
        if wants_thread {
            self.start_thread();
        }
    }

    fn start_thread(&mut self) {
        let shared = Arc::clone(&self.shared);
        let name = format!("file-{}", self.threads.len());
        let builder = thread::Builder::new().name(name).stack_size(STACK_BYTES);
        match builder.spawn(move || run_thread(&shared)) {
            Ok(thread) => self.threads.push(thread),
            Err(_) if !self.threads.is_empty() => {}
            Err(_) => {
                while let Some((key, work)) = pop(&self.shared) {
                    finish(&self.shared, key, work.run());
                }
            }
        }
    }

    /// Takes what has finished.
    pub(crate) fn take_finished(&self, into: &mut Vec<(OpKey, FileDone)>) {
        into.append(&mut lock(&self.shared.finished));
    }
}

impl Drop for FileThreads {
    /// Waits for the work that has begun; the rest is not done.
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.stopping = true;
        let rest = std::mem::take(&mut state.queue);
        drop(state);
        drop(rest);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed why; there is nothing left to do for it.
            thread.join().ok();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pop(shared: &Shared) -> Option<(OpKey, FileWork)> {
    lock(&shared.state).queue.pop_front()
}

fn finish(shared: &Shared, key: OpKey, done: FileDone) {
    lock(&shared.finished).push((key, done));
    shared.wake.wake();
}

fn run_thread(shared: &Shared) {
    let mut state = lock(&shared.state);
    loop {
        if state.stopping {
            return;
        }
        if let Some((key, work)) = state.queue.pop_front() {
            drop(state);
            finish(shared, key, work.run());
            state = lock(&shared.state);
            continue;
        }
        state.idle += 1;
        state = shared
            .work
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}
