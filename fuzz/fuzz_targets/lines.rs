#![no_main]

#[path = "../../crates/curio/tests/fuzz/lines.rs"]
mod lines;

libfuzzer_sys::fuzz_target!(|data: &[u8]| lines::run(data));
