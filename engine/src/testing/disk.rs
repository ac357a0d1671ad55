//! The disk of a [`Node`](super::Node): shards' requests in random order, and a superblock of one field.

use bytes::Bytes;
use diskio::sim::{Crash, Fate, SimDisk};
use diskio::{IoId, IoRequest};

use super::Random;
use crate::checkpoint::{ManifestRef, Section};
use crate::coordinator::FrozenState;
use crate::image::{ReadRequest, ShardEvent, ShardOpening};
use crate::shard::Shard;
use crate::step::Need;
use crate::store::StoreConfig;

/// Far more steps than any opening of these tests takes.
const STEPS_MAX: usize = 1_000_000;

/// How often a [`Node`](super::Node) takes checkpoints and how little it keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct DiskConfig {
    /// Entries from one checkpoint to the next, at least 1.
    pub checkpoint_every: u64,
    /// See [`StoreConfig`].
    pub page_cache_bytes: u64,
    /// See [`StoreConfig`].
    pub tail_bytes_max: u64,
    /// See [`StoreConfig`].
    pub value_cache_bytes: u64,
    /// See [`StoreConfig`].
    pub piece_bytes: u32,
}

/// The checkpoint that counts.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) id: u32,
    pub(super) index: u64,
    pub(super) section: Section,
}

/// Where a checkpoint stands that does not count yet.
#[derive(Debug)]
struct UnderWay {
    id: u32,
    /// Known once all shards are frozen.
    frozen: Option<FrozenState>,
    manifests: Vec<Option<ManifestRef>>,
    /// In the superblock; the shards that were not told yet.
    untold: Option<Vec<u16>>,
}

/// Files and superblock.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) config: DiskConfig,
    sim: SimDisk,
    pub(super) named: Option<Named>,
    under_way: Option<UnderWay>,
    last_id: u32,
    entries: u64,
    pub(super) checkpoints: u64,
}

impl Disk {
    pub(super) fn new(config: DiskConfig) -> Disk {
        Disk {
            config,
            sim: SimDisk::new(),
            named: None,
            under_way: None,
            last_id: 0,
            entries: 0,
            checkpoints: 0,
        }
    }

    pub(super) fn read(&self, request: ReadRequest) -> Bytes {
        self.sim
            .bytes(request.file, request.offset, request.len)
            .into()
    }

    /// Brings what `shard` needs. What was only declared missing is on no disk.
    pub(super) fn load(&self, shard: &mut Shard, need: &Need) {
        let bytes = self.read(shard.read_of(need));
        let on_disk = !bytes.is_empty();
        let loaded = shard.load(need, on_disk.then_some(bytes));
        if let Err(error) = loaded {
            panic!("{}", shard.damage(&error));
        }
    }

    /// Counts an entry; answers the id of a checkpoint that is due.
    pub(super) fn entry(&mut self, shards: usize) -> Option<u32> {
        self.entries += 1;
        if self.under_way.is_some() || self.entries < self.config.checkpoint_every {
            return None;
        }
        self.entries = 0;
        self.last_id += 1;
        self.under_way = Some(UnderWay {
            id: self.last_id,
            frozen: None,
            manifests: vec![None; shards],
            untold: None,
        });
        Some(self.last_id)
    }

    /// All shards have fixed their images.
    pub(super) fn frozen(&mut self, frozen: FrozenState) {
        let under_way = self.under_way.as_mut().expect("a freeze was asked for");
        assert_eq!(under_way.id, frozen.id);
        under_way.frozen = Some(frozen);
    }

    /// Some step of some shard's background work, or of the superblock.
    pub(super) fn turn(&mut self, shards: &mut [Shard], random: &mut Random) {
        if random.one_in(3) {
            self.advance_superblock(shards, random);
        }
        if random.one_in(2) {
            let mut out: Vec<IoRequest> = Vec::new();
            let chosen = random.index(shards.len());
            shards[chosen].poll(&mut out);
            self.sim.accept(out);
        } else if self.sim.in_flight() > 0 {
            let (id, result) = self.sim.complete(random.index(self.sim.in_flight()));
            shards[shard_of(id)].complete(id, result);
        }
        for (number, shard) in shards.iter_mut().enumerate() {
            while let Some(event) = shard.next_event() {
                self.happened(number, event);
            }
        }
    }

    fn happened(&mut self, shard: usize, event: ShardEvent) {
        match event {
            ShardEvent::ImageDurable { id, manifest } => {
                let under_way = self.under_way.as_mut().expect("a checkpoint under way");
                assert_eq!(under_way.id, id);
                under_way.manifests[shard] = Some(manifest);
            }
            ShardEvent::NoSpace => panic!("shard {shard} finds no space"),
            ShardEvent::Failed { file, what } => panic!("{file}: {what}"),
        }
    }

    fn advance_superblock(&mut self, shards: &mut [Shard], random: &mut Random) {
        let Some(under_way) = &mut self.under_way else {
            return;
        };
        if let Some(untold) = &mut under_way.untold {
            let shard = untold.swap_remove(random.index(untold.len()));
            shards[usize::from(shard)].published(under_way.id);
            if untold.is_empty() {
                self.under_way = None;
            }
            return;
        }
        let manifests: Option<Vec<ManifestRef>> = under_way.manifests.iter().copied().collect();
        if let (Some(manifests), Some(frozen)) = (manifests, under_way.frozen) {
            self.named = Some(Named {
                id: frozen.id,
                index: frozen.applied.index,
                section: frozen.section(manifests),
            });
            self.checkpoints += 1;
            under_way.untold = Some((0..shards.len() as u16).collect());
        }
    }

    /// The process ends: what is not durable may be lost, or torn.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let mut fate = || match random.below(3) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn(random.bits()),
        };
        let writes = self.sim.unsynced().len();
        let in_flight = self.sim.writes_in_flight().count();
        let unsynced: Vec<Fate> = (0..writes).map(|_| fate()).collect();
        let crash = match fate() {
            Fate::Kept => Crash::Kill {
                fates: unsynced[writes - in_flight..].to_vec(),
            },
            _ => {
                let changes = self.sim.unsynced_changes().into_iter();
                Crash::Power {
                    fates: unsynced,
                    changes: changes.map(|count| random.index(count + 1)).collect(),
                }
            }
        };
        self.sim.crash(&crash);
        self.under_way = None;
        self.entries = 0;
    }

    /// Opens shard `number`; answers it and the attachment of its image.
    pub(super) fn open(&mut self, config: StoreConfig, random: &mut Random) -> (Shard, Bytes) {
        let number = usize::from(config.shard);
        let image = self.named.as_ref();
        let image = image.map(|named| (named.id, named.section.manifests[number]));
        let mut opening = ShardOpening::new(config, image);
        for _ in 0..STEPS_MAX {
            let mut out = Vec::new();
            opening.poll(&mut out);
            self.sim.accept(out);
            match opening.outcome() {
                Some(Ok(opened)) => return opened,
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
            let (id, result) = self.sim.complete(random.index(self.sim.in_flight()));
            opening.complete(id, result);
        }
        panic!("an opening that never ends");
    }
}

fn shard_of(id: IoId) -> usize {
    let shard = id.machine().as_shard();
    usize::from(shard.expect("only shards ask this disk"))
}
