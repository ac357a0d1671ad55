//! The disk of a simulated host: what is visible, and what a power cut leaves of it.
//!
//! ```text
//!   write submitted ──(in flight, held by the driver)──► landed: visible, pending ──sync completes──► durable
//!   create, rename, unlink ────────────────────────────► visible, pending ──directory sync──────────► durable
//! ```
//!
//! A sync covers what had landed when it was submitted, and nothing is durable before it completes. A
//! failed sync abandons what it covered: no later sync makes it durable, although reads still see it.
//! At a power cut every sector and every directory change that is not durable meets its own fate.
//!
//! Owns files, directories and space. Refuses to know time, latency, handles and who asks.

mod file;
mod image;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use file::FileNode;
use image::FileImage;
use pages::PAGE_BYTES;

pub(super) use file::CutStyle;
pub use image::DiskImage;

use super::coverage::{Coverage, FaultKind};
use super::random::Random;

/// An error as the kernel would number it.
pub(super) type Errno = i32;

/// A file or directory, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct InodeId(u64);

const ROOT: InodeId = InodeId(0);

#[derive(Debug)]
enum Inode {
    File { node: FileNode, handles: u32 },
    Directory(Directory),
}

/// Invariant: `live` = `durable` + the disk's pending entry changes of this directory, in order.
#[derive(Default, Debug)]
struct Directory {
    live: BTreeMap<String, InodeId>,
    durable: BTreeMap<String, InodeId>,
}

/// One name set or removed.
#[derive(Clone, Debug)]
struct EntryEdit {
    directory: InodeId,
    name: String,
    inode: Option<InodeId>,
}

/// A create, rename or unlink that no directory sync has made durable. All its edits share one fate.
#[derive(Debug)]
struct PendingEntry {
    sequence: u64,
    abandoned: bool,
    edits: Vec<EntryEdit>,
}

/// How [`Disk::open`] treats a name that is or is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Create {
    Never,
    New,
}

/// The disk of one host. It outlives the host's processes.
///
/// Invariants
/// - `sequence` is the number of the last change that landed
/// - `entries` is ordered by `sequence`
/// - every inode is reachable from a live or durable name or a pending change, or has open handles
/// - `allocated` is the sum over the files of their length in whole pages
pub(super) struct Disk {
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: u64,
    sequence: u64,
    entries: Vec<PendingEntry>,
    capacity: u64,
    allocated: u64,
}

impl Disk {
    pub(super) fn new() -> Disk {
        Disk {
            inodes: BTreeMap::from([(ROOT, Inode::Directory(Directory::default()))]),
            next_inode: 1,
            sequence: 0,
            entries: Vec::new(),
            capacity: u64::MAX,
            allocated: 0,
        }
    }

    /// Bytes that files may occupy; lowering it below the present use only refuses growth.
    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    /// What a sync that is submitted now will cover.
    pub(super) fn cover(&self) -> u64 {
        self.sequence
    }

    // --- files -------------------------------------------------------------------------------------------

    /// Finds or creates the file and counts a handle on it.
    pub(super) fn open(&mut self, path: &Path, create: Create) -> Result<InodeId, Errno> {
        let (parent, name) = self.parent_of(path)?;
        let found = self.directory(parent)?.live.get(&name).copied();
        let inode = match (found, create) {
            (Some(_), Create::New) => return Err(libc::EEXIST),
            (Some(inode), Create::Never) => inode,
            (None, Create::Never) => return Err(libc::ENOENT),
            (None, Create::New) => {
                let inode = self.add_inode(Inode::File {
                    node: FileNode::default(),
                    handles: 0,
                });
                self.change_entries(vec![EntryEdit {
                    directory: parent,
                    name,
                    inode: Some(inode),
                }]);
                inode
            }
        };
        match self.inodes.get_mut(&inode) {
            Some(Inode::File { handles, .. }) => {
                *handles += 1;
                Ok(inode)
            }
            _ => Err(libc::EISDIR),
        }
    }

    /// Gives back a handle.
    pub(super) fn close(&mut self, inode: InodeId) {
        if let Some(Inode::File { handles, .. }) = self.inodes.get_mut(&inode) {
            *handles -= 1;
            if *handles == 0 {
                self.collect();
            }
        }
    }

    /// Makes the file at least `length` long, with its space allocated.
    pub(super) fn reserve(&mut self, inode: InodeId, length: u64) -> Result<(), Errno> {
        self.allocate(inode, length)?;
        self.sequence += 1;
        let sequence = self.sequence;
        self.file_mut(inode).extend(sequence, length);
        Ok(())
    }

    pub(super) fn length(&self, inode: InodeId) -> u64 {
        self.file(inode).length()
    }

    pub(super) fn read(&self, inode: InodeId, offset: u64, into: &mut [u8]) -> usize {
        self.file(inode).read(offset, into)
    }

    /// A write has landed. On a full disk nothing has.
    pub(super) fn land(&mut self, inode: InodeId, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.allocate(inode, offset + bytes.len() as u64)?;
        self.sequence += 1;
        let sequence = self.sequence;
        self.file_mut(inode).land(sequence, offset, bytes);
        Ok(())
    }

    /// A sync submitted when [`Disk::cover`] was `cover` has completed.
    pub(super) fn sync(&mut self, inode: InodeId, cover: u64) {
        self.file_mut(inode).make_durable(cover);
    }

    /// A sync failed or lied. False if there was nothing that it could lose.
    pub(super) fn abandon(&mut self, inode: InodeId, cover: u64) -> bool {
        self.file_mut(inode).abandon(cover)
    }

    /// Flips one bit of the medium below what both reads and recovery see.
    pub(super) fn flip_bit(&mut self, inode: InodeId, offset: u64, bit: u8) {
        self.file_mut(inode).flip_bit(offset, bit);
    }

    // --- names -------------------------------------------------------------------------------------------

    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<(), Errno> {
        let mut directory = ROOT;
        for name in components(path)? {
            directory = match self.directory(directory)?.live.get(&name).copied() {
                Some(inode) => {
                    self.directory(inode).map_err(|_| libc::EEXIST)?;
                    inode
                }
                None => {
                    let inode = self.add_inode(Inode::Directory(Directory::default()));
                    self.change_entries(vec![EntryEdit {
                        directory,
                        name,
                        inode: Some(inode),
                    }]);
                    inode
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (from_directory, from_name) = self.parent_of(from)?;
        let (to_directory, to_name) = self.parent_of(to)?;
        let inode = self
            .directory(from_directory)?
            .live
            .get(&from_name)
            .copied()
            .ok_or(libc::ENOENT)?;
        let replaced = self.directory(to_directory)?.live.get(&to_name).copied();
        if replaced == Some(inode) {
            return Ok(());
        }
        if replaced.is_some_and(|replaced| self.directory(replaced).is_ok()) {
            return Err(libc::EISDIR);
        }
        self.change_entries(vec![
            EntryEdit {
                directory: from_directory,
                name: from_name,
                inode: None,
            },
            EntryEdit {
                directory: to_directory,
                name: to_name,
                inode: Some(inode),
            },
        ]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> Result<(), Errno> {
        let (directory, name) = self.parent_of(path)?;
        let inode = self
            .directory(directory)?
            .live
            .get(&name)
            .copied()
            .ok_or(libc::ENOENT)?;
        if self.directory(inode).is_ok() {
            return Err(libc::EISDIR);
        }
        self.change_entries(vec![EntryEdit {
            directory,
            name,
            inode: None,
        }]);
        self.collect();
        Ok(())
    }

    /// Names and lengths, sorted by name.
    pub(super) fn list(&self, path: &Path) -> Result<Vec<(String, u64)>, Errno> {
        let directory = self.directory(self.find(path)?)?;
        let length = |inode: &InodeId| match &self.inodes[inode] {
            Inode::File { node, .. } => node.length(),
            Inode::Directory(_) => 0,
        };
        Ok(directory
            .live
            .iter()
            .map(|(name, inode)| (name.clone(), length(inode)))
            .collect())
    }

    /// The directory of that name.
    pub(super) fn find_directory(&self, path: &Path) -> Result<InodeId, Errno> {
        let inode = self.find(path)?;
        self.directory(inode)?;
        Ok(inode)
    }

    /// A directory sync submitted when [`Disk::cover`] was `cover` has completed.
    ///
    /// A rename becomes durable as a whole with either of its directories, and takes earlier changes of the
    /// same names with it, so that no older change can undo a newer one.
    pub(super) fn sync_directory(&mut self, directory: InodeId, cover: u64) {
        let mut needed: BTreeSet<(InodeId, String)> = BTreeSet::new();
        let mut chosen = vec![false; self.entries.len()];
        for (position, entry) in self.entries.iter().enumerate().rev() {
            let asked = entry.sequence <= cover
                && !entry.abandoned
                && entry.edits.iter().any(|edit| edit.directory == directory);
            let required = entry
                .edits
                .iter()
                .any(|edit| needed.contains(&(edit.directory, edit.name.clone())));
            if asked || required {
                chosen[position] = true;
                needed.extend(
                    entry
                        .edits
                        .iter()
                        .map(|edit| (edit.directory, edit.name.clone())),
                );
            }
        }
        let mut chosen = chosen.into_iter();
        let (durable, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|_| chosen.next() == Some(true));
        self.entries = pending;
        for entry in durable {
            self.make_entry_durable(&entry);
        }
        self.collect();
    }

    /// A directory sync failed: the changes it covered stay un-synced for good.
    pub(super) fn abandon_directory(&mut self, directory: InodeId, cover: u64) {
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.sequence <= cover)
        {
            entry.abandoned |= entry.edits.iter().any(|edit| edit.directory == directory);
        }
    }

    // --- crashes and images ------------------------------------------------------------------------------

    /// The power is gone: every handle is closed, every change that is not durable meets its fate.
    pub(super) fn power_cut(
        &mut self,
        style: CutStyle,
        random: &mut Random,
        coverage: &mut Coverage,
    ) {
        for entry in std::mem::take(&mut self.entries) {
            let kept = match style {
                CutStyle::AllKept => true,
                CutStyle::AllLost => false,
                CutStyle::Seeded => random.below(2) == 0,
            };
            coverage.hit(if kept {
                FaultKind::EntryKept
            } else {
                FaultKind::EntryLost
            });
            if kept {
                self.make_entry_durable(&entry);
            }
        }
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::Directory(directory) => directory.live.clone_from(&directory.durable),
                Inode::File { node, handles } => {
                    *handles = 0;
                    if node.has_pending() {
                        node.power_cut(style, random, coverage);
                    }
                }
            }
        }
        self.collect();
        self.allocated = self
            .files()
            .map(|(_, node)| pages_bytes(node.length()))
            .sum();
    }

    /// What reads see now.
    pub(super) fn image(&self) -> DiskImage {
        self.image_of(|directory| &directory.live, |node| node.live())
    }

    /// What a power cut that keeps nothing un-synced would leave.
    pub(super) fn durable_image(&self) -> DiskImage {
        self.image_of(|directory| &directory.durable, |node| node.durable_part())
    }

    /// Becomes the image, all of it durable. Open handles are gone.
    pub(super) fn restore(&mut self, image: &DiskImage) {
        let capacity = self.capacity;
        *self = Disk {
            sequence: self.sequence,
            next_inode: self.next_inode,
            ..Disk::new()
        };
        for directory in &image.directories {
            self.create_dir_all(Path::new(directory))
                .expect("an image's directories nest");
        }
        for (path, file) in &image.files {
            let (parent, name) = self
                .parent_of(Path::new(path))
                .expect("an image lists the parents of its files");
            let node = FileNode::durable(file.pages.clone(), file.length);
            let inode = self.add_inode(Inode::File { node, handles: 0 });
            self.change_entries(vec![EntryEdit {
                directory: parent,
                name,
                inode: Some(inode),
            }]);
            self.allocated += pages_bytes(file.length);
        }
        for entry in std::mem::take(&mut self.entries) {
            self.make_entry_durable(&entry);
        }
        self.capacity = capacity;
    }

    /// Replaces bytes of a file, now and for ever; false if there is no such file.
    pub(super) fn overwrite(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        match self.find(path).map(|inode| self.inodes.get_mut(&inode)) {
            Ok(Some(Inode::File { node, .. })) => {
                node.overwrite(offset, bytes);
                true
            }
            _ => false,
        }
    }

    /// Whether un-synced changes exist anywhere.
    pub(super) fn has_pending(&self) -> bool {
        !self.entries.is_empty() || self.files().any(|(_, node)| node.has_pending())
    }

    /// Asserts the invariants.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let allocated: u64 = self
            .files()
            .map(|(_, node)| pages_bytes(node.length()))
            .sum();
        assert_eq!(self.allocated, allocated);
        assert!(self.entries.is_sorted_by_key(|entry| entry.sequence));
        let reachable = self.reachable();
        for (inode, content) in &self.inodes {
            let open = matches!(content, Inode::File { handles, .. } if *handles > 0);
            assert!(open || reachable.contains(inode), "{inode:?} is lost");
        }
    }

    // --- helpers -----------------------------------------------------------------------------------------

    fn image_of<'a>(
        &'a self,
        names: impl Fn(&'a Directory) -> &'a BTreeMap<String, InodeId>,
        content: impl Fn(&'a FileNode) -> (&'a pages::Pages, u64),
    ) -> DiskImage {
        let mut image = DiskImage::new();
        let mut open = vec![(String::new(), ROOT)];
        while let Some((prefix, directory)) = open.pop() {
            let Inode::Directory(directory) = &self.inodes[&directory] else {
                continue;
            };
            for (name, inode) in names(directory) {
                let path = format!("{prefix}/{name}");
                match &self.inodes[inode] {
                    Inode::Directory(_) => {
                        image.directories.insert(path.clone());
                        open.push((path, *inode));
                    }
                    Inode::File { node, .. } => {
                        let (pages, length) = content(node);
                        image.files.insert(
                            path,
                            FileImage {
                                pages: pages.clone(),
                                length,
                            },
                        );
                    }
                }
            }
        }
        image
    }

    fn files(&self) -> impl Iterator<Item = (InodeId, &FileNode)> {
        self.inodes
            .iter()
            .filter_map(|(&inode, content)| match content {
                Inode::File { node, .. } => Some((inode, node)),
                Inode::Directory(_) => None,
            })
    }

    fn file(&self, inode: InodeId) -> &FileNode {
        match self.inodes.get(&inode) {
            Some(Inode::File { node, .. }) => node,
            _ => panic!("{inode:?} is not an open file"),
        }
    }

    fn file_mut(&mut self, inode: InodeId) -> &mut FileNode {
        match self.inodes.get_mut(&inode) {
            Some(Inode::File { node, .. }) => node,
            _ => panic!("{inode:?} is not an open file"),
        }
    }

    fn directory(&self, inode: InodeId) -> Result<&Directory, Errno> {
        match self.inodes.get(&inode) {
            Some(Inode::Directory(directory)) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn directory_mut(&mut self, inode: InodeId) -> Option<&mut Directory> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    fn add_inode(&mut self, content: Inode) -> InodeId {
        let inode = InodeId(self.next_inode);
        self.next_inode += 1;
        self.inodes.insert(inode, content);
        inode
    }

    /// Makes the file's space at least `length` bytes.
    fn allocate(&mut self, inode: InodeId, length: u64) -> Result<(), Errno> {
        let present = pages_bytes(self.length(inode));
        let growth = pages_bytes(length).saturating_sub(present);
        if growth > self.capacity.saturating_sub(self.allocated) && growth > 0 {
            return Err(libc::ENOSPC);
        }
        self.allocated += growth;
        Ok(())
    }

    fn change_entries(&mut self, edits: Vec<EntryEdit>) {
        for edit in &edits {
            if let Some(directory) = self.directory_mut(edit.directory) {
                edit.apply(&mut directory.live);
            }
        }
        self.sequence += 1;
        self.entries.push(PendingEntry {
            sequence: self.sequence,
            abandoned: false,
            edits,
        });
    }

    fn make_entry_durable(&mut self, entry: &PendingEntry) {
        for edit in &entry.edits {
            if let Some(directory) = self.directory_mut(edit.directory) {
                edit.apply(&mut directory.durable);
            }
        }
    }

    fn find(&self, path: &Path) -> Result<InodeId, Errno> {
        let mut inode = ROOT;
        for name in components(path)? {
            inode = self
                .directory(inode)?
                .live
                .get(&name)
                .copied()
                .ok_or(libc::ENOENT)?;
        }
        Ok(inode)
    }

    fn parent_of(&self, path: &Path) -> Result<(InodeId, String), Errno> {
        let mut names = components(path)?;
        let name = names.pop().ok_or(libc::EISDIR)?;
        let mut inode = ROOT;
        for name in names {
            inode = self
                .directory(inode)?
                .live
                .get(&name)
                .copied()
                .ok_or(libc::ENOENT)?;
        }
        self.directory(inode)?;
        Ok((inode, name))
    }

    /// Frees what no name, no pending change and no handle refers to.
    fn collect(&mut self) {
        let reachable = self.reachable();
        let mut freed = 0;
        self.inodes.retain(|inode, content| match content {
            Inode::File { handles, .. } if *handles > 0 => true,
            _ if reachable.contains(inode) => true,
            Inode::File { node, .. } => {
                freed += pages_bytes(node.length());
                false
            }
            Inode::Directory(_) => false,
        });
        self.allocated -= freed;
    }

    fn reachable(&self) -> BTreeSet<InodeId> {
        let mut reachable = BTreeSet::from([ROOT]);
        let pending = self
            .entries
            .iter()
            .flat_map(|entry| &entry.edits)
            .filter_map(|edit| edit.inode);
        let mut open: Vec<InodeId> = pending.chain([ROOT]).collect();
        while let Some(inode) = open.pop() {
            reachable.insert(inode);
            let Ok(directory) = self.directory(inode) else {
                continue;
            };
            for &child in directory.live.values().chain(directory.durable.values()) {
                if reachable.insert(child) {
                    open.push(child);
                }
            }
        }
        reachable
    }
}

impl EntryEdit {
    fn apply(&self, names: &mut BTreeMap<String, InodeId>) {
        match self.inode {
            Some(inode) => names.insert(self.name.clone(), inode),
            None => names.remove(&self.name),
        };
    }
}

fn pages_bytes(length: u64) -> u64 {
    length.next_multiple_of(PAGE_BYTES as u64)
}

/// The names along a path; relative paths start at the root.
fn components(path: &Path) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_str().ok_or(libc::EILSEQ)?.to_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err(libc::EINVAL),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
