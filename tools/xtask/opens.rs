//! Checks that files from elsewhere are opened in one place, which refuses named pipes and devices: `src/files`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::shell::root;

/// Calls that open or read whatever stands at a path.
const CALLS: &[&str] = &["File::open(", "fs::read(", "fs::read_to_string("];

/// Folders of the product; tests and build scripts open their own files.
const FOLDERS: &[&str] = &["src", "passes", "kernels"];

/// Who opens something else than a file that is read: folders, to lock or to flush them, and the files of tests.
const EXEMPT: &[&str] = &[
    "src/files/",
    "src/ir/text/filetest.rs",
    "src/runtime/cache/lock.rs",
    "src/runtime/cache/recording.rs",
    "src/plan/scratch/",
    "kernels/build.rs",
];

/// Fails when the product opens a file by itself.
pub fn run() -> Result<(), Failure> {
    let root = root();
    let mut sources = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut sources).map_err(|error| format!("{folder}: {error}"))?;
    }
    let mut wrong = Vec::new();
    for source in sources {
        let name = source
            .strip_prefix(&root)
            .unwrap_or(&source)
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&source).map_err(|error| format!("{name}: {error}"))?;
        wrong.extend(opens(&name, &text));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{}\n\nhint: open files with `fisec_files`, which refuses named pipes and devices; exceptions are in tools/xtask/opens.rs",
            wrong.join("\n")
        )),
    }
}

/// Rust files below a folder, without those of tests.
fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_tests = path.file_name().is_some_and(|name| name == "tests");
        if path.is_dir() && !is_tests {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// Lines of a source, up to its own tests, that open something.
fn opens(name: &str, text: &str) -> Vec<String> {
    if EXEMPT.iter().any(|exempt| name.starts_with(exempt)) {
        return Vec::new();
    }
    let is_test = |line: &str| {
        ["#[cfg(test)]", "#[cfg(all(test"]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let product = text.lines().take_while(|line| !is_test(line));
    let calls = |line: &&str| {
        CALLS
            .iter()
            .any(|call| line.contains(call) && !line.contains("fisec_files::"))
    };
    let found = product.enumerate().filter(|(_, line)| calls(line));
    found
        .map(|(number, line)| format!("{name}:{}: {}", number + 1, line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_outside_of_tests_are_found() {
        let text =
            "fn a() {\n    let bytes = fs::read(path)?;\n}\n#[cfg(test)]\nmod tests { fn b() { fs::read(path); } }\n";
        assert_eq!(
            opens("src/cli/a.rs", text),
            ["src/cli/a.rs:2: let bytes = fs::read(path)?;"]
        );
        assert!(opens("src/files/lib.rs", text).is_empty());
        assert!(opens("src/cli/a.rs", "let bytes = fisec_files::read(path, 10)?;").is_empty());
    }

    #[test]
    fn the_product_opens_files_in_one_place() {
        assert_eq!(run(), Ok(()));
    }
}
