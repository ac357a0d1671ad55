//! Which records of a segment no version names any more, as far as this life has seen them go.
//!
//! Whoever empties a segment need not look for the keys of such records. It is memory only: what went
//! before a restart, or when there was no room here, is found out by looking.

/// Bytes of a segment that share a bit: no two records begin in the same so many bytes.
const BYTES_PER_BIT: u32 = 32;
const _: () = assert!(super::RECORD_HEADER_BYTES >= BYTES_PER_BIT as usize);

/// A bit for each place where a record may begin.
#[derive(Debug, Default)]
pub(super) struct DeadRecords {
    /// Empty until the first record goes.
    words: Box<[u64]>,
}

impl DeadRecords {
    /// Notes that the record at `offset` went, of a segment of `capacity` bytes. `room` is what further bits
    /// may take, in bytes; without enough of it nothing is noted.
    pub(super) fn note(&mut self, offset: u32, capacity: u32, room: &mut u64) {
        if self.words.is_empty() {
            let words = (capacity / BYTES_PER_BIT).div_ceil(u64::BITS) as usize;
            let bytes = (words * size_of::<u64>()) as u64;
            if bytes > *room {
                return;
            }
            *room -= bytes;
            self.words = vec![0; words].into();
        }
        let (word, bit) = place(offset);
        if let Some(word) = self.words.get_mut(word) {
            *word |= 1 << bit;
        }
    }

    /// Whether the record at `offset` is known to have gone.
    pub(super) fn has(&self, offset: u32) -> bool {
        let (word, bit) = place(offset);
        self.words
            .get(word)
            .is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Forgets all, and gives the room back.
    pub(super) fn clear(&mut self, room: &mut u64) {
        *room += std::mem::take(&mut self.words).len() as u64 * size_of::<u64>() as u64;
    }
}

fn place(offset: u32) -> (usize, u32) {
    let index = offset / BYTES_PER_BIT;
    ((index / u64::BITS) as usize, index % u64::BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_records_are_told_apart_and_room_is_bounded() {
        let mut dead = DeadRecords::default();
        let mut room = 600;
        let least = super::super::RECORD_HEADER_BYTES as u32;
        let offsets: Vec<u32> = (0..4096 * 4 / least).map(|index| index * least).collect();
        for offset in offsets.iter().step_by(3) {
            dead.note(*offset, 4096 * 4, &mut room);
        }
        assert_eq!(room, 600 - 64);
        for (index, offset) in offsets.iter().enumerate() {
            assert_eq!(dead.has(*offset), index % 3 == 0, "{offset}");
        }
        let mut other = DeadRecords::default();
        other.note(0, 1 << 20, &mut room);
        assert!(!other.has(0));
        dead.clear(&mut room);
        assert_eq!(room, 600);
        assert!(!dead.has(0));
    }
}
