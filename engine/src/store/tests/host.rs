//! A store with a disk: requests complete in any order, and the process ends when the test says so.

use bytes::Bytes;
use diskio::IoRequest;
use diskio::sim::{Crash, Fate, SimDisk};

use super::Random;
use crate::checkpoint::ManifestRef;
use crate::image::{ReadRequest, ShardEvent, ShardOpenError, ShardOpening};
use crate::step::{Need, Step};
use crate::store::{Store, StoreConfig};

/// Far more steps than any opening or checkpoint of these tests takes.
const STEPS_MAX: usize = 1_000_000;

/// A store, its disk, and the superblock.
pub(super) struct Host {
    pub(super) store: Store,
    pub(super) disk: SimDisk,
    config: StoreConfig,
    random: Random,
    /// What the superblock names.
    pub(super) image: Option<(u32, ManifestRef)>,
    last_id: u32,
    under_way: Option<u32>,
    /// Durable, but not in the superblock yet.
    durable: Option<(u32, ManifestRef)>,
    /// In the superblock, but the store does not know yet.
    named: Option<u32>,
    /// What the store said of its files when it gave up.
    pub(super) failed: Option<String>,
}

/// What a life left behind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) checkpoints: u64,
    pub(super) crashes: u64,
    /// Slices of background work that did something.
    pub(super) slices: u64,
    /// Pages and pieces read by the scrub.
    pub(super) scrubbed: u64,
    /// Bytes of settled records at the end.
    pub(super) settled: u64,
}

impl Host {
    pub(super) fn new(config: StoreConfig, seed: u64) -> Host {
        Host {
            store: Store::new(config.clone()),
            disk: SimDisk::new(),
            config,
            random: Random(seed ^ 0xd15c),
            image: None,
            last_id: 0,
            under_way: None,
            durable: None,
            named: None,
            failed: None,
        }
    }

    /// The bytes that a reader of the files gets.
    pub(super) fn read(&self, request: ReadRequest) -> Bytes {
        self.disk
            .bytes(request.file, request.offset, request.len)
            .into()
    }

    /// Loads what is needed until the call answers; a call that needs something changes nothing.
    pub(super) fn settle<T>(&mut self, mut call: impl FnMut(&mut Store) -> Step<T>) -> T {
        let mut needs = Vec::new();
        for _ in 0..20_000 {
            let before = (self.store.sizes(), self.store.log.last());
            match call(&mut self.store) {
                Step::Ready(value) => return value,
                Step::Need(need) => {
                    let after = (self.store.sizes(), self.store.log.last());
                    assert_eq!(before, after, "changed before {need:?}");
                    needs.push(need);
                    self.load(&need);
                }
            }
        }
        let last = &needs[needs.len() - 20..];
        panic!("a call that never ends: {last:?}");
    }

    fn load(&mut self, need: &Need) {
        let bytes = self.read(self.store.read_of(need));
        let only_declared = bytes.is_empty();
        let bytes = (!only_declared).then_some(bytes);
        self.store.load(need, bytes).expect("an intact image");
    }

    /// Freezes the store, unless a checkpoint is under way; answers whether it did.
    pub(super) fn freeze(&mut self) -> bool {
        if self.under_way.is_some() {
            return false;
        }
        self.last_id += 1 + self.random.below(3) as u32;
        self.under_way = Some(self.last_id);
        let attachment = Bytes::from(self.last_id.to_string());
        self.store.freeze(self.last_id, attachment.into());
        true
    }

    /// Some step of the background work; answers whether an image came to count.
    pub(super) fn turn(&mut self) -> bool {
        if let Some(id) = self.named.take_if(|_| self.random.one_in(3)) {
            self.store.published(id);
            self.under_way = None;
        }
        if let Some(image) = self.durable.take_if(|_| self.random.one_in(3)) {
            self.image = Some(image);
            self.named = Some(image.0);
            return true;
        }
        if self.random.one_in(2) {
            let mut out: Vec<IoRequest> = Vec::new();
            self.store.poll(&mut out);
            self.disk.accept(out);
        } else if self.disk.in_flight() > 0 {
            let chosen = self.random.below(self.disk.in_flight() as u64) as usize;
            let (id, result) = self.disk.complete(chosen);
            self.store.complete(id, result);
        }
        while let Some(event) = self.store.next_event() {
            match event {
                ShardEvent::ImageDurable { id, manifest } => self.durable = Some((id, manifest)),
                ShardEvent::NoSpace => {
                    self.disk.limit_room(None);
                    self.store.retry_space();
                }
                ShardEvent::Failed { file, what } => self.failed = Some(format!("{file}: {what}")),
            }
        }
        false
    }

    /// Lets the checkpoint under way come to count.
    pub(super) fn finish_checkpoint(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.under_way.is_none() {
                return;
            }
            self.turn();
        }
        panic!("a checkpoint that never ends");
    }

    fn fate(&mut self) -> Fate {
        match self.random.below(3) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn(self.random.next()),
        }
    }

    /// Ends the process and opens the files again. Answers the checkpoint that the store stands at.
    pub(super) fn crash(&mut self) -> u32 {
        let crash = if self.random.one_in(2) {
            let writes = self.disk.unsynced().len();
            let changes = self.disk.unsynced_changes();
            Crash::Power {
                fates: (0..writes).map(|_| self.fate()).collect(),
                changes: changes
                    .into_iter()
                    .map(|count| self.random.below(count as u64 + 1) as usize)
                    .collect(),
            }
        } else {
            let writes = self.disk.writes_in_flight().count();
            Crash::Kill {
                fates: (0..writes).map(|_| self.fate()).collect(),
            }
        };
        self.disk.crash(&crash);
        self.reopen();
        self.image.map_or(0, |(id, _)| id)
    }

    /// Opens the files as they are.
    pub(super) fn reopen(&mut self) {
        let opened = self.try_reopen();
        opened.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Opens the files as they are, if they can be opened.
    pub(super) fn try_reopen(&mut self) -> Result<(), ShardOpenError> {
        (self.under_way, self.durable, self.named) = (None, None, None);
        self.failed = None;
        self.disk.crash(&Crash::Kill { fates: Vec::new() });
        let mut opening = ShardOpening::new(self.config.clone(), self.image);
        for _ in 0..STEPS_MAX {
            let mut out = Vec::new();
            opening.poll(&mut out);
            self.disk.accept(out);
            if let Some(outcome) = opening.outcome() {
                let (shard, attachment) = outcome?;
                let id = self.image.map(|(id, _)| id.to_string());
                assert_eq!(attachment, id.unwrap_or_default());
                self.store = shard.into_store();
                return Ok(());
            }
            let chosen = self.random.below(self.disk.in_flight() as u64) as usize;
            let (id, result) = self.disk.complete(chosen);
            opening.complete(id, result);
        }
        panic!("an opening that never ends");
    }

    /// Asserts every invariant, on disk too.
    pub(super) fn check(&self) {
        self.store.check();
        self.store.check_all(&mut |request| self.read(request));
    }
}
