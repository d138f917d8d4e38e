//! What comes from outside may be anything: the line buffer, and the monitor's protocol.
//!
//! Here some random inputs are tried, and those that were worth keeping; `make fuzz` looks for more,
//! guided by what they reach in the code.

#[path = "fuzz/lines.rs"]
mod lines;
#[path = "fuzz/monitor.rs"]
mod monitor;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn streams_give_what_was_sent(script in vec(any::<u8>(), 0..400)) {
        lines::run(&script);
    }

    #[test]
    fn the_monitor_answers_anything(said in vec(words(), 0..20)) {
        monitor::run(&said.concat());
    }
}

const WORDS: &[&str] = &[
    "ps",
    "where",
    "why",
    "cancel",
    "tree",
    "parents",
    "deadlock",
    "cancelled",
    "workers",
    "help",
    "quit",
    "-j",
    " ",
    "\n",
    "\r\n",
    "\0",
    "-1",
    "1",
    "2",
    "99999999999999999999",
];

/// Commands, what looks like them, and anything else.
fn words() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..30),
        1 => Just(vec![b'x'; 5000]),
    ]
}
