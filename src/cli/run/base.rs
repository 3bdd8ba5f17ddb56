//! Which remembered image an edit starts from.

use std::convert::Infallible;

use fisec_runtime::cache::{CacheError, Entry, ImageKey, Manifest, Store};

use super::settings::EditSettings;
use crate::cli::console::Console;
use crate::cli::failure::Failure;

/// What the user said about the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseChoice {
    /// the nearest one
    Auto,
    /// none: a first image
    None,
    /// this one
    Image(String),
}

impl BaseChoice {
    pub fn parse(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => BaseChoice::Auto,
            "none" => BaseChoice::None,
            id => BaseChoice::Image(id.to_owned()),
        })
    }
}

/// The image to edit, or none when a first one is to be made.
pub fn choose(
    choice: &BaseChoice,
    store: Option<&Store>,
    key: &ImageKey,
    settings: &EditSettings,
    console: &Console,
) -> Result<Option<Entry>, Failure> {
    match (choice, store) {
        (BaseChoice::None, _) | (BaseChoice::Auto, None) => Ok(None),
        (BaseChoice::Image(id), None) => Err(CacheError::Unknown(id.clone()).into()),
        (BaseChoice::Image(id), Some(store)) => named(store, id, key).map(Some),
        (BaseChoice::Auto, Some(store)) => nearest(store, key, settings, console),
    }
}

fn named(store: &Store, id: &str, key: &ImageKey) -> Result<Entry, Failure> {
    let entry = store.get(id)?;
    let differs = differences(&entry.manifest().key, key);
    if differs.is_empty() {
        return Ok(entry);
    }
    Err(
        Failure::new(format!("`{}` was made with {}", entry.id(), differs.join(", ")))
            .hint("an edit keeps everything but the prompt: give the same settings, or `--base none`"),
    )
}

/// The nearest image. When it has the very words asked for and was edited with other settings, what it was made of is
/// edited again.
fn nearest(
    store: &Store,
    key: &ImageKey,
    settings: &EditSettings,
    console: &Console,
) -> Result<Option<Entry>, Failure> {
    while let Some(nearest) = store.find_nearest(key)? {
        let image = nearest.manifest;
        let id = match &image.parent {
            Some(parent) if nearest.distance == 0 && is_another_edit(&image, settings) => parent.clone(),
            _ => image.id.clone(),
        };
        match store.get(&id) {
            Ok(entry) => {
                let prompt = &entry.manifest().key.prompt;
                console.say(&format!("editing {id}, \"{prompt}\""));
                return Ok(Some(entry));
            }
            // another command removed it since: the next one is nearest now
            Err(CacheError::Unknown(_)) if id == image.id => {}
            Err(error @ (CacheError::Damaged { .. } | CacheError::Unknown(_))) => {
                console.warn(&format!("{error}; it counts as forgotten"));
                return Ok(None);
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(None)
}

fn is_another_edit(image: &Manifest, settings: &EditSettings) -> bool {
    settings.dense || image.settings != settings.text()
}

fn differences(base: &ImageKey, asked: &ImageKey) -> Vec<String> {
    let fields = [
        ("another plan", base.plan == asked.plan, String::new()),
        (
            "negative prompt ",
            base.negative == asked.negative,
            format!("\"{}\"", base.negative),
        ),
        ("seed ", base.seed == asked.seed, base.seed.to_string()),
        ("sampler ", base.sampler == asked.sampler, base.sampler.clone()),
        ("steps ", base.steps == asked.steps, base.steps.to_string()),
        ("guidance ", base.guidance == asked.guidance, base.guidance.to_string()),
        (
            "size ",
            (base.width, base.height) == (asked.width, asked.height),
            format!("{}x{}", base.width, base.height),
        ),
    ];
    let differing = fields.into_iter().filter(|(_, is_same, _)| !is_same);
    differing.map(|(name, _, value)| format!("{name}{value}")).collect()
}
