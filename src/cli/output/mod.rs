//! Results: files that appear whole or not at all, and data on stdout.

mod check;
mod descriptor;
mod destination;
mod extension;
mod new_file;
mod place;
mod scratch;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use fisec_plan::Scratch;
use serde_json::Value;

use super::failure::Failure;
use super::{printable, units};

pub use check::{Closed, Planned, check};
pub use destination::Destination;
pub use extension::Format;
pub use new_file::NewFile;
pub use place::{Place, resolve_folder};
pub use scratch::{remove_scratch, rescue};

/// Writes a file. Under a regular file's name stands the old content or the new one, never a part; a device, a pipe or
/// what a symbolic link leads to is written through.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes).map_err(NewFile::failure(path))?;
    file.publish()
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
    write_line(printable::json(&format!("{value:#}")).as_bytes())
}

/// Prints a line, or several, to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    write_line(printable::lines(text).as_bytes())
}

/// Prints a path to stdout: its very bytes where a program reads them, something visible on a terminal.
pub fn print_path(path: &Path) -> Result<(), Failure> {
    match io::stdout().is_terminal() {
        true => write_line(printable::line(&path.display().to_string()).as_bytes()),
        false => write_line(path.as_os_str().as_encoded_bytes()),
    }
}

fn write_line(line: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&[line, b"\n"].concat());
    written.and_then(|()| stdout.flush()).map_err(Failure::stdout)
}

/// A path in JSON, which holds text: bytes that are no text are replaced.
pub fn path_json(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

/// Rows with columns aligned; the first row may be a heading. Columns named in `right` are flushed right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable::line(cell)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<Cow<'_, str>>| {
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
    fn columns_are_aligned() {
        let rows = [vec!["name".into(), "ms".into()], vec!["a".into(), "12.5".into()]];
        assert_eq!(table(&rows, &[1]), "name    ms\na     12.5");
    }

    #[test]
    fn a_cell_stays_in_its_row() {
        let rows = [vec!["a\nb\u{1b}[1m".into(), "1".into()], vec!["c".into(), "2".into()]];
        assert_eq!(table(&rows, &[]), "a\\nb\\u{1b}[1m  1\nc              2");
    }
}
