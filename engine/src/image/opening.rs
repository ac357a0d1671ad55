//! From the files of a data directory to a running shard.
//!
//! What the published image needs is durable since before the superblock named it, so nothing is synced
//! here: what a killed process left un-synced lies on blocks that the image has free, behind the valid
//! length of its segments, or in files that it does not name.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use diskio::{
    BLOCK_BYTES, Directory, FileName, IoFailure, IoId, IoIds, IoOperation, IoOutput, IoRequest,
    Machine, Requests,
};

use super::machine::{Image, extent_of};
use super::manifest::{Manifest, ManifestError, VERSION};
use super::types::ShardOpenError;
use crate::checkpoint::ManifestRef;
use crate::events::EventLog;
use crate::page::ADDRESS_MAX;
use crate::shard::Shard;
use crate::store::{Store, StoreConfig};

/// The manifest is read in parts of this many bytes.
const READ_BYTES_MAX: u64 = 1 << 20;

/// What has to be done next.
#[derive(Debug)]
enum Stage {
    List,
    OpenPages,
    ReadManifest,
    /// Opens the segments and deletes what the image does not name.
    Settle(Box<Found>),
    /// Deletes everything.
    Clear,
    SyncDirectory(Option<Box<Found>>),
    Done(Option<Box<Found>>),
    Ended,
}

/// What the manifest gave.
#[derive(Debug)]
struct Found {
    manifest: Manifest,
    log: EventLog,
}

/// Opens a shard: finds its files, checks the manifest that the superblock names, deletes leftovers.
#[derive(Debug)]
pub struct ShardOpening {
    config: StoreConfig,
    /// Checkpoint and its manifest.
    image: Option<(u32, ManifestRef)>,
    ids: IoIds,
    stage: Stage,
    /// Files of the shard, with their lengths.
    files: BTreeMap<FileName, u64>,
    /// Parts of the manifest by offset.
    parts: BTreeMap<u64, Vec<u8>>,
    /// Requests in flight.
    flying: BTreeMap<IoId, IoOperation>,
    outcome: Option<Result<(Shard, Bytes), ShardOpenError>>,
}

impl ShardOpening {
    /// Opens the shard of `config` at the checkpoint that the superblock names; without one, every file
    /// of the shard is a leftover.
    pub fn new(config: StoreConfig, image: Option<(u32, ManifestRef)>) -> ShardOpening {
        let ids = IoIds::new(Machine::shard(config.shard));
        ShardOpening {
            config,
            image,
            ids,
            stage: Stage::List,
            files: BTreeMap::new(),
            parts: BTreeMap::new(),
            flying: BTreeMap::new(),
            outcome: None,
        }
    }

    /// Emits what can be done now.
    pub fn poll(&mut self, out: &mut Vec<IoRequest>) {
        while self.flying.is_empty() && self.outcome.is_none() {
            let stage = std::mem::replace(&mut self.stage, Stage::Ended);
            match self.advance(stage, out) {
                Ok(Some(next)) => self.stage = next,
                Ok(None) => return,
                Err(error) => self.outcome = Some(Err(error)),
            }
        }
    }

    /// The shard and the attachment of its image, or why there is none; once.
    pub fn outcome(&mut self) -> Option<Result<(Shard, Bytes), ShardOpenError>> {
        self.outcome.take()
    }

    /// Handles a completion.
    pub fn complete(&mut self, id: IoId, result: Result<IoOutput, IoFailure>) {
        let Some(operation) = self.flying.remove(&id) else {
            return;
        };
        if self.outcome.is_some() {
            return;
        }
        if let Err(error) = self.take_in(operation, result) {
            self.outcome = Some(Err(error));
        }
    }

    fn take_in(
        &mut self,
        operation: IoOperation,
        result: Result<IoOutput, IoFailure>,
    ) -> Result<(), ShardOpenError> {
        match (operation, result) {
            (IoOperation::List(_), Ok(IoOutput::Listing(names))) => {
                let shard = self.config.shard;
                let named = |(name, len)| Some((FileName::in_shard(shard, name)?, len));
                let names = names.iter().map(|(name, len)| (name.as_str(), *len));
                self.files = names.filter_map(named).collect();
                Ok(())
            }
            (IoOperation::List(_), Err(IoFailure::NotFound)) => Ok(()),
            (IoOperation::Read { offset, .. }, Ok(IoOutput::Bytes(bytes))) => {
                self.parts.insert(offset, bytes);
                Ok(())
            }
            (_, Ok(_)) | (IoOperation::Delete { .. }, Err(IoFailure::NotFound)) => Ok(()),
            (IoOperation::Open { file }, Err(IoFailure::NotFound)) => Err(self.missing(file)),
            (IoOperation::Open { file }, Err(IoFailure::Locked)) => {
                Err(ShardOpenError::Locked { file })
            }
            (operation, Err(failure)) => Err(ShardOpenError::Io {
                path: operation.path(),
                verb: operation.verb(),
                failure,
            }),
        }
    }

    fn id(&self) -> u32 {
        self.image.map_or(0, |(id, _)| id)
    }

    fn missing(&self, file: FileName) -> ShardOpenError {
        let id = self.id();
        ShardOpenError::Missing { file, id }
    }

    fn page_file(&self) -> FileName {
        FileName::Pages {
            shard: self.config.shard,
        }
    }

    fn emit(&mut self, operation: IoOperation, out: &mut Vec<IoRequest>) {
        let id = Requests::urgent(&mut self.ids, out).push(Vec::new(), operation.clone());
        self.flying.insert(id, operation);
    }

    /// Does what `stage` asks for; answers the next one unless all is over.
    fn advance(
        &mut self,
        stage: Stage,
        out: &mut Vec<IoRequest>,
    ) -> Result<Option<Stage>, ShardOpenError> {
        let directory = Directory::Shard(self.config.shard);
        Ok(Some(match stage {
            Stage::List => {
                self.emit(IoOperation::List(directory), out);
                match self.image {
                    Some(_) => Stage::OpenPages,
                    None => Stage::Clear,
                }
            }
            Stage::OpenPages => {
                let file = self.page_file();
                if !self.files.contains_key(&file) {
                    return Err(self.missing(file));
                }
                self.emit(IoOperation::Open { file }, out);
                self.read_manifest(out)?;
                Stage::ReadManifest
            }
            Stage::ReadManifest => {
                let found = self.understand_manifest()?;
                Stage::Settle(Box::new(found))
            }
            Stage::Settle(found) => {
                let leftovers = self.open_segments(&found.log, out)?;
                let none = leftovers.is_empty();
                self.delete(leftovers, out);
                match none {
                    true => Stage::Done(Some(found)),
                    false => Stage::SyncDirectory(Some(found)),
                }
            }
            Stage::Clear => {
                let leftovers: Vec<FileName> = self.files.keys().copied().collect();
                let none = leftovers.is_empty();
                self.delete(leftovers, out);
                match none {
                    true => Stage::Done(None),
                    false => Stage::SyncDirectory(None),
                }
            }
            Stage::SyncDirectory(found) => {
                self.emit(IoOperation::SyncDirectory(directory), out);
                Stage::Done(found)
            }
            Stage::Done(found) => {
                self.outcome = Some(Ok(self.finish(found)));
                return Ok(None);
            }
            Stage::Ended => return Ok(None),
        }))
    }

    fn delete(&mut self, files: Vec<FileName>, out: &mut Vec<IoRequest>) {
        for file in files {
            self.emit(IoOperation::Delete { file }, out);
        }
    }

    /// The requests wait for the opening of the file.
    fn read_manifest(&mut self, out: &mut Vec<IoRequest>) -> Result<(), ShardOpenError> {
        let (id, reference) = self.image.expect("an image to open");
        let file = self.page_file();
        let least = extent_of(reference);
        let fits = least.block <= ADDRESS_MAX;
        let least = match fits {
            true => (least.block + least.blocks) * BLOCK_BYTES,
            false => u64::MAX,
        };
        self.check_length(file, least)?;
        let bytes = u64::from(reference.bytes);
        if bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ShardOpenError::Manifest {
                file,
                offset: reference.block * BLOCK_BYTES,
                id,
                what: format!("the superblock says that it has {bytes} bytes"),
            });
        }
        let opened: Vec<IoId> = self.flying.keys().copied().collect();
        let start = reference.block * BLOCK_BYTES;
        for offset in (start..start + bytes).step_by(READ_BYTES_MAX as usize) {
            let len = READ_BYTES_MAX.min(start + bytes - offset);
            let read = IoOperation::Read { file, offset, len };
            let mut requests = Requests::urgent(&mut self.ids, out);
            let id = requests.push(opened.clone(), read.clone());
            self.flying.insert(id, read);
        }
        Ok(())
    }

    fn understand_manifest(&mut self) -> Result<Found, ShardOpenError> {
        let (id, reference) = self.image.expect("an image to open");
        let file = self.page_file();
        let offset = reference.block * BLOCK_BYTES;
        let parts = std::mem::take(&mut self.parts);
        let bytes = parts.into_values().collect::<Vec<_>>().concat();
        let damaged = |what: String| ShardOpenError::Manifest {
            file,
            offset,
            id,
            what,
        };
        if bytes.len() != reference.bytes as usize {
            return Err(damaged("the file ends inside of it".to_owned()));
        }
        let expected = (self.config.shard, id, reference.block, reference.sum);
        let manifest =
            Manifest::decode(&bytes, self.config.salt, expected).map_err(|error| match error {
                ManifestError::Newer(version) => ShardOpenError::NewerFormat {
                    file,
                    offset,
                    version,
                    supported: VERSION,
                },
                ManifestError::Damaged(_) => damaged(error.to_string()),
            })?;
        let log = EventLog::restore(&self.config, &manifest.table)
            .map_err(|error| damaged(format!("segment table: {error}")))?;
        let last = manifest.map.iter().rposition(|&word| word != 0);
        let end = last.map_or(0, |word| {
            word as u64 * 64 + 64 - u64::from(manifest.map[word].leading_zeros())
        });
        self.check_length(file, end.saturating_mul(BLOCK_BYTES))?;
        Ok(Found { manifest, log })
    }

    fn check_length(&self, file: FileName, least: u64) -> Result<(), ShardOpenError> {
        match self.files.get(&file) {
            None => Err(self.missing(file)),
            Some(&length) if length < least => Err(ShardOpenError::Short {
                file,
                length,
                least,
                id: self.id(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Opens every segment of the image; answers the files that are not of it.
    fn open_segments(
        &mut self,
        log: &EventLog,
        out: &mut Vec<IoRequest>,
    ) -> Result<Vec<FileName>, ShardOpenError> {
        let mut named = BTreeSet::from([self.page_file()]);
        for (file, least) in log.files() {
            self.check_length(file, least)?;
            named.insert(file);
            self.emit(IoOperation::Open { file }, out);
        }
        let files = self.files.keys().copied();
        Ok(files.filter(|file| !named.contains(file)).collect())
    }

    fn finish(&mut self, found: Option<Box<Found>>) -> (Shard, Bytes) {
        let ids = std::mem::take(&mut self.ids);
        let config = &self.config;
        let Some(found) = found else {
            let image = Image::with_ids(config.shard, config.salt, ids);
            return (Shard::with_store(Store::empty(config, image)), Bytes::new());
        };
        let Found { manifest, log } = *found;
        let (_, reference) = self.image.expect("an image to open");
        let image = Image::restore(config.salt, ids, &manifest, reference);
        let store = Store::restore(config, &manifest.frozen, log, image);
        (Shard::with_store(store), manifest.attachment)
    }
}
