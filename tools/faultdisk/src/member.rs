//! A real ringd on the faulty disk, and the memory of what it acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ringbench::http2::{Address, Completion, Connection, RequestHead};
use ringbench::message;

/// How long a start, a stop or an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// gRPC's code of an answer that refuses for want of room.
const RESOURCE_EXHAUSTED: u32 = 8;

/// A running server.
pub struct Member {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    /// Length of the log file when it started.
    logged_before: u64,
}

/// Which driver the server is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring.
    Uring,
    /// epoll and threads.
    Fallback,
}

impl IoDriver {
    fn name(self) -> &'static str {
        match self {
            IoDriver::Uring => "io_uring",
            IoDriver::Fallback => "fallback",
        }
    }
}

impl Member {
    /// Starts `binary` on `data_dir` and waits until it answers; its log goes to `log`.
    ///
    /// # Errors
    /// It ended instead; the message has the end of its log.
    pub fn start(
        binary: &Path,
        data_dir: &Path,
        log: &Path,
        driver: IoDriver,
    ) -> io::Result<Member> {
        Member::start_with(binary, data_dir, log, driver, &[])
    }

    /// The same with more flags.
    ///
    /// # Errors
    /// As [`Member::start`].
    pub fn start_with(
        binary: &Path,
        data_dir: &Path,
        log: &Path,
        driver: IoDriver,
        flags: &[&str],
    ) -> io::Result<Member> {
        let logged_before = std::fs::metadata(log).map_or(0, |file| file.len());
        let client = ringbench::server::free_port()?;
        let peer = ringbench::server::free_port()?;
        let file = File::options().create(true).append(true).open(log)?;
        let peer_url = format!("http://{peer}");
        let child = Command::new(binary)
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--io-driver", driver.name()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()?;
        let mut member = Member {
            child,
            address: client,
            log: log.to_path_buf(),
            logged_before,
        };
        let begun = Instant::now();
        while ringbench::server::read_once(&Address::Tcp(client)).is_err() {
            if let Some(status) = member.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "ringd ended with {status} at its start; end of {}: {}",
                    log.display(),
                    member.last_words()
                )));
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other("ringd does not answer"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(member)
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged in this life.
    pub fn logged(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let own = text.get(self.logged_before as usize..).unwrap_or_default();
        String::from_utf8_lossy(own).into_owned()
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        // It may have ended by itself.
        drop(self.child.kill());
        self.child.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait_for_end(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                return Err(io::Error::other("ringd did not end"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(4).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("faultdisk: {error}");
        }
    }
}

/// What was acknowledged: the key with its number, the revision it got.
#[derive(Debug, Default)]
pub struct Promises {
    acknowledged: BTreeMap<u64, i64>,
    next: u64,
    revision_max: i64,
}

impl Promises {
    /// Acknowledged puts.
    pub fn count(&self) -> usize {
        self.acknowledged.len()
    }

    /// Puts new keys, `in_flight` at a time, until `until` says so or the connection breaks. Returns
    /// how many were acknowledged.
    ///
    /// # Errors
    /// An answer that cannot be: a revision that goes back, or one given twice.
    pub fn put_until(
        &mut self,
        member: &Member,
        in_flight: usize,
        value_bytes: usize,
        mut until: impl FnMut(usize) -> bool,
    ) -> io::Result<usize> {
        let head = RequestHead::new(message::PUT);
        let Ok(mut connection) = Connection::open(&Address::Tcp(member.address)) else {
            return Ok(0);
        };
        let mut request = Vec::new();
        let mut completions: Vec<Completion> = Vec::new();
        let before = self.acknowledged.len();
        loop {
            let done = self.acknowledged.len() - before;
            if until(done) {
                return Ok(done);
            }
            while connection.in_flight() < in_flight {
                let number = self.next;
                self.next += 1;
                message::put(&key(number), &value(number, value_bytes), &mut request);
                connection.send(&head, &request, number as u32);
            }
            let alive = connection.flush().is_ok() && connection.receive(&mut completions).is_ok();
            for completion in completions.drain(..) {
                self.take(&completion)?;
                connection.recycle(completion.body);
            }
            if !alive {
                return Ok(self.acknowledged.len() - before);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn take(&mut self, completion: &Completion) -> io::Result<()> {
        if completion.code == RESOURCE_EXHAUSTED {
            return Err(io::Error::other("the member is out of space or overloaded"));
        }
        if completion.code != 0 {
            return Ok(());
        }
        let Some(answer) = message::read_put(&completion.body) else {
            return Err(io::Error::other("a put was answered with something else"));
        };
        let number = u64::from(completion.token);
        if self.acknowledged.insert(number, answer.revision).is_some() {
            return Err(io::Error::other(format!("put {number} was answered twice")));
        }
        self.revision_max = self.revision_max.max(answer.revision);
        Ok(())
    }

    /// Reads every acknowledged key back: it must be there, last changed at its revision.
    ///
    /// # Errors
    /// Names the first key that is lost or different, or a store revision that went back.
    pub fn verify(&self, member: &Member) -> io::Result<()> {
        let head = RequestHead::new(message::RANGE);
        let mut connection = Connection::open(&Address::Tcp(member.address))?;
        let mut request = Vec::new();
        let mut completions: Vec<Completion> = Vec::new();
        let mut unasked = self.acknowledged.iter();
        let mut answered = 0;
        let begun = Instant::now();
        while answered < self.acknowledged.len() {
            while connection.in_flight() < 256 {
                let Some((number, _)) = unasked.next() else {
                    break;
                };
                message::range(&key(*number), false, &mut request);
                connection.send(&head, &request, *number as u32);
            }
            connection.flush()?;
            connection.receive(&mut completions)?;
            for completion in completions.drain(..) {
                answered += 1;
                self.check(&completion)?;
                connection.recycle(completion.body);
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other("reads are not answered"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn check(&self, completion: &Completion) -> io::Result<()> {
        let number = u64::from(completion.token);
        let expected = self.acknowledged[&number];
        if completion.code != 0 {
            return Err(io::Error::other(format!(
                "read of {number}: {}",
                completion.message
            )));
        }
        let answer = message::read_range(&completion.body).unwrap_or_default();
        if answer.key_values != 1 || answer.modified != expected {
            return Err(io::Error::other(format!(
                "ACKNOWLEDGED WRITE LOST: put {number} was acknowledged at revision {expected}; now {answer:?}"
            )));
        }
        if answer.revision < self.revision_max {
            return Err(io::Error::other(format!(
                "the store's revision went back from {} to {}",
                self.revision_max, answer.revision
            )));
        }
        Ok(())
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("/promise/{number:012}").into_bytes()
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{number:012}").into_bytes();
    value.resize(bytes.max(12), b'v');
    value
}
