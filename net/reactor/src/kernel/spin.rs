//! A bounded spin before sleeping, which gives up when it finds nothing.

use std::time::Duration;

use super::clock;

/// Parks without a spin after a fruitless one, doubled each time up to this.
const SKIPPED_PARKS_MAX: u32 = 1024;

/// Decides how long a core looks for work before it sleeps.
pub(crate) struct Spin {
    longest: Duration,
    skip: u32,
    skip_next: u32,
    spent: Duration,
}

impl Spin {
    /// Spins for at most `longest`; never if that is zero.
    pub(crate) fn new(longest: Duration) -> Spin {
        Spin {
            longest,
            skip: 0,
            skip_next: 1,
            spent: Duration::ZERO,
        }
    }

    /// Whether it ever spins.
    pub(crate) fn is_on(&self) -> bool {
        !self.longest.is_zero()
    }

    /// Time spent looking so far, to a few nanoseconds per look.
    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// Looks for work by `found` for a while; whether it came.
    pub(crate) fn run(&mut self, mut found: impl FnMut() -> bool) -> bool {
        if !self.is_on() {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let began = clock::monotonic();
        let mut looked = Duration::ZERO;
        while looked < self.longest {
            for _ in 0..16 {
                if found() {
                    self.skip_next = 1;
                    self.spent += looked;
                    return true;
                }
                std::hint::spin_loop();
            }
            looked = clock::monotonic().since(began);
        }
        self.spent += looked;
        self.skip = self.skip_next;
        self.skip_next = (self.skip_next * 2).min(SKIPPED_PARKS_MAX);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_rarely_when_it_finds_nothing() {
        let mut spin = Spin::new(Duration::from_nanos(1));
        let mut spins = 0;
        for _ in 0..10_000 {
            let mut looked = false;
            spin.run(|| {
                looked = true;
                false
            });
            spins += u32::from(looked);
        }
        assert!(spins < 25, "{spins} spins");
        assert!((0..1025).any(|_| spin.run(|| true)));
        assert!(spin.run(|| true), "a fruitful spin is followed by another");
    }

    #[test]
    fn knows_how_long_it_looked() {
        let mut spin = Spin::new(Duration::from_millis(2));
        let began = clock::monotonic();
        assert!(!spin.run(|| false));
        assert!(spin.spent() >= Duration::from_millis(2));
        let before = spin.spent();
        loop {
            let mut looks = 0;
            let found = spin.run(|| {
                looks += 1;
                looks == 100
            });
            if found {
                break;
            }
        }
        assert!(spin.spent() > before, "a fruitful look counts as well");
        assert!(spin.spent() <= clock::monotonic().since(began));
    }

    #[test]
    fn never_spins_by_default() {
        assert!(!Spin::new(Duration::ZERO).run(|| panic!("looked for work")));
    }
}
