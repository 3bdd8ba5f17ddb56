//! Compiles the CUDA kernels ahead of time.

use std::process::Command;

use crate::Failure;
use crate::shell::{root, step};

/// Cubins for every architecture into `target/cubins`, where `fisec compile --target cuda:…` looks for them. Needs no
/// GPU: nvcc comes from PyPI.
pub fn run() -> Result<(), Failure> {
    step(
        "CUDA kernels",
        Command::new("python3").current_dir(root()).arg("tools/gpu/compile.py"),
    )
    .map(drop)
}
