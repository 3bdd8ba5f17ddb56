//! Results: files that appear whole or not at all, and data on stdout.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use fisec_plan::{Scratch, ScratchFolder};
use serde_json::Value;

use super::failure::Failure;
use super::units;

/// Writes a file. Under its name stands the old content or the new one, never a part.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = ScratchFolder::beside(path).and_then(|folder| {
        let unfinished = folder.path().join("unfinished");
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, path)
    });
    written.map_err(Failure::file(path))
}

/// What to say of scratch folders that were removed.
pub fn removed_leftovers(leftovers: &[Scratch]) -> String {
    let bytes = leftovers.iter().map(|scratch| scratch.bytes).sum();
    let names: Vec<&str> = leftovers.iter().map(|scratch| scratch.name.as_str()).collect();
    let count = units::count(names.len(), "leftover");
    let size = units::bytes(bytes);
    format!(
        "removed {count} of commands that were killed, {size}: {}",
        names.join(", ")
    )
}

/// Prints a document to stdout.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}"))
}

/// Prints a line, or several, to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Rows with columns aligned; the first row may be a heading. Columns named in `right` are flushed right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            match right.contains(&column) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out.png");
        fs::write(&path, "old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["name".into(), "ms".into()], vec!["a".into(), "12.5".into()]];
        assert_eq!(table(&rows, &[1]), "name    ms\na     12.5");
    }
}
