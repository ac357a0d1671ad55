//! Sizes of the worlds: as small as the machines take.

use engine::store::StoreConfig;
use engine::testing::Random;
use wal::NewDirectory;

/// Shards of every world.
pub(crate) const SHARDS: u16 = 2;
const SALT: u64 = 0x5EED_0F5A_1701;

/// How a member lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The only voter: what is durable is committed.
    Alone,
    /// Others lead: the commit comes later, and what is not committed may be replaced.
    Follower,
}

/// Sizes and limits of one world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The log.
    pub log: wal::Config,
    /// Pages in memory per shard, in bytes.
    pub page_cache_bytes: u64,
    /// Events in memory per shard, in bytes.
    pub tail_bytes_max: u64,
    /// Records read back, per shard, in bytes.
    pub value_cache_bytes: u64,
    /// Longest event segment, in bytes.
    pub segment_bytes_max: u32,
}

impl Settings {
    /// Tiny sizes, drawn by `random`.
    pub fn tiny(random: &mut Random) -> Settings {
        let segment_bytes = 4096 * (6 + random.below(4));
        Settings {
            log: wal::Config {
                lanes: 1,
                segment_bytes,
                spare_segments: 1,
                free_segments_max: 2,
                batch_bytes_target: 4096,
                record_bytes_max: 4096 * 5,
                writes_in_flight_max: 2 + random.below(3) as u32,
                busy_bytes_min: 0,
                beacon_delay_nanos: 10,
                space_retry_nanos: 100,
                wseq_reserve: 12,
                prewrite_bytes: 4096 * 16,
                prewrite_gap_bytes: 4096 * 2,
                scan_read_bytes: 4096 * 16,
                scan_reads_in_flight_max: 4,
            },
            page_cache_bytes: 16384 * (2 + random.below(4)),
            tail_bytes_max: 4096 * random.below(3),
            value_cache_bytes: 4096 * (1 + random.below(8)),
            segment_bytes_max: 4096 << random.below(3),
        }
    }

    /// Those of one shard.
    pub(crate) fn store(&self, shard: u16, salt: u64) -> StoreConfig {
        StoreConfig {
            segment_bytes_first: 4096,
            segment_bytes_max: self.segment_bytes_max,
            piece_bytes: 4096,
            tail_bytes_max: self.tail_bytes_max,
            value_cache_bytes: self.value_cache_bytes,
            page_cache_bytes: self.page_cache_bytes,
            collection_bytes_max: 8192,
            ..StoreConfig::new(shard, salt)
        }
    }

    /// What a directory is created with.
    pub(crate) fn new_directory() -> NewDirectory {
        NewDirectory {
            cluster_id: 1,
            member_id: 2,
            salt: SALT,
            shards: SHARDS as u8,
        }
    }
}
