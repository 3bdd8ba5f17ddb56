//! The parts of a pipeline beside the U-Net: copied into the plan as they are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use fisec_plan::{BundleWriter, PipelineFiles};

use super::model::Model;
use crate::cli::failure::Failure;

/// Copies the pipeline's parts. `None` when the model is a U-Net alone.
pub fn copy(model: &Model, writer: &mut BundleWriter) -> Result<Option<PipelineFiles>, Failure> {
    let Some(folder) = model.folder() else { return Ok(None) };
    for (part, needed) in [
        ("text_encoder", "model.onnx"),
        ("vae_decoder", "model.onnx"),
        ("scheduler", SCHEDULER),
    ] {
        let file = folder.join(part).join(needed);
        if !file.is_file() {
            return Err(Failure::new(format!("{} is missing", file.display()))
                .hint("export the whole pipeline, or give the U-Net's .onnx file alone"));
        }
        copy_part(folder, part, writer)?;
    }
    let has_encoder = folder.join("vae_encoder/model.onnx").is_file();
    if has_encoder {
        copy_part(folder, "vae_encoder", writer)?;
    }
    copy_part(folder, "tokenizer", writer)?;
    let has_json = folder.join("tokenizer/tokenizer.json").is_file();
    let tokenizer = if has_json {
        "pipeline/tokenizer/tokenizer.json"
    } else {
        "pipeline/tokenizer"
    };
    Ok(Some(PipelineFiles {
        text_encoder: "pipeline/text_encoder/model.onnx".into(),
        vae_decoder: "pipeline/vae_decoder/model.onnx".into(),
        vae_encoder: has_encoder.then(|| "pipeline/vae_encoder/model.onnx".into()),
        tokenizer: tokenizer.into(),
        scheduler: format!("pipeline/scheduler/{SCHEDULER}"),
        scaling_factor: model.scaling_factor(),
        vae_scale: model.vae_scale(),
    }))
}

const SCHEDULER: &str = "scheduler_config.json";

/// Every file of one folder: a model may have external data beside it.
fn copy_part(folder: &Path, part: &str, writer: &mut BundleWriter) -> Result<(), Failure> {
    let from = folder.join(part);
    let mut files: Vec<PathBuf> = fs::read_dir(&from)
        .map_err(Failure::file(&from))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        writer.copy_file(&format!("pipeline/{part}/{name}"), &file)?;
    }
    Ok(())
}

/// blake3 over the model's files in order.
pub fn hash(files: &[PathBuf]) -> Result<String, Failure> {
    let mut hasher = Hasher::new();
    for file in files {
        let opened = fisec_files::open(file).map_err(Failure::file(file))?;
        io::copy(&mut io::BufReader::with_capacity(1 << 20, opened), &mut hasher).map_err(Failure::file(file))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
