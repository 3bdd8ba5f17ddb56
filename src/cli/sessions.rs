//! `fisec sessions`: the remembered images.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use fisec_runtime::cache::{Entry, Listing, Manifest, Store};
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
    /// Remove an image
    Remove {
        /// the images, or the beginnings of their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Remove images until at most this much is left, e.g. 10G; first those that are quickly made again
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
    for damaged in &listing.damaged {
        console.warn(&format!(
            "remembered image `{}` is damaged and counts as forgotten: {}",
            damaged.id, damaged.reason
        ));
    }
    if as_json {
        let images: Vec<Value> = listing.images.iter().map(summary).collect();
        return output::print_json(&json!({ "folder": output::path_json(store.folder()), "images": images }));
    }
    if listing.images.is_empty() {
        console.say("no image is remembered yet: `fisec run PLAN --prompt \"…\"` makes one");
        return Ok(());
    }
    let heading = ["image", "made", "size", "steps", "seed", "prompt"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    rows.extend(forest(&listing).into_iter().map(|(depth, image)| row(depth, image)));
    let total: u64 = listing.images.iter().map(Manifest::bytes).sum();
    output::print(&output::table(&rows, &[2, 3, 4]))?;
    console.say(&format!("{} in {}", units::bytes(total), store.folder().display()));
    Ok(())
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
        value["image"] = output::path_json(&entry.image_path());
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
    let images = store.list()?.images;
    let is_edited = |image: &Manifest| images.iter().any(|other| other.parent.as_ref() == Some(&image.id));
    let edits = images
        .iter()
        .filter(|image| image.parent.is_some() && !is_edited(image));
    let newest = edits.max_by_key(|image| image.created);
    let Some((newest, parent)) = newest.and_then(|image| Some((image, image.parent.as_ref()?))) else {
        return Err(Failure::new("there is no edit to undo").hint("`fisec sessions remove ID` removes a first image"));
    };
    store.remove(&newest.id)?;
    match as_json {
        true => output::print_json(&json!({ "removed": [newest.id], "parent": parent })),
        false => {
            let (id, prompt) = (&newest.id, &newest.key.prompt);
            console.say(&format!("removed {id}, \"{prompt}\"; it was an edit of {parent}"));
            Ok(())
        }
    }
}

fn remove(store: &Store, ids: &[String], as_json: bool, console: &Console) -> Result<(), Failure> {
    let mut removed = Vec::new();
    for id in ids {
        removed.push(store.remove(id)?);
    }
    match as_json {
        true => output::print_json(&json!({ "removed": removed })),
        false => {
            console.say(&format!("removed {}", removed.join(", ")));
            Ok(())
        }
    }
}

fn prune(store: &Store, keep: u64, as_json: bool, console: &Console) -> Result<(), Failure> {
    let pruned = store.prune(keep)?;
    if as_json {
        let removed: Vec<&String> = pruned.removed.iter().map(|image| &image.id).collect();
        return output::print_json(&json!({ "removed": removed, "kept_bytes": pruned.kept }));
    }
    let freed: u64 = pruned.removed.iter().map(Manifest::bytes).sum();
    console.say(&format!(
        "removed {} images ({}); {} are left",
        pruned.removed.len(),
        units::bytes(freed),
        units::bytes(pruned.kept)
    ));
    if pruned.kept > keep {
        console.warn("the images that are left are in use");
    }
    Ok(())
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
