//! See `fuzz::canary`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::canary::check(data));
