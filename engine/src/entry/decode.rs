//! Bytes to requests.

use bytes::Bytes;

use super::{
    ENTRY_HEADER_BYTES, ENTRY_VERSION, EntryError, EntryRequest, REQUEST_HEADER_BYTES, RequestHead,
    TXN_DEPTH_MAX, code,
};
use crate::command::*;
use crate::key::{End, KeyRange};

type Decoded<T> = Result<T, EntryError>;

/// Hands out the requests of one entry in order.
///
/// Keys and values are slices of the entry's bytes. After an error it answers nothing more.
#[derive(Debug)]
pub struct EntryReader {
    entry: Bytes,
    offset: usize,
    next: u32,
    count: u32,
}

impl EntryReader {
    /// Checks the entry's header.
    ///
    /// # Errors
    /// An unknown version, or an entry shorter than its header.
    pub fn new(entry: Bytes) -> Result<Self, EntryError> {
        let mut cursor = Cursor {
            entry: &entry,
            offset: 0,
            end: entry.len(),
            position: 0,
        };
        let version = cursor.u16("entry version")?;
        if version != ENTRY_VERSION {
            return Err(EntryError::UnknownVersion { version });
        }
        let reserved = cursor.u16("reserved field")?;
        if reserved != 0 {
            return Err(cursor.invalid("reserved field", reserved.into()));
        }
        let count = cursor.u32("request count")?;
        let room = (entry.len() - ENTRY_HEADER_BYTES) / REQUEST_HEADER_BYTES;
        if count as usize > room {
            return Err(cursor.invalid("request count", count.into()));
        }
        Ok(EntryReader {
            offset: ENTRY_HEADER_BYTES,
            next: 0,
            count,
            entry,
        })
    }

    /// Requests that the entry says it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    fn read(&mut self) -> Decoded<EntryRequest> {
        let mut cursor = Cursor {
            entry: &self.entry,
            offset: self.offset,
            end: self.entry.len(),
            position: self.next,
        };
        let len = cursor.u32("length")? as usize;
        if len < REQUEST_HEADER_BYTES {
            return Err(cursor.invalid("length", len as u64));
        }
        if len > self.entry.len() - self.offset {
            return Err(cursor.truncated("body"));
        }
        cursor.end = self.offset + len;
        let kind = cursor.u8("kind")?;
        let flags = cursor.u8("flags")?;
        if flags != 0 {
            return Err(cursor.invalid("flags", flags.into()));
        }
        let user_bytes = cursor.u16("user length")? as usize;
        let head = RequestHead {
            request_id: cursor.u64("request id")?,
            origin_member: cursor.u64("origin member")?,
        };
        let auth_revision = cursor.u64("auth revision")?;
        let user = cursor.slice(user_bytes, "user")?;
        let command = cursor.command(kind)?;
        if cursor.offset != cursor.end {
            return Err(EntryError::Trailing {
                position: self.next,
                offset: cursor.offset,
                count: cursor.end - cursor.offset,
            });
        }
        self.offset = cursor.end;
        Ok(EntryRequest {
            position: self.next,
            head,
            user,
            auth_revision,
            command,
        })
    }
}

impl Iterator for EntryReader {
    type Item = Result<EntryRequest, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            let left = self.entry.len() - self.offset;
            if left == 0 {
                return None;
            }
            let error = EntryError::Trailing {
                position: self.next,
                offset: self.offset,
                count: left,
            };
            self.offset = self.entry.len();
            return Some(Err(error));
        }
        let request = self.read();
        match &request {
            Ok(_) => self.next += 1,
            Err(_) => {
                self.next = self.count;
                self.offset = self.entry.len();
            }
        }
        Some(request)
    }
}

/// Reads fields of one request; never reads at or behind `end`.
struct Cursor<'a> {
    entry: &'a Bytes,
    offset: usize,
    end: usize,
    position: u32,
}

impl Cursor<'_> {
    fn truncated(&self, what: &'static str) -> EntryError {
        EntryError::Truncated {
            position: self.position,
            offset: self.end,
            what,
        }
    }

    fn invalid(&self, what: &'static str, value: u64) -> EntryError {
        EntryError::Invalid {
            position: self.position,
            offset: self.offset,
            what,
            value,
        }
    }

    fn advance(&mut self, count: usize, what: &'static str) -> Decoded<usize> {
        if count > self.end - self.offset {
            return Err(self.truncated(what));
        }
        let start = self.offset;
        self.offset += count;
        Ok(start)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Decoded<[u8; N]> {
        let start = self.advance(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.entry[start..start + N]);
        Ok(array)
    }

    fn u8(&mut self, what: &'static str) -> Decoded<u8> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Decoded<u16> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Decoded<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Decoded<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn i64(&mut self, what: &'static str) -> Decoded<i64> {
        self.array(what).map(i64::from_le_bytes)
    }

    fn slice(&mut self, count: usize, what: &'static str) -> Decoded<Bytes> {
        let start = self.advance(count, what)?;
        Ok(self.entry.slice(start..start + count))
    }

    fn bytes(&mut self, what: &'static str) -> Decoded<Bytes> {
        let count = self.u32(what)? as usize;
        self.slice(count, what)
    }

    fn string(&mut self, what: &'static str) -> Decoded<String> {
        let bytes = self.bytes(what)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(self.invalid(what, error.valid_up_to() as u64)),
        }
    }

    /// A number of things that take at least `bytes_each` bytes, so that it bounds what is reserved.
    fn count(&mut self, bytes_each: usize, what: &'static str) -> Decoded<usize> {
        let count = self.u32(what)? as usize;
        if count > (self.end - self.offset) / bytes_each {
            return Err(self.invalid(what, count as u64));
        }
        Ok(count)
    }

    fn flags(&mut self, known: u8, what: &'static str) -> Decoded<u8> {
        let flags = self.u8(what)?;
        if flags & !known != 0 {
            return Err(self.invalid(what, flags.into()));
        }
        Ok(flags)
    }

    fn command(&mut self, kind: u8) -> Decoded<Command> {
        Ok(match kind {
            code::PUT => Command::Put(self.put()?),
            code::DELETE_RANGE => Command::DeleteRange(self.delete_range()?),
            code::TXN => Command::Txn(self.txn(1)?),
            code::COMPACT => Command::Compact {
                revision: self.i64("compact revision")?,
            },
            code::LEASE_GRANT => Command::LeaseGrant {
                id: LeaseId(self.i64("lease")?),
                ttl: self.i64("ttl")?,
            },
            code::LEASE_REVOKE => Command::LeaseRevoke {
                id: LeaseId(self.i64("lease")?),
            },
            code::LEASE_EXPIRE => self.lease_expire()?,
            code::ALARM => self.alarm()?,
            code::MEMBER_ATTRIBUTES => self.member_attributes()?,
            code::CLUSTER_VERSION => Command::ClusterVersion(self.string("cluster version")?),
            kind => {
                return Err(EntryError::UnknownKind {
                    position: self.position,
                    kind,
                });
            }
        })
    }

    fn put(&mut self) -> Decoded<Put> {
        let known =
            code::PUT_PREV_KV | code::PUT_IGNORE_VALUE | code::PUT_IGNORE_LEASE | code::PUT_LEASE;
        let flags = self.flags(known, "put flags")?;
        let lease = if flags & code::PUT_LEASE != 0 {
            LeaseId(self.i64("lease")?)
        } else {
            LeaseId::NONE
        };
        let key = self.bytes("key")?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(self.invalid("key length", key.len() as u64));
        }
        Ok(Put {
            key,
            value: self.bytes("value")?,
            lease,
            prev_kv: flags & code::PUT_PREV_KV != 0,
            ignore_value: flags & code::PUT_IGNORE_VALUE != 0,
            ignore_lease: flags & code::PUT_IGNORE_LEASE != 0,
        })
    }

    fn delete_range(&mut self) -> Decoded<DeleteRange> {
        let flags = self.flags(code::DELETE_PREV_KV, "delete flags")?;
        Ok(DeleteRange {
            range: self.bounds()?,
            prev_kv: flags & code::DELETE_PREV_KV != 0,
        })
    }

    fn txn(&mut self, depth: usize) -> Decoded<Txn> {
        if depth > TXN_DEPTH_MAX {
            return Err(self.invalid("transaction depth", depth as u64));
        }
        let compare = self.count(1, "compare count")?;
        let success = self.count(1, "success count")?;
        let failure = self.count(1, "failure count")?;
        Ok(Txn {
            compare: (0..compare)
                .map(|_| self.compare())
                .collect::<Decoded<_>>()?,
            success: self.operations(success, depth)?,
            failure: self.operations(failure, depth)?,
        })
    }

    fn operations(&mut self, count: usize, depth: usize) -> Decoded<Vec<TxnOperation>> {
        (0..count).map(|_| self.operation(depth)).collect()
    }

    fn operation(&mut self, depth: usize) -> Decoded<TxnOperation> {
        Ok(match self.u8("operation kind")? {
            code::OPERATION_RANGE => TxnOperation::Range(self.range()?),
            code::OPERATION_PUT => TxnOperation::Put(self.put()?),
            code::OPERATION_DELETE_RANGE => TxnOperation::DeleteRange(self.delete_range()?),
            code::OPERATION_TXN => TxnOperation::Txn(self.txn(depth + 1)?),
            kind => return Err(self.invalid("operation kind", kind.into())),
        })
    }

    fn compare(&mut self) -> Decoded<Compare> {
        let target = self.u8("compare target")?;
        let relation = match self.u8("compare relation")? {
            0 => Relation::Equal,
            1 => Relation::Greater,
            2 => Relation::Less,
            3 => Relation::NotEqual,
            relation => return Err(self.invalid("compare relation", relation.into())),
        };
        let range = self.bounds()?;
        let target = match target {
            code::TARGET_VERSION => CompareTarget::Version(self.i64("version")?),
            code::TARGET_CREATE => CompareTarget::Create(self.i64("create revision")?),
            code::TARGET_MOD => CompareTarget::Mod(self.i64("mod revision")?),
            code::TARGET_VALUE => CompareTarget::Value(self.bytes("compare value")?),
            code::TARGET_LEASE => CompareTarget::Lease(self.i64("lease")?),
            target => return Err(self.invalid("compare target", target.into())),
        };
        Ok(Compare {
            range,
            relation,
            target,
        })
    }

    fn range(&mut self) -> Decoded<Range> {
        let present = self.u16("range fields")?;
        if present & !code::RANGE_ALL != 0 {
            return Err(self.invalid("range fields", present.into()));
        }
        let mut range = Range::all(self.bounds()?);
        for (bit, field) in [
            (code::RANGE_LIMIT, &mut range.limit),
            (code::RANGE_REVISION, &mut range.revision),
            (code::RANGE_MIN_MOD, &mut range.min_mod_revision),
            (code::RANGE_MAX_MOD, &mut range.max_mod_revision),
            (code::RANGE_MIN_CREATE, &mut range.min_create_revision),
            (code::RANGE_MAX_CREATE, &mut range.max_create_revision),
        ] {
            if present & bit != 0 {
                *field = self.i64("range number")?;
            }
        }
        if present & code::RANGE_SORT != 0 {
            range.sort_order = match self.u8("sort order")? {
                0 => SortOrder::None,
                1 => SortOrder::Ascend,
                2 => SortOrder::Descend,
                order => return Err(self.invalid("sort order", order.into())),
            };
            range.sort_target = match self.u8("sort target")? {
                0 => SortTarget::Key,
                1 => SortTarget::Version,
                2 => SortTarget::Create,
                3 => SortTarget::Mod,
                4 => SortTarget::Value,
                target => return Err(self.invalid("sort target", target.into())),
            };
        }
        range.serializable = present & code::RANGE_SERIALIZABLE != 0;
        range.keys_only = present & code::RANGE_KEYS_ONLY != 0;
        range.count_only = present & code::RANGE_COUNT_ONLY != 0;
        Ok(range)
    }

    fn bounds(&mut self) -> Decoded<KeyRange> {
        let end = self.u8("range end kind")?;
        let start = self.bytes("range start")?;
        let end = match end {
            code::END_SINGLE => End::Single,
            code::END_BEFORE => End::Before(self.bytes("range end")?),
            code::END_UNBOUNDED => End::Unbounded,
            end => return Err(self.invalid("range end kind", end.into())),
        };
        Ok(KeyRange { start, end })
    }

    fn lease_expire(&mut self) -> Decoded<Command> {
        let count = self.count(8, "lease count")?;
        if count > LEASES_PER_EXPIRE_MAX {
            return Err(self.invalid("lease count", count as u64));
        }
        let ids = (0..count).map(|_| self.i64("lease").map(LeaseId));
        Ok(Command::LeaseExpire {
            ids: ids.collect::<Decoded<_>>()?,
        })
    }

    fn alarm(&mut self) -> Decoded<Command> {
        let activate = self.flags(1, "alarm action")? == 1;
        let alarm = match self.u8("alarm kind")? {
            0 => None,
            1 => Some(AlarmKind::NoSpace),
            2 => Some(AlarmKind::Corrupt),
            kind => return Err(self.invalid("alarm kind", kind.into())),
        };
        Ok(Command::Alarm {
            activate,
            member: self.u64("alarm member")?,
            alarm,
        })
    }

    fn member_attributes(&mut self) -> Decoded<Command> {
        let member = self.u64("member")?;
        let name = self.string("member name")?;
        let count = self.count(4, "client url count")?;
        let client_urls = (0..count).map(|_| self.string("client url"));
        let client_urls = client_urls.collect::<Decoded<_>>()?;
        Ok(Command::MemberAttributes(MemberAttributes {
            member,
            name,
            client_urls,
        }))
    }
}
