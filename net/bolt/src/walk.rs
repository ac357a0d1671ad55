//! Reading in order, with every check on the way.

use crate::claims::Claims;
use crate::database::{Database, Source};
use crate::error::ReadError;
use crate::node::{Kind, Node, Place};

/// Branches above a leaf and buckets inside buckets, together: trees of two children each that deep have more
/// pages than a file can.
const DEPTH_MAX: usize = 64;

/// Pages inside values are copied, and their memory is not needed again.
const SPARES_MAX: usize = 4;

/// What a walk meets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// A bucket: what follows is in it, until its [`Item::End`].
    Bucket {
        /// Its name.
        name: &'a [u8],
        /// Buckets around it: 0 for a top-level bucket. In a walk through one bucket that one counts.
        depth: usize,
    },
    /// A key and its value, in the bucket that was begun last and has not ended.
    Entry {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The end of the bucket that was begun last.
    End,
}

/// A walk through buckets and entries in ascending order.
///
/// Every page that it enters is checked as a whole, and against what has been met: no page is used twice, keys
/// ascend through all pages of a bucket and lie between the separators above them. A walk through everything
/// ends with the free list, where there is one; a file that gives [`None`] at its end breaks no rule. Memory:
/// one leaf, the branches above it, a bit per page.
///
/// After an error the walk is over.
#[derive(Debug)]
pub struct Walk<'d, S> {
    database: &'d mut Database<S>,
    claims: Claims,
    frames: Vec<Frame>,
    /// Memory of nodes that were left.
    spare: Vec<Vec<u8>>,
    reach: Reach,
    state: State,
}

/// How far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Into everything, and then to the free list.
    Everything,
    /// Into one bucket.
    OneBucket,
    /// Only the names of the top-level buckets.
    Names,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Inside,
    Over,
}

/// A node on the path from the root.
#[derive(Debug)]
struct Frame {
    node: Node,
    /// The element that comes next.
    next: usize,
    /// All keys are below.
    upper: Option<Vec<u8>>,
    /// The root of a bucket's tree.
    begins_bucket: bool,
}

/// What [`Walk::advance`] has found, without a borrow.
enum Step {
    Bucket,
    Entry,
    End,
    Over,
}

impl<'d, S: Source> Walk<'d, S> {
    fn new(database: &'d mut Database<S>, reach: Reach) -> Self {
        let pages = database.meta().pages;
        Self {
            claims: Claims::new(pages),
            database,
            frames: Vec::new(),
            spare: Vec::new(),
            reach,
            state: State::New,
        }
    }

    pub(crate) fn all(database: &'d mut Database<S>) -> Self {
        Self::new(database, Reach::Everything)
    }

    pub(crate) fn names(database: &'d mut Database<S>) -> Self {
        Self::new(database, Reach::Names)
    }

    /// A walk through the bucket whose only leaf is `node`.
    pub(crate) fn of_node(database: &'d mut Database<S>, node: Node) -> Self {
        let mut walk = Self::new(database, Reach::OneBucket);
        walk.begin(node);
        walk
    }

    /// A walk through the bucket whose tree begins at `page`.
    pub(crate) fn of_page(
        database: &'d mut Database<S>,
        page: u64,
        from: Place,
        at: usize,
    ) -> Result<Self, ReadError> {
        let mut walk = Self::new(database, Reach::OneBucket);
        let node = walk.load(page, (from, at))?;
        walk.begin(node);
        Ok(walk)
    }

    fn begin(&mut self, node: Node) {
        self.state = State::Inside;
        self.frames.push(Frame {
            node,
            next: 0,
            upper: None,
            begins_bucket: true,
        });
    }

    /// The next item, [`None`] at the end.
    ///
    /// # Errors
    /// The first rule that is broken, with its page and offset. The walk is over then.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows the page that it is in, which no Iterator can say"
    )]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        let step = self.advance();
        if step.is_err() {
            self.state = State::Over;
            self.frames.clear();
        }
        let around = match self.reach {
            Reach::OneBucket => 1,
            Reach::Everything | Reach::Names => 2,
        };
        let depth = self.buckets().saturating_sub(around);
        Ok(match step? {
            Step::Over => None,
            Step::End => Some(Item::End),
            Step::Entry => self.position().map(|(node, index)| Item::Entry {
                key: node.key(index),
                value: node.value(index),
            }),
            Step::Bucket if self.reach == Reach::Names => {
                self.position().map(|(node, index)| Item::Bucket {
                    name: node.key(index),
                    depth: 0,
                })
            }
            // The bucket's own root is the last frame already; its name stands in the leaf before.
            Step::Bucket => self.frames.iter().rev().nth(1).map(|frame| Item::Bucket {
                name: frame.node.key(frame.next - 1),
                depth,
            }),
        })
    }

    /// The leaf and the element that was met last.
    pub(crate) fn position(&self) -> Option<(&Node, usize)> {
        let frame = self.frames.last()?;
        Some((&frame.node, frame.next.checked_sub(1)?))
    }

    fn advance(&mut self) -> Result<Step, ReadError> {
        match self.state {
            State::Over => return Ok(Step::Over),
            State::New => {
                let meta = Place { page: 0, offset: 0 };
                let node = self.load(self.database.meta().root, (meta, 32))?;
                self.begin(node);
            }
            State::Inside => {}
        }
        loop {
            let Some(frame) = self.frames.last_mut() else {
                self.state = State::Over;
                if self.reach == Reach::Everything {
                    self.database.check_freelist(&mut self.claims)?;
                }
                return Ok(Step::Over);
            };
            if frame.next == frame.node.count {
                if self.leave() {
                    return Ok(Step::End);
                }
                continue;
            }
            let index = frame.next;
            frame.next += 1;
            if !frame.node.is_leaf {
                self.descend(index)?;
                continue;
            }
            return match frame.node.kind(index) {
                Kind::Value => Ok(Step::Entry),
                _ if self.reach == Reach::Names => Ok(Step::Bucket),
                kind => {
                    self.enter(index, kind)?;
                    Ok(Step::Bucket)
                }
            };
        }
    }

    /// Leaves the last frame; whether a bucket inside another one has ended with it.
    fn leave(&mut self) -> bool {
        let Some(frame) = self.frames.pop() else {
            return false;
        };
        if self.spare.len() < SPARES_MAX {
            self.spare.push(frame.node.into_bytes());
        }
        frame.begins_bucket && !self.frames.is_empty()
    }

    /// Enters child `index` of the branch on top.
    fn descend(&mut self, index: usize) -> Result<(), ReadError> {
        let depth = self.frames.len();
        let Some(frame) = self.frames.last() else {
            return Ok(());
        };
        let (node, place) = (&frame.node, frame.node.place);
        let at = node.data_offset(index);
        if depth == DEPTH_MAX {
            return Err(place.damaged(at, format!("{DEPTH_MAX} levels of branches and buckets")));
        }
        let lower = node.key(index).to_vec();
        let upper = match index + 1 < node.count {
            true => Some(node.key(index + 1).to_vec()),
            false => frame.upper.clone(),
        };
        let child = self.load(node.child(index), (place, at))?;
        check_bounds(&child, &lower, upper.as_deref())?;
        self.frames.push(Frame {
            node: child,
            next: 0,
            upper,
            begins_bucket: false,
        });
        Ok(())
    }

    /// Enters the bucket at element `index` of the leaf on top.
    fn enter(&mut self, index: usize, kind: Kind) -> Result<(), ReadError> {
        let depth = self.frames.len();
        let Some(frame) = self.frames.last() else {
            return Ok(());
        };
        let place = frame.node.place;
        let at = frame.node.data_offset(index);
        if depth == DEPTH_MAX {
            return Err(place.damaged(at, format!("{DEPTH_MAX} levels of branches and buckets")));
        }
        let node = match kind {
            Kind::Bucket { root } => self.load(root, (place, at))?,
            _ => frame.node.inline(index)?,
        };
        self.begin(node);
        Ok(())
    }

    fn load(&mut self, page: u64, from: (Place, usize)) -> Result<Node, ReadError> {
        let buffer = self.spare.pop().unwrap_or_default();
        self.database.load(page, &mut self.claims, buffer, from)
    }

    /// Roots of buckets on the path, the one of all top-level buckets included.
    fn buckets(&self) -> usize {
        self.frames
            .iter()
            .filter(|frame| frame.begins_bucket)
            .count()
    }
}

/// Checks that the keys of `node`, which ascend, lie in `lower..upper`, and that there are some.
fn check_bounds(node: &Node, lower: &[u8], upper: Option<&[u8]>) -> Result<(), ReadError> {
    let Some(last) = node.count.checked_sub(1) else {
        return Err(node
            .place
            .damaged(10, "a leaf without entries below a branch"));
    };
    if node.key(0) < lower {
        let what = "the first key is below its separator in the branch above";
        return Err(node.place.damaged(node.data_offset(0), what));
    }
    if upper.is_some_and(|upper| node.key(last) >= upper) {
        let what = "the last key is not below the next separator in the branch above";
        return Err(node.place.damaged(node.data_offset(last), what));
    }
    Ok(())
}
