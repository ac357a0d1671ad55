//! A log file: lines are appended, and with rotation a full file is put aside under a name that tells when.
//!
//! ```text
//! ringd.log                              the one that is written
//! ringd-2026-11-22T02-39-05.150.log      put aside then (UTC)
//! ringd-2026-11-21T17-03-11.002.log.gz   and compressed
//! ```
//!
//! Compressing and deleting happen in a thread of their own, so that lines go on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::config::Rotation;

/// A rotation that failed is tried again when so large a part of a full file has come on top.
const RETRY_PART: u64 = 8;
/// Ending of a compressed file.
const COMPRESSED: &str = ".gz";
/// Ending of one that is not complete.
const UNFINISHED: &str = ".gz.tmp";

/// See the module.
pub struct LogFile {
    path: PathBuf,
    file: File,
    len_bytes: u64,
    rotation: Option<Rotation>,
    /// A rotation failed: the next is tried when the file is this long.
    retry_at_bytes: u64,
    tidying: Option<JoinHandle<()>>,
}

impl LogFile {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<LogFile> {
        let file = append_to(path)?;
        let len_bytes = file.metadata()?.len();
        Ok(LogFile {
            path: path.to_owned(),
            file,
            len_bytes,
            rotation,
            retry_at_bytes: 0,
            tidying: None,
        })
    }

    fn rotate(&mut self, rotation: Rotation) -> io::Result<()> {
        let aside = Names::of(&self.path).free(SystemTime::now());
        fs::rename(&self.path, &aside)?;
        self.file = match append_to(&self.path) {
            Ok(file) => file,
            Err(error) => {
                // Lines go on to the file that is open, under its name again if that can be had.
                fs::rename(&aside, &self.path).ok();
                return Err(error);
            }
        };
        self.len_bytes = 0;
        self.retry_at_bytes = 0;
        let is_tidying = self
            .tidying
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        if !is_tidying {
            let path = self.path.clone();
            let builder = thread::Builder::new().name("ringd-log-tidy".to_owned());
            // Without a thread the next rotation tidies.
            self.tidying = builder.spawn(move || tidy(&path, rotation)).ok();
        }
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let after = self.len_bytes + bytes.len() as u64;
        if let Some(rotation) = self.rotation
            && self.len_bytes > 0
            && after > rotation.file_bytes_max.max(self.retry_at_bytes)
            && self.rotate(rotation).is_err()
        {
            // A file that is too long is better than lines that are lost.
            self.retry_at_bytes = after + rotation.file_bytes_max / RETRY_PART;
        }
        let written = self.file.write(bytes)?;
        self.len_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        if let Some(thread) = self.tidying.take() {
            // It has nothing to say.
            thread.join().ok();
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The names of what is put aside: `STEM-TIME.EXTENSION`.
struct Names {
    directory: PathBuf,
    stem: String,
    extension: String,
}

impl Names {
    fn of(path: &Path) -> Names {
        let text =
            |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        Names {
            directory: directory.unwrap_or(Path::new(".")).to_owned(),
            stem: text(path.file_stem()).unwrap_or_default(),
            extension: text(path.extension()).map_or(String::new(), |text| format!(".{text}")),
        }
    }

    /// A name that nothing has yet.
    fn free(&self, mut now: SystemTime) -> PathBuf {
        loop {
            let time = humantime::format_rfc3339_millis(now).to_string();
            let time = time.trim_end_matches('Z').replace(':', "-");
            let name = format!("{}-{time}{}", self.stem, self.extension);
            let path = self.directory.join(&name);
            let compressed = self.directory.join(format!("{name}{COMPRESSED}"));
            if !path.exists() && !compressed.exists() {
                return path;
            }
            now += Duration::from_millis(1);
        }
    }

    /// When the file of this name was put aside, if it is one of these.
    fn time(&self, name: &str) -> Option<SystemTime> {
        let name = name.strip_suffix(COMPRESSED).unwrap_or(name);
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?;
        let time = time.strip_suffix(self.extension.as_str())?;
        let (day, hours) = time.split_once('T')?;
        let text = format!("{day}T{}Z", hours.replace('-', ":"));
        humantime::parse_rfc3339(&text).ok()
    }
}

/// Deletes what is too old or too much, and compresses the rest. What fails is tried again after the next rotation.
fn tidy(path: &Path, rotation: Rotation) {
    let names = Names::of(path);
    let Ok(found) = fs::read_dir(&names.directory) else {
        return;
    };
    let mut aside: Vec<(SystemTime, PathBuf)> = found
        .flatten()
        .filter_map(|entry| {
            let time = names.time(&entry.file_name().to_string_lossy())?;
            Some((time, entry.path()))
        })
        .collect();
    aside.sort_by(|one, other| other.cmp(one));
    let now = SystemTime::now();
    for (position, (time, path)) in aside.iter().enumerate() {
        let is_old = rotation
            .age_max
            .is_some_and(|age| now.duration_since(*time).is_ok_and(|old| old > age));
        let is_much = rotation.backups_max.is_some_and(|most| position >= most);
        if is_old || is_much {
            fs::remove_file(path).ok();
        } else if rotation.compress && path.extension().is_none_or(|end| end != "gz") {
            compress(path).ok();
        }
    }
}

fn compress(path: &Path) -> io::Result<()> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let unfinished = with(UNFINISHED);
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&unfinished, with(COMPRESSED))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A folder for one test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path =
                std::env::temp_dir().join(format!("ringd-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let found = fs::read_dir(&self.0).unwrap().flatten();
            let mut names: Vec<String> = found
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn rotation(compress: bool, backups_max: Option<usize>) -> Rotation {
        Rotation {
            file_bytes_max: 100,
            age_max: Some(Duration::from_secs(3600)),
            backups_max,
            compress,
        }
    }

    #[test]
    fn full_files_are_put_aside_and_the_oldest_deleted() {
        let folder = Folder::new("aside");
        let path = folder.0.join("ringd.log");
        fs::write(folder.0.join("ringd-2001-01-01T00-00-00.000.log"), "old").unwrap();
        fs::write(folder.0.join("ringd-notes.log"), "of somebody else").unwrap();
        fs::write(&path, "was there\n").unwrap();
        let mut file = LogFile::open(&path, Some(rotation(false, Some(2)))).unwrap();
        for letter in ["a", "b", "c", "d"] {
            file.write_all(letter.repeat(95).as_bytes()).unwrap();
            if let Some(thread) = file.tidying.take() {
                thread.join().unwrap();
            }
        }
        drop(file);
        let names = folder.names();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&"ringd-notes.log".to_owned()), "{names:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "d".repeat(95));
        assert!(!names.iter().any(|name| name.contains("2001")), "{names:?}");
    }

    #[test]
    fn lines_go_on_where_nothing_can_be_put_aside() {
        let folder = Folder::new("stuck");
        let path = folder.0.join("ringd.log");
        let mut file = LogFile::open(&path, Some(rotation(false, None))).unwrap();
        file.write_all("a".repeat(95).as_bytes()).unwrap();
        // Nothing is there to be renamed.
        fs::rename(&path, folder.0.join("elsewhere")).unwrap();
        file.write_all("b".repeat(95).as_bytes()).unwrap();
        let text = fs::read_to_string(folder.0.join("elsewhere")).unwrap();
        assert_eq!(text, "a".repeat(95) + &"b".repeat(95));
        fs::rename(folder.0.join("elsewhere"), &path).unwrap();
        file.write_all("c".repeat(95).as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "c".repeat(95));
    }

    #[test]
    fn what_is_put_aside_is_compressed_without_loss() {
        let folder = Folder::new("gz");
        let path = folder.0.join("log");
        let mut file = LogFile::open(&path, Some(rotation(true, None))).unwrap();
        file.write_all("x".repeat(90).as_bytes()).unwrap();
        file.write_all("y".repeat(90).as_bytes()).unwrap();
        drop(file);
        let names = folder.names();
        let compressed = names.iter().find(|name| name.ends_with(".gz")).unwrap();
        assert_eq!(names.len(), 2, "{names:?}");
        let mut text = String::new();
        let compressed = File::open(folder.0.join(compressed)).unwrap();
        flate2::read::GzDecoder::new(compressed)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "x".repeat(90));
    }

    #[test]
    fn two_rotations_in_a_millisecond_have_two_names() {
        let folder = Folder::new("names");
        let names = Names::of(&folder.0.join("a.log"));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let first = names.free(now);
        fs::write(&first, "").unwrap();
        let second = names.free(now);
        assert_ne!(first, second);
        let name = second.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, "a-1970-01-01T00-00-01.001.log");
        assert_eq!(names.time(&name), Some(now + Duration::from_millis(1)));
        assert_eq!(
            names.time(&format!("{name}.gz")),
            Some(now + Duration::from_millis(1))
        );
        assert_eq!(names.time("a-x.log"), None);
    }
}
