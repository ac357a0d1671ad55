//! At most one line of a kind in a while: the next one says how many were left out.

use std::cell::Cell;

/// Between two lines of a kind.
const PAUSE_NANOS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub struct LineLimit {
    last_nanos: Cell<Option<u64>>,
    left_out: Cell<u64>,
}

impl LineLimit {
    /// Whether a line may be written now, and if so how many were left out before it.
    pub fn take(&self, now_nanos: u64) -> Option<u64> {
        let is_early = self
            .last_nanos
            .get()
            .is_some_and(|last| now_nanos < last.saturating_add(PAUSE_NANOS));
        if is_early {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.last_nanos.set(Some(now_nanos));
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_a_count() {
        let limit = LineLimit::default();
        assert_eq!(limit.take(5), Some(0));
        assert_eq!(limit.take(6), None);
        assert_eq!(limit.take(PAUSE_NANOS), None);
        assert_eq!(limit.take(PAUSE_NANOS + 5), Some(2));
        assert_eq!(limit.take(9 * PAUSE_NANOS), Some(0));
    }
}
