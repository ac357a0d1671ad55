//! A snapshot file on the disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bolt::Source;

/// A file that is read at any place.
#[derive(Debug)]
pub struct SnapshotFile(File);

impl SnapshotFile {
    /// Opens a file; answers its length in bytes, too.
    ///
    /// # Errors
    /// There is none, or it is empty, or a directory.
    pub fn open(path: &Path) -> io::Result<(SnapshotFile, u64)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        if metadata.len() == 0 {
            return Err(io::Error::other("it is empty"));
        }
        Ok((SnapshotFile(file), metadata.len()))
    }
}

impl Source for SnapshotFile {
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}
