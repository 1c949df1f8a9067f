#![no_main]

#[path = "../target.rs"]
mod target;

libfuzzer_sys::fuzz_target!(init: target::samples("weights"), |bytes: &[u8]| target::read("weights", bytes));
