//! Requests to shards whose bytes are on a disk, and reads over all shards.

use bytes::Bytes;
use diskio::sim::SimDisk;
use engine::auth::AuthorizedOperation;
use engine::command::{KeyValue, LeaseId, Operation, Range};
use engine::compaction::{COLLECT_BELOW_PERCENT, Maintained};
use engine::key::KeyRange;
use engine::read::{EventRead, HashRead, LeaseKeysRead, RangeRead};
use engine::shard::{Damage, EventsRequest, Shard, ShardReply, ShardRequest};
use engine::step::{Need, Step};
use engine::store::Event;
use engine::testing::authorized;

/// Far more loads than any request of these worlds takes.
const LOADS_MAX: usize = 100_000;

/// Why a read has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Bytes are damaged.
    Damaged(Damage),
    /// The revision is compacted, or the read never has all it needs.
    Other(String),
}

impl std::fmt::Display for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unread::Damaged(damage) => damage.fmt(f),
            Unread::Other(what) => f.write_str(what),
        }
    }
}

/// All keys.
pub(crate) fn everything() -> KeyRange {
    let zero = Bytes::from_static(b"\0");
    KeyRange::from_wire(zero.clone(), zero)
}

/// Brings what `shard` needs.
pub(crate) fn bring(shard: &mut Shard, disk: &SimDisk, need: &Need) -> Result<(), Damage> {
    let request = shard.read_of(need);
    let bytes = disk.bytes(request.file, request.offset, request.len);
    let loaded = shard.load(need, Some(bytes.into()));
    loaded.map_err(|error| shard.damage(&error))
}

/// Executes `request` to its answer.
pub(crate) fn serve(
    shard: &mut Shard,
    disk: &SimDisk,
    request: &ShardRequest,
) -> Result<ShardReply, Unread> {
    for _ in 0..LOADS_MAX {
        match shard.handle(request) {
            Step::Ready(ShardReply::Damaged(damage)) => return Err(Unread::Damaged(damage)),
            Step::Ready(reply) => return Ok(reply),
            Step::Need(need) => bring(shard, disk, &need).map_err(Unread::Damaged)?,
        }
    }
    Err(Unread::Other(format!("{request:?} never has all it needs")))
}

/// Does a slice of `shard`'s background work, damage left alone.
pub(crate) fn maintain(shard: &mut Shard, disk: &SimDisk) -> bool {
    match shard.maintain(COLLECT_BELOW_PERCENT) {
        Step::Ready(left) => left == Maintained::Working,
        Step::Need(need) => {
            if bring(shard, disk, &need).is_err() {
                shard.maintain_without(&need);
            }
            true
        }
    }
}

/// Reads over the shards of one member.
pub(crate) struct Reader<'a> {
    pub(crate) shards: &'a mut [Shard],
    pub(crate) disk: &'a SimDisk,
}

impl Reader<'_> {
    fn ask(&mut self, shard: u16, request: &ShardRequest) -> Result<ShardReply, Unread> {
        serve(&mut self.shards[usize::from(shard)], self.disk, request)
    }

    fn count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Keys of `range` at `at`, with values.
    pub(crate) fn range(&mut self, range: KeyRange, at: i64) -> Result<Vec<KeyValue>, Unread> {
        let AuthorizedOperation::Range(range) = authorized(Operation::Range(Range::all(range)))
        else {
            return Err(Unread::Other("a range is no range".to_owned()));
        };
        let mut read = RangeRead::new(&range, at, self.count());
        while !read.is_done() {
            let Some((shard, request)) = read.poll() else {
                return Err(Unread::Other("a range asks for nothing".to_owned()));
            };
            let reply = self.ask(shard, &request)?;
            read.on_reply(shard, reply);
        }
        let reply = read.finish();
        reply
            .map(|reply| reply.kvs)
            .map_err(|error| Unread::Other(format!("{error:?}")))
    }

    /// The hash of what is readable at `at`.
    pub(crate) fn hash(&mut self, at: i64, compacted: i64) -> Result<u32, Unread> {
        let mut read = HashRead::new(at, compacted, self.count());
        while !read.is_done() {
            let Some((shard, request)) = read.poll() else {
                return Err(Unread::Other("a hash asks for nothing".to_owned()));
            };
            let reply = self.ask(shard, &request)?;
            read.on_reply(shard, reply);
        }
        read.finish()
            .map_err(|error| Unread::Other(format!("{error:?}")))
    }

    /// Keys of a lease.
    pub(crate) fn lease_keys(&mut self, lease: LeaseId) -> Result<Vec<Bytes>, Unread> {
        let mut read = LeaseKeysRead::new(lease, self.count());
        while !read.is_done() {
            let Some((shard, request)) = read.poll() else {
                return Err(Unread::Other("a lease asks for nothing".to_owned()));
            };
            let reply = self.ask(shard, &request)?;
            read.on_reply(shard, reply);
        }
        Ok(read.finish())
    }

    /// History of all keys from `from` to `to`: the events up to the first damage, and that.
    pub(crate) fn events(&mut self, from: i64, to: i64) -> (Vec<Event>, Option<Unread>) {
        let (mut events, mut from) = (Vec::new(), from);
        while from <= to {
            let request = EventsRequest {
                from,
                to,
                ranges: None,
                prev_kv: false,
                bytes_max: 4096,
                pin: None,
            };
            let mut read = EventRead::new(request, self.count());
            while !read.is_done() {
                let Some((shard, request)) = read.poll() else {
                    break;
                };
                match self.ask(shard, &request) {
                    Ok(reply) => read.on_reply(shard, reply),
                    Err(unread) => return (events, Some(unread)),
                }
            }
            match read.finish() {
                Ok(chunk) if chunk.next > from => {
                    events.extend(chunk.events);
                    from = chunk.next;
                }
                Ok(_) => {
                    let what = format!("history stands still at {from}");
                    return (events, Some(Unread::Other(what)));
                }
                Err(error) => return (events, Some(Unread::Other(format!("{error:?}")))),
            }
        }
        (events, None)
    }
}
