//! From a data directory to a running member.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::checkpoint::{CheckpointError, Section};
use engine::coordinator::{Coordinator, CoordinatorConfig};
use engine::image::{ShardOpenError, ShardOpening};
use engine::lease_clock::LeaseClock;
use engine::shard::Shard;
use engine::store::{MissingHook, StoreConfig};
use raft::{Configuration, EntryKind, EntryMeta, LogIndex, MemberId, Position, Raft, Restored};
use reactor::World;
use wal::{NewDirectory, OpenError, Opened, Opening, Superblock, Wal};

use super::checkpoints::{CheckpointOptions, CheckpointStatus, Checkpoints};
use super::connections::Connections;
use super::dispatch::Dispatch;
use super::home::HomeParts;
use super::lists::{Lists, WHOLE_BYTES_MAX};
use super::moves::Moves;
use super::scrub::Scrub;
use super::sequencer::{Parts, Sequencer};
use super::snapshots::Snapshots;
use super::space::Space;
use super::upkeep::{Reclaim, Upkeep};
use super::watches::Watches;
use super::{Inner, Node};
use crate::config::AutoCompaction;
use crate::cores::call::{Call, CallsFrom, CountedCalls, Facts, Links, Response, Waiter};
use crate::cores::placement::Placement;
use crate::cores::{self, Board, HOME, Seat};
use crate::disk::Disk;
use crate::identity::Identity;
use crate::local::{Changed, Flag};
use crate::log::Logger;
use crate::planted::{Bug, planted};
use crate::shards::{Place, Shards};

/// Shards of a new data directory.
const SHARDS: u8 = 4;

/// Settings of a member; what a data directory already fixes (ids, salt, shards) comes from there.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Ids for a new directory.
    pub identity: Identity,
    /// Refuse to create a new directory.
    pub must_exist: bool,
    /// Human name.
    pub name: String,
    /// URLs announced to clients.
    pub client_urls: Vec<String>,
    /// URLs announced to peers.
    pub peer_urls: Vec<String>,
    /// Size at which NOSPACE is raised.
    pub quota_bytes: Option<u64>,
    /// Election timeout.
    pub election_timeout: Duration,
    /// Heartbeat interval.
    pub heartbeat_interval: Duration,
    /// A request without an outcome is answered after this.
    pub request_timeout: Duration,
    /// Period of watch progress notes.
    pub watch_progress_interval: Duration,
    /// Entries on their way to the disk before the next one grows instead.
    pub entries_in_flight_max: u64,
    /// Sizes of the log.
    pub log: wal::Config,
    /// Sizes of the store.
    pub store: StoreSizes,
    /// When checkpoints are made.
    pub checkpoints: CheckpointOptions,
    /// Where the shards are, on several cores.
    pub placement: Placement,
    /// What is compacted without being asked.
    pub auto_compaction: Option<AutoCompaction>,
    /// How long it takes to read everything once in search of damage; zero is never.
    pub scrub_interval: Duration,
    /// An entry that takes longer from its proposal to its answers, or a read that takes longer, is logged.
    pub slow_apply: Duration,
    /// A call that takes longer from its arrival to its answer is logged.
    pub slow_call: Duration,
    /// Answers to ranges with more bytes of keys and values than this are not held in memory.
    pub whole_bytes_max: usize,
    /// Declares pages and values missing, in tests.
    pub missing: Option<MissingHook>,
    /// Longest artificial load, in tests.
    pub load_delay_max: Duration,
}

impl NodeOptions {
    /// The defaults of a member in `data_dir`.
    pub fn new(data_dir: PathBuf, identity: Identity) -> NodeOptions {
        NodeOptions {
            data_dir,
            identity,
            must_exist: false,
            name: "default".to_owned(),
            client_urls: Vec::new(),
            peer_urls: Vec::new(),
            quota_bytes: Some(crate::config::QUOTA_BYTES_DEFAULT),
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            request_timeout: Duration::from_secs(7),
            watch_progress_interval: Duration::from_secs(600),
            entries_in_flight_max: 2,
            log: wal::Config::default(),
            store: StoreSizes::default(),
            checkpoints: CheckpointOptions::default(),
            placement: Placement::default(),
            auto_compaction: None,
            scrub_interval: Duration::ZERO,
            slow_apply: Duration::from_millis(100),
            slow_call: Duration::from_millis(300),
            whole_bytes_max: WHOLE_BYTES_MAX,
            missing: None,
            load_delay_max: Duration::ZERO,
        }
    }

    /// The shortest lease: one and a half election timeouts, in whole seconds.
    pub fn lease_ttl_min(&self) -> i64 {
        (self.election_timeout * 3 / 2).as_millis().div_ceil(1000) as i64
    }
}

/// Sizes of a member's store. Memory is for all shards together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSizes {
    /// Pages in memory.
    pub page_cache_bytes: u64,
    /// Newest events in memory.
    pub tail_bytes_max: u64,
    /// Records that were read back, in memory.
    pub value_cache_bytes: u64,
    /// The first event segment of a shard.
    pub segment_bytes_first: u32,
    /// Event segments double up to this.
    pub segment_bytes_max: u32,
    /// Events are written in pieces of this size.
    pub piece_bytes: u32,
}

impl StoreSizes {
    const PAGE_CACHE_BYTES_MIN: u64 = 64 << 20;
    const TAIL_BYTES_MAX: u64 = 24 << 20;
    const VALUE_CACHE_BYTES_MIN: u64 = 32 << 20;

    /// For a process that may use so much memory: half of it for pages, an eighth for values.
    pub fn for_memory(memory_bytes: u64) -> StoreSizes {
        let segments = StoreConfig::new(0, 0);
        StoreSizes {
            page_cache_bytes: (memory_bytes / 2).max(StoreSizes::PAGE_CACHE_BYTES_MIN),
            tail_bytes_max: StoreSizes::TAIL_BYTES_MAX,
            value_cache_bytes: (memory_bytes / 8).max(StoreSizes::VALUE_CACHE_BYTES_MIN),
            segment_bytes_first: segments.segment_bytes_first,
            segment_bytes_max: segments.segment_bytes_max,
            piece_bytes: segments.piece_bytes,
        }
    }

    /// The settings of one of `shards` shards.
    fn of_shard(&self, shard: u16, shards: u16, salt: u64) -> StoreConfig {
        let shards = u64::from(shards);
        StoreConfig {
            segment_bytes_first: self.segment_bytes_first,
            segment_bytes_max: self.segment_bytes_max,
            piece_bytes: self.piece_bytes,
            tail_bytes_max: self.tail_bytes_max / shards,
            value_cache_bytes: self.value_cache_bytes / shards,
            page_cache_bytes: self.page_cache_bytes / shards,
            ..StoreConfig::new(shard, salt)
        }
    }
}

impl Default for StoreSizes {
    /// For a process of which nothing is known.
    fn default() -> Self {
        StoreSizes::for_memory(0)
    }
}

/// Why a member did not start.
#[derive(Debug)]
pub enum StartError {
    /// The data directory cannot be used.
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The log cannot be opened.
    Log {
        /// The data directory.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// What the superblock says of the checkpoint cannot be used.
    Checkpoint {
        /// The data directory.
        path: PathBuf,
        /// Which checkpoint.
        id: u64,
        /// Why.
        error: CheckpointError,
    },
    /// The checkpoint is one of another number of shards.
    ShardCount {
        /// The data directory.
        path: PathBuf,
        /// Shards of the directory.
        shards: u16,
        /// Shards of the checkpoint.
        found: usize,
    },
    /// The image of a shard cannot be opened.
    Shard {
        /// The data directory.
        path: PathBuf,
        /// Why.
        error: ShardOpenError,
    },
    /// Another process holds the directory.
    Locked {
        /// The data directory.
        path: PathBuf,
        /// Who.
        what: String,
    },
    /// The directory belongs to another member.
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who asked.
        expected: Identity,
    },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Directory { path, what } => {
                write!(f, "data directory {}: {what}", path.display())
            }
            StartError::Log { path, error } => {
                write!(f, "data directory {}: {error}", path.display())
            }
            StartError::Checkpoint { path, id, error } => {
                let remedy = match error {
                    CheckpointError::NewerVersion { .. } => "",
                    _ => "; restore this member from another one",
                };
                write!(
                    f,
                    "data directory {}: superblock, checkpoint {id}: {error}{remedy}",
                    path.display()
                )
            }
            StartError::ShardCount {
                path,
                shards,
                found,
            } => write!(
                f,
                "data directory {}: superblock: the checkpoint has {found} shards and the directory \
                 {shards}; restore this member from another one",
                path.display()
            ),
            StartError::Shard { path, error } => {
                write!(f, "data directory {}: {error}", path.display())
            }
            StartError::Locked { path, what } => {
                write!(
                    f,
                    "data directory {} is in use by another process: {what}; stop it, or choose another \
                     --data-dir",
                    path.display()
                )
            }
            StartError::Foreign {
                path,
                found,
                expected,
            } => write!(
                f,
                "data directory {} belongs to member {:x} of cluster {:x}, but the flags name member \
                 {:x} of cluster {:x}; check --initial-advertise-peer-urls and --initial-cluster-token",
                path.display(),
                found.member_id,
                found.cluster_id,
                expected.member_id,
                expected.cluster_id
            ),
        }
    }
}

impl std::error::Error for StartError {}

impl Node {
    /// Opens the data directory, or creates it, and starts the member on this core alone. It answers once
    /// [`Node::ready`] returns.
    ///
    /// # Errors
    /// See [`StartError`]; nothing was changed but what recovery may repair.
    pub async fn open(
        world: World,
        options: NodeOptions,
        logger: Rc<Logger>,
    ) -> Result<Node, StartError> {
        let mut seats = cores::seats(1, cores::LINK_CAPACITY);
        let Some(seat) = seats.pop() else {
            unreachable!("one seat was asked for")
        };
        Node::open_home(world, seat, options, logger).await
    }

    /// As [`Node::open`], for the first of several cores. The others [`Node::join`] with their seats.
    ///
    /// # Errors
    /// See [`StartError`]; the other cores are told that there is no home.
    ///
    /// # Panics
    /// If the seat is not that of home.
    pub async fn open_home(
        world: World,
        seat: Seat,
        options: NodeOptions,
        logger: Rc<Logger>,
    ) -> Result<Node, StartError> {
        assert_eq!(seat.core(), HOME, "the first core opens");
        let work = Rc::new(Flag::default());
        let path = options.data_dir.clone();
        create_directory(&world, &path)
            .await
            .map_err(|error| StartError::Directory {
                path: path.clone(),
                what: error.to_string(),
            })?;
        let disk = Disk::new(world.clone(), path.clone(), work.clone());
        let create = (!options.must_exist).then(|| NewDirectory {
            cluster_id: options.identity.cluster_id,
            member_id: options.identity.member_id,
            salt: world.random_u64(),
            shards: SHARDS,
        });
        let opening = Opening::new(options.log.clone(), create);
        let mut opened = run_opening(&disk, opening, &work)
            .await
            .map_err(|error| match error {
                OpenError::Locked { .. } => StartError::Locked {
                    path: path.clone(),
                    what: disk.lock_holder().unwrap_or_else(|| error.to_string()),
                },
                OpenError::Missing { .. } if options.must_exist => StartError::Directory {
                    path: path.clone(),
                    what: "--initial-cluster-state=existing is for a directory that holds a member's data, \
                           and there is none here; use --initial-cluster-state=new for a new cluster \
                           (joining one is not supported yet)"
                        .to_owned(),
                },
                error => StartError::Log {
                    path: path.clone(),
                    error,
                },
            })?;
        if planted(Bug::IgnoreTail) {
            opened.entries.pop();
        }
        if disk.is_buffered() {
            logger.warn(
                "the filesystem has no direct I/O: the log is written through the page cache",
                &[("data-dir", path.display().to_string().into())],
            );
        }
        check_owner(&options, &opened.superblock)?;
        log_recovery(&logger, &opened);
        let state = restore(&world, &options, &disk, &mut opened, &work).await?;
        let node = Node::assemble(world, seat, options, logger, disk, opened, state, work);
        Ok(node)
    }

    /// Makes this core one of a member that its first core opens. `None` if that did not succeed.
    pub async fn join(
        world: World,
        seat: Seat,
        options: NodeOptions,
        logger: Rc<Logger>,
    ) -> Option<Node> {
        let core = seat.core();
        let callees = seat.callees.into_iter().flatten();
        let counted = CountedCalls {
            core,
            board: seat.board.clone(),
            clock: world.clone(),
        };
        let (links, mut callees) = Links::new(seat.callers, seat.patient, callees, counted);
        let home = callees.first_mut()?;
        if !std::future::poll_fn(|context| home.poll_requests(context)).await {
            return None;
        }
        let Some((answer, Call::Begin(facts))) = home.next_request() else {
            unreachable!("home says first that the member is open")
        };
        answer.answer(Response::Done);
        let work = Rc::new(Flag::default());
        let place = Place {
            world: world.clone(),
            core,
            board: seat.board.clone(),
            disk: Disk::new(world.clone(), options.data_dir.clone(), work.clone()),
        };
        place.disk.count_for(seat.board.clone(), core);
        let shards = Shards::new(place, facts.shards, Vec::new(), work.clone());
        let common = Common {
            world,
            options,
            logger,
            board: seat.board,
            links: Rc::new(links),
            shards,
            work,
        };
        Some(Node::begin(common, core, facts.identity, None, callees))
    }

    #[expect(clippy::too_many_arguments)]
    fn assemble(
        world: World,
        seat: Seat,
        options: NodeOptions,
        logger: Rc<Logger>,
        disk: Disk,
        opened: Opened,
        state: RestoredState,
        work: Rc<Flag>,
    ) -> Node {
        let superblock = &opened.superblock;
        let identity = Identity {
            cluster_id: superblock.cluster_id,
            member_id: superblock.member_id,
        };
        let RestoredState {
            shards,
            coordinator,
        } = state;
        let callees = seat.callees.into_iter().flatten().chain(seat.patients);
        let counted = CountedCalls {
            core: HOME,
            board: seat.board.clone(),
            clock: world.clone(),
        };
        let (links, callees) = Links::new(seat.callers, None, callees, counted);
        disk.count_for(seat.board.clone(), HOME);
        let place = Place {
            world: world.clone(),
            core: HOME,
            board: seat.board.clone(),
            disk: disk.clone(),
        };
        let common = Common {
            shards: Shards::new(place, coordinator.shards(), shards, work.clone()),
            links: Rc::new(links),
            board: seat.board,
            world,
            options,
            logger,
            work,
        };
        let parts = HomeParts::new(&common, identity, disk, opened, coordinator);
        let facts = Facts {
            identity,
            shards: common.shards.count(),
        };
        for core in common.links.others() {
            common.links.call(core, Waiter::Nobody, Call::Begin(facts));
        }
        Node::begin(common, HOME, identity, Some(Rc::new(parts)), callees)
    }

    /// Puts the node of a core together and starts its tasks.
    fn begin(
        common: Common,
        core: u16,
        identity: Identity,
        home: Option<Rc<HomeParts>>,
        callees: Vec<CallsFrom>,
    ) -> Node {
        let Common {
            world,
            options,
            logger,
            board,
            links,
            shards,
            work,
        } = common;
        shards.delay_loads(options.load_delay_max);
        if options.missing.is_some() {
            shards.expect_declared_missing();
        }
        let load = shards.population().clone();
        let visible = &board.visible;
        let watches = Watches::new(visible.revision(), visible.compact_revision());
        let node = Node(Rc::new(Inner {
            world,
            options,
            identity,
            logger,
            core,
            board,
            links,
            shards,
            work,
            load,
            changed: Changed::default(),
            connections: Connections::default(),
            watches,
            lists: Lists::of_core(core),
            snapshots: Snapshots::default(),
            upkeep: Upkeep::default(),
            requests: Cell::new(0),
            home,
        }));
        node.start_links(callees);
        node.start();
        node
    }
}

/// What the parts of a node on one core share.
struct Common {
    world: World,
    options: NodeOptions,
    logger: Rc<Logger>,
    board: Arc<Board>,
    links: Rc<Links>,
    shards: Rc<Shards>,
    work: Rc<Flag>,
}

impl HomeParts {
    /// Of a member whose log was opened and whose state was restored.
    fn new(
        common: &Common,
        identity: Identity,
        disk: Disk,
        opened: Opened,
        coordinator: Coordinator,
    ) -> HomeParts {
        let superblock = &opened.superblock;
        let status = CheckpointStatus {
            id: superblock.checkpoint_id,
            index: superblock.checkpoint_index.0,
            count: 0,
        };
        let checkpoints = Checkpoints::new(status, superblock.checkpoint_ids_reserved);
        let now = common.world.now();
        let mut leases = LeaseClock::new();
        for (id, ttl) in coordinator.leases().iter() {
            leases.granted(id, ttl, now.nanos());
        }
        let raft = restored_raft(&common.world, &common.options, &opened, identity);
        let term = opened.term.0;
        let visible = &common.board.visible;
        visible.publish(coordinator.applied(), coordinator.apply_hash());
        visible.set_compact_revision(coordinator.compact_revision());
        visible.set_role(term, false);
        let dispatch = Rc::new(Dispatch::new(
            common.shards.clone(),
            common.links.clone(),
            common.board.clone(),
            common.work.clone(),
        ));
        let sequencer = Sequencer::new(Parts {
            raft,
            wal: opened.wal,
            entries: opened.entries,
            coordinator,
            dispatch: dispatch.clone(),
            board: common.board.clone(),
            disk,
            clock: common.world.clone(),
            member_id: identity.member_id,
            // Later lives start above what earlier ones can have reached.
            first_request_id: term << 40,
            entries_in_flight_max: common.options.entries_in_flight_max,
        });
        let heralds = (0..common.board.cores()).map(|_| Cell::default());
        HomeParts {
            sequencer: RefCell::new(sequencer),
            dispatch,
            submitted: Flag::default(),
            leases: RefCell::new(leases),
            lease_work: Flag::default(),
            checkpoints,
            space: Space::default(),
            reclaim: Reclaim::default(),
            scrub: Scrub::default(),
            moves: Moves::default(),
            slow_entries: Default::default(),
            heralds: heralds.collect(),
        }
    }
}

/// Refuses a directory of another member.
fn check_owner(options: &NodeOptions, superblock: &Superblock) -> Result<(), StartError> {
    let found = Identity {
        cluster_id: superblock.cluster_id,
        member_id: superblock.member_id,
    };
    if found == options.identity {
        return Ok(());
    }
    Err(StartError::Foreign {
        path: options.data_dir.clone(),
        found,
        expected: options.identity,
    })
}

/// The state machine at the checkpoint.
struct RestoredState {
    shards: Vec<Shard>,
    coordinator: Coordinator,
}

/// Opens the images that the superblock names, and sweeps away what stands in the shards' directories
/// beside them.
async fn restore(
    world: &World,
    options: &NodeOptions,
    disk: &Disk,
    opened: &mut Opened,
    work: &Rc<Flag>,
) -> Result<RestoredState, StartError> {
    let path = || options.data_dir.clone();
    let (id, salt) = (opened.superblock.checkpoint_id, opened.superblock.salt);
    let shards = u16::from(opened.superblock.shards);
    let config = CoordinatorConfig { shards };
    let section = match id {
        0 => None,
        id => match Section::decode(&opened.superblock.section) {
            Ok(section) => Some(section),
            Err(error) => {
                let path = path();
                return Err(StartError::Checkpoint { path, id, error });
            }
        },
    };
    let found = section.as_ref().map(|section| section.manifests.len());
    if let Some(found) = found.filter(|found| *found != usize::from(shards)) {
        let path = path();
        return Err(StartError::ShardCount {
            path,
            shards,
            found,
        });
    }
    let openings = (0..shards).map(|shard| {
        let config = StoreConfig {
            missing: options.missing,
            ..options.store.of_shard(shard, shards, salt)
        };
        let image = |section: &Section| (id as u32, section.manifests[usize::from(shard)]);
        ShardOpening::new(config, section.as_ref().map(image))
    });
    let images = open_shards(world, disk, &mut opened.wal, openings.collect(), work);
    let images = images.await.map_err(|error| StartError::Shard {
        path: path(),
        error,
    })?;
    let (shards, attachments): (Vec<Shard>, Vec<Bytes>) = images.into_iter().unzip();
    let coordinator = match &section {
        None => Coordinator::new(config),
        Some(section) => {
            let index = opened.superblock.checkpoint_index.0;
            Coordinator::restore(config, index, section, &attachments[0]).map_err(|error| {
                StartError::Checkpoint {
                    path: path(),
                    id,
                    error,
                }
            })?
        }
    };
    Ok(RestoredState {
        shards,
        coordinator,
    })
}

/// Drives the openings of all shards to their outcomes, side by side. The log may still be finishing
/// requests of its own.
async fn open_shards(
    world: &World,
    disk: &Disk,
    wal: &mut Wal,
    mut openings: Vec<ShardOpening>,
    work: &Rc<Flag>,
) -> Result<Vec<(Shard, Bytes)>, ShardOpenError> {
    let mut outcomes: Vec<Option<(Shard, Bytes)>> = openings.iter().map(|_| None).collect();
    let mut requests = Vec::new();
    loop {
        for (opening, outcome) in openings.iter_mut().zip(&mut outcomes) {
            if outcome.is_none() {
                opening.poll(&mut requests);
                disk.submit(&mut requests);
                *outcome = opening.outcome().transpose()?;
            }
        }
        if outcomes.iter().all(Option::is_some) {
            return Ok(outcomes.into_iter().flatten().collect());
        }
        work.wait().await;
        while let Some((id, result)) = disk.next_completion() {
            match id.machine().as_shard() {
                Some(shard) => openings[usize::from(shard)].complete(id, result),
                None => wal.complete(world.now().nanos(), id, result),
            }
        }
    }
}

/// Makes the data directory and its missing parents, durably: whatever is synced inside a directory
/// is lost with its name.
async fn create_directory(world: &World, path: &Path) -> io::Result<()> {
    // The superblock comes last, so its directory was made durable before.
    if let Ok(names) = world.list_dir(path).await
        && names.iter().any(|(name, _)| name == "superblock")
    {
        return Ok(());
    }
    let mut parents = Vec::new();
    for parent in path.ancestors().skip(1) {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        parents.push(parent);
        if world.list_dir(parent).await.is_ok() {
            break;
        }
    }
    world.create_dir_all(path).await?;
    for parent in parents {
        world.sync_dir(parent).await?;
    }
    Ok(())
}

/// Drives the opening machine to its outcome.
pub(crate) async fn run_opening(
    disk: &Disk,
    mut opening: Opening,
    work: &Rc<Flag>,
) -> Result<Opened, OpenError> {
    let mut requests = Vec::new();
    loop {
        opening.poll(&mut requests);
        disk.submit(&mut requests);
        if let Some(outcome) = opening.outcome() {
            return outcome;
        }
        work.wait().await;
        while let Some((id, result)) = disk.next_completion() {
            opening.complete(id, result);
        }
    }
}

fn restored_raft(
    world: &World,
    options: &NodeOptions,
    opened: &Opened,
    identity: Identity,
) -> Raft {
    let meta = |entry: &wal::Entry| EntryMeta {
        index: LogIndex(entry.index.0),
        term: raft::Term(entry.term.0),
        kind: EntryKind::from_byte(entry.kind).unwrap_or(EntryKind::Normal),
        bytes: entry.data.len() as u64,
    };
    let member = MemberId(identity.member_id);
    let restored = Restored {
        term: raft::Term(opened.term.0),
        vote: match opened.vote {
            wal::Vote::None => raft::Vote::None,
            wal::Vote::For(member) => raft::Vote::For(MemberId(member)),
            wal::Vote::Unknown => raft::Vote::Unknown,
        },
        checkpoint: Position {
            index: LogIndex(opened.superblock.checkpoint_index.0),
            term: raft::Term(opened.superblock.checkpoint_term.0),
        },
        commit: LogIndex(opened.superblock.checkpoint_index.0),
        applied: LogIndex(opened.superblock.checkpoint_index.0),
        entries: opened.entries.iter().map(meta).collect(),
        // The first member of a cluster is its only voter before any entry.
        configuration: Configuration::new(&[member], &[]),
    };
    let config = raft::Config {
        election_timeout_nanos: options.election_timeout.as_nanos() as u64,
        heartbeat_interval_nanos: options.heartbeat_interval.as_nanos() as u64,
        // Record and entry bounds keep one entry below this, whatever a request may be.
        uncommitted_bytes_max: 256 << 20,
        ..raft::Config::new(member, world.random_u64())
    };
    match Raft::new(config, restored) {
        Ok(raft) => raft,
        Err(error) => panic!("recovery returned entries that are no log: {error:?}"),
    }
}

fn log_recovery(logger: &Logger, opened: &Opened) {
    if opened.created {
        logger.info("created a new data directory", &[]);
        return;
    }
    let checkpoint = opened.superblock.checkpoint_index.0;
    let last = opened.entries.last().map_or(checkpoint, |e| e.index.0);
    logger.info(
        "recovered the log",
        &[
            ("checkpoint-index", checkpoint.into()),
            ("entries", opened.entries.len().into()),
            ("last-index", last.into()),
            ("term", opened.term.0.into()),
            ("report", format!("{:?}", opened.report).into()),
        ],
    );
}
