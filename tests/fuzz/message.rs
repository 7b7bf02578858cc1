//! cargo-fuzz's program for the target `message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringsync_fuzz::targets::message(data));
