//! How large a file becomes, before any of it is written.
//!
//! The meta page stands first and says where the root is and how many pages there are. So the writer is told
//! beforehand how many records each bucket gets and how many bytes they have, and computes from that, whatever the
//! order and the sizes of the single records will be, pages that are enough. What is left of them is free space.
//! The bound is close because a leaf is a run of pages with many records in it: rounding up to whole pages costs
//! half a page for each 64 KiB.

use crate::error::{WriteError, shown};
use crate::format::{
    BUCKET_BYTES, COUNT_MAX, ELEMENT_BYTES, KEY_BYTES_MAX, PAGE_BYTES, PAGE_HEADER_BYTES,
};

const PAGE: u64 = PAGE_BYTES as u64;
const HEADER: u64 = PAGE_HEADER_BYTES as u64;
const ELEMENT: u64 = ELEMENT_BYTES as u64;

/// A leaf gets as many records as would have so many bytes if all were of average size.
const LEAF_BYTES_USUAL: u64 = 64 << 10;
/// A leaf gets no second record that would make it larger.
pub(crate) const LEAF_BYTES_MAX: u64 = 1 << 20;
/// A bucket whose page would not be larger is kept in its parent's value, as bbolt does.
pub(crate) const INLINE_BYTES_MAX: u64 = PAGE / 4;
/// Top-level buckets of one file.
const BUCKETS_MAX: usize = 1024;

/// What is going to be written: all buckets, the most records of each, and the most bytes.
///
/// The order in which records are planned means nothing, so parts of the key space can be counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In ascending order of names.
    buckets: Vec<BucketPlan>,
}

impl Plan {
    /// A file without buckets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan of the top-level bucket `name`, which is in the file from now on.
    ///
    /// # Errors
    /// The name is empty or longer than a key, or there are more than 1024 buckets.
    pub fn bucket(&mut self, name: &[u8]) -> Result<&mut BucketPlan, WriteError> {
        let what = match (name.len(), self.buckets.len()) {
            (0, _) => Some("a name has at least one byte"),
            (KEY_BYTES_MAX.., _) => Some("the name is too long"),
            (_, BUCKETS_MAX..) => Some("there are too many buckets"),
            _ => None,
        };
        if let Some(what) = what {
            let bucket = shown(name);
            return Err(WriteError::BadPlan { bucket, what });
        }
        let found = self
            .buckets
            .binary_search_by(|bucket| bucket.name.as_slice().cmp(name));
        let index = found.unwrap_or_else(|index| {
            self.buckets.insert(index, BucketPlan::new(name));
            index
        });
        Ok(&mut self.buckets[index])
    }

    /// Bytes of the file, exactly.
    pub fn file_bytes(&self) -> u64 {
        self.pages() * PAGE
    }

    pub(crate) fn pages(&self) -> u64 {
        let trees: u64 = self.buckets.iter().map(BucketPlan::pages_max).sum();
        2 + trees + self.root_pages()
    }

    /// Pages of the leaf that has all buckets. They are the last of the file.
    pub(crate) fn root_pages(&self) -> u64 {
        let element = |bucket: &BucketPlan| {
            let name = bucket.name.len() as u64;
            ELEMENT + name + BUCKET_BYTES as u64 + bucket.inline_bytes_max()
        };
        let bytes = HEADER + self.buckets.iter().map(element).sum::<u64>();
        bytes.div_ceil(PAGE)
    }

    pub(crate) fn into_buckets(self) -> Vec<BucketPlan> {
        self.buckets
    }
}

/// The most that one bucket gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlan {
    pub(crate) name: Vec<u8>,
    pub(crate) records: u64,
    /// Keys and values, without the elements' headers.
    pub(crate) data_bytes: u64,
    pub(crate) key_bytes_max: usize,
}

impl BucketPlan {
    fn new(name: &[u8]) -> Self {
        Self {
            name: name.to_vec(),
            records: 0,
            data_bytes: 0,
            key_bytes_max: 0,
        }
    }

    /// One more record.
    pub fn add(&mut self, key_bytes: usize, value_bytes: usize) {
        self.add_many(1, (key_bytes + value_bytes) as u64, key_bytes);
    }

    /// `records` more, with `data_bytes` of keys and values in all and no key longer than `key_bytes_max`.
    pub fn add_many(&mut self, records: u64, data_bytes: u64, key_bytes_max: usize) {
        self.records += records;
        self.data_bytes += data_bytes;
        self.key_bytes_max = self.key_bytes_max.max(key_bytes_max);
    }

    fn element_bytes(&self) -> u64 {
        self.data_bytes + self.records * ELEMENT
    }

    /// The most bytes of a page that is kept in the parent's value.
    fn inline_bytes_max(&self) -> u64 {
        (HEADER + self.element_bytes()).min(INLINE_BYTES_MAX)
    }

    /// A leaf is closed when it has so many records.
    pub(crate) fn leaf_records(&self) -> usize {
        let usual = self.records * LEAF_BYTES_USUAL / self.element_bytes().max(1);
        usual.clamp(1, COUNT_MAX as u64) as usize
    }

    /// A branch gets so many children, the last of its level one more: as many as fit into a page.
    pub(crate) fn fan_out(&self) -> usize {
        let child = ELEMENT_BYTES + self.key_bytes_max;
        let children = (PAGE_BYTES as usize - PAGE_HEADER_BYTES) / child;
        children.saturating_sub(1).max(2)
    }

    /// Enough pages for leaves and branches.
    ///
    /// A leaf ends when it has `leaf_records`, or where the next record would make it larger than a mebibyte. Of
    /// the second kind are fewer than two for each mebibyte, since each has one together with its successor.
    pub(crate) fn pages_max(&self) -> u64 {
        let bytes = self.element_bytes();
        if HEADER + bytes <= INLINE_BYTES_MAX {
            return 0;
        }
        let leaves = self.records / self.leaf_records() as u64 + 2 * bytes / LEAF_BYTES_MAX + 1;
        let leaves = leaves.min(self.records);
        let mut pages = (bytes + HEADER * leaves) / PAGE + leaves;
        let fan_out = self.fan_out() as u64;
        let child = ELEMENT + self.key_bytes_max as u64;
        let branch_pages = (HEADER + (fan_out + 1) * child).div_ceil(PAGE);
        let mut nodes = leaves;
        while nodes > 1 {
            nodes = nodes.div_ceil(fan_out);
            pages += nodes * branch_pages;
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(records: u64, key: usize, value: usize) -> Plan {
        let mut plan = Plan::new();
        let bytes = records * (key + value) as u64;
        plan.bucket(b"key").unwrap().add_many(records, bytes, key);
        plan
    }

    #[test]
    fn little_more_is_planned_than_the_data_have() {
        for (value, percent) in [
            (40, 12),
            (256, 12),
            (1024, 10),
            (16 << 10, 14),
            (1 << 20, 2),
        ] {
            let records = (4 << 30) / value as u64;
            let data = records * (17 + value as u64 + ELEMENT);
            let file = planned(records, 17, value).file_bytes();
            assert!(file >= data);
            assert!(
                file <= data + data / 100 * percent,
                "{value}: {data} {file}"
            );
        }
    }

    #[test]
    fn a_plan_names_each_bucket_once_and_in_order() {
        let mut plan = Plan::new();
        for name in [b"b", b"a", b"b"] {
            plan.bucket(name).unwrap().add(1, 1);
        }
        let buckets = plan.into_buckets();
        let names: Vec<&[u8]> = buckets
            .iter()
            .map(|bucket| bucket.name.as_slice())
            .collect();
        assert_eq!(names, [b"a", b"b"]);
        assert_eq!(buckets[1].records, 2);
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        let mut plan = Plan::new();
        assert!(plan.bucket(b"").is_err());
        assert!(plan.bucket(&vec![b'a'; KEY_BYTES_MAX + 1]).is_err());
        for number in 0..BUCKETS_MAX as u32 {
            plan.bucket(&number.to_be_bytes()).unwrap();
        }
        assert!(plan.bucket(b"one more").is_err());
    }
}
