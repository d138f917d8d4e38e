#![no_main]

#[path = "../../crates/curio/tests/fuzz/monitor.rs"]
mod monitor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| monitor::run(data));
