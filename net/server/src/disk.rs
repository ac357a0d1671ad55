//! The disk of one member: executes the I/O requests that the pure machines emit.
//!
//! Owns the open files of the data directory. Orders nothing by itself: a request starts when all
//! the requests it names in `after` have succeeded, and is dropped without an answer when one of them
//! failed. A write and the sync that follows it alone become one linked operation. Any number of
//! requests may be under way; what one ending costs does not depend on how many others wait.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::image::{PassingBytes, ReadRequest};
use reactor::{AlignedBuffer, Class, DetachedFile, File, OpenOptions, World, WriteError};
use wal::io::{Directory, FileName, IoFailure, IoId, IoOperation, IoOutput, IoRequest, Priority};

use crate::cores::Board;
use crate::local::Flag;
use crate::metrics::FileKind;
use crate::metrics::core::FileMetrics;

/// What became of one request.
pub type IoResult = Result<IoOutput, IoFailure>;

/// No descriptor is left in the process, or in the system.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
/// When an open is tried again that found no descriptor.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Executes requests in the data directory `root`.
#[derive(Clone)]
pub struct Disk(Rc<Shared>);

struct Shared {
    world: World,
    root: PathBuf,
    state: RefCell<State>,
    /// Raised when a completion waits to be taken.
    completed: Rc<Flag>,
    buffered: Cell<bool>,
    /// Requests that found no descriptor since it was last asked.
    lacked_descriptors: Cell<u64>,
    lock_holder: RefCell<Option<String>>,
    /// Where what is done here is counted, and for which core.
    counted: OnceCell<(Arc<Board>, u16)>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<FileName, File>,
    /// Those of them that were opened once more, for reads through the kernel's cache.
    passing: BTreeMap<FileName, File>,
    /// Requests that are started or wait; an id that is neither here nor in `failed` has succeeded.
    outstanding: BTreeSet<IoId>,
    failed: BTreeSet<IoId>,
    waiting: BTreeMap<IoId, Blocked>,
    /// Who waits for an outstanding request, in the order of submission.
    dependents: BTreeMap<IoId, Vec<IoId>>,
    completions: VecDeque<(IoId, IoResult)>,
}

/// A request that waits for others.
struct Blocked {
    request: IoRequest,
    /// Elements of its `after` that are outstanding.
    left: usize,
}

impl State {
    /// Takes a request that is to wait, or drops it if what it waits for has failed.
    fn block(&mut self, request: IoRequest) {
        let id = request.id;
        if request.after.iter().any(|id| self.failed.contains(id)) {
            self.outstanding.remove(&id);
            self.failed.insert(id);
            return;
        }
        let mut left = 0;
        for before in &request.after {
            if self.outstanding.contains(before) {
                left += 1;
                self.dependents.entry(*before).or_default().push(id);
            }
        }
        self.waiting.insert(id, Blocked { request, left });
    }

    /// Notes that `id` succeeded; answers what can start now.
    fn succeeded(&mut self, id: IoId) -> Vec<IoRequest> {
        self.outstanding.remove(&id);
        let mut ready = Vec::new();
        for dependent in self.dependents.remove(&id).unwrap_or_default() {
            let Some(blocked) = self.waiting.get_mut(&dependent) else {
                continue;
            };
            blocked.left -= 1;
            if blocked.left == 0 {
                let blocked = self.waiting.remove(&dependent);
                ready.extend(blocked.map(|blocked| blocked.request));
            }
        }
        ready
    }

    /// Notes that `id` failed; everything that waits for it, through others too, is dropped.
    fn failed(&mut self, id: IoId) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            self.outstanding.remove(&id);
            self.failed.insert(id);
            for dependent in self.dependents.remove(&id).unwrap_or_default() {
                if self.waiting.remove(&dependent).is_some() {
                    gone.push(dependent);
                }
            }
        }
    }
}

impl Disk {
    /// A disk whose completions raise `completed`.
    pub fn new(world: World, root: PathBuf, completed: Rc<Flag>) -> Disk {
        Disk(Rc::new(Shared {
            world,
            root,
            state: RefCell::default(),
            completed,
            buffered: Cell::new(false),
            lacked_descriptors: Cell::new(0),
            lock_holder: RefCell::default(),
            counted: OnceCell::new(),
        }))
    }

    /// Counts what is done from now on, as that of `core`.
    pub fn count_for(&self, board: Arc<Board>, core: u16) {
        self.0.counted.get_or_init(|| (board, core));
    }

    fn count(&self, file: &FileName, priority: Priority, note: impl FnOnce(&FileMetrics)) {
        let Some((board, core)) = self.0.counted.get() else {
            return;
        };
        let kind = match file {
            FileName::Segment { .. } if priority == Priority::Background => FileKind::LogAhead,
            FileName::Segment { .. } => FileKind::Log,
            FileName::Pages { .. } | FileName::Events { .. } => FileKind::Store,
            FileName::Superblock | FileName::SuperblockTemporary => FileKind::Superblock,
        };
        note(board.metrics.core(*core).files(kind));
    }

    /// Whether some file could not be opened for direct I/O and is served buffered.
    pub fn is_buffered(&self) -> bool {
        self.0.buffered.get()
    }

    /// How often a file could not be opened since the last call because the process or the system has no
    /// descriptors left. It is tried again until there are some.
    pub fn take_lacked_descriptors(&self) -> u64 {
        self.0.lacked_descriptors.take()
    }

    /// Who holds the file that could not be locked, if that happened.
    pub fn lock_holder(&self) -> Option<String> {
        self.0.lock_holder.borrow().clone()
    }

    /// Takes requests over; those whose dependencies are met start at once.
    pub fn submit(&self, requests: &mut Vec<IoRequest>) {
        let mut requests = requests.drain(..).peekable();
        while let Some(request) = requests.next() {
            self.0.state.borrow_mut().outstanding.insert(request.id);
            let pair = requests.next_if(|next| is_sync_of(next, &request));
            if let Some(sync) = &pair {
                self.0.state.borrow_mut().outstanding.insert(sync.id);
            }
            match (self.is_ready(&request), pair) {
                (true, Some(sync)) => self.start_write_and_sync(request, sync.id),
                (true, None) => self.start(request),
                (false, pair) => {
                    let mut state = self.0.state.borrow_mut();
                    state.block(request);
                    if let Some(sync) = pair {
                        state.block(sync);
                    }
                }
            }
        }
    }

    /// The next completion, in the order in which they happened.
    pub fn next_completion(&self) -> Option<(IoId, IoResult)> {
        self.0.state.borrow_mut().completions.pop_front()
    }

    fn is_ready(&self, request: &IoRequest) -> bool {
        let state = self.0.state.borrow();
        request
            .after
            .iter()
            .all(|id| !state.outstanding.contains(id) && !state.failed.contains(id))
    }

    fn start(&self, request: IoRequest) {
        let disk = self.clone();
        let class = match request.priority {
            Priority::Urgent => Class::Consensus,
            Priority::Background => Class::Background,
        };
        drop(self.0.world.spawn(class, async move {
            let result = match may_lack_descriptors(&request.operation) {
                true => disk.execute_with_descriptors(&request).await,
                false => disk.execute(request.operation, request.priority).await,
            };
            disk.finish(request.id, result);
        }));
    }

    /// Executes what opens a file on the way, again and again until there is a descriptor for it: nothing has
    /// happened when there is none.
    async fn execute_with_descriptors(&self, request: &IoRequest) -> IoResult {
        loop {
            let operation = request.operation.clone();
            match self.execute(operation, request.priority).await {
                Err(IoFailure::Other {
                    errno: EMFILE | ENFILE,
                    ..
                }) => {
                    let count = self.0.lacked_descriptors.get();
                    self.0.lacked_descriptors.set(count + 1);
                    self.0.world.sleep(DESCRIPTOR_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    fn start_write_and_sync(&self, write: IoRequest, sync: IoId) {
        let disk = self.clone();
        drop(self.0.world.spawn(Class::Consensus, async move {
            let IoOperation::Write { file, offset, data } = write.operation else {
                return;
            };
            let name = file;
            let file = match disk.file(&name) {
                Ok(file) => file,
                Err(error) => return disk.finish_pair(write.id, sync, Err(error), Ok(())),
            };
            let began = disk.0.world.now();
            let buffer = disk.buffer_of(&data);
            match file.write_at_and_sync(buffer, offset).await {
                Ok(buffer) => {
                    disk.count(&name, write.priority, |counts| {
                        counts.written_bytes.add(data.len() as u64);
                        counts.flushes.observe_time(disk.0.world.now().since(began));
                    });
                    disk.0.world.recycle(buffer);
                    disk.finish_pair(write.id, sync, Ok(()), Ok(()));
                }
                Err(WriteError::Write { error, .. }) => {
                    disk.finish_pair(write.id, sync, Err(failure(error)), Ok(()));
                }
                Err(WriteError::Sync { error, .. }) => {
                    disk.finish_pair(write.id, sync, Ok(()), Err(failure(error)));
                }
            }
        }));
    }

    /// Ends a linked pair; a sync whose write failed is dropped without an answer.
    fn finish_pair(
        &self,
        write: IoId,
        sync: IoId,
        written: Result<(), IoFailure>,
        synced: Result<(), IoFailure>,
    ) {
        let was_written = written.is_ok();
        if !was_written {
            self.0.state.borrow_mut().failed(sync);
        }
        self.finish(write, written.map(|()| IoOutput::None));
        if was_written {
            self.finish(sync, synced.map(|()| IoOutput::None));
        }
    }

    fn finish(&self, id: IoId, result: IoResult) {
        let ready = {
            let mut state = self.0.state.borrow_mut();
            let ready = match &result {
                Ok(_) => state.succeeded(id),
                Err(_) => {
                    state.failed(id);
                    Vec::new()
                }
            };
            state.completions.push_back((id, result));
            ready
        };
        for request in ready {
            self.start(request);
        }
        self.0.completed.raise();
    }

    /// Reads from an open file, beside all requests. A short answer means that the file ends there.
    ///
    /// # Errors
    /// As for [`IoOperation::Read`].
    pub async fn read(&self, file: &FileName, offset: u64, len: u64) -> Result<Vec<u8>, IoFailure> {
        let name = file;
        let file = self.file(name)?;
        let bytes = file.read_at(len as usize, offset).await.map_err(failure)?;
        self.count_read(name, bytes.len());
        Ok(bytes)
    }

    fn count_read(&self, file: &FileName, bytes: usize) {
        self.count(file, Priority::Urgent, |counts| {
            counts.reads.increment();
            counts.read_bytes.add(bytes as u64);
        });
    }

    /// Reads the bytes that a large scan wants, through the kernel's cache: a scan reads in an order in which
    /// the disk is slow, and nothing of it stays in this process.
    ///
    /// # Errors
    /// As for [`IoOperation::Read`].
    pub async fn read_passing(
        &self,
        request: &ReadRequest,
        wanted: PassingBytes,
    ) -> Result<Bytes, IoFailure> {
        let start = request.offset + u64::from(wanted.skip);
        let len = wanted.len as usize;
        let (file, offset, around) = match self.passing_file(&request.file).await? {
            Some(file) => (file, start, len),
            None => {
                let file = self.file(&request.file)?;
                (file, request.offset, request.len as usize)
            }
        };
        let world = &self.0.world;
        let buffer = file.read_into(world.buffer(around), offset).await;
        let buffer = buffer.map_err(failure)?;
        self.count_read(&request.file, buffer.len());
        let from = (start - offset) as usize;
        let to = (from + len).min(buffer.len());
        let bytes = Bytes::copy_from_slice(&buffer[from.min(to)..to]);
        world.recycle(buffer);
        Ok(bytes)
    }

    /// The file as one whose reads go through the kernel's cache. None if it cannot be had, for lack of
    /// descriptors perhaps.
    async fn passing_file(&self, name: &FileName) -> Result<Option<File>, IoFailure> {
        let file = self.file(name)?;
        if !file.is_direct() {
            return Ok(Some(file));
        }
        if let Some(file) = self.0.state.borrow().passing.get(name) {
            return Ok(Some(file.clone()));
        }
        let options = OpenOptions {
            read: true,
            ..OpenOptions::default()
        };
        let Ok(opened) = self.0.world.open(&self.path(name), options).await else {
            return Ok(None);
        };
        let mut state = self.0.state.borrow_mut();
        let is_open = state.files.contains_key(name);
        if is_open {
            state.passing.entry(*name).or_insert(opened.clone());
        }
        Ok(is_open.then_some(opened))
    }

    fn file(&self, name: &FileName) -> Result<File, IoFailure> {
        self.0
            .state
            .borrow()
            .files
            .get(name)
            .cloned()
            .ok_or(IoFailure::NotFound)
    }

    fn path(&self, name: &FileName) -> PathBuf {
        self.0.root.join(name.path())
    }

    fn directory(&self, directory: &Directory) -> PathBuf {
        self.0.root.join(directory.path())
    }

    async fn execute(&self, operation: IoOperation, priority: Priority) -> IoResult {
        let world = &self.0.world;
        match operation {
            IoOperation::CreateDirectory(directory) => {
                world
                    .create_dir_all(&self.directory(&directory))
                    .await
                    .map_err(failure)?;
                Ok(IoOutput::None)
            }
            IoOperation::List(directory) => {
                match world.list_dir(&self.directory(&directory)).await {
                    Ok(names) => Ok(IoOutput::Listing(names)),
                    Err(error) => Err(failure(error)),
                }
            }
            IoOperation::Create { file, len } => {
                let options = OpenOptions {
                    create_new: true,
                    len_to_reserve: Some(len),
                    ..data_file()
                };
                self.open(&file, options).await?;
                Ok(IoOutput::None)
            }
            IoOperation::Open { file } => {
                let length = self.open(&file, data_file()).await?;
                Ok(IoOutput::Length(length))
            }
            IoOperation::Read { file, offset, len } => {
                let bytes = self.read(&file, offset, len).await?;
                Ok(IoOutput::Bytes(bytes))
            }
            IoOperation::Write { file, offset, data } => {
                let name = file;
                let file = self.file(&name)?;
                let buffer = self.buffer_of(&data);
                self.recycled(file.write_at(buffer, offset).await)?;
                self.count(&name, priority, |counts| {
                    counts.written_bytes.add(data.len() as u64)
                });
                Ok(IoOutput::None)
            }
            IoOperation::Sync { file } => {
                let began = world.now();
                self.file(&file)?.sync_data().await.map_err(failure)?;
                let took = world.now().since(began);
                self.count(&file, priority, |counts| counts.flushes.observe_time(took));
                Ok(IoOutput::None)
            }
            IoOperation::SyncDirectory(directory) => {
                world
                    .sync_dir(&self.directory(&directory))
                    .await
                    .map_err(failure)?;
                Ok(IoOutput::None)
            }
            IoOperation::Rename { from, to } => self.rename(from, to).await,
            IoOperation::Delete { file } => {
                self.forget(&file);
                world
                    .remove_file(&self.path(&file))
                    .await
                    .map_err(failure)?;
                Ok(IoOutput::None)
            }
        }
    }

    fn forget(&self, file: &FileName) {
        let mut state = self.0.state.borrow_mut();
        state.files.remove(file);
        state.passing.remove(file);
    }

    fn buffer_of(&self, data: &[u8]) -> AlignedBuffer {
        let mut buffer = self.0.world.buffer(data.len());
        buffer.copy_from_slice(data);
        buffer
    }

    fn recycled<E: Into<io::Error>>(
        &self,
        written: Result<AlignedBuffer, E>,
    ) -> Result<(), IoFailure> {
        match written {
            Ok(buffer) => {
                self.0.world.recycle(buffer);
                Ok(())
            }
            Err(error) => Err(failure(error.into())),
        }
    }

    /// Whether nothing that `shard` asked for is under way, or waits to be taken.
    pub fn is_idle(&self, shard: u16) -> bool {
        let state = self.0.state.borrow();
        let of_shard = |id: &IoId| id.machine().as_shard() == Some(shard);
        !state.outstanding.iter().any(of_shard)
            && !state.completions.iter().any(|(id, _)| of_shard(id))
    }

    /// Takes the files of `shard` from this core, with their locks. Nothing if one of them is in use.
    pub fn detach(&self, shard: u16) -> Option<Vec<(FileName, DetachedFile)>> {
        let mut state = self.0.state.borrow_mut();
        // The next core opens its own.
        let stays = |name: &FileName, _: &mut File| name.directory() != Directory::Shard(shard);
        state.passing.retain(stays);
        let of_shard = |name: &&FileName| name.directory() == Directory::Shard(shard);
        let names: Vec<FileName> = state.files.keys().filter(of_shard).copied().collect();
        let mut detached = Vec::new();
        for name in names {
            match state.files.remove(&name).map(File::detach) {
                Some(Ok(file)) => detached.push((name, file)),
                Some(Err(file)) => {
                    state.files.insert(name, file);
                    drop(state);
                    self.attach(detached);
                    return None;
                }
                None => unreachable!("{name:?} is open"),
            }
        }
        Some(detached)
    }

    /// Takes in files that another core has detached.
    pub fn attach(&self, files: Vec<(FileName, DetachedFile)>) {
        let attach = |(name, file)| (name, self.0.world.attach_file(file));
        let files = files.into_iter().map(attach);
        self.0.state.borrow_mut().files.extend(files);
    }

    async fn open(&self, name: &FileName, options: OpenOptions) -> Result<u64, IoFailure> {
        let file = match self.0.world.open(&self.path(name), options).await {
            Ok(file) => file,
            Err(error) => {
                if error.kind() == io::ErrorKind::ResourceBusy {
                    *self.0.lock_holder.borrow_mut() = Some(error.to_string());
                }
                return Err(failure(error));
            }
        };
        if !file.is_direct() {
            self.0.buffered.set(true);
        }
        let length = file.len().await.map_err(failure)?;
        self.0.state.borrow_mut().files.insert(*name, file);
        Ok(length)
    }

    async fn rename(&self, from: FileName, to: FileName) -> IoResult {
        let paths = (self.path(&from), self.path(&to));
        self.0
            .world
            .rename(&paths.0, &paths.1)
            .await
            .map_err(failure)?;
        let mut state = self.0.state.borrow_mut();
        state.passing.remove(&from);
        if let Some(file) = state.files.remove(&from) {
            state.files.insert(to, file);
        }
        Ok(IoOutput::None)
    }
}

/// Whether a running member has this executed, and a file is opened for it.
fn may_lack_descriptors(operation: &IoOperation) -> bool {
    matches!(
        operation,
        IoOperation::Create { .. } | IoOperation::SyncDirectory(_)
    )
}

/// How a file of the data directory is opened.
fn data_file() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        direct: true,
        lock: true,
        ..OpenOptions::default()
    }
}

/// Whether `sync` is the sync of `write`'s file that waits for that write alone.
fn is_sync_of(sync: &IoRequest, write: &IoRequest) -> bool {
    match (&write.operation, &sync.operation) {
        (IoOperation::Write { file, .. }, IoOperation::Sync { file: synced }) => {
            file == synced && sync.after.len() == 1 && sync.after[0] == write.id
        }
        _ => false,
    }
}

fn failure(error: io::Error) -> IoFailure {
    match error.kind() {
        io::ErrorKind::NotFound => IoFailure::NotFound,
        io::ErrorKind::AlreadyExists => IoFailure::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoFailure::NoSpace,
        io::ErrorKind::ResourceBusy => IoFailure::Locked,
        _ => IoFailure::Other {
            errno: error.raw_os_error().unwrap_or(0),
            text: error.to_string(),
        },
    }
}
