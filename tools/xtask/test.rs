//! Everything that CI runs.

use std::process::Command;

use crate::shell::{cargo, print_stages, root, stage, step};
use crate::{Failure, arrows, opens, setup, size};

/// Runs all checks in order of their price and stops at the first that fails. Prints the seconds of every stage.
pub fn run() -> Result<(), Failure> {
    let result = checks();
    print_stages();
    result.inspect(|()| println!("all checks passed"))
}

fn checks() -> Result<(), Failure> {
    stage("arrows between crates", arrows::run)?;
    stage("files are opened in one place", opens::run)?;
    stage("size of the repository", size::run)?;
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    let library = setup::run()?;
    step(
        "lints",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    if root().join("tools/gpu/compile.py").is_file() {
        step(
            "CUDA kernels compile",
            Command::new("python3")
                .current_dir(root())
                .args(["tools/gpu/compile.py", "--emulate"]),
        )?;
        step(
            "a CUDA driver without a GPU",
            Command::new("python3")
                .current_dir(root())
                .args(["tools/gpu/emulate/test_driver.py", "target/cubins/emulated"]),
        )?;
        let emulated = root().join("target/cubins/emulated");
        step(
            "plans for a GPU on that driver",
            cargo()
                .args(["test", "--quiet", "--test", "cuda", "--test", "networks"])
                .env("ORT_DYLIB_PATH", &library)
                .env("LD_LIBRARY_PATH", emulated),
        )?;
    }
    step(
        "tests",
        cargo()
            .args(["test", "--workspace", "--quiet"])
            .env("ORT_DYLIB_PATH", &library),
    )
    .map(drop)
}
