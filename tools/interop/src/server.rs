//! One server process: started, awaited, ended by its own process id.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ringbench::http2::Address;
use ringbench::process;
use ringbench::server::{free_port, read_once};
use rustix::process::{Signal, kill_process};

use crate::programs::Kind;

/// A server that has not answered within this time has failed.
const READY: Duration = Duration::from_secs(30);
/// Attempts of one start, because a free port may be taken by another process before the server binds it.
const START_ATTEMPTS: u32 = 3;

/// A directory that is deleted with the value.
#[derive(Debug)]
pub struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    /// A new empty directory.
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = crate::programs::directory()
            .join("data")
            .join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for TemporaryDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot delete {}: {error}", self.0.display());
        }
    }
}

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Launch {
    kind: Kind,
    data: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    socket_file: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
}

impl Launch {
    /// A server of `kind` with its data below `directory` and free loopback ports.
    ///
    /// With `INTEROP_WITHOUT_IO_URING` set, every server runs where `io_uring_setup` is refused.
    pub fn new(kind: Kind, directory: &Path) -> Self {
        let port = || free_port().unwrap_or_else(|error| panic!("no free port: {error}"));
        Self {
            kind,
            data: directory.join("data"),
            client: port(),
            peer: port(),
            socket_file: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            wrapper: match std::env::var_os("INTEROP_WITHOUT_IO_URING") {
                None => Vec::new(),
                Some(_) => without_io_uring(),
            },
        }
    }

    /// Adds one flag.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Listens for clients on a socket file instead of a port.
    #[must_use]
    pub fn socket_file(mut self, path: PathBuf) -> Self {
        self.socket_file = Some(path);
        self
    }

    /// Runs the server where `io_uring_setup` is refused.
    #[must_use]
    pub fn without_io_uring(mut self) -> Self {
        self.wrapper = without_io_uring();
        self
    }

    /// Listens on other ports, with the same data.
    #[must_use]
    pub fn other_ports(mut self) -> Self {
        let fresh = Self::new(self.kind, &self.data);
        (self.client, self.peer) = (fresh.client, fresh.peer);
        self
    }

    /// HOST:PORT for peers.
    pub fn peer(&self) -> String {
        self.peer.to_string()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The complete command.
    pub fn command(&self) -> Command {
        let program = self.kind.program();
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((wrapper, words)) => {
                let mut command = Command::new(wrapper);
                command.args(words).arg(program);
                command
            }
        };
        let client = match &self.socket_file {
            None => format!("http://{}", self.client),
            Some(path) => format!("unix://{}", path.display()),
        };
        command
            .arg(format!("--data-dir={}", self.data.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls=http://{}", self.client))
            .arg(format!("--listen-peer-urls=http://{}", self.peer))
            .arg(format!(
                "--initial-advertise-peer-urls=http://{}",
                self.peer
            ))
            .arg(format!("--initial-cluster=default=http://{}", self.peer))
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts the server and waits until it answers a linearizable read.
    ///
    /// # Panics
    /// It does not, even on other ports; the text holds the end of its log.
    pub fn start(mut self) -> Server {
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS {
            let mut server = self.spawn();
            match server.wait_until_ready() {
                Ok(()) => return server,
                Err(text) if text.contains("address already in use") => failure = text,
                Err(text) => panic!("{text}"),
            }
            self = self.other_ports();
        }
        panic!("{failure}");
    }

    /// Starts the server without waiting.
    ///
    /// # Panics
    /// The program cannot be started.
    pub fn spawn(&self) -> Server {
        let directory = self.data.parent().unwrap_or(&self.data);
        let log_path = directory.join("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .unwrap_or_else(|error| panic!("{}: {error}", log_path.display()));
        let log_begin = log.metadata().map_or(0, |metadata| metadata.len());
        let mut command = self.command();
        let errors = log.try_clone().unwrap_or_else(|error| panic!("{error}"));
        command.stdout(log).stderr(errors);
        let started = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Server {
            child,
            launch: self.clone(),
            log_path,
            log_begin,
            started,
        }
    }
}

/// The program that takes `io_uring_setup` away and then becomes the server.
fn without_io_uring() -> Vec<String> {
    let program = crate::programs::root().join("tools/interop/python/without_io_uring.py");
    vec!["python3".to_owned(), program.display().to_string()]
}

/// A running server; killed when the value is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    launch: Launch,
    log_path: PathBuf,
    log_begin: u64,
    started: Instant,
}

impl Server {
    /// How it was started; starting that again is a restart.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// What kind of server it is.
    pub fn kind(&self) -> Kind {
        self.launch.kind
    }

    /// HOST:PORT for clients.
    pub fn endpoint(&self) -> String {
        self.launch.client.to_string()
    }

    /// HOST:PORT for peers.
    pub fn peer(&self) -> String {
        self.launch.peer.to_string()
    }

    /// Where clients connect, socket file or port.
    pub fn address(&self) -> Address {
        match &self.launch.socket_file {
            None => Address::Tcp(self.launch.client),
            Some(path) => Address::Unix(path.clone()),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time since the process was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until a linearizable read is answered.
    ///
    /// # Errors
    /// The server ended or stays silent; the text holds its log.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        while self.started.elapsed() < READY {
            if read_once(&self.address()).is_ok() {
                return Ok(());
            }
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(status)) => {
                    return Err(format!("the server ended with {status}:\n{}", self.log()));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("the server does not answer:\n{}", self.log()))
    }

    /// What this process has written to standard output and standard error.
    pub fn log(&self) -> String {
        let log = fs::read(&self.log_path).unwrap_or_default();
        let begin = usize::try_from(self.log_begin).unwrap_or_default();
        String::from_utf8_lossy(log.get(begin..).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to the server.
    ///
    /// # Panics
    /// It is not running.
    pub fn signal(&self, signal: Signal) {
        process::pid(self.pid())
            .and_then(|pid| Ok(kill_process(pid, signal)?))
            .unwrap_or_else(|error| panic!("cannot signal the server: {error}"));
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// It has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Kills the process as a crash would and returns how to start it again.
    pub fn kill(mut self) -> Launch {
        self.end();
        self.launch.clone()
    }

    fn end(&mut self) {
        // Both fail only when the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!(
                "the server's last lines, newest first:\n{}",
                tail.join("\n")
            );
        }
    }
}
