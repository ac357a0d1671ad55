//! ext4 on a loop device on the faulty disk.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fuser::BackgroundSession;

use crate::disk::Disk;
use crate::filesystem::{FILE_NAME, SharedDisk};

/// How long an unmount may be busy with what a killed process left.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);

/// A mounted file system whose device can lose power. Everything is taken down when it is dropped.
pub struct FaultyMount {
    disk: SharedDisk,
    directory: PathBuf,
    loop_device: Option<String>,
    mounted: bool,
    session: Option<BackgroundSession>,
}

impl FaultyMount {
    /// A fresh ext4 of `bytes` below `parent`, which must be empty.
    ///
    /// # Errors
    /// A tool is missing, failed, or this is not root.
    pub fn create(parent: &Path, bytes: usize, seed: u64) -> io::Result<FaultyMount> {
        let disk = SharedDisk::new(Disk::new(bytes, seed));
        let fuse = parent.join("fuse");
        let directory = parent.join("ext4");
        std::fs::create_dir_all(&fuse)?;
        std::fs::create_dir_all(&directory)?;
        let session = disk.serve(&fuse)?;
        let mut mount = FaultyMount {
            disk,
            directory,
            loop_device: None,
            mounted: false,
            session: Some(session),
        };
        let file = fuse.join(FILE_NAME);
        mount.attach(&file)?;
        let device = mount.device()?.to_owned();
        run(
            "mkfs.ext4",
            &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0", &device],
        )?;
        mount.mount()?;
        Ok(mount)
    }

    /// Where the file system is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The disk below.
    pub fn disk(&self) -> &SharedDisk {
        &self.disk
    }

    /// The power fails; whoever used the file system must have been killed when
    /// [`FaultyMount::power_on`] is called.
    pub fn power_off(&self) {
        self.disk.lock().cut_power();
    }

    /// Takes the dead file system down, lets the disk forget, and mounts what is left.
    ///
    /// # Errors
    /// A tool failed: after a power cut that means that the file system itself is damaged.
    pub fn power_on(&mut self) -> io::Result<()> {
        self.unmount()?;
        self.detach()?;
        self.disk.lock().restore_power();
        let file = self.directory.with_file_name("fuse").join(FILE_NAME);
        self.attach(&file)?;
        self.mount()
    }

    fn device(&self) -> io::Result<&str> {
        self.loop_device
            .as_deref()
            .ok_or_else(|| io::Error::other("no loop device"))
    }

    fn attach(&mut self, file: &Path) -> io::Result<()> {
        let file = file.display().to_string();
        let device = run("losetup", &["--find", "--show", "--direct-io=on", &file])?;
        self.loop_device = Some(device.trim().to_owned());
        Ok(())
    }

    fn mount(&mut self) -> io::Result<()> {
        let device = self.device()?.to_owned();
        let directory = self.directory.display().to_string();
        run(
            "mount",
            &["-t", "ext4", "-o", "errors=remount-ro", &device, &directory],
        )?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.mounted, false) {
            return Ok(());
        }
        let directory = self.directory.display().to_string();
        until_it_works(|| run("umount", &[&directory]))
    }

    fn detach(&mut self) -> io::Result<()> {
        let Some(device) = self.loop_device.take() else {
            return Ok(());
        };
        until_it_works(|| run("losetup", &["--detach", &device]))
    }
}

impl Drop for FaultyMount {
    fn drop(&mut self) {
        let taken_down = self.unmount().and_then(|()| self.detach());
        if let Err(error) = taken_down {
            eprintln!("faultdisk: {error}");
        }
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("faultdisk: {error}");
        }
    }
}

/// A killed process's last write may keep the file system busy for a while.
fn until_it_works(mut attempt: impl FnMut() -> io::Result<String>) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > UNMOUNT_PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{program} {arguments:?}: {}: {error}",
        output.status
    )))
}
