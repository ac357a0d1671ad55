//! Keys of the bucket `key`: revisions.

const PLAIN_BYTES: usize = 17;
const TOMBSTONE: u8 = b't';

/// When a key changed, and whether it was deleted then.
///
/// Main revision (8 bytes, big-endian), `_`, sub revision (8 bytes), and `t` for a deletion: the order of bytes is
/// that of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionKey {
    /// The store's revision.
    pub main: i64,
    /// The position inside the transaction.
    pub sub: i64,
    /// The key was deleted.
    pub tombstone: bool,
}

impl RevisionKey {
    /// Bytes of the longest encoding.
    pub const BYTES_MAX: usize = PLAIN_BYTES + 1;

    /// Appends the encoding.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.main.to_be_bytes());
        into.push(b'_');
        into.extend_from_slice(&self.sub.to_be_bytes());
        if self.tombstone {
            into.push(TOMBSTONE);
        }
    }

    /// Bytes of the encoding.
    pub fn bytes(&self) -> usize {
        PLAIN_BYTES + usize::from(self.tombstone)
    }

    /// Reads a key of the bucket.
    ///
    /// # Errors
    /// What is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (plain, mark) = bytes
            .split_first_chunk::<PLAIN_BYTES>()
            .filter(|(_, mark)| mark.len() <= 1)
            .ok_or_else(|| format!("a revision of {} bytes", bytes.len()))?;
        let tombstone = match mark {
            [] => false,
            [TOMBSTONE] => true,
            mark => return Err(format!("a revision marked {}", mark.escape_ascii())),
        };
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | i64::from(*byte))
        };
        let (main, sub) = (number(&plain[..8]), number(&plain[9..]));
        if plain[8] != b'_' || main < 0 || sub < 0 {
            return Err(format!("no revision: {}", bytes.escape_ascii()));
        }
        Ok(Self {
            main,
            sub,
            tombstone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        for (main, sub, tombstone) in [(1, 0, false), (0x0102, 3, true), (i64::MAX, i64::MAX, true)]
        {
            let revision = RevisionKey {
                main,
                sub,
                tombstone,
            };
            let mut bytes = Vec::new();
            revision.encode(&mut bytes);
            assert_eq!(bytes.len(), revision.bytes());
            assert_eq!(RevisionKey::decode(&bytes), Ok(revision));
            for at in [0, 8, 9] {
                let mut wrong = bytes.clone();
                wrong[at] |= 0x80;
                assert!(RevisionKey::decode(&wrong).is_err());
            }
        }
        let known = b"\0\0\0\0\0\0\0\x2a_\0\0\0\0\0\0\0\x01t";
        let decoded = RevisionKey::decode(known).expect("a tombstone");
        assert_eq!(
            (decoded.main, decoded.sub, decoded.tombstone),
            (42, 1, true)
        );
        for wrong in [
            &known[..16],
            &b"\0\0\0\0\0\0\0\x2a_\0\0\0\0\0\0\0\x01x"[..],
            b"",
        ] {
            assert!(RevisionKey::decode(wrong).is_err());
        }
    }
}
