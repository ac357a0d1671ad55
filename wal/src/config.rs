//! Sizes and limits of the log. Every one is a parameter, so that tests work on images of a few blocks.

use crate::BLOCK_BYTES;
use crate::record::HEADER_BYTES;

/// Highest number of lanes that the superblock's table can hold.
pub const LANES_MAX: u16 = 16;

/// Sizes and limits; [`Config::default`] is what a server uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of lanes to write to; lanes beyond it are drained.
    pub lanes: u16,
    /// Length of a new segment file, whole blocks. Existing segments keep their length.
    pub segment_bytes: u64,
    /// Segments kept ready beyond the one being written, per lane.
    pub spare_segments: u32,
    /// Free segments beyond this number are deleted after a checkpoint, per lane.
    pub free_segments_max: u32,
    /// A record is closed once its entries reach this many bytes.
    pub batch_bytes_target: u64,
    /// No record is longer than this, header included.
    pub record_bytes_max: u64,
    /// Records written and not yet synced, over all lanes. What waits meanwhile grows into the next record.
    pub writes_in_flight_max: u32,
    /// While a record is in flight, a further one is started only from this many waiting bytes on.
    pub busy_bytes_min: u64,
    /// Idle time after which the durable watermark is written as a beacon, in nanoseconds.
    pub beacon_delay_nanos: u64,
    /// Time after which a segment that found no space is tried again, in nanoseconds.
    pub space_retry_nanos: u64,
    /// Record sequence numbers reserved by one superblock write.
    pub wseq_reserve: u64,
    /// Zeros are written in pieces of this many bytes, beside serving.
    pub prewrite_bytes: u64,
    /// Zeros start at least this far ahead of the next record, so that the two rarely meet.
    pub prewrite_gap_bytes: u64,
    /// Length of one read of the recovery scan.
    pub scan_read_bytes: u64,
    /// Reads of the recovery scan in flight.
    pub scan_reads_in_flight_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lanes: 1,
            segment_bytes: 32 << 20,
            spare_segments: 1,
            free_segments_max: 20,
            batch_bytes_target: 1 << 20,
            record_bytes_max: 16 << 20,
            writes_in_flight_max: 2,
            busy_bytes_min: 0,
            beacon_delay_nanos: 2_000_000,
            space_retry_nanos: 1_000_000_000,
            wseq_reserve: 1 << 20,
            prewrite_bytes: 256 << 10,
            prewrite_gap_bytes: 256 << 10,
            scan_read_bytes: 1 << 20,
            scan_reads_in_flight_max: 4,
        }
    }
}

impl Config {
    /// Asserts that the numbers fit each other; called by every machine that takes a configuration.
    pub fn check(&self) {
        assert!(self.lanes >= 1, "at least one lane");
        assert!(
            self.lanes <= LANES_MAX,
            "{} lanes exceed {LANES_MAX}",
            self.lanes
        );
        for (name, bytes) in [
            ("segment_bytes", self.segment_bytes),
            ("record_bytes_max", self.record_bytes_max),
            ("prewrite_bytes", self.prewrite_bytes),
            ("prewrite_gap_bytes", self.prewrite_gap_bytes),
            ("scan_read_bytes", self.scan_read_bytes),
        ] {
            assert_eq!(bytes % BLOCK_BYTES, 0, "{name} {bytes} is not whole blocks");
        }
        assert!(self.record_bytes_max > HEADER_BYTES as u64);
        assert!(
            self.segment_bytes >= self.record_bytes_max + BLOCK_BYTES,
            "a record of {} bytes and the footer do not fit a segment of {}",
            self.record_bytes_max,
            self.segment_bytes
        );
        assert!(self.batch_bytes_target <= self.record_bytes_max);
        assert!(self.record_bytes_max <= u64::from(u32::MAX));
        assert!(
            self.spare_segments >= 1,
            "without a spare the log stops at the head's end"
        );
        assert!(
            self.free_segments_max > self.spare_segments,
            "{} spare segments would be deleted and created again without end",
            self.spare_segments
        );
        assert!(self.writes_in_flight_max >= 1);
        assert!(self.wseq_reserve > 2 * u64::from(self.writes_in_flight_max));
        assert!(self.prewrite_bytes > 0);
        assert!(self.scan_read_bytes > 0);
        assert!(self.scan_reads_in_flight_max >= 1);
    }
}

/// What a new data directory is created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDirectory {
    /// Cluster this member belongs to.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// Random and secret: the checksums of the log start from it.
    pub salt: u64,
    /// Number of engine shards, fixed for the life of the directory.
    pub shards: u8,
}
