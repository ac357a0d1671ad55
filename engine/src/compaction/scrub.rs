//! Reading what is on the disk for damage, a page or a piece of events at a time.
//!
//! A round goes through the revision tree from the root down, each leaf followed by the overflow pages that
//! its image names, then through the lease tree, then through the event segments. Only images that the
//! store refers to now are looked at. What was rewritten between the plan and the check is no damage: bytes
//! that are wrong count only if the store still refers to the same image.

use bytes::Bytes;
use diskio::FileName;

use crate::events::{EventLog, SegmentId, SegmentKind};
use crate::mvcc::versions;
use crate::page::{BLOCK_BYTES, Page, PageKind, PageRef, Swip};
use crate::shard::Damage;
use crate::step::{Need, Step, ready};
use crate::tree::{Pages, Tree};

/// What a scrub step reads and checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubTarget {
    need: Need,
    holder: Option<Holder>,
}

impl ScrubTarget {
    /// What to read, by `Shard::read_of`.
    pub fn need(&self) -> &Need {
        &self.need
    }
}

/// Through which page of a tree the store refers to a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    spot: Spot,
    image: PageRef,
}

/// A place in one of the trees.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    leases: bool,
    level: u8,
    key: Vec<u8>,
}

/// What a scrub looks at.
#[derive(Debug)]
pub(crate) struct Scrubbed<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) leases: &'a mut Tree,
    pub(crate) pages: &'a mut Pages,
    pub(crate) log: &'a EventLog,
    pub(crate) shard: u16,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    Tree(Spot),
    /// Behind this piece.
    Events(Option<(SegmentKind, SegmentId, u32)>),
}

/// How far the round is.
#[derive(Debug, Default)]
pub(crate) struct Scrubber {
    stage: Stage,
    /// Overflow pages that an image named.
    overflow: Vec<ScrubTarget>,
}

impl Scrubber {
    /// What comes next; none: the round is through, and the next call begins another one.
    pub(crate) fn next(&mut self, parts: &mut Scrubbed<'_>) -> Step<Option<ScrubTarget>> {
        if let Some(target) = self.overflow.pop() {
            return Step::Ready(Some(target));
        }
        loop {
            match &self.stage {
                Stage::Begin => self.stage = Stage::Tree(ready!(first_spot(parts, false))),
                Stage::Tree(spot) => {
                    let spot = spot.clone();
                    let (image, next) = ready!(look(parts, &spot));
                    self.stage = match next.or_else(|| below(&spot)) {
                        Some(next) => Stage::Tree(next),
                        None if spot.leases => Stage::Events(None),
                        None => Stage::Tree(ready!(first_spot(parts, true))),
                    };
                    if let Some(image) = image {
                        return Step::Ready(Some(ScrubTarget {
                            need: Need::Page(image),
                            holder: Some(Holder { spot, image }),
                        }));
                    }
                }
                Stage::Events(behind) => {
                    let Some((place, need)) = parts.log.written_piece_behind(*behind) else {
                        self.stage = Stage::Begin;
                        return Step::Ready(None);
                    };
                    self.stage = Stage::Events(Some(place));
                    return Step::Ready(Some(ScrubTarget { need, holder: None }));
                }
            }
        }
    }

    /// Goes on with the next part: a page on the way cannot be read.
    pub(crate) fn skip(&mut self) {
        self.overflow.clear();
        self.stage = match &self.stage {
            Stage::Tree(spot) if !spot.leases => Stage::Tree(Spot {
                leases: true,
                level: 0,
                key: Vec::new(),
            }),
            _ => Stage::Events(None),
        };
    }

    /// Checks what was read for `target`.
    pub(crate) fn check(
        &mut self,
        parts: &mut Scrubbed<'_>,
        target: &ScrubTarget,
        bytes: &Bytes,
    ) -> Option<Damage> {
        match (target.need, &target.holder) {
            (Need::Page(reference), Some(holder)) => {
                self.check_page(parts, reference, holder, bytes)
            }
            (Need::Page(_), None) => None,
            (
                Need::Bytes {
                    segment, offset, ..
                },
                _,
            ) => {
                let (at, what) = parts.log.damage_in_piece(segment, offset, bytes)?;
                let file = FileName::Events {
                    shard: parts.shard,
                    number: segment.number(),
                };
                Some(Damage {
                    file: file.path(),
                    offset: u64::from(at),
                    what: what.to_string(),
                })
            }
        }
    }

    fn check_page(
        &mut self,
        parts: &mut Scrubbed<'_>,
        reference: PageRef,
        holder: &Holder,
        bytes: &Bytes,
    ) -> Option<Damage> {
        match Page::decode(bytes, &parts.pages.expectation(reference)) {
            Ok(page) => {
                self.note_overflow(&page, holder);
                None
            }
            Err(error) => {
                let current = look(parts, &holder.spot).ready()?.0;
                (current == Some(holder.image)).then(|| Damage {
                    file: FileName::Pages { shard: parts.shard }.path(),
                    offset: reference.address * BLOCK_BYTES as u64,
                    what: error.to_string(),
                })
            }
        }
    }

    fn note_overflow(&mut self, page: &Page, holder: &Holder) {
        let mut note = |swip| {
            if let Swip::Disk(reference) = swip {
                self.overflow.push(ScrubTarget {
                    need: Need::Page(reference),
                    holder: Some(holder.clone()),
                });
            }
        };
        match page.kind() {
            PageKind::Leaf => (0..page.len())
                .map(|cell| page.payload(cell))
                .filter(|payload| versions::has_overflow(payload))
                .for_each(|payload| note(versions::list(payload).overflow)),
            PageKind::Overflow => note(page.link()),
            PageKind::Inner | PageKind::KeySet => {}
        }
    }
}

fn first_spot(parts: &mut Scrubbed<'_>, leases: bool) -> Step<Spot> {
    let tree = match leases {
        true => &mut *parts.leases,
        false => &mut *parts.tree,
    };
    let level = ready!(tree.root_level(parts.pages));
    let key = Vec::new();
    Step::Ready(Spot { leases, level, key })
}

/// The first page of the next level.
fn below(spot: &Spot) -> Option<Spot> {
    Some(Spot {
        level: spot.level.checked_sub(1)?,
        key: Vec::new(),
        ..*spot
    })
}

/// The image that the store refers to at a spot, unless a newer page waits for a checkpoint; and the spot
/// behind it on the same level.
fn look(parts: &mut Scrubbed<'_>, spot: &Spot) -> Step<(Option<PageRef>, Option<Spot>)> {
    let tree = match spot.leases {
        true => &mut *parts.leases,
        false => &mut *parts.tree,
    };
    let (swip, high) = ready!(tree.page_at(parts.pages, spot.level, &spot.key));
    let image = match swip {
        Swip::Disk(image) => Some(image),
        Swip::Resident(slot) => parts.pages.clean_image(slot),
        Swip::Absent => None,
    };
    let next = high.map(|key| Spot {
        key,
        ..spot.clone()
    });
    Step::Ready((image, next))
}
