//! Changing a page: cells in and out, compaction of the heap, copies into another page.

use super::{HEADER_BYTES, PAGE_BYTES, Page, SLOT_BYTES, at, head_of};

impl Page {
    /// Bytes between the slots and the heap.
    fn gap(&self) -> usize {
        self.u16(at::HEAP_TOP) - HEADER_BYTES - self.len() * SLOT_BYTES
    }

    /// Whether a new cell of `key` with `payload_bytes` fits, after compaction if need be.
    pub(crate) fn fits(&self, key: &[u8], payload_bytes: usize) -> bool {
        let cell = 2 + key.len() - self.u16(at::PREFIX_LEN) + payload_bytes;
        self.gap() + self.u16(at::DEAD) >= cell + SLOT_BYTES
    }

    /// Whether cell `index` may get a payload of `payload_bytes`.
    pub(crate) fn fits_replacement(&self, index: usize, payload_bytes: usize) -> bool {
        let cell = 2 + self.suffix(index).len() + payload_bytes;
        self.gap() + self.u16(at::DEAD) + self.cell(index).len() >= cell
    }

    /// Puts `bytes` on the heap and returns where they stand. The gap is large enough.
    pub(super) fn push_heap(&mut self, bytes: &[u8]) -> usize {
        let top = self.u16(at::HEAP_TOP) - bytes.len();
        self.bytes[top..top + bytes.len()].copy_from_slice(bytes);
        self.set_u16(at::HEAP_TOP, top);
        top
    }

    /// Inserts a cell at position `index`, which [`Page::search`] gave. It fits.
    pub(crate) fn insert(&mut self, index: usize, key: &[u8], payload: &[u8]) {
        let prefix_len = self.u16(at::PREFIX_LEN);
        self.insert_parts(index, &[], &key[prefix_len..], payload);
    }

    /// Inserts a cell whose suffix is `front` and `suffix`.
    fn insert_parts(&mut self, index: usize, front: &[u8], suffix: &[u8], payload: &[u8]) {
        let key_len = front.len() + suffix.len();
        let cell_len = 2 + key_len + payload.len();
        if self.gap() < cell_len + SLOT_BYTES {
            self.compact();
        }
        assert!(
            self.gap() >= cell_len + SLOT_BYTES,
            "a cell that does not fit"
        );
        let count = self.len();
        let slot = Self::slot_at(index);
        self.bytes
            .copy_within(slot..Self::slot_at(count), slot + SLOT_BYTES);
        self.set_u16(at::COUNT, count + 1);
        let top = self.u16(at::HEAP_TOP) - cell_len;
        self.set_u16(at::HEAP_TOP, top);
        self.set_u16(top, key_len);
        let cell = &mut self.bytes[top + 2..top + cell_len];
        cell[..front.len()].copy_from_slice(front);
        cell[front.len()..key_len].copy_from_slice(suffix);
        cell[key_len..].copy_from_slice(payload);
        let head = head_of(&cell[..key_len]);
        self.set_slot(index, top, cell_len, head);
    }

    fn set_slot(&mut self, index: usize, offset: usize, len: usize, head: u32) {
        let slot = Self::slot_at(index);
        self.set_u16(slot, offset);
        self.set_u16(slot + 2, len);
        self.set_u32(slot + 4, head);
    }

    /// Replaces the payload of cell `index`. It fits.
    pub(crate) fn replace(&mut self, index: usize, payload: &[u8]) {
        let slot = Self::slot_at(index);
        let (offset, len) = (self.u16(slot), self.u16(slot + 2));
        let key_len = self.u16(offset);
        let cell_len = 2 + key_len + payload.len();
        if cell_len == len {
            self.bytes[offset + 2 + key_len..offset + len].copy_from_slice(payload);
            return;
        }
        if self.gap() >= cell_len {
            let top = self.u16(at::HEAP_TOP) - cell_len;
            self.bytes.copy_within(offset..offset + 2 + key_len, top);
            self.bytes[top + 2 + key_len..top + cell_len].copy_from_slice(payload);
            self.set_u16(at::HEAP_TOP, top);
            let dead = self.u16(at::DEAD) + len;
            self.set_u16(at::DEAD, dead);
            self.set_u16(slot, top);
            self.set_u16(slot + 2, cell_len);
            return;
        }
        let suffix = self.suffix(index).to_vec();
        self.remove(index);
        self.insert_parts(index, &[], &suffix, payload);
    }

    /// Removes cell `index`.
    pub(crate) fn remove(&mut self, index: usize) {
        let count = self.len();
        let slot = Self::slot_at(index);
        let dead = self.u16(at::DEAD) + self.u16(slot + 2);
        self.set_u16(at::DEAD, dead);
        self.bytes
            .copy_within(slot + SLOT_BYTES..Self::slot_at(count), slot);
        self.set_u16(at::COUNT, count - 1);
    }

    /// Moves the cells together, so that no heap byte is dead.
    pub(crate) fn compact(&mut self) {
        let old = self.clone();
        self.set_u16(at::HEAP_TOP, PAGE_BYTES);
        self.set_u16(at::DEAD, 0);
        let low = self.push_heap(old.low());
        self.set_u16(at::LOW, low);
        if let Some(high) = old.high() {
            let high = self.push_heap(high);
            self.set_u16(at::HIGH, high);
        }
        for index in 0..old.len() {
            let offset = self.push_heap(old.cell(index));
            self.set_u16(Self::slot_at(index), offset);
        }
    }

    /// Appends the cells `range` of `source` behind the cells here. Fences may differ; the keys lie
    /// between the fences of both, and everything fits.
    pub(crate) fn append_from(&mut self, source: &Page, range: std::ops::Range<usize>) {
        let (here, there) = (self.u16(at::PREFIX_LEN), source.u16(at::PREFIX_LEN));
        for index in range {
            let suffix = source.suffix(index);
            let position = self.len();
            match there.checked_sub(here) {
                Some(_) => {
                    let front = &source.prefix()[here..];
                    self.insert_parts(position, front, suffix, source.payload(index));
                }
                None => {
                    let suffix = &suffix[here - there..];
                    self.insert_parts(position, &[], suffix, source.payload(index));
                }
            }
        }
    }

    /// Appends a cell without a key: a run of an overflow page.
    pub(crate) fn append_run(&mut self, payload: &[u8]) {
        self.insert_parts(self.len(), &[], &[], payload);
    }

    /// Whether a run of `payload_bytes` fits an overflow page.
    pub(crate) fn fits_run(&self, payload_bytes: usize) -> bool {
        self.gap() >= 2 + payload_bytes + SLOT_BYTES
    }

    /// Bytes that the cells of both pages take under a common prefix of `prefix_len`, slots included.
    pub(crate) fn merged_bytes(&self, other: &Page, prefix_len: usize) -> usize {
        let cells = |page: &Page| {
            let longer = page.u16(at::PREFIX_LEN).saturating_sub(prefix_len);
            let cells = (0..page.len()).map(|index| page.cell(index).len() + longer + SLOT_BYTES);
            cells.sum::<usize>()
        };
        cells(self) + cells(other)
    }
}
