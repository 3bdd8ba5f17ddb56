//! Scratch folders that were not removed by the process that made them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::OLD;
use super::known::{self, Tag, is_folder};
use super::owner::{self, LOCK};

/// A scratch folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// where it is
    pub path: PathBuf,
    /// name of the folder
    pub name: String,
    /// bytes of its files
    pub bytes: u64,
    /// whether the process that made it runs
    pub is_alive: bool,
}

/// All scratch folders in `folder`, by name.
pub fn list_scratch(folder: &Path) -> io::Result<Vec<Scratch>> {
    let described = |(path, name): (PathBuf, String)| Scratch {
        bytes: bytes_on_disk(&path),
        is_alive: owner::is_alive(&path),
        path,
        name,
    };
    let mut found: Vec<Scratch> = places(folder)?.into_iter().map(described).collect();
    // removed since
    found.retain(|scratch| scratch.path.exists());
    Ok(found)
}

/// Removes the scratch folders in `folder` whose processes have ended, after putting back what stood aside in them. Returns
/// those that were removed.
pub fn remove_leftovers(folder: &Path) -> io::Result<Vec<Scratch>> {
    let mut leftovers = list_scratch(folder)?;
    leftovers.retain(|scratch| !scratch.is_alive && remove_leftover(&scratch.path).unwrap_or(false));
    Ok(leftovers)
}

/// Removes a scratch folder, after putting back what stood aside in it. False when its process runs, or another one removes
/// it.
pub fn remove_leftover(place: &Path) -> io::Result<bool> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    if !known::is_scratch(place, &name) {
        return Ok(false);
    }
    let claimed = match owner::claim(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    match claimed {
        None => Ok(false),
        Some(_owner) => dispose(place).map(|()| true),
    }
}

/// Puts back every version in `folder` that stood aside when a process was killed between two renames.
pub fn restore_replaced(folder: &Path) {
    let Ok(places) = places(folder) else { return };
    for (place, _) in places {
        if stands_aside(&place).is_none() {
            continue;
        }
        if let Ok(Some(_owner)) = owner::claim(&place) {
            let _ = restore(&place);
        }
    }
}

/// Removes leftovers of scratch folders for the target `name`.
pub(super) fn remove_of(folder: &Path, name: &str) -> io::Result<()> {
    for (place, scratch) in places(folder)? {
        if known::target_of(&scratch) == Some(owner::shortened(name)) && !owner::is_alive(&place) {
            let _ = remove_leftover(&place);
        }
    }
    Ok(())
}

/// Removes a scratch folder whose lock is held, the lock last, so that a folder that is removed in part is still known as
/// what it is. A version that stands aside is put back first; where that fails, the folder stays.
pub(super) fn dispose(place: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    restore(place)?;
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != LOCK {
            ignore_absent(remove(&entry.path()))?;
        }
    }
    ignore_absent(fs::remove_file(place.join(LOCK)))?;
    ignore_absent(fs::remove_dir(place))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts the version that stands aside back, unless its name has been taken since.
fn restore(place: &Path) -> io::Result<()> {
    let Some((old, target)) = stands_aside(place) else {
        return Ok(());
    };
    if fs::symlink_metadata(&target).is_ok() {
        return Ok(());
    }
    fs::rename(&old, &target)?;
    match old == place {
        true => ignore_absent(fs::remove_file(target.join(LOCK))),
        false => Ok(()),
    }
}

/// The version that stands aside, and where it belongs.
fn stands_aside(place: &Path) -> Option<(PathBuf, PathBuf)> {
    if !is_folder(place) {
        return None;
    }
    let name = place.file_name()?.to_str()?;
    if name.ends_with("-old") && matches!(known::tag_of(name), Some(Tag::Process)) {
        return Some((place.to_owned(), place.with_file_name(known::target_of(name)?)));
    }
    let (target, folder) = (known::target_of(name)?, place.join(OLD));
    if !is_folder(&folder) {
        return None;
    }
    let is_its_own = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        owner::shortened(&name.to_string_lossy()) == target
    };
    let old = fs::read_dir(folder).ok()?.flatten().find(is_its_own)?;
    Some((old.path(), place.parent()?.join(old.file_name())))
}

/// Bytes of a file, or of all files in a folder. Links are not followed; what vanishes meanwhile counts nothing.
pub fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_on_disk(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Scratch folders in `folder` with their names, in order.
fn places(folder: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut places = Vec::new();
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if known::is_scratch(&entry.path(), &name) {
            places.push((entry.path(), name));
        }
    }
    places.sort();
    Ok(places)
}
