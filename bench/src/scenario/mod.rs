//! The scenarios beyond plain load: each starts a server, puts it into a state, measures, and gives
//! [`Figures`](crate::figures::Figures) that are the same for every server.
//!
//! A scenario owns its command line. What several need is here.

use std::io;
use std::time::Duration;

use clap::Args;

use crate::fill::{Fill, Stop, Verify};
use crate::keys::{Content, Keys, Naming};
use crate::load::{self, Outcome, Plan};
use crate::server::Server;

mod churn;
mod leases;
mod list;
mod load_and_verify;
mod mixed;
mod scale;
mod snapshot;
mod watchers;

pub use churn::Churn;
pub use leases::Leases;
pub use list::List;
pub use load_and_verify::{Load, LoadVerify};
pub use mixed::Mixed;
pub use scale::Scale;
pub use snapshot::Snapshot;
pub use watchers::Watchers;

/// Connections and streams of a load that is to go as fast as the server takes it.
const FILL_CONNECTIONS: usize = 8;
const FILL_STREAMS: usize = 64;
/// The same where each call brings many keys: a server must not get more at once than it can answer in its time.
const FILL_STREAMS_OF_BATCHES: usize = 8;
/// A load that takes longer is given up.
const FILL_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// What background work after a load gets before memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);

const MEBIBYTE: f64 = 1048576.0;

/// Which keys.
#[derive(Args, Debug, Clone)]
pub struct KeyOptions {
    /// Number of keys.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Names of the keys.
    #[arg(long, value_enum, default_value_t = Naming::Sequential)]
    naming: Naming,
    /// Keys of each loading call: 1 is a plain put, more are a transaction (128 is the servers' limit).
    #[arg(long, default_value_t = 1)]
    batch: u64,
}

impl KeyOptions {
    fn keys(&self) -> io::Result<Keys> {
        if self.keys == 0 {
            return Err(io::Error::other("there must be at least 1 key"));
        }
        Ok(Keys {
            naming: self.naming,
            count: self.keys,
        })
    }

    fn content(&self, seed: u64) -> Content {
        Content {
            bytes: self.value_bytes,
            seed,
        }
    }
}

fn fill_plan(server: &Server, batch: u64) -> Plan {
    let streams = match batch {
        0 | 1 => FILL_STREAMS,
        _ => FILL_STREAMS_OF_BATCHES,
    };
    Plan {
        server_pid: Some(server.pid()),
        ..Plan::new(server.address(), FILL_CONNECTIONS, streams)
    }
}

/// Puts every key once.
fn fill(server: &Server, keys: Keys, content: Content, batch: u64) -> io::Result<Outcome> {
    Fill::new(keys, content, batch).run(&fill_plan(server, batch), FILL_LIMIT)
}

/// Reads `samples` random keys, one after the other, and refuses wrong content.
fn sample(
    server: &Server,
    keys: Keys,
    content: Content,
    samples: u64,
    seed: u64,
) -> io::Result<Outcome> {
    let plan = Plan::new(server.address(), 1, 1);
    let mut verify =
        Verify::new(keys, content, seed, plan.slots(), &Stop::default()).at_most(samples);
    let outcome = load::run(&plan, &mut verify)?;
    outcome.refuse_failures("reading samples")?;
    Ok(outcome)
}

fn seconds(value: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
}

/// The payload that `keys` occupy: names and values.
fn payload_bytes(keys: Keys, content: Content) -> u64 {
    let mut name = Vec::new();
    keys.name(0, &mut name);
    keys.count * (name.len() + content.bytes) as u64
}
