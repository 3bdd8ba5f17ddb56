//! Kernels compiled ahead of time, for the plan to carry.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use fisec_plan::BundleWriter;
use fisec_runtime::KERNEL_SOURCES;

use crate::cli::failure::Failure;

/// Folder that `cargo xtask kernels` fills.
const FOLDER: &str = "target/cubins";

/// Copies the target's kernels into a plan: name of the kernel to file. None for the CPU.
pub fn add(target: &str, writer: &mut BundleWriter) -> Result<BTreeMap<String, String>, Failure> {
    let Some(arch) = target.strip_prefix("cuda:") else {
        return Ok(BTreeMap::new());
    };
    let mut found = folders().into_iter().map(|folder| (cubins_in(&folder, arch), folder));
    let (cubins, folder) = found.find(|(cubins, _)| !cubins.is_empty()).ok_or_else(|| {
        Failure::new(format!("there are no kernels for {arch}"))
            .hint(format!("compile them with `cargo xtask kernels` (needs no GPU), or set FISEC_CUBINS to a folder of NAME.{arch}.cubin"))
    })?;
    let sources = fisec_files::read_text(&folder.join("sources")).unwrap_or_default();
    if sources.trim() != KERNEL_SOURCES {
        let place = folder.display();
        return Err(
            Failure::new(format!("the kernels in {place} are of other sources than this fisec"))
                .hint("compile them anew with `cargo xtask kernels`"),
        );
    }
    let mut modules = BTreeMap::new();
    for (name, path) in cubins {
        let file = format!("cubins/{name}.cubin");
        writer.copy_file(&file, &path)?;
        modules.insert(name, file);
    }
    Ok(modules)
}

/// `FISEC_CUBINS` alone when it is set; else the working folder's, the executable's and its checkout's.
fn folders() -> Vec<PathBuf> {
    if let Some(folder) = env::var_os("FISEC_CUBINS").filter(|folder| !folder.is_empty()) {
        return vec![folder.into()];
    }
    let executable = env::current_exe().unwrap_or_default();
    let beside = executable.parent().map(|folder| folder.join("cubins"));
    let checkouts = executable.ancestors().skip(1).map(|folder| folder.join(FOLDER));
    std::iter::once(PathBuf::from(FOLDER))
        .chain(beside)
        .chain(checkouts)
        .collect()
}

/// Name of the kernel and file, by name.
fn cubins_in(folder: &Path, arch: &str) -> BTreeMap<String, PathBuf> {
    let ending = format!(".{arch}.cubin");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().strip_suffix(&ending)?.to_owned();
        Some((name, entry.path()))
    });
    named.collect()
}
