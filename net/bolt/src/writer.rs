//! Writing a file forwards.
//!
//! ```text
//! page 0   1   2 …                                                                     pages - root_pages
//! | meta | meta | leaf leaf leaf branch leaf … branch | leaf … | free space          | root: the buckets |
//!                 bucket 1: children before parents     bucket 2
//! ```

use crate::error::{WriteError, shown};
use crate::format::{
    BRANCH, ELEMENT_BYTES, IS_BUCKET, KEY_BYTES_MAX, LEAF, Meta, PAGE_BYTES, PAGE_HEADER_BYTES,
    PageHeader,
};
use crate::plan::{BucketPlan, INLINE_BYTES_MAX, LEAF_BYTES_MAX, Plan};

/// The longest value that a writer takes: four of them in one leaf are still read back.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// With so many bytes to take, [`Writer::wants_records`] says no.
pub const OUTPUT_BYTES_WANTED: usize = 256 << 10;

const PAGE: u64 = PAGE_BYTES as u64;
/// The older of the two transactions that the meta pages claim. The next one goes to the page of the older.
const FIRST_TRANSACTION: u64 = 1;

/// A file that is being written: records go in, bytes come out, in pieces and in order.
///
/// ```text
/// for each bucket, ascending: bucket(name), then push(key, value) for each key, ascending
/// finish
/// between the calls, and after the last until `is_done`: take
/// ```
///
/// It keeps a leaf (64 KiB as a rule, at most a mebibyte and a record), one branch for each level of one bucket,
/// and what has not been taken: whoever pushes only while [`Writer::wants_records`] has a few MiB at most.
///
/// Invariants: pages are numbered in the order in which they go out; a branch has at least two children, because
/// bbolt cannot delete from others; no page lies in the root's place.
#[derive(Debug)]
pub struct Writer {
    /// The buckets of the plan, in order, and what became of them.
    buckets: Vec<Bucket>,
    /// The bucket that takes records.
    current: Option<usize>,
    tree: Tree,
    root: u64,
    pages: u64,
    output: Vec<u8>,
    finished: bool,
    /// Pages of free space that still go out before the root.
    free_pages: u64,
    /// The root leaf, until it has gone out.
    last: Vec<u8>,
}

#[derive(Debug)]
struct Bucket {
    plan: BucketPlan,
    /// What stands for it in the root leaf. A bucket that gets no records is an empty page in the value.
    value: Vec<u8>,
}

/// The bucket that is being written.
#[derive(Debug, Default)]
struct Tree {
    leaf: Leaf,
    leaf_records: usize,
    fan_out: usize,
    /// Children that no branch has yet, from the leaves' parents up.
    levels: Vec<Vec<Child>>,
    next_page: u64,
    records: u64,
    data_bytes: u64,
    last_key: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Leaf {
    /// Lengths of key and value of each element.
    elements: Vec<(u32, u32)>,
    data: Vec<u8>,
}

#[derive(Debug)]
struct Child {
    key: Vec<u8>,
    page: u64,
}

impl Writer {
    /// A writer of exactly `plan.file_bytes()` bytes.
    pub fn new(plan: Plan) -> Self {
        let pages = plan.pages();
        let root = pages - plan.root_pages();
        let mut output = Vec::new();
        for id in 0..2 {
            let meta = Meta {
                page_bytes: PAGE_BYTES,
                root,
                freelist: None,
                pages,
                transaction: FIRST_TRANSACTION + 1 - id,
            };
            meta.encode_page(id, &mut output);
        }
        let empty = |plan| Bucket {
            plan,
            value: Leaf::default().inline(),
        };
        Self {
            buckets: plan.into_buckets().into_iter().map(empty).collect(),
            current: None,
            tree: Tree {
                next_page: 2,
                ..Tree::default()
            },
            root,
            pages,
            output,
            finished: false,
            free_pages: 0,
            last: Vec::new(),
        }
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.pages * PAGE
    }

    /// Ends the current bucket and begins the one with this name. Planned buckets that are passed over stay empty.
    ///
    /// # Errors
    /// The bucket is not in the plan, or does not come after the current one.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        let found = self
            .buckets
            .binary_search_by(|bucket| bucket.plan.name.as_slice().cmp(name));
        let index = found.map_err(|_| WriteError::NotPlanned {
            bucket: shown(name),
        })?;
        if self.finished || self.current.is_some_and(|current| current >= index) {
            return Err(WriteError::Order {
                what: "bucket",
                name: shown(name),
            });
        }
        self.end_bucket();
        let plan = &self.buckets[index].plan;
        self.tree.leaf_records = plan.leaf_records();
        self.tree.fan_out = plan.fan_out();
        self.current = Some(index);
        Ok(())
    }

    /// Appends a record to the current bucket.
    ///
    /// # Errors
    /// The key does not come after the one before, is empty or too long, the value is too long, or the bucket has
    /// got what was planned. The writer is as it was before.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let current = self.current.ok_or(WriteError::NoBucket)?;
        self.tree.check(&self.buckets[current].plan, key, value)?;
        let tree = &mut self.tree;
        if tree
            .leaf
            .is_full(tree.leaf_records, key.len() + value.len())
        {
            tree.close_leaf(&mut self.output);
        }
        tree.leaf
            .elements
            .push((key.len() as u32, value.len() as u32));
        tree.leaf.data.extend_from_slice(key);
        tree.leaf.data.extend_from_slice(value);
        tree.records += 1;
        tree.data_bytes += (key.len() + value.len()) as u64;
        tree.last_key.clear();
        tree.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Ends the last bucket. What is left to take are at most free space and the root.
    pub fn finish(&mut self) {
        if self.finished {
            return;
        }
        self.end_bucket();
        self.finished = true;
        assert!(self.tree.next_page <= self.root, "the plan was too small");
        self.free_pages = self.root - self.tree.next_page;
        let mut leaf = Leaf::default();
        for bucket in &self.buckets {
            let name = &bucket.plan.name;
            leaf.elements
                .push((name.len() as u32, bucket.value.len() as u32));
            leaf.data.extend_from_slice(name);
            leaf.data.extend_from_slice(&bucket.value);
        }
        let pages = self.pages - self.root;
        leaf.encode(self.root, pages, IS_BUCKET, &mut self.last);
        assert!(
            self.last.len() as u64 <= pages * PAGE,
            "the root is too large"
        );
        self.last.resize((pages * PAGE) as usize, 0);
    }

    /// Whether more records should be pushed before what is there has been taken.
    pub fn wants_records(&self) -> bool {
        !self.finished && self.output.len() < OUTPUT_BYTES_WANTED
    }

    /// The next bytes of the file, whatever is there; [`None`] if there are none yet, or none any more.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.finished {
            self.fill_free_space();
        }
        (!self.output.is_empty()).then(|| std::mem::take(&mut self.output))
    }

    /// Whether everything has been taken.
    pub fn is_done(&self) -> bool {
        self.finished && self.output.is_empty() && self.free_pages == 0 && self.last.is_empty()
    }

    fn fill_free_space(&mut self) {
        let wanted = OUTPUT_BYTES_WANTED.saturating_sub(self.output.len()) as u64;
        let pages = self.free_pages.min(wanted / PAGE);
        self.output
            .resize(self.output.len() + (pages * PAGE) as usize, 0);
        self.free_pages -= pages;
        if self.free_pages == 0 {
            self.output.append(&mut self.last);
        }
    }

    fn end_bucket(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        let bucket = &mut self.buckets[current];
        bucket.value = self.tree.end(&mut self.output);
    }
}

impl Tree {
    /// Whether a record fits the order, the format and the plan.
    fn check(&self, plan: &BucketPlan, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        check_lengths(&plan.name, key, value)?;
        if self.records > 0 && key <= self.last_key.as_slice() {
            return Err(WriteError::Order {
                what: "key",
                name: shown(key),
            });
        }
        let data_bytes = self.data_bytes + (key.len() + value.len()) as u64;
        let (what, planned) = if self.records == plan.records {
            ("records", plan.records)
        } else if data_bytes > plan.data_bytes {
            ("bytes", plan.data_bytes)
        } else if key.len() > plan.key_bytes_max {
            ("bytes of a key", plan.key_bytes_max as u64)
        } else {
            return Ok(());
        };
        Err(WriteError::MoreThanPlanned {
            bucket: shown(&plan.name),
            what,
            planned,
        })
    }

    fn close_leaf(&mut self, output: &mut Vec<u8>) {
        let leaf = std::mem::take(&mut self.leaf);
        let key = leaf.first_key().to_vec();
        let pages = (leaf.bytes() as u64).div_ceil(PAGE);
        let page = self.give_out(pages);
        let begin = output.len();
        leaf.encode(page, pages, 0, output);
        output.resize(begin + (pages * PAGE) as usize, 0);
        self.leaf = leaf.emptied();
        self.add_child(0, Child { key, page }, output);
    }

    /// Hands a child to a level. A branch goes out when two more children are there than it gets, so that two are
    /// always left for the next one.
    fn add_child(&mut self, level: usize, child: Child, output: &mut Vec<u8>) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(child);
        if self.levels[level].len() == self.fan_out + 2 {
            let rest = self.levels[level].split_off(self.fan_out);
            let children = std::mem::replace(&mut self.levels[level], rest);
            self.close_branch(level, children, output);
        }
    }

    fn close_branch(&mut self, level: usize, children: Vec<Child>, output: &mut Vec<u8>) {
        let table = PAGE_HEADER_BYTES + children.len() * ELEMENT_BYTES;
        let bytes = table + children.iter().map(|child| child.key.len()).sum::<usize>();
        let pages = (bytes as u64).div_ceil(PAGE);
        let page = self.give_out(pages);
        let begin = output.len();
        header(page, BRANCH, children.len(), pages).encode(output);
        let mut data = table;
        for (index, child) in children.iter().enumerate() {
            let position = data - (PAGE_HEADER_BYTES + index * ELEMENT_BYTES);
            output.extend_from_slice(&(position as u32).to_le_bytes());
            output.extend_from_slice(&(child.key.len() as u32).to_le_bytes());
            output.extend_from_slice(&child.page.to_le_bytes());
            data += child.key.len();
        }
        for child in &children {
            output.extend_from_slice(&child.key);
        }
        output.resize(begin + (pages * PAGE) as usize, 0);
        if let Some(first) = children.into_iter().next() {
            let key = first.key;
            self.add_child(level + 1, Child { key, page }, output);
        }
    }

    /// Closes what is open; what stands for the bucket in its parent.
    fn end(&mut self, output: &mut Vec<u8>) -> Vec<u8> {
        let value = if self.levels.is_empty() && self.leaf.bytes() as u64 <= INLINE_BYTES_MAX {
            self.leaf.inline()
        } else {
            self.close_leaf(output);
            bucket_value(self.close_levels(output))
        };
        *self = Self {
            next_page: self.next_page,
            leaf: std::mem::take(&mut self.leaf).emptied(),
            ..Self::default()
        };
        value
    }

    /// Closes all branches, lowest first; the page of the topmost.
    fn close_levels(&mut self, output: &mut Vec<u8>) -> u64 {
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            if let [only] = children.as_slice() {
                return only.page;
            }
            self.close_branch(level, children, output);
            level += 1;
        }
    }

    fn give_out(&mut self, pages: u64) -> u64 {
        let page = self.next_page;
        self.next_page += pages;
        page
    }
}

impl Leaf {
    fn bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len()
    }

    /// Whether a record with so many bytes goes to the next leaf.
    fn is_full(&self, records: usize, data_bytes: usize) -> bool {
        let bytes = (self.bytes() - PAGE_HEADER_BYTES + ELEMENT_BYTES + data_bytes) as u64;
        !self.elements.is_empty() && (self.elements.len() >= records || bytes > LEAF_BYTES_MAX)
    }

    fn first_key(&self) -> &[u8] {
        let bytes = self.elements.first().map_or(0, |(key, _)| *key as usize);
        &self.data[..bytes]
    }

    /// The page as it stands inside a bucket's value, behind what stands for the bucket.
    fn inline(&self) -> Vec<u8> {
        let mut value = bucket_value(0);
        self.encode(0, 1, 0, &mut value);
        value
    }

    fn encode(&self, page: u64, pages: u64, flags: u32, into: &mut Vec<u8>) {
        header(page, LEAF, self.elements.len(), pages).encode(into);
        let mut data = PAGE_HEADER_BYTES + self.elements.len() * ELEMENT_BYTES;
        for (index, (key, value)) in self.elements.iter().enumerate() {
            let position = data - (PAGE_HEADER_BYTES + index * ELEMENT_BYTES);
            for field in [flags, position as u32, *key, *value] {
                into.extend_from_slice(&field.to_le_bytes());
            }
            data += (*key + *value) as usize;
        }
        into.extend_from_slice(&self.data);
    }

    /// The same memory, without elements.
    fn emptied(mut self) -> Self {
        self.elements.clear();
        self.data.clear();
        self
    }
}

/// Whether any file can have a record of these lengths.
pub(crate) fn check_lengths(bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), WriteError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        return Err(WriteError::Length {
            bucket: shown(bucket),
            key_bytes: key.len(),
            value_bytes: value.len(),
        });
    }
    Ok(())
}

fn header(id: u64, flags: u16, count: usize, pages: u64) -> PageHeader {
    PageHeader {
        id,
        flags,
        count: count as u16,
        overflow: (pages - 1) as u32,
    }
}

/// What stands for a bucket in its parent: the root page, 0 for a page in the value, and a sequence that etcd
/// does not use.
fn bucket_value(root: u64) -> Vec<u8> {
    let mut value = root.to_le_bytes().to_vec();
    value.extend_from_slice(&0_u64.to_le_bytes());
    value
}
