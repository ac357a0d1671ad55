//! One simulated file: what reads see, what survives a power cut, and the changes between the two.

use std::collections::BTreeMap;

use super::pages::{PAGE_BYTES, Page, Pages, SECTOR_BYTES, SECTORS_PER_PAGE, spans};
use crate::sim::coverage::{Coverage, FaultKind};
use crate::sim::random::{Random, Rate};

/// A change that reads see and that no sync has made durable yet.
#[derive(Clone, Debug)]
struct Pending {
    /// Order of landing; all pages of one write carry the same number.
    sequence: u64,
    /// A sync that covered it failed or lied: no later sync makes it durable.
    abandoned: bool,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    /// The masked sectors of a page.
    Sectors {
        page: usize,
        sectors: u8,
        content: Page,
    },
    /// The file's length.
    Length(u64),
}

/// A file's two states and the way from one to the other.
///
/// Invariants
/// - `live` = `durable` + every pending change in order, bit rot and misdirected writes included in both
/// - `pending` is ordered by `sequence`
/// - bytes beyond the length of an image are zero or absent
#[derive(Clone, Default, Debug)]
pub(super) struct FileNode {
    live: Pages,
    live_length: u64,
    durable: Pages,
    durable_length: u64,
    pending: Vec<Pending>,
}

/// What becomes of the sectors that no sync covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::sim) enum CutStyle {
    /// Each write gets a seeded shape, each sector its own fate within it.
    Seeded,
    /// Nothing survives but what was synced.
    AllLost,
    /// Everything survives.
    AllKept,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SectorFate {
    Kept,
    Lost,
    Torn,
}

/// How much of one un-synced write survives a power cut, counted in its sectors.
#[derive(Clone, Copy, Debug)]
enum WriteShape {
    All,
    Nothing,
    /// The first sectors; the next one is torn or lost.
    Prefix(usize, SectorFate),
    /// All but the first sectors.
    Suffix(usize),
    /// All but some in the middle.
    Hole(usize, usize),
    /// One sector is garbage, the others are there.
    OneTorn(usize),
    /// Each sector for itself.
    Independent {
        kept: Rate,
        torn: Rate,
    },
}

impl WriteShape {
    fn draw(random: &mut Random, sectors: usize) -> WriteShape {
        match random.below(12) {
            0 | 1 => WriteShape::All,
            2 | 3 => WriteShape::Nothing,
            4 => WriteShape::Prefix(random.index(sectors), SectorFate::Lost),
            5 => WriteShape::Prefix(random.index(sectors), SectorFate::Torn),
            6 => WriteShape::Suffix(random.index(sectors) + 1),
            7 => {
                let start = random.index(sectors);
                WriteShape::Hole(start, start + 1 + random.index(sectors - start))
            }
            8 => WriteShape::OneTorn(random.index(sectors)),
            _ => WriteShape::Independent {
                kept: Rate(random.below(1_000_000) as u32),
                torn: Rate(random.below(300_000) as u32),
            },
        }
    }

    fn fate(self, sector: usize, random: &mut Random) -> SectorFate {
        let kept_if = |kept| {
            if kept {
                SectorFate::Kept
            } else {
                SectorFate::Lost
            }
        };
        match self {
            WriteShape::All => SectorFate::Kept,
            WriteShape::Nothing => SectorFate::Lost,
            WriteShape::Prefix(count, next) if sector == count => next,
            WriteShape::Prefix(count, _) => kept_if(sector < count),
            WriteShape::Suffix(first) => kept_if(sector >= first),
            WriteShape::Hole(start, end) => kept_if(sector < start || sector >= end),
            WriteShape::OneTorn(torn) if sector == torn => SectorFate::Torn,
            WriteShape::OneTorn(_) => SectorFate::Kept,
            WriteShape::Independent { torn, .. } if random.hits(torn) => SectorFate::Torn,
            WriteShape::Independent { kept, .. } => kept_if(random.hits(kept)),
        }
    }
}

impl FileNode {
    /// A file whose content is durable.
    pub(super) fn durable(content: Pages, length: u64) -> FileNode {
        FileNode {
            live: content.clone(),
            live_length: length,
            durable: content,
            durable_length: length,
            pending: Vec::new(),
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.live_length
    }

    /// What reads see: pages and length.
    pub(super) fn live(&self) -> (&Pages, u64) {
        (&self.live, self.live_length)
    }

    /// What a power cut would leave at least.
    pub(super) fn durable_part(&self) -> (&Pages, u64) {
        (&self.durable, self.durable_length)
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Copies bytes at `offset`; returns how many lie before the end of the file.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let available = self.live_length.saturating_sub(offset);
        let len = into
            .len()
            .min(usize::try_from(available).unwrap_or(usize::MAX));
        self.live.read(offset, &mut into[..len]);
        len
    }

    /// A write has landed: reads see it, no sync covers it yet.
    pub(super) fn land(&mut self, sequence: u64, offset: u64, bytes: &[u8]) {
        for span in spans(offset, bytes.len()) {
            self.live.write_span(&span, bytes);
            let change = Change::Sectors {
                page: span.page,
                sectors: span.sectors(),
                content: self.live.share(span.page),
            };
            self.pending.push(Pending {
                sequence,
                abandoned: false,
                change,
            });
        }
        self.extend(sequence, offset + bytes.len() as u64);
    }

    /// The file is at least `length` long from now on.
    pub(super) fn extend(&mut self, sequence: u64, length: u64) {
        if length > self.live_length {
            self.live_length = length;
            self.pending.push(Pending {
                sequence,
                abandoned: false,
                change: Change::Length(length),
            });
        }
    }

    /// A sync that covers every change up to `cover` has completed.
    pub(super) fn make_durable(&mut self, cover: u64) {
        let abandoned = self.pending.iter().any(|pending| pending.abandoned);
        if abandoned {
            self.drop_overwritten(cover);
        }
        let mut later = Vec::new();
        for pending in self.pending.drain(..) {
            if pending.abandoned || pending.sequence > cover {
                later.push(pending);
                continue;
            }
            match pending.change {
                Change::Sectors {
                    page,
                    sectors,
                    content,
                } => self.durable.set_sectors(page, sectors, &content),
                Change::Length(length) => self.durable_length = self.durable_length.max(length),
            }
        }
        self.pending = later;
    }

    /// A sync that covers every change up to `cover` has failed, or lied: those changes may be anywhere.
    pub(super) fn abandon(&mut self, cover: u64) -> bool {
        let mut any = false;
        for pending in self
            .pending
            .iter_mut()
            .filter(|pending| pending.sequence <= cover)
        {
            any |= !pending.abandoned;
            pending.abandoned = true;
        }
        any
    }

    /// An abandoned sector that a later, now durable write replaced can no longer come back.
    fn drop_overwritten(&mut self, cover: u64) {
        let mut replaced: BTreeMap<usize, u8> = BTreeMap::new();
        for pending in self.pending.iter_mut().rev() {
            let Change::Sectors { page, sectors, .. } = &mut pending.change else {
                continue;
            };
            let newer = replaced.entry(*page).or_default();
            if pending.abandoned {
                *sectors &= !*newer;
            } else if pending.sequence <= cover {
                *newer |= *sectors;
            }
        }
    }

    /// The power is gone: what was pending meets its fate, and live and durable are one again.
    pub(super) fn power_cut(
        &mut self,
        style: CutStyle,
        random: &mut Random,
        coverage: &mut Coverage,
    ) {
        let pending = std::mem::take(&mut self.pending);
        for write in pending.chunk_by(|one, next| one.sequence == next.sequence) {
            self.settle_write(write, style, random, coverage);
        }
        self.durable.truncate(self.durable_length);
        self.live = self.durable.clone();
        self.live_length = self.durable_length;
    }

    fn settle_write(
        &mut self,
        write: &[Pending],
        style: CutStyle,
        random: &mut Random,
        coverage: &mut Coverage,
    ) {
        let count = |change: &Change| match change {
            Change::Sectors { sectors, .. } => sectors.count_ones() as usize,
            Change::Length(_) => 0,
        };
        let sectors: usize = write.iter().map(|pending| count(&pending.change)).sum();
        let shape = match style {
            CutStyle::AllLost => WriteShape::Nothing,
            CutStyle::AllKept => WriteShape::All,
            CutStyle::Seeded => WriteShape::draw(random, sectors.max(1)),
        };
        let mut ordinal = 0;
        for pending in write {
            match &pending.change {
                Change::Length(length) => {
                    let kept = style == CutStyle::AllKept
                        || style == CutStyle::Seeded && random.below(2) == 0;
                    if kept {
                        self.durable_length = self.durable_length.max(*length);
                    } else {
                        coverage.hit(FaultKind::LengthLost);
                    }
                }
                Change::Sectors {
                    page,
                    sectors,
                    content,
                } => {
                    for sector in (0..SECTORS_PER_PAGE).filter(|sector| sectors & 1 << sector != 0)
                    {
                        let fate = shape.fate(ordinal, random);
                        self.settle_sector(*page, sector, content, fate, random, coverage);
                        ordinal += 1;
                    }
                }
            }
        }
    }

    fn settle_sector(
        &mut self,
        page: usize,
        sector: usize,
        content: &Page,
        fate: SectorFate,
        random: &mut Random,
        coverage: &mut Coverage,
    ) {
        match fate {
            SectorFate::Lost => coverage.hit(FaultKind::SectorLost),
            SectorFate::Kept => {
                coverage.hit(FaultKind::SectorKept);
                self.durable.set_sectors(page, 1 << sector, content);
            }
            SectorFate::Torn => {
                coverage.hit(FaultKind::SectorTorn);
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                let target = &mut self.durable.page_mut(page)[range.clone()];
                match random.below(4) {
                    0 => target.fill(0),
                    1 => random.fill(target),
                    2 => {
                        // The first bytes are new, the others old.
                        let cut = random.index(SECTOR_BYTES);
                        target[..cut].copy_from_slice(&content[range][..cut]);
                    }
                    _ => {
                        target.copy_from_slice(&content[range]);
                        target[random.index(SECTOR_BYTES)] ^= 1 << random.below(8);
                    }
                }
            }
        }
    }

    /// Flips one bit, in both states.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let page = (offset / PAGE_BYTES as u64) as usize;
        let byte = (offset % PAGE_BYTES as u64) as usize;
        self.live.page_mut(page)[byte] ^= 1 << bit;
        self.durable.page_mut(page)[byte] ^= 1 << bit;
    }

    /// Replaces bytes in both states, as if they had always been there.
    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        self.live.write(offset, bytes);
        self.durable.write(offset, bytes);
        self.live_length = self.live_length.max(offset + bytes.len() as u64);
        self.durable_length = self.durable_length.max(offset + bytes.len() as u64);
    }
}
