//! `fisec sessions`: the remembered images.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use fisec_plan::Scratch;
use fisec_runtime::cache::{CacheError, Damaged, Entry, Listing, Manifest, Pruned, Store};
use serde_json::{Value, json};

use super::console::Console;
use super::failure::Failure;
use super::{output, units};

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  fisec sessions\n  fisec sessions undo\n  fisec sessions prune --keep 10G")]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all images (the default), edits below what they are edits of
    List,
    /// Show what is known of an image
    Show {
        /// the image, or the beginning of its id
        id: String,
        /// check every file against its checksum
        #[arg(long)]
        check: bool,
    },
    /// Remove the newest edit; what it was made of stays
    Undo,
    /// Remove an image, or anything else that is listed
    Remove {
        /// the images, or the beginnings of their ids, or other names as they are listed
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Remove leftovers of killed commands, then images until at most this much is left, e.g. 10G: first damaged ones,
    /// then those that are quickly made again
    Prune {
        /// bytes to keep, e.g. 500M, 20G
        #[arg(long, value_parser = units::parse_bytes)]
        keep: u64,
    },
}

pub fn run(arguments: &Arguments, console: &Console) -> Result<(), Failure> {
    let store = Store::open(None)?;
    match arguments.action.as_ref().unwrap_or(&Action::List) {
        Action::List => list(&store, arguments.json, console),
        Action::Show { id, check } => show(&store.get(id)?, *check, arguments.json),
        Action::Undo => undo(&store, arguments.json, console),
        Action::Remove { ids } => remove(&store, ids, arguments.json, console),
        Action::Prune { keep } => prune(&store, *keep, arguments.json, console),
    }
}

fn list(store: &Store, as_json: bool, console: &Console) -> Result<(), Failure> {
    let listing = store.list()?;
    if as_json {
        return output::print_json(&as_value(store, &listing));
    }
    let others = other_rows(&listing);
    if listing.images.is_empty() && others.is_empty() {
        console.say("no image is remembered yet: `fisec run PLAN --prompt \"…\"` makes one");
        return Ok(());
    }
    let heading = ["image", "made", "size", "steps", "seed", "prompt"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    rows.extend(forest(&listing).into_iter().map(|(depth, image)| row(depth, image)));
    rows.extend(others);
    output::print(&output::table(&rows, &[2, 3, 4]))?;
    let total = units::bytes(listing.bytes());
    console.say(&format!("{total} in {}", store.folder().display()));
    warn_of_unusable(&listing, console);
    Ok(())
}

fn as_value(store: &Store, listing: &Listing) -> Value {
    let unusable = |damaged: &Damaged| json!({ "id": damaged.id, "bytes": damaged.bytes, "reason": damaged.reason });
    let scratch = |scratch: &Scratch| json!({ "id": scratch.name, "bytes": scratch.bytes });
    json!({
        "folder": store.folder(),
        "bytes": listing.bytes(),
        "images": listing.images.iter().map(summary).collect::<Vec<_>>(),
        "damaged": listing.damaged.iter().map(unusable).collect::<Vec<_>>(),
        "leftovers": listing.leftovers.iter().map(scratch).collect::<Vec<_>>(),
        "unfinished": listing.unfinished.iter().map(scratch).collect::<Vec<_>>(),
        "foreign": listing.foreign.iter().map(unusable).collect::<Vec<_>>(),
    })
}

/// Everything in the store that is no image to edit.
fn other_rows(listing: &Listing) -> Vec<Vec<String>> {
    let row = |name: &str, state: &str, bytes: u64, reason: &str| {
        let cells = [name, state, &units::bytes(bytes), "", "", reason];
        cells.map(str::to_owned).to_vec()
    };
    let damaged = listing.damaged.iter();
    let damaged = damaged.map(|image| row(&image.id, "damaged", image.bytes, &image.reason));
    let leftovers = listing.leftovers.iter();
    let leftovers = leftovers.map(|left| row(&left.name, "leftover", left.bytes, "of a command that was killed"));
    let unfinished = listing.unfinished.iter();
    let unfinished = unfinished.map(|left| row(&left.name, "unfinished", left.bytes, "of a command that runs"));
    let foreign = listing.foreign.iter();
    let foreign = foreign.map(|other| row(&other.id, "foreign", other.bytes, &other.reason));
    damaged.chain(leftovers).chain(unfinished).chain(foreign).collect()
}

fn warn_of_unusable(listing: &Listing, console: &Console) {
    let (damaged, leftovers) = (listing.damaged.len(), listing.leftovers.len());
    let mut parts = Vec::new();
    if damaged > 0 {
        parts.push(format!(
            "{}, which count as not remembered",
            units::count(damaged, "damaged image")
        ));
    }
    if leftovers > 0 {
        parts.push(format!(
            "{} of commands that were killed",
            units::count(leftovers, "leftover")
        ));
    }
    if !parts.is_empty() {
        console.warn(&format!(
            "{}: `fisec sessions prune --keep SIZE` removes these first, `fisec sessions remove NAME` removes one",
            parts.join(", and ")
        ));
    }
}

/// Every image after the one that it is an edit of, with its depth. Edits whose base is gone stand for themselves.
fn forest(listing: &Listing) -> Vec<(usize, &Manifest)> {
    fn descend<'a>(listing: &'a Listing, image: &'a Manifest, depth: usize, rows: &mut Vec<(usize, &'a Manifest)>) {
        rows.push((depth, image));
        let is_child = |other: &&Manifest| other.parent.as_ref() == Some(&image.id) && other.id != image.id;
        for child in listing.images.iter().filter(is_child) {
            descend(listing, child, depth + 1, rows);
        }
    }
    let is_known = |id: &String| listing.images.iter().any(|image| image.id == *id);
    let is_root = |image: &&Manifest| !image.parent.as_ref().is_some_and(is_known);
    let mut rows = Vec::new();
    for root in listing.images.iter().filter(is_root) {
        descend(listing, root, 0, &mut rows);
    }
    rows
}

fn row(depth: usize, image: &Manifest) -> Vec<String> {
    let branch = match depth {
        0 => String::new(),
        _ => format!("{}└ ", "  ".repeat(depth - 1)),
    };
    vec![
        format!("{branch}{}", image.id),
        age(image),
        units::bytes(image.bytes()),
        image.key.steps.to_string(),
        image.key.seed.to_string(),
        image.key.prompt.clone(),
    ]
}

fn age(image: &Manifest) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match now.as_secs().saturating_sub(image.created / 1000) {
        seconds @ 0..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

fn show(entry: &Entry, check: bool, as_json: bool) -> Result<(), Failure> {
    if check {
        entry.verify()?;
    }
    let image = entry.manifest();
    if as_json {
        let mut value = summary(image);
        value["image"] = json!(entry.image_path());
        value["slots"] = json!(image.slots);
        return output::print_json(&value);
    }
    let per_step = image.steps.first().map_or(0, |step| step.bytes);
    let mut rows = vec![
        ("image", image.id.clone()),
        ("prompt", image.key.prompt.clone()),
        ("negative", image.key.negative.clone()),
        ("edit of", image.parent.clone().unwrap_or_else(|| "–".into())),
        ("size", format!("{}x{}", image.key.width, image.key.height)),
        ("seed", image.key.seed.to_string()),
        ("sampler", format!("{}, {} steps", image.key.sampler, image.key.steps)),
        ("guidance", image.key.guidance.to_string()),
        ("made", format!("{}, in {}", age(image), units::seconds(image.seconds))),
        (
            "cache",
            format!(
                "{} per step, {} in all",
                units::bytes(per_step),
                units::bytes(image.bytes())
            ),
        ),
        ("plan", image.key.plan.clone()),
        ("file", entry.image_path().display().to_string()),
    ];
    if !image.settings.is_empty() {
        rows.push(("edit", image.settings.clone()));
    }
    if check {
        rows.push(("checksums", "every file is as it was written".into()));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, text)| vec![name.into(), text]).collect();
    output::print(&output::table(&rows, &[]))
}

fn undo(store: &Store, as_json: bool, console: &Console) -> Result<(), Failure> {
    loop {
        let images = store.list()?.images;
        let is_edited = |image: &Manifest| images.iter().any(|other| other.parent.as_ref() == Some(&image.id));
        let edits = images
            .iter()
            .filter(|image| image.parent.is_some() && !is_edited(image));
        let newest = edits.max_by_key(|image| image.created);
        let Some((newest, parent)) = newest.and_then(|image| Some((image, image.parent.as_ref()?))) else {
            return Err(
                Failure::new("there is no edit to undo").hint("`fisec sessions remove ID` removes a first image")
            );
        };
        match store.remove(&newest.id) {
            // another command removed it since
            Err(CacheError::Unknown(_)) => continue,
            other => other?,
        };
        if as_json {
            return output::print_json(&json!({ "removed": [newest.id], "parent": parent }));
        }
        let (id, prompt) = (&newest.id, &newest.key.prompt);
        console.say(&format!("removed {id}, \"{prompt}\"; it was an edit of {parent}"));
        return Ok(());
    }
}

/// Removes what can be removed, and says so before it fails for the rest.
fn remove(store: &Store, ids: &[String], as_json: bool, console: &Console) -> Result<(), Failure> {
    let mut removed = Vec::new();
    let mut failed = None;
    for id in ids {
        match store.remove(id) {
            Ok(id) => removed.push(id),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match as_json {
        true => output::print_json(&json!({ "removed": removed }))?,
        false if !removed.is_empty() => console.say(&format!("removed {}", removed.join(", "))),
        false => {}
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn prune(store: &Store, keep: u64, as_json: bool, console: &Console) -> Result<(), Failure> {
    let pruned = store.prune(keep)?;
    if as_json {
        let removed: Vec<&String> = pruned.removed.iter().map(|image| &image.id).collect();
        let damaged: Vec<&String> = pruned.damaged.iter().map(|damaged| &damaged.id).collect();
        let leftovers: Vec<&String> = pruned.leftovers.iter().map(|scratch| &scratch.name).collect();
        return output::print_json(&json!({
            "removed": removed,
            "removed_damaged": damaged,
            "removed_leftovers": leftovers,
            "freed_bytes": pruned.freed(),
            "kept_bytes": pruned.kept,
        }));
    }
    let (freed, kept) = (units::bytes(pruned.freed()), units::bytes(pruned.kept));
    console.say(&format!("removed {} ({freed}); {kept} are left", what_went(&pruned)));
    match &pruned.refused {
        Some(reason) => console.warn(&format!("an image cannot be removed: {reason}")),
        None if pruned.kept > keep => console.warn("the images that are left are in use"),
        None => {}
    }
    let listing = store.list()?;
    let unfinished: u64 = listing.unfinished.iter().map(|scratch| scratch.bytes).sum();
    if unfinished > 0 {
        console.say(&format!(
            "commands that run have {} unfinished beside them",
            units::bytes(unfinished)
        ));
    }
    for foreign in &listing.foreign {
        let size = units::bytes(foreign.bytes);
        let id = &foreign.id;
        console.say(&format!(
            "`{id}` ({size}) is not made by fisec and stays; `fisec sessions remove \"{id}\"` removes it"
        ));
    }
    Ok(())
}

/// `2 images, 1 damaged image, 3 leftovers of killed commands`; `0 images` when nothing went.
pub(super) fn what_went(pruned: &Pruned) -> String {
    let counts = [
        (pruned.removed.len(), "image", ""),
        (pruned.damaged.len(), "damaged image", ""),
        (pruned.leftovers.len(), "leftover", " of killed commands"),
    ];
    let is_said = |&(count, _, _): &(usize, &str, &str)| count > 0;
    let parts: Vec<String> = counts
        .into_iter()
        .filter(is_said)
        .map(|(count, name, more)| format!("{}{more}", units::count(count, name)))
        .collect();
    match parts.is_empty() {
        true => units::count(0, "image"),
        false => parts.join(", "),
    }
}

fn summary(image: &Manifest) -> Value {
    json!({
        "id": image.id,
        "parent": image.parent,
        "key": image.key,
        "settings": image.settings,
        "created": image.created / 1000,
        "seconds": image.seconds,
        "bytes": image.bytes(),
        "bytes_per_step": image.steps.first().map_or(0, |step| step.bytes),
    })
}
