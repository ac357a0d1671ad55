//! The checkpoint part of `ringd inspect`: the superblock's section, and per shard the manifest, the use
//! of the page file and the event segments.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engine::checkpoint::{CheckpointError, ManifestRef, Section};
use engine::image::{ImageReport, read_manifest};
use serde_json::{Value, json};
use wal::io::{BLOCK_BYTES, Directory, FileName};
use wal::superblock::Superblock;

/// The checkpoint that the superblock names.
pub(super) struct CheckpointFound {
    id: u64,
    index: u64,
    term: u64,
    section: Result<Section, CheckpointError>,
    shards: Vec<ShardFound>,
}

/// One shard's files.
struct ShardFound {
    shard: u16,
    reference: ManifestRef,
    /// Files in the directory with their lengths.
    files: BTreeMap<FileName, u64>,
    image: Result<ImageReport, String>,
}

/// Reads the checkpoint; `None` if the superblock names none.
pub(super) fn read(directory: &Path, superblock: &Superblock) -> Option<CheckpointFound> {
    let id = superblock.checkpoint_id;
    if id == 0 {
        return None;
    }
    let section = Section::decode(&superblock.section);
    let manifests = section.as_ref().map(|section| section.manifests.as_slice());
    let shards = (0..).zip(manifests.unwrap_or_default());
    let shards = shards.map(|(shard, reference)| {
        let image = manifest_bytes(directory, shard, *reference)
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|bytes| read_manifest(shard, id as u32, superblock.salt, *reference, &bytes));
        ShardFound {
            shard,
            reference: *reference,
            files: files(directory, shard),
            image,
        }
    });
    let shards = shards.collect();
    Some(CheckpointFound {
        id,
        index: superblock.checkpoint_index.0,
        term: superblock.checkpoint_term.0,
        section,
        shards,
    })
}

fn manifest_bytes(directory: &Path, shard: u16, reference: ManifestRef) -> io::Result<Vec<u8>> {
    let file = File::open(directory.join(FileName::Pages { shard }.path()))?;
    let offset = reference.block.saturating_mul(BLOCK_BYTES);
    // What the section says is believed only as far as the file goes.
    if file.metadata()?.len() < offset.saturating_add(reference.bytes.into()) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; reference.bytes as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn files(directory: &Path, shard: u16) -> BTreeMap<FileName, u64> {
    let directory = directory.join(Directory::Shard(shard).path());
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let file = FileName::in_shard(shard, &entry.file_name().to_string_lossy())?;
        Some((file, entry.metadata().ok()?.len()))
    });
    named.collect()
}

impl CheckpointFound {
    /// Damaged places.
    pub(super) fn damage(&self) -> usize {
        usize::from(self.section.is_err())
            + self.shards.iter().map(ShardFound::damage).sum::<usize>()
    }

    pub(super) fn to_json(&self) -> Value {
        let section = self.section.as_ref().ok();
        json!({
            "id": self.id,
            "index": self.index,
            "term": self.term,
            "error": self.section.as_ref().err().map(ToString::to_string),
            "revision": section.map(|section| section.revision),
            "compact_revision": section.map(|section| section.compact_revision),
            "apply_hash": section.map(|section| format!("{:016x}", section.apply_hash)),
            "shards": self.shards.iter().map(ShardFound::to_json).collect::<Vec<_>>(),
        })
    }

    pub(super) fn append_text(&self, text: &mut String) {
        let state = match &self.section {
            Ok(section) => format!(
                "revision {}, compact revision {}, apply hash {:016x}",
                section.revision, section.compact_revision, section.apply_hash
            ),
            Err(error) => format!("DAMAGED: {error}"),
        };
        text.push_str(&format!(
            "checkpoint {} at index {} of term {}: {state}\n",
            self.id, self.index, self.term
        ));
        for shard in &self.shards {
            shard.append_text(text);
        }
    }
}

impl ShardFound {
    /// The length of a file; `None` if it is not there.
    fn length(&self, file: &FileName) -> Option<u64> {
        self.files.get(file).copied()
    }

    fn damage(&self) -> usize {
        let Ok(image) = &self.image else {
            return 1;
        };
        let segments = image.segments.iter();
        let short =
            segments.filter(|segment| self.length(&segment.file) < Some(segment.valid_bytes));
        short.count()
    }

    /// Files that the image does not name; the next start deletes them.
    fn leftovers(&self, image: &ImageReport) -> Vec<String> {
        let pages = FileName::Pages { shard: self.shard };
        let named = |file: &FileName| {
            *file == pages || image.segments.iter().any(|segment| segment.file == *file)
        };
        let files = self.files.keys().filter(|file| !named(file));
        files.map(FileName::path).collect()
    }

    fn to_json(&self) -> Value {
        let pages = FileName::Pages { shard: self.shard };
        let image = self.image.as_ref().ok();
        let segments = |image: &ImageReport| {
            let segments = image.segments.iter().map(|segment| {
                json!({
                    "file": segment.file.path(),
                    "bytes": self.length(&segment.file),
                    "valid_bytes": segment.valid_bytes,
                    "live_bytes": segment.live_bytes,
                })
            });
            segments.collect::<Vec<_>>()
        };
        json!({
            "shard": self.shard,
            "manifest": {
                "file": pages.path(),
                "offset": self.reference.block * BLOCK_BYTES,
                "bytes": self.reference.bytes,
                "intact": image.is_some(),
                "error": self.image.as_ref().err(),
                "attachment_bytes": image.map(|image| image.attachment_bytes),
            },
            "keys": image.map(|image| image.keys),
            "compact_revision": image.map(|image| image.compact_revision),
            "page_file": {
                "bytes": self.length(&pages),
                "used_bytes": image.map(|image| image.file_blocks_used * BLOCK_BYTES),
                "pages": image.map(|image| image.pages),
                "page_bytes": image.map(|image| image.page_blocks * BLOCK_BYTES),
                "filled_bytes": image.map(|image| image.used_bytes),
            },
            "event_segments": image.map(segments),
            "leftovers": image.map(|image| self.leftovers(image)),
        })
    }

    fn append_text(&self, text: &mut String) {
        let pages = FileName::Pages { shard: self.shard };
        let offset = self.reference.block.saturating_mul(BLOCK_BYTES);
        let image = match &self.image {
            Ok(image) => image,
            Err(error) => {
                text.push_str(&format!(
                    "  shard {}: DAMAGED: manifest in {} at offset {offset}: {error}\n",
                    self.shard,
                    pages.path()
                ));
                return;
            }
        };
        text.push_str(&format!(
            "  shard {}: {} keys in {} pages ({} of {} bytes filled), manifest of {} bytes at offset {offset}\n",
            self.shard,
            image.keys,
            image.pages,
            image.used_bytes,
            image.page_blocks * BLOCK_BYTES,
            self.reference.bytes,
        ));
        text.push_str(&format!(
            "    {}: {} bytes, {} in use\n",
            pages.path(),
            self.length(&pages).unwrap_or(0),
            image.file_blocks_used * BLOCK_BYTES
        ));
        for segment in &image.segments {
            let length = self.length(&segment.file);
            let state = match length {
                None => " DAMAGED: missing".to_owned(),
                Some(bytes) if bytes < segment.valid_bytes => " DAMAGED: too short".to_owned(),
                Some(_) => String::new(),
            };
            text.push_str(&format!(
                "    {}: {} bytes, {} valid, {} live{state}\n",
                segment.file.path(),
                length.unwrap_or(0),
                segment.valid_bytes,
                segment.live_bytes,
            ));
        }
        for file in self.leftovers(image) {
            text.push_str(&format!("    {file}: not part of the checkpoint\n"));
        }
    }
}
