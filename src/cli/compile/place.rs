//! Where a plan goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::failure::Failure;
use crate::cli::output::resolve_folder;

/// The folder that the plan replaces or becomes, symbolic links followed. Fails where the plan would replace its own model,
/// or the dumped graphs.
pub fn of_plan(target: &Path, model: &Path, dump: Option<&Path>) -> Result<PathBuf, Failure> {
    let resolved = resolve_folder(target)?;
    let is_in_target = |path: &Path| lies_in(path, &resolved);
    if is_in_target(model) {
        return Err(
            Failure::new(format!("{}: the plan would replace the model", target.display()))
                .hint("choose another place with `-o`"),
        );
    }
    if dump.is_some_and(is_in_target) {
        return Err(Failure::new(format!(
            "{}: the plan would replace the graphs of `--dump-after`",
            target.display()
        ))
        .hint("choose another folder with `-O`"));
    }
    Ok(resolved)
}

/// Whether `path` is `folder` or lies in it, where both may be still to be made.
fn lies_in(path: &Path, folder: &Path) -> bool {
    match (absolute(path), absolute(folder)) {
        (Ok(path), Ok(folder)) => path.starts_with(folder),
        _ => false,
    }
}

/// The path from the root without links, as far as it is there.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let there = path
        .ancestors()
        .find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    let Some((above, resolved)) = there else {
        return Ok(path);
    };
    let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
    Ok(resolved.join(rest))
}
