//! A copy of a host's disk, for tests that look at it, damage it and start from it again.

use std::collections::{BTreeMap, BTreeSet};

use super::pages::{PAGE_BYTES, Pages};

/// All files and directories of a disk at one moment. Copies share their pages until one is written.
#[derive(Clone, Default, Debug)]
pub struct DiskImage {
    pub(super) files: BTreeMap<String, FileImage>,
    pub(super) directories: BTreeSet<String>,
}

/// A file of an image.
#[derive(Clone, Default, Debug)]
pub(super) struct FileImage {
    pub(super) pages: Pages,
    pub(super) length: u64,
}

impl DiskImage {
    /// A disk without files.
    pub fn new() -> DiskImage {
        DiskImage::default()
    }

    /// The files' absolute paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Length of a file in bytes.
    pub fn length(&self, path: &str) -> Option<u64> {
        Some(self.files.get(path)?.length)
    }

    /// Bytes of all files together, holes included.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|file| file.length).sum()
    }

    /// A file's bytes.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let file = self.files.get(path)?;
        let mut bytes = vec![0; usize::try_from(file.length).ok()?];
        file.pages.read(0, &mut bytes);
        Some(bytes)
    }

    /// Some bytes of a file; those beyond its end read as zeros.
    pub fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> bool {
        match self.files.get(path) {
            Some(file) => {
                file.pages.read(offset, into);
                true
            }
            None => false,
        }
    }

    /// Replaces bytes of a file (creating or extending it as needed).
    pub fn write_at(&mut self, path: &str, offset: u64, bytes: &[u8]) {
        self.add_parents(path);
        let file = self.files.entry(path.to_owned()).or_default();
        file.pages.write(offset, bytes);
        file.length = file.length.max(offset + bytes.len() as u64);
    }

    /// Adds or replaces a whole file.
    pub fn insert(&mut self, path: &str, bytes: &[u8]) {
        self.files.remove(path);
        self.write_at(path, 0, bytes);
    }

    /// Removes a file; false if there was none.
    pub fn remove(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    /// Cuts or extends a file; false if there is none.
    pub fn set_length(&mut self, path: &str, length: u64) -> bool {
        let Some(file) = self.files.get_mut(path) else {
            return false;
        };
        if length < file.length {
            file.pages.truncate(length);
        }
        file.length = length;
        true
    }

    /// Path → bytes of every file.
    pub fn to_map(&self) -> BTreeMap<String, Vec<u8>> {
        self.paths()
            .filter_map(|path| Some((path.to_owned(), self.read(path)?)))
            .collect()
    }

    /// Whether both images hold the same files with the same bytes.
    pub fn same_bytes(&self, other: &DiskImage) -> bool {
        self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(
                |((path, file), (other_path, other_file))| {
                    path == other_path
                        && file.length == other_file.length
                        && file.same_bytes(other_file)
                },
            )
    }

    pub(super) fn add_parents(&mut self, path: &str) {
        for (position, _) in path.match_indices('/').skip(1) {
            self.directories.insert(path[..position].to_owned());
        }
    }
}

impl FileImage {
    fn same_bytes(&self, other: &FileImage) -> bool {
        let differs = |index: usize, page: &[u8; PAGE_BYTES], other: &Pages| {
            let mut theirs = [0; PAGE_BYTES];
            other.read((index * PAGE_BYTES) as u64, &mut theirs);
            *page != theirs
        };
        self.pages
            .written()
            .all(|(index, page)| !differs(index, page, &other.pages))
            && other
                .pages
                .written()
                .all(|(index, page)| !differs(index, page, &self.pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_edited_without_touching_its_copy() {
        let mut image = DiskImage::new();
        image.insert("/data/wal/one", &[7; 5000]);
        let copy = image.clone();
        assert!(image.same_bytes(&copy));
        image.write_at("/data/wal/one", 4095, &[1, 2]);
        assert!(!image.same_bytes(&copy));
        assert_eq!(copy.read("/data/wal/one").unwrap(), [7; 5000]);
        assert_eq!(
            image.read("/data/wal/one").unwrap()[4094..4098],
            [7, 1, 2, 7]
        );
        assert_eq!(
            image
                .directories
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            ["/data", "/data/wal"]
        );
        assert!(image.set_length("/data/wal/one", 10));
        assert_eq!(image.total_bytes(), 10);
        assert_eq!(image.to_map()["/data/wal/one"], [7; 10]);
        assert!(image.remove("/data/wal/one") && !image.remove("/data/wal/one"));
    }
}
