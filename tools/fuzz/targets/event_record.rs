//! See `fuzz::event_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::event_record::check(data));
