//! A disk that stands still: writes end by a time-out with etcd's error, and go on when it moves again.
//!
//! Mounts a file system of its own, so it needs root.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use interop::programs::{Kind, go_scenarios};
use interop::server::{Launch, Server, TemporaryDirectory};

/// Room for both servers.
const DISK_BYTES: u64 = 600 << 20;

/// A file system on a loop device. Thawed, unmounted and deleted with the value.
struct Disk {
    folder: PathBuf,
    frozen: bool,
}

fn run(program: &str, words: &[&str], path: &Path) {
    let output = Command::new(program).args(words).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {errors}");
}

impl Disk {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "a disk that stands still is mounted: run this as root"
        );
        let folder = std::env::temp_dir().join(format!("interop-frozen-{}", std::process::id()));
        let disk = Self {
            folder,
            frozen: false,
        };
        fs::create_dir_all(disk.mounted()).unwrap();
        let image = disk.folder.join("image");
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-F"], &image);
        let words = ["-o", "loop", image.to_str().unwrap()];
        run("mount", &words, &disk.mounted());
        disk
    }

    fn mounted(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    /// From now on nobody can write.
    fn freeze(&mut self) {
        run("fsfreeze", &["--freeze"], &self.mounted());
        self.frozen = true;
    }

    fn thaw(&mut self) {
        self.frozen = false;
        run("fsfreeze", &["--unfreeze"], &self.mounted());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            done("fsfreeze", &["--unfreeze"], &self.mounted());
        }
        // The files of a process that was killed are closed a moment after it.
        let unmounted = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            done("umount", &["--quiet"], &self.mounted())
        });
        if !unmounted {
            eprintln!("{} stays mounted", self.mounted().display());
        } else if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("cannot delete {}: {error}", self.folder.display());
        }
    }
}

/// Whether a command has done what it should.
fn done(program: &str, words: &[&str], path: &Path) -> bool {
    let output = Command::new(program).args(words).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

/// A server with its data on the disk and its log elsewhere, whose writes end after 5 s and twice the election timeout.
fn start(kind: Kind, disk: &Disk, folder: &TemporaryDirectory) -> Server {
    let data = disk.mounted().join(format!(
        "{kind:?}-{}",
        folder.path().file_name().unwrap().display()
    ));
    fs::create_dir(&data).unwrap();
    symlink(&data, folder.path().join("data")).unwrap();
    Launch::new(kind, folder.path())
        .argument("--heartbeat-interval=50")
        .argument("--election-timeout=500")
        .start()
}

fn scenario(name: &str, tested: &Server, reference: &Server) -> (bool, String) {
    let output = Command::new(go_scenarios())
        .args([name, &tested.endpoint(), &reference.endpoint()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), errors)
}

#[test]
fn writes_time_out_as_etcds() {
    let mut disk = Disk::new();
    let (folder, other) = (TemporaryDirectory::new(), TemporaryDirectory::new());
    let tested = start(Kind::under_test(), &disk, &folder);
    let reference = start(Kind::Etcd, &disk, &other);
    disk.freeze();
    let (as_expected, errors) = scenario("timeouts", &tested, &reference);
    disk.thaw();
    assert!(as_expected, "{errors}");
    // It serves again, and the writes that were in doubt do not harm it.
    let mut again = tested.kill().start();
    again.wait_until_ready().unwrap();
}
