//! Finds every record in a segment, in one pass over its bytes.
//!
//! Owns the classification of each block: an intact record, an intact header without its body or at the
//! wrong place (evidence, not data), something unreadable, or nothing. It decides nothing.

use crate::BLOCK_BYTES;
use crate::record::{self, Header, Place, Probe, Salt};
use bytes::Bytes;

/// One find of the scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Find {
    /// An intact record at its own place.
    Record {
        header: Header,
        /// The body, if the scanner was told to keep it.
        body: Option<Bytes>,
    },
    /// An intact header that stands at another place than it names.
    Misdirected { header: Header, at: Place },
    /// An intact header whose body is torn or damaged.
    BadBody { header: Header },
    /// A header of a newer layout.
    Newer { version: u16, at: Place },
}

/// Walks one segment. Bytes arrive in order; only what a record still needs is buffered.
pub(crate) struct Scanner {
    lane: u16,
    segment: u64,
    salt: Salt,
    /// Offset of `buffer[0]` in the segment.
    offset: u64,
    buffer: Vec<u8>,
    end: u64,
}

impl Scanner {
    /// A scanner for the segment, of which `end` bytes (whole blocks) will be fed.
    pub(crate) fn new(lane: u16, segment: u64, salt: Salt, end: u64) -> Scanner {
        Scanner {
            lane,
            segment,
            salt,
            offset: 0,
            buffer: Vec::new(),
            end,
        }
    }

    /// Takes the next bytes. `keep` says whether the body of a record is wanted; `found` takes the finds.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        keep: impl Fn(&Header) -> bool,
        mut found: impl FnMut(Find),
    ) {
        let mut joined = std::mem::take(&mut self.buffer);
        let view = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined[..]
        };
        let mut position = 0;
        while view.len() - position >= BLOCK_BYTES as usize {
            match self.step(&view[position..], &keep, &mut found) {
                Some(advance) => {
                    position += advance;
                    self.offset += advance as u64;
                }
                None => break,
            }
        }
        self.buffer = view[position..].to_vec();
    }

    /// Looks at one block; returns how far to go on, or `None` if more bytes are needed.
    fn step(
        &self,
        view: &[u8],
        keep: &impl Fn(&Header) -> bool,
        found: &mut impl FnMut(Find),
    ) -> Option<usize> {
        let block = BLOCK_BYTES as usize;
        let at = Place {
            lane: self.lane,
            segment: self.segment,
            offset: self.offset,
        };
        let header = match record::probe(&view[..block], self.salt) {
            Probe::Nothing => return Some(block),
            Probe::Newer { version } => {
                found(Find::Newer { version, at });
                return Some(block);
            }
            Probe::Header(header) => header,
        };
        if header.place != at {
            found(Find::Misdirected { header, at });
            return Some(block);
        }
        let bytes = header.record_bytes();
        if self.offset + bytes > self.end {
            found(Find::BadBody { header });
            return Some(block);
        }
        let record = view.get(..bytes as usize)?;
        if !record::body_is_intact(&header, record, self.salt) {
            // Only one block further: what follows may be a record of its own.
            found(Find::BadBody { header });
            return Some(block);
        }
        let body = keep(&header).then(|| {
            let end = record::HEADER_BYTES + header.body_bytes as usize;
            Bytes::copy_from_slice(&record[record::HEADER_BYTES..end])
        });
        found(Find::Record { header, body });
        Some(bytes as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Index, Term};
    use crate::record::Kind;

    fn record(offset: u64, wseq: u64, bytes: usize, salt: Salt) -> Vec<u8> {
        let header = Header {
            kind: Kind::Entries,
            place: Place {
                lane: 1,
                segment: 2,
                offset,
            },
            lane_generation: 1,
            wseq,
            epoch: 1,
            epoch_start: Index(1),
            first_index: Index(0),
            count: 0,
            body_bytes: 0,
            prev_term: Term(0),
            last_term: Term(0),
            durable_index: Index(0),
            durable_term: Term(0),
            commit_hint: Index(0),
            body_sum: 0,
        };
        let entry = Entry {
            index: Index(wseq),
            term: Term(1),
            kind: 0,
            data: Bytes::from(vec![wseq as u8; bytes]),
        };
        record::encode(header, &[entry], salt)
    }

    fn scan(image: &[u8], pieces: usize, salt: Salt) -> Vec<Find> {
        let mut scanner = Scanner::new(1, 2, salt, image.len() as u64);
        let mut finds = Vec::new();
        for piece in image.chunks(pieces) {
            scanner.feed(piece, |_| true, |find| finds.push(find));
        }
        finds
    }

    #[test]
    fn finds_do_not_depend_on_the_read_length() {
        let salt = Salt::new(7);
        let mut image = record(0, 1, 100, salt);
        image.extend(record(4096, 2, 9000, salt));
        image.extend(vec![0; 4096]);
        image.extend(record(0, 3, 10, salt));
        let torn = record(image.len() as u64, 4, 5000, salt);
        image.extend(&torn[..4096]);
        image.extend(record(image.len() as u64, 5, 10, salt));
        let whole = scan(&image, image.len(), salt);
        assert_eq!(whole.len(), 5);
        assert!(matches!(whole[2], Find::Misdirected { .. }));
        assert!(matches!(whole[3], Find::BadBody { .. }));
        for pieces in [4096, 8192, 12288] {
            assert_eq!(scan(&image, pieces, salt), whole);
        }
        assert_eq!(scan(&image, 4096, Salt::new(8)), Vec::new());
    }
}
