//! Times of the CPU kernels and the cost coefficients fitted to them.
//!
//! `cargo run --release -p fisec-runtime --example calibrate -- [THREADS]`

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Duration;

use fisec_runtime::calibrate;

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let result = calibrate(threads, Duration::from_millis(60)).expect("threads start");
    for m in &result.measurements {
        let tile = m.tile.map_or_else(|| "rows".into(), |tile| tile.to_string());
        let (ms, rate) = (m.ns / 1e6, 2.0 * m.macs / m.ns);
        println!(
            "{:<40} {:>4.0} % {tile:>5} {ms:>8.3} ms {rate:>6.0} GF/s",
            m.what,
            m.share * 100.0
        );
    }
    for (name, cost) in [
        ("pixels", result.pixels),
        ("tiles", result.tiles),
        ("rows", result.rows),
    ] {
        println!(
            "{name:<7} t0 {:>7.0} ns  beta {:.4} ns/byte  theta {:.1} MAC/ns",
            cost.t0, cost.beta, cost.theta
        );
    }
}
