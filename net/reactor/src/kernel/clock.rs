//! The host's clocks and randomness.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// CLOCK_MONOTONIC.
pub(crate) fn monotonic() -> Timestamp {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result (clock_gettime(2)); this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Timestamp(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Processor time that the calling thread has used, in nanoseconds. A system call, unlike the other clocks.
pub(crate) fn thread_processor_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result (clock_gettime(2)); this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The wall clock.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A fast generator seeded by the kernel: for ids and jitter, not for secrets.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64).
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn from_kernel() -> io::Result<Random> {
        let mut seed = [0; 8];
        loop {
            // SAFETY: the pointer and length describe `seed` (getrandom(2)).
            let count = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
            match super::check_count(count) {
                Ok(count) if count == seed.len() => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(Random {
            state: u64::from_ne_bytes(seed),
        })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}
