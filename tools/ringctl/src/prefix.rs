//! Ranges of keys as requests spell them.

/// The end of a range without end.
pub(crate) const OPEN_END: &[u8] = b"\0";

/// The first key behind every key that begins with `prefix`; the open end if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|byte| *byte < u8::MAX) {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => OPEN_END.to_vec(),
    }
}

/// First key and range end of all keys that begin with `prefix`; an empty one means all there are.
pub(crate) fn prefix_range(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if prefix.is_empty() {
        return (OPEN_END.to_vec(), OPEN_END.to_vec());
    }
    (prefix.to_vec(), prefix_end(prefix))
}

/// First key and range end of all keys from `key` on.
pub(crate) fn from_key(key: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let first = if key.is_empty() { OPEN_END } else { key };
    (first.to_vec(), OPEN_END.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        let check = |prefix: &[u8], end: &[u8]| assert_eq!(prefix_end(prefix), end);
        check(b"a", b"b");
        check(b"a\xff", b"b");
        check(b"\xff\xff", OPEN_END);
        assert_eq!(prefix_range(b""), (b"\0".to_vec(), b"\0".to_vec()));
        assert_eq!(from_key(b""), (b"\0".to_vec(), b"\0".to_vec()));
        assert_eq!(from_key(b"k"), (b"k".to_vec(), b"\0".to_vec()));
    }
}
