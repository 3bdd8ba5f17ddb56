//! A checksum of the CUDA sources, so that kernels compiled of others are noticed. `tools/gpu/compile.py` computes the same.

#![allow(clippy::print_stdout, reason = "this is how Cargo is told")]

use std::path::{Path, PathBuf};
use std::{fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=cuda");
    let mut sources = Vec::new();
    collect(Path::new("cuda"), &mut sources)?;
    // by name, as text, `/` between folders
    let mut named: Vec<(String, PathBuf)> = sources
        .into_iter()
        .map(|path| (path.to_string_lossy().replace('\\', "/"), path))
        .collect();
    named.sort();
    let mut checksum = crc32fast::Hasher::new();
    for (name, path) in named {
        checksum.update(name.trim_start_matches("cuda/").as_bytes());
        checksum.update(&[0]);
        checksum.update(&fs::read(path)?);
        checksum.update(&[0]);
    }
    println!("cargo::rustc-env=FISEC_CUDA_SOURCES={:08x}", checksum.finalize());
    Ok(())
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|ending| ending == "cu" || ending == "cuh") {
            sources.push(path);
        }
    }
    Ok(())
}
