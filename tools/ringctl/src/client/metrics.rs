//! One figure from a server's `/metrics`, over HTTP/1.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::channel::{self, Transport};
use super::endpoint::Endpoint;
use super::tls::Tls;

const RESIDENT: &str = "process_resident_memory_bytes ";
/// More than any server's metrics take.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The memory that the server's process holds.
pub(crate) async fn resident_bytes(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<f64, String> {
    let (_, stream) = channel::transport(endpoint, tls, &[])
        .await
        .map_err(|error| error.cause)?;
    let answer = ask(stream, &endpoint.authority)
        .await
        .map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let line = answer.lines().find_map(|line| line.strip_prefix(RESIDENT));
    let line = line.ok_or_else(|| format!("could not find: {}", RESIDENT.trim_end()))?;
    line.trim()
        .parse()
        .map_err(|error| format!("parse error: {error}"))
}

async fn ask(mut stream: Box<dyn Transport>, host: &str) -> io::Result<Vec<u8>> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}
