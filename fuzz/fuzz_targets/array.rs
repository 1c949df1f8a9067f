#![no_main]

#[path = "../target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(init: target::samples("array"), |bytes: &[u8]| target::read("array", bytes));
