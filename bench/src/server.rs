//! The server under test: started on a fresh data directory, asked until it answers, ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::cgroup::{MemoryGroup, MemoryLimit};
use crate::http2::{Address, Connection, RequestHead};
use crate::message;
use crate::process;

/// A server that has not answered within this time is given up.
const READY: Duration = Duration::from_secs(30);
/// A server that has not ended within this time after SIGTERM is killed.
const END: Duration = Duration::from_secs(10);
/// Distance between two attempts to reach a starting server.
const ATTEMPT: Duration = Duration::from_micros(250);
/// How long one attempt waits for its answer.
const ATTEMPT_ANSWER: Duration = Duration::from_secs(2);

/// How to start a server: the program and its own arguments; the flags that every etcd-like server
/// takes for one node on loopback are added.
#[derive(Debug, Clone)]
pub struct ServerCommand {
    text: String,
}

impl ServerCommand {
    /// A command line, split at white space.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    /// The program's file name, for tables.
    pub fn name(&self) -> String {
        let program = self.text.split_whitespace().next().unwrap_or_default();
        let name = Path::new(program).file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Starts the server in a new directory below `parent`, bound to `processor` if given.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, parent: &Path, processor: Option<usize>) -> io::Result<Server> {
        let surroundings = Surroundings {
            processor,
            ..Surroundings::default()
        };
        self.start_in(parent, &surroundings)
    }

    /// Starts the server in a new directory below `parent`.
    ///
    /// # Errors
    /// The program cannot be started, or the memory limit cannot be set.
    pub fn start_in(&self, parent: &Path, surroundings: &Surroundings) -> io::Result<Server> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringbench-{}-{number}", std::process::id());
        let directory = parent.join(&name);
        fs::create_dir_all(&directory)?;
        let (client, peer) = (free_port()?, free_port()?);
        let group = surroundings
            .memory_limit
            .as_ref()
            .map(|limit| MemoryGroup::create(limit, &name))
            .transpose()?;
        let mut words: Vec<String> = self.text.split_whitespace().map(str::to_owned).collect();
        words.extend([
            format!("--data-dir={}", directory.join("data").display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster=default=http://{peer}"),
        ]);
        if let Some(bytes) = surroundings.quota_bytes
            && !self.text.contains("--quota-backend-bytes")
        {
            words.push(format!("--quota-backend-bytes={bytes}"));
        }
        let started = Instant::now();
        let child = launch(&words, &directory, surroundings.processor, group.as_ref())?;
        Ok(Server {
            child,
            words,
            processor: surroundings.processor,
            directory,
            address: Address::Tcp(client),
            started,
            group,
        })
    }
}

/// What a server is given beside its command.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The only processor it may use.
    pub processor: Option<usize>,
    /// A limit of its memory.
    pub memory_limit: Option<MemoryLimit>,
    /// The store's size at which the server refuses writes; the server's default if not given.
    pub quota_bytes: Option<u64>,
}

fn launch(
    words: &[String],
    directory: &Path,
    processor: Option<usize>,
    group: Option<&MemoryGroup>,
) -> io::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("log"))?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(io::Error::other("an empty command"));
    };
    let mut command = match group {
        None => Command::new(program),
        Some(group) => group.command(program),
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    process::on_processor(processor, || command.spawn())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start `{program}`: {error}")))
}

/// A running server; its directory is deleted when the value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    words: Vec<String>,
    processor: Option<usize>,
    directory: PathBuf,
    address: Address,
    started: Instant,
    group: Option<MemoryGroup>,
}

impl Server {
    /// Where it listens for clients.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first answered linearizable read and returns the time since the start.
    ///
    /// # Errors
    /// The server ended or did not answer in time; the text holds the end of its log.
    pub fn wait_until_ready(&mut self) -> io::Result<Duration> {
        self.wait_until_ready_within(READY)
    }

    /// The same with another patience, for a server that has much to read.
    ///
    /// # Errors
    /// The server ended or did not answer in time; the text holds the end of its log.
    pub fn wait_until_ready_within(&mut self, limit: Duration) -> io::Result<Duration> {
        while self.started.elapsed() < limit {
            if read_once(&self.address).is_ok() {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("ended with {status}")));
            }
            std::thread::sleep(ATTEMPT);
        }
        Err(self.failure("did not answer"))
    }

    /// Disk space of the data directory in bytes.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn disk_bytes(&self) -> io::Result<u64> {
        disk_bytes(&self.data_directory())
    }

    /// Where its data is.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What it has logged, over all its lives.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The group that limits its memory.
    pub fn memory_group(&self) -> Option<&MemoryGroup> {
        self.group.as_ref()
    }

    /// Whether the process has ended by itself.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Kills the process at once, as `kill -9`.
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Starts an ended server again on the same data and addresses.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.started = Instant::now();
        self.child = launch(
            &self.words,
            &self.directory,
            self.processor,
            self.group.as_ref(),
        )?;
        Ok(())
    }

    /// Asks the server to end, and kills it if it does not.
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    /// The same, for a server that will be started again.
    ///
    /// # Errors
    /// The process cannot be signalled or waited for.
    pub fn end(&mut self) -> io::Result<()> {
        kill_process(process::pid(self.pid())?, Signal::TERM)?;
        let asked = Instant::now();
        while asked.elapsed() < END {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    fn failure(&self, what: &str) -> io::Error {
        const TAIL_BYTES: usize = 2000;
        let mut log = String::new();
        if let Ok(mut file) = File::open(self.directory.join("log"))
            && let Err(error) = file.read_to_string(&mut log)
        {
            log = format!("(no log: {error})");
        }
        let mut tail = log.len().saturating_sub(TAIL_BYTES);
        while !log.is_char_boundary(tail) {
            tail += 1;
        }
        io::Error::other(format!(
            "the server {what}; its log ends:\n{}",
            &log[tail..]
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
        drop(self.group.take());
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("cannot delete {}: {error}", self.directory.display());
        }
    }
}

/// A loopback address that nobody listens on at this moment.
///
/// # Errors
/// No port is free.
pub fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

/// One linearizable read on a new connection: whether the server serves.
///
/// # Errors
/// The connection or the read failed, or took too long.
pub fn read_once(address: &Address) -> io::Result<()> {
    let mut connection = Connection::open(address)?;
    let mut request = Vec::new();
    message::range(b"health", false, &mut request);
    connection.send(&RequestHead::new(message::RANGE), &request, 0);
    let sent = Instant::now();
    let mut completions = Vec::new();
    while sent.elapsed() < ATTEMPT_ANSWER {
        connection.flush()?;
        connection.receive(&mut completions)?;
        if let Some(completion) = completions.pop() {
            return match completion.code {
                0 => Ok(()),
                _ => Err(io::Error::other(completion.message)),
            };
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Disk space below `path` in bytes; what is deleted meanwhile counts nothing.
///
/// # Errors
/// Something cannot be read.
pub fn disk_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    /// `st_blocks` counts these, whatever the file system's own block is.
    const BLOCK_BYTES: u64 = 512;
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        metadata => metadata?,
    };
    let mut bytes = metadata.blocks() * BLOCK_BYTES;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}
