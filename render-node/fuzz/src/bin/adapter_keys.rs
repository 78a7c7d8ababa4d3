#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flowai_fuzz::promises::adapter_keys(bytes));
