//! From the files to a member that has executed nothing yet, as the server does it.

use std::fmt;

use bytes::Bytes;
use diskio::IoRequest;
use diskio::sim::SimDisk;
use engine::checkpoint::{CheckpointError, Section};
use engine::coordinator::{Coordinator, CoordinatorConfig};
use engine::image::{ShardOpenError, ShardOpening};
use engine::shard::Shard;
use engine::testing::Random;
use wal::{OpenError, Opened, Opening};

use crate::promise::Checked;
use crate::settings::Settings;

/// Why a directory is not opened.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Superblock or log.
    Log(OpenError),
    /// The engine's section of the superblock, or the coordinator's attachment.
    Section(CheckpointError),
    /// A shard.
    Shard(ShardOpenError),
    /// Nothing is in flight and nothing comes.
    Standstill,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Log(error) => error.fmt(f),
            StartError::Section(error) => error.fmt(f),
            StartError::Shard(error) => error.fmt(f),
            StartError::Standstill => f.write_str("the opening waits for nothing"),
        }
    }
}

/// An opened directory.
pub(crate) struct Found {
    pub(crate) opened: Opened,
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Shard>,
}

/// Who is asked after each step whether to look at the disk.
pub(crate) type Look<'a> = &'a mut dyn FnMut(&SimDisk) -> Checked<()>;

/// Opens what is on `disk`; requests complete in random order.
///
/// # Errors
/// Outside: what `look` found. Inside: why the directory is not opened.
pub(crate) fn open(
    disk: &mut SimDisk,
    settings: &Settings,
    random: &mut Random,
    look: Look<'_>,
) -> Checked<Result<Found, StartError>> {
    let mut opened = match open_log(disk, settings, random, look)? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    open_shards(disk, settings, random, look, &mut opened).map(|shards| {
        let (shards, section, attachment) = shards?;
        let config = CoordinatorConfig {
            shards: crate::settings::SHARDS,
        };
        let coordinator = match &section {
            None => Coordinator::new(config),
            Some(section) => {
                let index = opened.superblock.checkpoint_index.0;
                Coordinator::restore(config, index, section, &attachment)
                    .map_err(StartError::Section)?
            }
        };
        Ok(Found {
            opened,
            coordinator,
            shards,
        })
    })
}

fn open_log(
    disk: &mut SimDisk,
    settings: &Settings,
    random: &mut Random,
    look: Look<'_>,
) -> Checked<Result<Opened, StartError>> {
    let create = Settings::new_directory();
    let mut opening = Opening::new(settings.log.clone(), Some(create));
    let mut requests = Vec::new();
    loop {
        opening.poll(&mut requests);
        disk.accept(std::mem::take(&mut requests));
        if let Some(outcome) = opening.outcome() {
            return Ok(outcome.map_err(StartError::Log));
        }
        if disk.in_flight() == 0 {
            return Ok(Err(StartError::Standstill));
        }
        let (id, result) = disk.complete(random.index(disk.in_flight()));
        opening.complete(id, result);
        look(disk)?;
    }
}

type Shards = (Vec<Shard>, Option<Section>, Bytes);

fn open_shards(
    disk: &mut SimDisk,
    settings: &Settings,
    random: &mut Random,
    look: Look<'_>,
    opened: &mut Opened,
) -> Checked<Result<Shards, StartError>> {
    let superblock = &opened.superblock;
    let (id, salt) = (superblock.checkpoint_id, superblock.salt);
    let section = match id {
        0 => None,
        _ => match Section::decode(&superblock.section) {
            Ok(section) => Some(section),
            Err(error) => return Ok(Err(StartError::Section(error))),
        },
    };
    let count = usize::from(superblock.shards);
    let mut openings: Vec<ShardOpening> = (0..count)
        .map(|shard| {
            let image = section.as_ref().map(|it| (id as u32, it.manifests[shard]));
            ShardOpening::new(settings.store(shard as u16, salt), image)
        })
        .collect();
    let mut found: Vec<Option<(Shard, Bytes)>> = (0..count).map(|_| None).collect();
    let mut requests: Vec<IoRequest> = Vec::new();
    loop {
        for (opening, found) in openings.iter_mut().zip(&mut found) {
            if found.is_none() {
                opening.poll(&mut requests);
                disk.accept(std::mem::take(&mut requests));
                match opening.outcome() {
                    Some(Ok(shard)) => *found = Some(shard),
                    Some(Err(error)) => return Ok(Err(StartError::Shard(error))),
                    None => {}
                }
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
        if disk.in_flight() == 0 {
            return Ok(Err(StartError::Standstill));
        }
        let (id, result) = disk.complete(random.index(disk.in_flight()));
        match id.machine().as_shard() {
            Some(shard) => openings[usize::from(shard)].complete(id, result),
            None => opened.wal.complete(0, id, result),
        }
        look(disk)?;
    }
    let (shards, attachments): (Vec<Shard>, Vec<Bytes>) = found.into_iter().flatten().unzip();
    let attachment = attachments.into_iter().next().unwrap_or_default();
    Ok(Ok((shards, section, attachment)))
}
