//! The bytes of a simulated file: 4 KiB pages, shared until one side writes.
//!
//! A page that was never written is a hole and reads as zeros. Sharing makes a copy of a whole disk
//! cost one reference count per page, so that a fault sweep may restore an image for every fault.

use std::sync::Arc;

/// Unit of sharing.
pub(super) const PAGE_BYTES: usize = 4096;
/// What a device writes atomically, if anything.
pub(super) const SECTOR_BYTES: usize = 512;
/// Sectors of a page, one bit each in a sector mask.
pub(super) const SECTORS_PER_PAGE: usize = PAGE_BYTES / SECTOR_BYTES;

/// One page; cheap to share.
pub(super) type Page = Arc<[u8; PAGE_BYTES]>;

/// A sparse array of pages.
#[derive(Clone, Default, Debug)]
pub(super) struct Pages {
    pages: Vec<Option<Page>>,
}

/// The part of one page that a byte range touches.
pub(super) struct PageSpan {
    /// Which page.
    pub(super) page: usize,
    /// First byte within the page.
    pub(super) start: usize,
    /// End within the page.
    pub(super) end: usize,
    /// First byte within the range.
    pub(super) skipped: usize,
}

impl PageSpan {
    /// The sectors that the span touches, as a mask.
    pub(super) fn sectors(&self) -> u8 {
        let first = self.start / SECTOR_BYTES;
        let last = (self.end - 1) / SECTOR_BYTES;
        ((1u16 << (last + 1)) - (1u16 << first)) as u8
    }
}

/// Cuts `len` bytes at `offset` into pages.
pub(super) fn spans(offset: u64, len: usize) -> impl Iterator<Item = PageSpan> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let start = (position % PAGE_BYTES as u64) as usize;
        let end = PAGE_BYTES.min(start + len - done);
        let span = PageSpan {
            page: (position / PAGE_BYTES as u64) as usize,
            start,
            end,
            skipped: done,
        };
        done += end - start;
        Some(span)
    })
}

impl Pages {
    pub(super) fn set(&mut self, index: usize, page: Page) {
        if self.pages.len() <= index {
            self.pages.resize(index + 1, None);
        }
        self.pages[index] = Some(page);
    }

    /// The page, made writable in place: copied first if it is shared, zeros if it was a hole.
    pub(super) fn page_mut(&mut self, index: usize) -> &mut [u8; PAGE_BYTES] {
        if self.pages.len() <= index {
            self.pages.resize(index + 1, None);
        }
        Arc::make_mut(self.pages[index].get_or_insert_with(|| Arc::new([0; PAGE_BYTES])))
    }

    /// A shared reference to the page, which must have been written.
    pub(super) fn share(&self, index: usize) -> Page {
        self.pages[index]
            .clone()
            .expect("a page that was just written")
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) {
        for span in spans(offset, into.len()) {
            let target = &mut into[span.skipped..span.skipped + span.end - span.start];
            match self.pages.get(span.page) {
                Some(Some(page)) => target.copy_from_slice(&page[span.start..span.end]),
                _ => target.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for span in spans(offset, bytes.len()) {
            self.write_span(&span, bytes);
        }
    }

    /// Writes the part of `bytes` that lies in the span's page.
    pub(super) fn write_span(&mut self, span: &PageSpan, bytes: &[u8]) {
        let source = &bytes[span.skipped..span.skipped + span.end - span.start];
        match <&[u8; PAGE_BYTES]>::try_from(source) {
            Ok(whole) => self.set(span.page, Arc::new(*whole)),
            Err(_) => self.page_mut(span.page)[span.start..span.end].copy_from_slice(source),
        }
    }

    /// Replaces the masked sectors of a page by those of `content`.
    pub(super) fn set_sectors(&mut self, index: usize, sectors: u8, content: &Page) {
        if sectors == u8::MAX {
            self.set(index, Arc::clone(content));
            return;
        }
        let page = self.page_mut(index);
        for sector in (0..SECTORS_PER_PAGE).filter(|sector| sectors & 1 << sector != 0) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            page[range.clone()].copy_from_slice(&content[range]);
        }
    }

    /// Forgets everything from `length` on.
    pub(super) fn truncate(&mut self, length: u64) {
        let whole = (length / PAGE_BYTES as u64) as usize;
        let rest = (length % PAGE_BYTES as u64) as usize;
        self.pages.truncate(whole + usize::from(rest > 0));
        if rest > 0 && self.pages.get(whole).is_some_and(Option::is_some) {
            self.page_mut(whole)[rest..].fill(0);
        }
    }

    /// Pages that hold bytes, by index.
    pub(super) fn written(&self) -> impl Iterator<Item = (usize, &Page)> {
        self.pages
            .iter()
            .enumerate()
            .filter_map(|(index, page)| page.as_ref().map(|page| (index, page)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_any_shape_read_back() {
        let mut random = crate::sim::Random::new(3);
        let mut pages = Pages::default();
        let mut model = vec![0u8; 40_000];
        for _ in 0..500 {
            let offset = random.index(39_000);
            let mut bytes = vec![0; 1 + random.index(1_000.min(40_000 - offset))];
            random.fill(&mut bytes);
            pages.write(offset as u64, &bytes);
            model[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
        let mut read = vec![0; 40_000];
        pages.read(0, &mut read);
        assert_eq!(read, model);
        pages.truncate(10_001);
        pages.read(0, &mut read);
        assert_eq!(read[..10_001], model[..10_001]);
        assert!(read[10_001..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut pages = Pages::default();
        pages.write(0, &[1; 5000]);
        let copy = pages.clone();
        pages.write(4090, &[2; 20]);
        let mut read = [0; 5000];
        copy.read(0, &mut read);
        assert_eq!(read, [1; 5000]);
    }

    #[test]
    fn spans_know_their_sectors() {
        let masks: Vec<u8> = spans(511, 2).map(|span| span.sectors()).collect();
        assert_eq!(masks, [0b11]);
        let masks: Vec<u8> = spans(4096 + 512, 4096).map(|span| span.sectors()).collect();
        assert_eq!(masks, [0b1111_1110, 0b1]);
    }
}
