//! Which pages have been met: one bit per page.

use std::ops::Range;

/// A set of page ids below a limit that the file's length has confirmed.
#[derive(Debug)]
pub(crate) struct Claims {
    words: Vec<u64>,
}

impl Claims {
    /// No page below `pages` is claimed.
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            words: vec![0; (pages / 64 + 1) as usize],
        }
    }

    /// Claims all of `pages`.
    ///
    /// # Errors
    /// The first page that was claimed before.
    pub(crate) fn claim(&mut self, pages: Range<u64>) -> Result<(), u64> {
        for page in pages {
            let bit = 1 << (page % 64);
            let word = &mut self.words[(page / 64) as usize];
            if *word & bit != 0 {
                return Err(page);
            }
            *word |= bit;
        }
        Ok(())
    }

    /// The first page of `pages` that nobody claimed.
    pub(crate) fn first_unclaimed(&self, mut pages: Range<u64>) -> Option<u64> {
        pages.find(|page| self.words[(page / 64) as usize] & (1 << (page % 64)) == 0)
    }
}
