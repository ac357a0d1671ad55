//! The messages of etcd's API that the model sends and reads, beyond those of `ringbench`.

use std::io;
use std::time::{Duration, Instant};

use ringbench::http2::{Address, Connection, RequestHead};
use ringbench::message::PREFIX_BYTES;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `/etcdserverpb.KV/DeleteRange`.
pub const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
/// `/etcdserverpb.Lease/LeaseRevoke`.
pub const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
/// `/etcdserverpb.Lease/LeaseLeases`.
pub const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
/// `/etcdserverpb.Maintenance/HashKV`.
pub const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";

/// A request being written.
pub struct Request(Vec<u8>);

impl Default for Request {
    fn default() -> Self {
        Request(vec![0; PREFIX_BYTES])
    }
}

impl Request {
    /// Adds a number.
    #[must_use]
    pub fn number(mut self, field: u64, number: i64) -> Request {
        self.varint(field << 3);
        self.varint(number as u64);
        self
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Request {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// The message with its prefix.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let len = (self.0.len() - PREFIX_BYTES) as u32;
        self.0[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 128 {
            self.0.push(value as u8 | 128);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// A number.
    Number(i64),
    /// Bytes, or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message in order; ends at the first that is malformed.
pub fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while let Some((field, rest)) = first_field(message) {
        fields.push(field);
        message = rest;
    }
    fields
}

fn first_field(message: &[u8]) -> Option<((u64, Field<'_>), &[u8])> {
    let (tag, rest) = varint(message)?;
    let (number, rest) = varint(rest)?;
    match tag & 7 {
        0 => Some(((tag >> 3, Field::Number(number as i64)), rest)),
        2 => {
            let bytes = rest.get(..number as usize)?;
            Some(((tag >> 3, Field::Bytes(bytes)), &rest[number as usize..]))
        }
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

/// The number in a field of a message; 0 if it is not there.
pub fn number(message: &[u8], wanted: u64) -> i64 {
    let mut found = fields(message).into_iter();
    let found = found.find(|(field, _)| *field == wanted);
    match found {
        Some((_, Field::Number(number))) => number,
        _ => 0,
    }
}

/// The first bytes in a field of a message.
pub fn bytes(message: &[u8], wanted: u64) -> &[u8] {
    let mut found = fields(message).into_iter();
    let found = found.find(|(field, _)| *field == wanted);
    match found {
        Some((_, Field::Bytes(bytes))) => bytes,
        _ => &[],
    }
}

/// The revision in an answer's header.
pub fn revision(answer: &[u8]) -> i64 {
    number(bytes(answer, 1), 3)
}

/// An answer without its prefix, or the code and text of a refusal.
pub type Answer = Result<Vec<u8>, (u32, String)>;

/// One call at a time.
pub struct Caller(Connection);

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open(address: std::net::SocketAddr) -> io::Result<Caller> {
        Ok(Caller(Connection::open(&Address::Tcp(address))?))
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// The connection broke, or there is no answer in time.
    pub fn call(&mut self, path: &str, request: Request) -> io::Result<Answer> {
        self.0.send(&RequestHead::new(path), &request.finish(), 0);
        let mut completions = Vec::new();
        let begun = Instant::now();
        loop {
            self.0.flush()?;
            self.0.receive(&mut completions)?;
            if let Some(done) = completions.pop() {
                return Ok(match done.code {
                    0 => Ok(done.body.get(PREFIX_BYTES..).unwrap_or_default().to_vec()),
                    code => Err((code, done.message)),
                });
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{path} is not answered")));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Request::default()
            .number(1, 300)
            .bytes(2, b"key")
            .number(3, -1)
            .finish();
        let body = &message[PREFIX_BYTES..];
        assert_eq!(number(body, 1), 300);
        assert_eq!(bytes(body, 2), b"key");
        assert_eq!(number(body, 3), -1);
        assert_eq!(number(body, 4), 0);
        assert_eq!(fields(&[0x0a, 5, 1]).len(), 0);
    }
}
