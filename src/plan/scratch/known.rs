//! Which folders are scratch folders: real folders whose names and contents fisec gave them.

use std::fs;
use std::path::Path;

use super::owner::{self, LOCK};
use super::{NEW, OLD};

/// Files and folders in scratch folders of fisec 0.1 before random names, which have no lock of their own.
const KNOWN_NAMES: [&str; 16] = [
    LOCK,
    NEW,
    "weights.bin",
    "plan.json",
    "graph.fir",
    "islands",
    "pipeline",
    "cubins",
    "unfinished",
    "manifest.json",
    "lock",
    "latents.bin",
    "drift.bin",
    "norms.bin",
    "image.png",
    "mask.png",
];

/// Whether fisec made the folder: its name says so, and so does all that it holds. A symbolic link is no scratch folder.
pub(super) fn is_scratch(place: &Path, name: &str) -> bool {
    let Some(tag) = tag_of(name) else { return false };
    if !is_folder(place) || !owner::can_be_locked(place) || is_taken(place, OLD) {
        return false;
    }
    let Ok(entries) = fs::read_dir(place) else { return false };
    let names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    match tag {
        // without a lock it is not yet or no longer in use, and then it is empty
        Tag::Random => {
            let is_ours = |name: &String| [LOCK, NEW, OLD].contains(&name.as_str());
            names.is_empty() || (names.iter().any(|name| name == LOCK) && names.iter().all(is_ours))
        }
        Tag::Process => names.iter().all(|name| is_known(name)),
    }
}

/// Whether `path` is a folder itself, and no symbolic link to one.
pub(super) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Whether something that is no folder has the name.
fn is_taken(place: &Path, name: &str) -> bool {
    fs::symlink_metadata(place.join(name)).is_ok_and(|metadata| !metadata.is_dir())
}

/// Whether fisec gives this name to a file or folder in a scratch folder: `manifest.json`, `step-012.bin`.
fn is_known(name: &str) -> bool {
    let is_part = ["step-", "maps-"].iter().any(|part| {
        let number = name.strip_prefix(part).and_then(|rest| rest.strip_suffix(".bin"));
        number.is_some_and(|number| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    is_part || KNOWN_NAMES.contains(&name)
}

pub(super) enum Tag {
    /// 16 hex digits
    Random,
    /// a process id, and mostly a counter
    Process,
}

/// How the folder is named, when it is named as scratch folders are.
pub(super) fn tag_of(name: &str) -> Option<Tag> {
    let (_, tag) = split(name)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(Tag::Random);
    }
    let (process, counter) = tag.split_once('-').unwrap_or((tag, "0"));
    (is_number(process) && is_number(counter)).then_some(Tag::Process)
}

/// The target that a scratch folder of this name is for.
pub(super) fn target_of(name: &str) -> Option<&str> {
    split(name).map(|(target, _)| target)
}

fn split(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix('.')?;
    let (target, tag) = name.rsplit_once(".tmp-").or_else(|| name.rsplit_once(".removed-"))?;
    Some((target, tag.strip_suffix("-old").unwrap_or(tag)))
}
