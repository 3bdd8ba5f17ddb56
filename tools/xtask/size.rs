//! Checks how large the repository is.

use std::fs;
use std::process::Command;

use crate::Failure;
use crate::shell::{output, root};

const LIMIT: u64 = 44 << 20;

/// What a file takes at least, however short it is.
const BLOCK: u64 = 1 << 10;

/// Fails when all tracked files together exceed the limit, each counted in whole KiB. Without git there is nothing to
/// check.
pub fn run() -> Result<(), Failure> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z"]);
    let Ok(files) = output(&mut git) else { return Ok(()) };
    let sizes = files.split_terminator('\0').map(|file| fs::metadata(root().join(file)));
    let total: u64 = sizes
        .map(|metadata| metadata.map_or(0, |metadata| metadata.len().next_multiple_of(BLOCK)))
        .sum();
    if total <= LIMIT {
        return Ok(());
    }
    let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    Err(format!(
        "tracked files take {:.1} MiB, the limit is {:.0} MiB",
        mebibytes(total),
        mebibytes(LIMIT)
    ))
}
