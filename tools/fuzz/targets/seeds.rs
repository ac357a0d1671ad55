//! See `fuzz::seeds`. A fuzz target by form only: what is instrumented must be linked with the runtime.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: fuzz::seeds::run_and_exit(),
    |_data: &[u8]| {}
);
