//! A bug that must be found, or the other targets prove nothing.
//!
//! Only the instrumentation of comparisons leads to it: four bytes by luck take hours.

/// Fails on inputs that begin with one word.
pub fn check(data: &[u8]) {
    if let Some(&word) = data.first_chunk::<4>() {
        let word = u32::from_le_bytes(word);
        assert!(word != 0x676e_6972, "the canary was found");
    }
}
