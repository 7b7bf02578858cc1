//! cargo-fuzz's program for the target `manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringsync_fuzz::mirror::manifest(data));
