//! etcd's protobuf messages that stand in a database.

use bytes::Bytes;

/// One version of a key: `mvccpb.KeyValue`. A deletion has only the key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// The key. Empty only where `etcdutl snapshot restore --bump-revision` has left a revision without a change.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Main revision of the key's creation.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// Main revision of this version.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Changes since the creation, 1 at the creation.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease that it is attached to, or 0.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// A lease: `leasepb.Lease`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Lease {
    /// Its id.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Granted seconds.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds that were left at the last checkpoint of the lease, or 0: all.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// An alarm that a member has raised: `etcdserverpb.AlarmMember`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct AlarmMember {
    /// The member.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// 1 no space, 2 corrupt.
    #[prost(int32, tag = "2")]
    pub alarm: i32,
}
