//! The parts of a pipeline beside its U-Net.

use std::path::{Path, PathBuf};

use fisec_plan::NetworkKind;

use super::files::{self, Found};
use crate::cli::failure::Failure;

/// Name of a scheduler's configuration.
const SCHEDULER: &str = "scheduler_config.json";

/// Files of a tokenizer.
pub const TOKENIZER: [&str; 6] = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// Where they are.
#[derive(Debug)]
pub struct Parts {
    pub text_encoder: PathBuf,
    pub vae_decoder: PathBuf,
    pub vae_encoder: Option<PathBuf>,
    /// folder
    pub tokenizer: PathBuf,
    /// `scheduler_config.json`
    pub scheduler: PathBuf,
}

impl Parts {
    /// The parts in a pipeline's folder, and what is to be said of how they were found.
    ///
    /// # Errors
    /// Names the first part that is missing or ambiguous, and the files that are there.
    pub fn find(root: &Path, variant: Option<&str>) -> Result<(Self, Vec<String>), Failure> {
        let mut notices = Vec::new();
        let mut network = |part: &str, is_needed: bool| -> Result<Option<PathBuf>, Failure> {
            let folder = files::part_folder(root, part)?.unwrap_or_else(|| root.join(part));
            match files::model_file(&folder, part, variant)? {
                Some(Found { file, notice }) => {
                    notices.extend(notice);
                    Ok(Some(file))
                }
                None if is_needed => Err(missing(root, &folder, "model.onnx")),
                None => Ok(None),
            }
        };
        let text_encoder = network("text_encoder", true)?.expect("needed");
        let vae_decoder = network("vae_decoder", true)?.expect("needed");
        let vae_encoder = network("vae_encoder", false)?;
        let folder = files::part_folder(root, "scheduler")?.unwrap_or_else(|| root.join("scheduler"));
        let scheduler = folder.join(SCHEDULER);
        if !scheduler.is_file() {
            return Err(missing(root, &folder, SCHEDULER));
        }
        let tokenizer = files::part_folder(root, "tokenizer")?.unwrap_or_else(|| root.join("tokenizer"));
        let has = |name: &str| tokenizer.join(name).is_file();
        let is_whole = has("tokenizer.json") || (has("vocab.json") && has("merges.txt"));
        if !is_whole {
            let wanted = if has("vocab.json") {
                "merges.txt"
            } else {
                "tokenizer.json"
            };
            return Err(missing(root, &tokenizer, wanted));
        }
        let parts = Parts {
            text_encoder,
            vae_decoder,
            vae_encoder,
            tokenizer,
            scheduler,
        };
        Ok((parts, notices))
    }

    /// Whether a folder holds any of these parts.
    pub fn are_any_in(root: &Path) -> bool {
        let parts = ["text_encoder", "vae_decoder", "vae_encoder", "scheduler", "tokenizer"];
        parts
            .iter()
            .any(|part| !matches!(files::part_folder(root, part), Ok(None)))
    }

    /// The networks among them, with their files.
    pub fn networks(&self) -> Vec<(NetworkKind, &Path)> {
        let files = NetworkKind::ALL.into_iter().map(|kind| (kind, self.network(kind)));
        files.filter_map(|(kind, file)| Some((kind, file?))).collect()
    }

    /// The file of a network.
    pub fn network(&self, kind: NetworkKind) -> Option<&Path> {
        match kind {
            NetworkKind::TextEncoder => Some(&self.text_encoder),
            NetworkKind::VaeDecoder => Some(&self.vae_decoder),
            NetworkKind::VaeEncoder => self.vae_encoder.as_deref(),
        }
    }
}

fn missing(root: &Path, folder: &Path, name: &str) -> Failure {
    let file = folder.join(name);
    if file.exists()
        && let Err(error) = fisec_files::check_path(&file)
    {
        return Failure::file(&file)(error);
    }
    let there = match folder.is_dir() {
        true => format!("{} holds {}", folder.display(), files::listing(folder)),
        false => format!("{} holds {}", root.display(), files::listing(root)),
    };
    Failure::new(format!("{} is missing; {there}", folder.join(name).display()))
        .hint("export the whole pipeline, or give the U-Net's .onnx file: it is compiled alone then")
}
