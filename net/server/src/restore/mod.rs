//! `ringd restore`: a data directory from a snapshot file of ringd or etcd.
//!
//! The file is checked first, and nothing is made before that. Then an ordinary member without connections is
//! filled beside the place of the directory, under the directory's name with `.restoring` behind it. When its
//! checkpoint is published and its log closed, the directory gets its name, in one step. So there is a whole
//! directory under that name or none; what a crash leaves behind has the other name.

mod file;
mod flags;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bolt::ReadError;
use bolt::etcd::{KeyValue, Snapshot, State, SumError, Versions};
use engine::command::{AlarmKind, KEY_BYTES_MAX, LeaseId};
use engine::coordinator::RestoredState;
use engine::revision::Revision;
use engine::store::Event;
use reactor::{DriverChoice, RunOptions, World};

use crate::exit::Exit;
use crate::log::Logger;
use crate::memory;
use crate::node::{CheckpointOptions, Home, Node, NodeOptions, StoreSizes};
pub use file::SnapshotFile;
use flags::{Flags, USAGE};

/// Changes that are given to the shards together.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_EVENTS: usize = 4096;
/// Memory that the store is laid out for, unless there is less.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// No store reaches it: a later put has to have a revision, too.
const REVISION_MAX: i64 = i64::MAX / 2;

/// Runs the command with the arguments after its name. Answers what to say of the directory; the usage, if help is
/// wanted.
///
/// # Errors
/// Wrong arguments, a file that is no sound snapshot, a directory that is there already, a disk that fails. There is
/// no data directory then.
pub fn run(arguments: &[String]) -> Result<String, Exit> {
    let Some(flags) = Flags::parse(arguments)? else {
        return Ok(USAGE.to_owned());
    };
    check_place(&flags.data_dir)?;
    let mut snapshot = open(&flags)?;
    let state = snapshot.state().map_err(|error| unusable(&flags, &error))?;
    check_state(&state)?;
    let building = Building::begin(&flags.data_dir)?;
    let options = RunOptions {
        driver: DriverChoice::Auto,
        ..RunOptions::default()
    };
    let directory = building.directory.clone();
    let name = flags.data_dir.clone();
    let filled = reactor::run(&options, move |world| {
        fill(world, directory, flags, snapshot, state)
    });
    let filled = filled.map_err(|error| Exit::system(error.to_string()))??;
    building.finish(&name)?;
    let Filled { revision, records } = filled;
    let directory = name.display();
    Ok(format!(
        "restored revision {revision} with {records} versions into {directory}\n"
    ))
}

/// Refuses a data directory in which something is, or that cannot be replaced.
fn check_place(directory: &Path) -> Result<(), Exit> {
    let shown = directory.display();
    let found = match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| Exit::system(format!("data-dir \"{shown}\": {error}")))?,
    };
    let mut entries = match found.is_dir() {
        true => fs::read_dir(directory).ok(),
        false => None,
    };
    let is_empty = entries
        .as_mut()
        .is_some_and(|entries| entries.next().is_none());
    if !is_empty {
        return Err(Exit::unavailable(format!(
            "data-dir \"{shown}\" not empty or could not be read; name a directory that is not there, or an empty one"
        )));
    }
    let parent = fs::metadata(parent_of(directory));
    if parent.is_ok_and(|parent| parent.dev() != found.dev()) {
        return Err(Exit::unavailable(format!(
            "data-dir \"{shown}\" is a mount point, which cannot be replaced in one step; name a directory inside it"
        )));
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens the file and compares its hash.
fn open(flags: &Flags) -> Result<Snapshot<SnapshotFile>, Exit> {
    let path = flags.snapshot.display();
    let (file, bytes) = SnapshotFile::open(&flags.snapshot)
        .map_err(|error| Exit::data(format!("snapshot {path}: {error}")))?;
    let mut snapshot = Snapshot::open(file, bytes).map_err(|error| unusable(flags, &error))?;
    if flags.skip_hash_check {
        return Ok(snapshot);
    }
    snapshot.check_sum().map_err(|error| {
        let remedy = match &error {
            SumError::Missing => "; is it cut, or was it copied from a data directory? For that there is --skip-hash-check",
            SumError::Wrong { .. } => "; take another snapshot",
            SumError::Read(_) => "",
        };
        Exit::data(format!("snapshot {path}: {error}{remedy}"))
    })?;
    Ok(snapshot)
}

fn unusable(flags: &Flags, error: &ReadError) -> Exit {
    Exit::data(format!("snapshot {}: {error}", flags.snapshot.display()))
}

/// Refuses what this version cannot keep.
fn check_state(state: &State) -> Result<(), Exit> {
    if state.auth_enabled == Some(true) {
        return Err(Exit::data(
            "the snapshot is of a cluster with authentication, which this version has not: everybody could read and \
             write it; disable it there (etcdctl auth disable) and take another snapshot",
        ));
    }
    if !state.auth_users.is_empty() || !state.auth_roles.is_empty() {
        eprintln!(
            "ringd: the snapshot's {} users and {} roles are left out: this version has no authentication",
            state.auth_users.len(),
            state.auth_roles.len()
        );
    }
    Ok(())
}

/// A directory that is being built; removed when dropped before it has its name.
struct Building {
    directory: PathBuf,
    is_finished: bool,
}

impl Building {
    fn begin(data_dir: &Path) -> Result<Building, Exit> {
        let shown = data_dir.display();
        let Some(name) = data_dir.file_name() else {
            let what = format!("data-dir \"{shown}\" has no name; give the path of a directory");
            return Err(Exit::config(what));
        };
        let mut name: OsString = name.to_owned();
        name.push(".restoring");
        let directory = parent_of(data_dir).join(name);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Exit::unavailable(format!(
                "{} is there: another restore runs, or one has not finished; remove it if none runs",
                directory.display()
            )),
            _ => Exit::system(format!("cannot make {}: {error}", directory.display())),
        };
        fs::create_dir_all(parent_of(data_dir)).map_err(failed)?;
        // As etcd's data directories: nobody else reads it.
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).create(&directory).map_err(failed)?;
        Ok(Building {
            directory,
            is_finished: false,
        })
    }

    /// Gives the directory its name.
    fn finish(mut self, data_dir: &Path) -> Result<(), Exit> {
        let sync = |path: &Path| fs::File::open(path).and_then(|directory| directory.sync_all());
        sync(&self.directory)
            .and_then(|()| fs::rename(&self.directory, data_dir))
            .and_then(|()| sync(parent_of(data_dir)))
            .map_err(|error| {
                let (from, to) = (self.directory.display(), data_dir.display());
                Exit::system(format!("cannot rename {from} to {to}: {error}"))
            })?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            let directory = self.directory.display();
            eprintln!("ringd: cannot remove {directory}: {error}");
        }
    }
}

/// What was restored.
struct Filled {
    revision: i64,
    records: u64,
}

/// Makes a member in `directory` that has what the snapshot has.
async fn fill(
    world: World,
    directory: PathBuf,
    flags: Flags,
    mut snapshot: Snapshot<SnapshotFile>,
    state: State,
) -> Result<Filled, Exit> {
    let memory = memory::usable_bytes().unwrap_or(0).min(MEMORY_BYTES_MAX);
    let options = NodeOptions {
        name: flags.name.clone(),
        peer_urls: flags.peer_urls.clone(),
        quota_bytes: None,
        store: StoreSizes::for_memory(memory),
        checkpoints: CheckpointOptions::for_memory(memory),
        ..NodeOptions::new(directory, flags.identity)
    };
    let node = Node::open(world, options, Rc::new(Logger::silent())).await?;
    if let Err(what) = node.ready().await {
        return Err(node.failure().map_or(Exit::internal(what), Exit::from));
    }
    let Some(home) = node.home() else {
        unreachable!("a member on one core is at home")
    };
    let filled = fill_home(&home, &flags, &mut snapshot, &state).await?;
    node.stop().await;
    match node.failure() {
        None => Ok(filled),
        Some(failure) => Err(Exit::from(failure)),
    }
}

async fn fill_home(
    home: &Home,
    flags: &Flags,
    snapshot: &mut Snapshot<SnapshotFile>,
    state: &State,
) -> Result<Filled, Exit> {
    let leases = read_leases(flags, snapshot)?;
    if state.compact_revision() > 0 {
        home.restore_compaction(state.compact_revision()).await?;
    }
    let versions = snapshot.versions();
    let versions = versions.map_err(|error| unusable(flags, &error))?;
    let (last, records) = fill_versions(home, flags, versions).await?;
    let mut revision = last.max(state.revision_min());
    // A compaction that was begun is to be ended.
    let mut compacted = state.scheduled_compact_revision.unwrap_or(0);
    if let Some(by) = flags.bump_revision {
        let bumped = last.checked_add(by);
        revision = bumped.map(|bumped| bumped.max(revision)).ok_or_else(|| {
            let what = format!("--bump-revision={by}: revision {last} and that is too much");
            Exit::config(what)
        })?;
        compacted = revision;
    }
    if revision > REVISION_MAX {
        let what = format!(
            "revision {revision} leaves no room for further ones; at most {REVISION_MAX} can be restored"
        );
        return Err(Exit::config(what));
    }
    if compacted > state.compact_revision() {
        home.restore_compaction(compacted).await?;
    }
    let alarm = |alarm: &bolt::etcd::AlarmMember| {
        let kind = match alarm.alarm {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            _ => return None,
        };
        Some((alarm.member_id, kind))
    };
    let restored = RestoredState {
        revision,
        leases,
        alarms: state.alarms.iter().filter_map(alarm).collect(),
    };
    home.restore_state(restored).await?;
    Ok(Filled { revision, records })
}

fn read_leases(
    flags: &Flags,
    snapshot: &mut Snapshot<SnapshotFile>,
) -> Result<Vec<(LeaseId, i64)>, Exit> {
    let failed = |error: ReadError| unusable(flags, &error);
    let mut read = snapshot.leases().map_err(failed)?;
    let mut leases = Vec::new();
    while let Some(lease) = read.next_lease().map_err(failed)? {
        leases.push((LeaseId(lease.id), lease.ttl));
    }
    Ok(leases)
}

/// Gives all versions to the shards. Answers the last main revision, and how many there are.
async fn fill_versions(
    home: &Home,
    flags: &Flags,
    mut versions: Versions<'_, SnapshotFile>,
) -> Result<(i64, u64), Exit> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let (mut last, mut records) = (0, 0);
    loop {
        let version = versions.next_version();
        let Some((revision, version)) = version.map_err(|error| unusable(flags, &error))? else {
            break;
        };
        last = revision.main;
        if version.key.is_empty() {
            // A revision at which nothing changed.
            continue;
        }
        let sub = u32::try_from(revision.sub);
        let sub = sub.map_err(|_| {
            let what = format!("revision {} has more than 2^32 changes", revision.main);
            Exit::data(format!("snapshot {}: {what}", flags.snapshot.display()))
        })?;
        let revision_here = Revision {
            main: revision.main,
            sub,
        };
        records += 1;
        bytes += version.key.len() + version.value.len();
        batch.push(event(flags, revision_here, revision.tombstone, version)?);
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_EVENTS {
            bytes = 0;
            home.restore_events(std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.is_empty() {
        home.restore_events(batch).await?;
    }
    Ok((last, records))
}

fn event(
    flags: &Flags,
    revision: Revision,
    tombstone: bool,
    version: KeyValue,
) -> Result<Event, Exit> {
    if version.key.len() > KEY_BYTES_MAX {
        let file = flags.snapshot.display();
        let (bytes, main) = (version.key.len(), revision.main);
        return Err(Exit::data(format!(
            "snapshot {file}: a key of {bytes} bytes at revision {main}; keys have at most {KEY_BYTES_MAX} bytes here"
        )));
    }
    let kv = engine::command::KeyValue {
        key: version.key,
        value: version.value,
        create_revision: version.create_revision,
        mod_revision: revision.main,
        version: version.version,
        lease: LeaseId(version.lease),
    };
    Ok(Event {
        tombstone,
        revision,
        kv,
        prev_kv: None,
    })
}
