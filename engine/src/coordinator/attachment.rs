//! Bytes of the coordinator's state beside revisions and hash: leases, alarms, members, the cluster
//! version and the chain over their changes. They travel with the image of the first shard. The
//! layout stands in `docs/internals/coordinator-state.md`.

use bytes::{BufMut, BytesMut};

use super::meta::Meta;
use crate::checkpoint::{CheckpointError, Fields, put_text};
use crate::command::*;
use crate::image::Attachment;

/// Layout version that is written.
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;

/// The leases, which may be many, are shared with the table.
pub(super) fn encode(meta: &Meta) -> Attachment {
    let leases = meta.leases.len();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + 256);
    out.put_u16_le(VERSION);
    out.put_u8(u8::from(meta.cluster_version.is_some()));
    out.put_bytes(0, 5);
    out.put_u64_le(meta.effects);
    out.put_u32_le(count(meta.alarms.raised.len()));
    out.put_u32_le(count(meta.members.len()));
    out.put_u64_le(leases as u64);
    if let Some(version) = &meta.cluster_version {
        put_text(&mut out, version);
    }
    for (member, kind) in &meta.alarms.raised {
        out.put_u64_le(*member);
        out.put_u8(*kind as u8);
    }
    for attributes in meta.members.values() {
        out.put_u64_le(attributes.member);
        put_text(&mut out, &attributes.name);
        out.put_u32_le(count(attributes.client_urls.len()));
        for url in &attributes.client_urls {
            put_text(&mut out, url);
        }
    }
    let head = out.freeze();
    let runs = meta.leases.runs().cloned();
    Attachment::new(std::iter::once(head).chain(runs).collect())
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("each of them came with a request of its own")
}

/// Reads what [`encode`] wrote; revisions stay those of an empty store.
pub(super) fn decode(bytes: &[u8]) -> Result<Meta, CheckpointError> {
    let mut fields = Fields::new("the coordinator's state", bytes);
    fields.version(VERSION)?;
    let has_version = fields.u8("cluster version present")?;
    if has_version > 1 {
        return Err(fields.invalid("cluster version present", has_version));
    }
    fields.zeros(5)?;
    let effects = fields.u64("effects")?;
    let alarms = fields.u32("alarm count")?;
    let members = fields.u32("member count")?;
    let leases = fields.u64("lease count")?;
    let mut meta = Meta::default();
    if has_version == 1 {
        meta.cluster_version = Some(fields.text("cluster version")?);
    }
    for _ in 0..alarms {
        decode_alarm(&mut fields, &mut meta)?;
    }
    for _ in 0..members {
        decode_member(&mut fields, &mut meta)?;
    }
    let mut last = None;
    for _ in 0..leases {
        let id = fields.i64("lease id")?;
        if id == LeaseId::NONE.0 || last.is_some_and(|last| id <= last) {
            return Err(fields.invalid("lease id", id));
        }
        last = Some(id);
        let ttl = fields.i64("lease time to live")?;
        meta.leases.grant(LeaseId(id), ttl);
    }
    fields.end()?;
    meta.effects = effects;
    Ok(meta)
}

fn decode_alarm(fields: &mut Fields<'_>, meta: &mut Meta) -> Result<(), CheckpointError> {
    let member = fields.u64("alarm member")?;
    let kind = match fields.u8("alarm kind")? {
        1 => AlarmKind::NoSpace,
        2 => AlarmKind::Corrupt,
        kind => return Err(fields.invalid("alarm kind", kind)),
    };
    let alarm = (member, kind);
    if meta.alarms.raised.last().is_some_and(|last| alarm <= *last) {
        return Err(fields.invalid("alarm member", member));
    }
    meta.alarms.raised.insert(alarm);
    Ok(())
}

fn decode_member(fields: &mut Fields<'_>, meta: &mut Meta) -> Result<(), CheckpointError> {
    let member = fields.u64("member id")?;
    let last = meta.members.last_key_value();
    if last.is_some_and(|(last, _)| member <= *last) {
        return Err(fields.invalid("member id", member));
    }
    let name = fields.text("member name")?;
    let mut client_urls = Vec::new();
    for _ in 0..fields.u32("client url count")? {
        client_urls.push(fields.text("client url")?);
    }
    let attributes = MemberAttributes {
        member,
        name,
        client_urls,
    };
    meta.members.insert(member, attributes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Meta {
        let mut meta = Meta::default();
        meta.grant(LeaseId(7), 60).expect("new");
        meta.grant(LeaseId(-2), i64::MAX).expect("new");
        meta.alarm(true, 9, Some(AlarmKind::NoSpace));
        meta.alarm(true, 9, Some(AlarmKind::Corrupt));
        meta.publish_member(MemberAttributes {
            member: 9,
            name: "one".to_owned(),
            client_urls: vec!["http://a:1".to_owned(), String::new()],
        });
        meta.set_cluster_version("3.7.0".to_owned());
        meta.take_changes();
        meta
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut meta = Meta::default();
        meta.grant(LeaseId(7), 60).expect("new");
        meta.alarm(true, 9, Some(AlarmKind::NoSpace));
        meta.publish_member(MemberAttributes {
            member: 9,
            name: "ab".to_owned(),
            client_urls: vec!["c".to_owned()],
        });
        meta.set_cluster_version("3.7.0".to_owned());
        meta.effects = 0x0102_0304_0506_0708;
        #[rustfmt::skip]
        let expected = [
            1, 0, 1, 0, 0, 0, 0, 0, // version, cluster version present, zeros
            8, 7, 6, 5, 4, 3, 2, 1, // effects
            1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // alarms, members, leases
            5, 0, 0, 0, b'3', b'.', b'7', b'.', b'0', // cluster version
            9, 0, 0, 0, 0, 0, 0, 0, 1, // alarm
            9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 1, 0, 0, 0, 1, 0, 0, 0, b'c', // member
            7, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, // lease
        ];
        assert_eq!(encode(&meta).to_bytes()[..], expected);
    }

    #[test]
    fn states_round_trip() {
        for meta in [Meta::default(), full()] {
            let bytes = encode(&meta).to_bytes();
            let decoded = decode(&bytes).expect("readable");
            assert_eq!(encode(&decoded).to_bytes(), bytes);
            assert_eq!(decoded.leases, meta.leases);
            assert_eq!(decoded.alarms, meta.alarms);
            assert_eq!(decoded.members, meta.members);
            assert_eq!(decoded.cluster_version, meta.cluster_version);
            assert_eq!(decoded.effects, meta.effects);
        }
    }

    #[test]
    fn every_cut_is_refused_and_no_damaged_byte_panics() {
        let intact = encode(&full()).to_bytes();
        for len in 0..intact.len() {
            assert!(decode(&intact[..len]).is_err(), "cut to {len} bytes");
        }
        for at in 0..intact.len() {
            for bit in 0..8 {
                let mut bytes = intact.to_vec();
                bytes[at] ^= 1 << bit;
                // What is accepted is what these very bytes say.
                if let Ok(meta) = decode(&bytes) {
                    assert_eq!(encode(&meta).to_bytes()[..], bytes);
                }
            }
        }
    }

    #[test]
    fn counts_are_not_believed() {
        let mut bytes = encode(&Meta::default()).to_bytes().to_vec();
        bytes[24..32].fill(0xff);
        let refused = decode(&bytes);
        assert!(matches!(refused, Err(CheckpointError::Truncated { .. })));
    }
}
