//! cargo-fuzz's program for the target `session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringsync_fuzz::targets::session(data));
