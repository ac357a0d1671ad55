//! Names and values of many keys, computed from their numbers: nothing is remembered per key, so ten
//! million of them cost the client no memory, and what a server answers can still be checked.

use clap::ValueEnum;

use crate::random::Random;

const SEQUENTIAL_PREFIX: &[u8] = b"/ringbench/";
const SEQUENTIAL_DIGITS: usize = 16;
/// Keys of one group of sequential names: those that differ in the last three digits.
const SEQUENTIAL_GROUP: u64 = 1000;
const SEQUENTIAL_GROUP_DIGITS: usize = 3;

const KUBERNETES_PREFIX: &[u8] = b"/registry/pods/";
const NAMESPACES: u64 = 1000;
const NAMESPACE_DIGITS: usize = 4;
const ORDINAL_DIGITS: usize = 9;

/// Bytes at the begin of a value that say how often its key was written before.
const STAMP_BYTES: usize = 8;

/// How keys are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Naming {
    /// `/ringbench/` and 16 digits, written in the order of the keys.
    Sequential,
    /// `/registry/pods/namespace-…/name-…` of 61 bytes in 1,000 namespaces, written in random order.
    Kubernetes,
}

/// The names of keys 0 to `count` − 1, in groups that share a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// How they are named.
    pub naming: Naming,
    /// How many there are.
    pub count: u64,
}

impl Keys {
    /// Replaces `name` with the name of key `index`.
    pub fn name(self, index: u64, name: &mut Vec<u8>) {
        name.clear();
        match self.naming {
            Naming::Sequential => {
                name.extend_from_slice(SEQUENTIAL_PREFIX);
                digits(index, SEQUENTIAL_DIGITS, name);
            }
            Naming::Kubernetes => {
                self.write_namespace(index % NAMESPACES, name);
                name.extend_from_slice(b"name-");
                let scattered = Random::new(index).bits();
                name.extend(
                    (0..16)
                        .rev()
                        .map(|nibble| hexadecimal(scattered >> (4 * nibble))),
                );
                name.push(b'-');
                digits(index, ORDINAL_DIGITS, name);
            }
        }
    }

    /// What all names begin with.
    pub fn prefix(self) -> &'static [u8] {
        match self.naming {
            Naming::Sequential => SEQUENTIAL_PREFIX,
            Naming::Kubernetes => KUBERNETES_PREFIX,
        }
    }

    /// Number of groups.
    pub fn group_count(self) -> u64 {
        match self.naming {
            Naming::Sequential => self.count.div_ceil(SEQUENTIAL_GROUP),
            Naming::Kubernetes => self.count.min(NAMESPACES),
        }
    }

    /// What the names of one group begin with, and how many keys it has.
    pub fn group(self, group: u64) -> (Vec<u8>, u64) {
        let mut prefix = Vec::new();
        let count = match self.naming {
            Naming::Sequential => {
                prefix.extend_from_slice(SEQUENTIAL_PREFIX);
                let leading = SEQUENTIAL_DIGITS - SEQUENTIAL_GROUP_DIGITS;
                digits(group, leading, &mut prefix);
                (self.count - group * SEQUENTIAL_GROUP).min(SEQUENTIAL_GROUP)
            }
            Naming::Kubernetes => {
                self.write_namespace(group, &mut prefix);
                (self.count - group).div_ceil(NAMESPACES)
            }
        };
        (prefix, count)
    }

    fn write_namespace(self, namespace: u64, name: &mut Vec<u8>) {
        name.extend_from_slice(KUBERNETES_PREFIX);
        name.extend_from_slice(b"namespace-");
        digits(namespace, NAMESPACE_DIGITS, name);
        name.push(b'/');
    }
}

fn digits(number: u64, count: usize, name: &mut Vec<u8>) {
    let begin = name.len();
    name.resize(begin + count, b'0');
    let mut rest = number;
    for digit in name[begin..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn hexadecimal(bits: u64) -> u8 {
    b"0123456789abcdef"[(bits & 15) as usize]
}

/// The values: no two are equal, nothing in them can be compressed, each can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Bytes of each value.
    pub bytes: usize,
    /// The same seed gives the same values.
    pub seed: u64,
}

impl Content {
    /// Replaces `value` with what key `index` holds after `generation` changes.
    pub fn write(self, index: u64, generation: u64, value: &mut Vec<u8>) {
        value.clear();
        value.extend_from_slice(&generation.to_le_bytes());
        let mut mixer = Random::new(self.seed ^ index.rotate_left(32) ^ generation);
        let mut random = Random::new(mixer.bits());
        while value.len() < self.bytes {
            value.extend_from_slice(&random.bits().to_le_bytes());
        }
        value.truncate(self.bytes);
    }

    /// Whether `value` is one that key `index` has held; shorter ones than a stamp are only measured.
    pub fn fits(self, index: u64, value: &[u8], expected: &mut Vec<u8>) -> bool {
        if value.len() != self.bytes {
            return false;
        }
        let Some(stamp) = value.first_chunk::<STAMP_BYTES>() else {
            return true;
        };
        self.write(index, u64::from_le_bytes(*stamp), expected);
        value == expected.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(naming: Naming, index: u64) -> String {
        let mut name = Vec::new();
        Keys { naming, count: 1 }.name(index, &mut name);
        String::from_utf8(name).unwrap()
    }

    #[test]
    fn kubernetes_names_have_61_bytes() {
        let first = name(Naming::Kubernetes, 0);
        assert_eq!(first.len(), 61);
        assert!(first.starts_with("/registry/pods/namespace-0000/name-"));
        assert!(first.ends_with("-000000000"));
        assert_eq!(name(Naming::Kubernetes, 9_999_999).len(), 61);
    }

    #[test]
    fn sequential_names_are_those_of_the_other_workloads() {
        let other = crate::workload::key_name(42);
        assert_eq!(name(Naming::Sequential, 42).as_bytes(), other);
    }

    #[test]
    fn groups_share_a_prefix_and_hold_every_key_once() {
        for naming in [Naming::Sequential, Naming::Kubernetes] {
            for count in [1, 999, 1000, 2345] {
                let keys = Keys { naming, count };
                let names: Vec<String> = (0..count).map(|index| name(naming, index)).collect();
                let mut total = 0;
                for group in 0..keys.group_count() {
                    let (prefix, size) = keys.group(group);
                    let prefix = String::from_utf8(prefix).unwrap();
                    let inside = names.iter().filter(|name| name.starts_with(&prefix));
                    assert_eq!(inside.count() as u64, size, "{prefix} of {count}");
                    total += size;
                }
                assert_eq!(total, count);
            }
        }
    }

    #[test]
    fn a_value_fits_its_key_and_no_other() {
        for bytes in [8, 16, 1000] {
            let content = Content { bytes, seed: 3 };
            let (mut value, mut expected) = (Vec::new(), Vec::new());
            content.write(7, 2, &mut value);
            assert_eq!(value.len(), bytes);
            assert!(content.fits(7, &value, &mut expected));
            assert!(bytes == 8 || !content.fits(8, &value, &mut expected));
            value[bytes - 1] ^= 1;
            assert!(bytes == 8 || !content.fits(7, &value, &mut expected));
            assert!(!content.fits(7, &value[1..], &mut expected));
        }
    }
}
