//! The bare device below a directory: what a durable write of one block costs, and a read.

use std::fs::{self, File as BlockingFile};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use reactor::{AlignedBuffer, BLOCK_BYTES, File, OpenOptions, RunOptions, World, run};
use rustix::fs::OFlags;

use super::{Driver, TIMES_HEADER, Times};
use crate::random::Random;

const EXAMPLES: &str = "Examples:
  ringbench disk --directory /var/lib/ringd
  ringbench disk --file-mebibytes 1024 --duration 10";

const MEBIBYTE: u64 = 1 << 20;

/// Measure the device that holds a directory, one operation of 4 KiB at a time: durable writes in the three ways that
/// there are, writes alone, random reads.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Disk {
    /// Where the measured file is made, and removed again.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Driver of the core.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// Seconds of each row.
    #[arg(long, default_value_t = 3.0)]
    duration: f64,
    /// Size of the file. It is written in full before anything is measured, as a log's files are.
    #[arg(long, default_value_t = 64)]
    file_mebibytes: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The measured file's name goes with this.
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("ringbench: {}: {error}", self.0.display());
        }
    }
}

/// Where the next write goes: through the file, block by block, as a log does.
struct Next {
    blocks: u64,
    next: u64,
}

impl Next {
    fn offset(&mut self) -> u64 {
        let block = self.next % self.blocks;
        self.next += 1;
        block * BLOCK_BYTES as u64
    }
}

impl Disk {
    /// Measures and prints.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn run(&self) -> io::Result<()> {
        let duration = Duration::try_from_secs_f64(self.duration).map_err(io::Error::other)?;
        if self.file_mebibytes == 0 {
            return Err(io::Error::other("the file must have a size"));
        }
        fs::create_dir_all(&self.directory)?;
        let name = format!("ringbench-disk-{}", std::process::id());
        let path = self.directory.join(name);
        let options = RunOptions {
            driver: self.driver.into(),
            ..RunOptions::default()
        };
        let (file_path, blocks) = (
            path.clone(),
            self.file_mebibytes * MEBIBYTE / BLOCK_BYTES as u64,
        );
        let (title, mut rows) = run(&options, move |world| async move {
            let outcome = on_core(&world, &file_path, blocks, duration).await;
            outcome.map(|rows| (world.driver_kind().to_string(), rows))
        })
        .flatten()?;
        let remove = RemoveOnDrop(path);
        for (name, synchronous) in [
            ("pwrite, then fdatasync (blocking)", false),
            ("pwrite with O_DSYNC (blocking)", true),
        ] {
            let times = blocking(&remove.0, synchronous, blocks, duration)?;
            rows.push((name, times));
        }
        self.print(&title, &rows);
        Ok(())
    }

    fn print(&self, driver: &str, rows: &[(&str, Times)]) {
        if self.json {
            let rows: serde_json::Map<_, _> = rows
                .iter()
                .map(|(name, times)| ((*name).to_owned(), times.json()))
                .collect();
            println!("{:#}", serde_json::json!({"driver": driver, "rows": rows}));
            return;
        }
        println!(
            "disk: one operation of 4 KiB at a time, direct, in a written file of {} MiB below {}, {driver}",
            self.file_mebibytes,
            self.directory.display()
        );
        println!("  {:<36}{TIMES_HEADER}    count", "");
        for (name, times) in rows {
            println!("  {name:<36}{times}{:>9}", times.count());
        }
    }
}

/// The rows that the reactor carries out. Leaves the file behind.
async fn on_core(
    world: &World,
    path: &Path,
    blocks: u64,
    duration: Duration,
) -> io::Result<Vec<(&'static str, Times)>> {
    let options = OpenOptions {
        read: true,
        write: true,
        create_new: true,
        direct: true,
        len_to_reserve: Some(blocks * BLOCK_BYTES as u64),
        lock: false,
    };
    let file = world.open(path, options).await?;
    if !file.is_direct() {
        eprintln!("ringbench: the file system has no direct I/O: what follows measures memory");
    }
    write_in_full(&file, blocks).await?;
    let mut next = Next { blocks, next: 0 };
    let mut random = Random::new(1);
    let mut rows = Vec::new();

    let mut times = Times::new();
    let mut buffer = block();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let began = Instant::now();
        buffer = file.write_at_and_sync(buffer, next.offset()).await?;
        times.record(began.elapsed().as_nanos() as u64);
    }
    rows.push(("write and fdatasync, linked", times));

    let mut times = Times::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let began = Instant::now();
        buffer = file.write_at(buffer, next.offset()).await?;
        times.record(began.elapsed().as_nanos() as u64);
    }
    rows.push(("write alone", times));
    file.sync_data().await?;

    let mut times = Times::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let offset = random.below(blocks) * BLOCK_BYTES as u64;
        let began = Instant::now();
        buffer = file.read_into(buffer, offset).await?;
        times.record(began.elapsed().as_nanos() as u64);
    }
    rows.push(("random read", times));
    Ok(rows)
}

/// Writes every block once: the first write into merely reserved space costs more.
async fn write_in_full(file: &File, blocks: u64) -> io::Result<()> {
    const BLOCKS_AT_ONCE: u64 = 256;
    let mut offset = 0;
    let end = blocks * BLOCK_BYTES as u64;
    while offset < end {
        let len = (end - offset).min(BLOCKS_AT_ONCE * BLOCK_BYTES as u64);
        let mut buffer = AlignedBuffer::zeroed(len as usize);
        buffer.fill(0x5A);
        file.write_at(buffer, offset).await?;
        offset += len;
    }
    file.sync_data().await
}

/// The same without the reactor, by a thread that blocks.
fn blocking(path: &Path, synchronous: bool, blocks: u64, duration: Duration) -> io::Result<Times> {
    let flags = if synchronous {
        OFlags::DIRECT | OFlags::DSYNC
    } else {
        OFlags::DIRECT
    };
    let open = |flags: OFlags| {
        BlockingFile::options()
            .write(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
    };
    // A file system without direct I/O: said before.
    let file = open(flags).or_else(|_| open(flags - OFlags::DIRECT))?;
    let buffer = block();
    let mut next = Next { blocks, next: 0 };
    let mut times = Times::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let began = Instant::now();
        file.write_all_at(&buffer, next.offset())?;
        if !synchronous {
            file.sync_data()?;
        }
        times.record(began.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

fn block() -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(BLOCK_BYTES);
    buffer.fill(0xA5);
    buffer
}
