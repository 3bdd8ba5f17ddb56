//! Where the ONNX Runtime library is.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The library: `ORT_DYLIB_PATH`, else the newest `libonnxruntime.so*` under `.runtime/` of the working directory or of
/// a folder above it or above the executable, else under `$FISEC_HOME/runtime`.
pub fn find_library() -> Option<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    search_roots().iter().find_map(|root| newest_under(root))
}

fn search_roots() -> Vec<PathBuf> {
    let working = env::current_dir().ok();
    let executable = env::current_exe().ok();
    let beside = [working, executable]
        .into_iter()
        .flatten()
        .flat_map(|path| path.ancestors().map(|above| above.join(".runtime")).collect::<Vec<_>>());
    let home = env::var_os("FISEC_HOME").map(|home| Path::new(&home).join("runtime"));
    beside.chain(home).filter(|root| root.is_dir()).collect()
}

fn newest_under(root: &Path) -> Option<PathBuf> {
    let mut found = Vec::new();
    collect_libraries(root, 4, &mut found);
    found.into_iter().max_by_key(|path| version(path))
}

fn collect_libraries(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            collect_libraries(&path, depth - 1, found);
        } else if file_name(&path).starts_with("libonnxruntime.so") || file_name(&path) == "libonnxruntime.dylib" {
            found.push(path);
        }
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The numbers after `.so.`; a file without them sorts before all that have some.
fn version(library: &Path) -> Vec<u32> {
    let name = file_name(library);
    let numbers = name.strip_prefix("libonnxruntime.so.").unwrap_or_default();
    numbers.split('.').map_while(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_wins_by_number_not_by_text() {
        let root = tempfile::tempdir().unwrap();
        let capi = root.path().join("onnxruntime/capi");
        fs::create_dir_all(&capi).unwrap();
        for name in [
            "libonnxruntime.so",
            "libonnxruntime.so.1.9.2",
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
        ] {
            fs::write(capi.join(name), b"").unwrap();
        }
        assert_eq!(newest_under(root.path()), Some(capi.join("libonnxruntime.so.1.31.1")));
    }

    #[test]
    fn an_empty_folder_has_no_library() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(newest_under(root.path()), None);
    }
}
