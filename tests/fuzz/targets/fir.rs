//! Any text as IR: an error, or a graph that prints as what it was read from and that the verifier can judge.
#![no_main]

use fisec_ir::text::{parse, print};
use fisec_ir::verify::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    let Ok(graph) = parse(source) else { return };
    let printed = print(&graph);
    let again = parse(&printed).expect("what was printed can be read");
    assert_eq!(print(&again), printed);
    assert_eq!(verify(&graph).is_ok(), verify(&again).is_ok());
});
