//! What a server costs before anybody uses it: time to its first answer, idle memory, empty disk.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::process;
use crate::server::ServerCommand;

/// One cold start on an empty directory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Start {
    /// From the start of the process to the answer of the first linearizable read.
    pub first_read: Duration,
    /// Resident memory after the idle time.
    pub idle_bytes: u64,
    /// Disk space of the data directory after the idle time.
    pub disk_bytes: u64,
}

/// Starts the server below `parent`, waits for its first answer, lets it idle, and ends it.
///
/// # Errors
/// The server does not start or does not answer.
pub fn measure(
    command: &ServerCommand,
    parent: &Path,
    processor: Option<usize>,
    idle: Duration,
) -> io::Result<Start> {
    let mut server = command.start(parent, processor)?;
    let first_read = server.wait_until_ready()?;
    std::thread::sleep(idle);
    let start = Start {
        first_read,
        idle_bytes: process::memory(server.pid())?.resident_bytes,
        disk_bytes: server.disk_bytes()?,
    };
    server.stop()?;
    Ok(start)
}
