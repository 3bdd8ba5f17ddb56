//! What a plan needs beside its U-Net: checked before anything is compiled, then copied.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use fisec_diffusion::Tokenizer;
use fisec_diffusion::samplers::SamplerConfig;
use fisec_onnx::{Inspection, inspect, widened};
use fisec_passes::Module;
use fisec_plan::{BundleWriter, NetworkKind, PipelineFiles};

use super::model::Model;
use super::parts::{Parts, TOKENIZER};
use super::signature::{self, Fit};
use crate::cli::console::Console;
use crate::cli::failure::Failure;

/// Name of a network's file in a plan.
const MODEL: &str = "model.onnx";

/// Name of the f32 form of a network that computes in half precision. It reads the weights of the file beside it.
const WIDENED: &str = "fisec-f32.onnx";

/// A prompt that every tokenizer has tokens for.
const PROBE: &str = "a photo of a dog, 1girl!";

/// Classes of schedulers whose models are trained for few steps of their own kind.
const FEW_STEPS: [&str; 2] = ["LCM", "TCD"];

/// The parts of a pipeline, each of them opened and found whole.
pub struct Checked<'a> {
    parts: &'a Parts,
    networks: Vec<(NetworkKind, &'a Path, Inspection)>,
    tokens: usize,
    vae_scale: usize,
    scaling_factor: f64,
}

/// Opens everything that `run` will need. `None` when the U-Net is compiled alone: there is nothing beside it, or its file
/// was given and what is beside it cannot be used.
///
/// # Errors
/// Names the part of a pipeline folder that is missing, damaged or of another kind.
pub fn open<'a>(model: &'a Model, console: &Console) -> Result<Option<Checked<'a>>, Failure> {
    if let Some(caution) = model.check_index()? {
        console.warn(&caution);
    }
    for notice in model.notices() {
        console.say(notice);
    }
    let checked = match model.parts() {
        Ok(None) => return Ok(None),
        Ok(Some(parts)) => Checked::of(parts, model, console),
        Err(failure) => Err(failure.clone()),
    };
    match checked {
        Ok(checked) => Ok(Some(checked)),
        Err(failure) if model.is_file() => {
            console.say(&format!("the U-Net alone is compiled: {}", failure.message()));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

impl<'a> Checked<'a> {
    fn of(parts: &'a Parts, model: &Model, console: &Console) -> Result<Self, Failure> {
        let scheduler = SamplerConfig::read(&parts.scheduler)?;
        let networks = parts.networks().into_iter().map(|(kind, file)| {
            let inspection = inspect(file)?;
            signature::check(kind, file, &inspection)?;
            Ok((kind, file, inspection))
        });
        let networks: Vec<_> = networks.collect::<Result<_, Failure>>()?;
        let tokens = model.tokens();
        let vocabulary = networks.iter().find(|(kind, ..)| *kind == NetworkKind::TextEncoder);
        let vocabulary = vocabulary.and_then(|(.., inspection)| inspection.table_rows);
        check_tokenizer(&parts.tokenizer, tokens, vocabulary, console)?;
        if let Some(setting) = model.unknown_vae_setting() {
            console.warn(&format!(
                "the VAE's configuration has a `{setting}`, which fisec does not apply: colours will be wrong"
            ));
        }
        let scaling_factor = model.scaling_factor()?;
        tell_sampler(&scheduler, console);
        Ok(Checked {
            parts,
            networks,
            tokens,
            vae_scale: model.vae_scale(),
            scaling_factor,
        })
    }

    /// The parts.
    pub fn parts(&self) -> &'a Parts {
        self.parts
    }

    /// Tokens of a prompt.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Pixels per latent along one axis.
    pub fn vae_scale(&self) -> usize {
        self.vae_scale
    }

    /// Whether the networks take what the U-Net gives, and the other way round.
    ///
    /// # Errors
    /// Names the network that is of another size, with both sizes.
    pub fn check_fit(&self, module: &Module) -> Result<(), Failure> {
        let context = module.guide.input(&module.roles.context);
        let context = context.map(|value| module.guide.value_type(value).shape.to_vec());
        let width = context.and_then(|shape| shape.last().copied()).unwrap_or_default();
        let fit = Fit {
            tokens: self.tokens,
            width,
            latent: module.latent(),
            scale: self.vae_scale,
        };
        for (kind, file, inspection) in &self.networks {
            fit.check(*kind, file, inspection)?;
        }
        Ok(())
    }

    /// Copies the parts: of each network the model and its external data, of the tokenizer what transformers reads. A network
    /// that computes in half precision gets an f32 form beside it.
    pub fn copy(&self, writer: &mut BundleWriter) -> Result<PipelineFiles, Failure> {
        let mut widened_files = BTreeMap::new();
        for (kind, file, inspection) in &self.networks {
            let folder = file.parent().unwrap_or(Path::new(""));
            let part = kind.name();
            writer.copy_file(&place(part, MODEL), file)?;
            for external in &inspection.external {
                writer.copy_file(&place(part, &relative(external)), &folder.join(external))?;
            }
            copy_where_present(writer, part, folder, "config.json")?;
            if let Some(bytes) = widened(file, MODEL)? {
                let place = place(part, WIDENED);
                writer.add_file(&place, &bytes)?;
                widened_files.insert(*kind, place);
            }
        }
        for name in TOKENIZER {
            copy_where_present(writer, "tokenizer", &self.parts.tokenizer, name)?;
        }
        writer.copy_file(&place("scheduler", "scheduler_config.json"), &self.parts.scheduler)?;
        let has_json = self.parts.tokenizer.join("tokenizer.json").is_file();
        Ok(PipelineFiles {
            text_encoder: place(NetworkKind::TextEncoder.name(), MODEL),
            vae_decoder: place(NetworkKind::VaeDecoder.name(), MODEL),
            vae_encoder: self
                .parts
                .vae_encoder
                .as_ref()
                .map(|_| place(NetworkKind::VaeEncoder.name(), MODEL)),
            widened: widened_files,
            tokenizer: match has_json {
                true => place("tokenizer", "tokenizer.json"),
                false => "pipeline/tokenizer".into(),
            },
            scheduler: place("scheduler", "scheduler_config.json"),
            scaling_factor: self.scaling_factor,
            vae_scale: self.vae_scale,
        })
    }
}

fn place(part: &str, name: &str) -> String {
    format!("pipeline/{part}/{name}")
}

/// A relative path with `/`.
fn relative(path: &Path) -> String {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

fn copy_where_present(writer: &mut BundleWriter, part: &str, folder: &Path, name: &str) -> Result<(), Failure> {
    let file = folder.join(name);
    match file.is_file() {
        true => Ok(writer.copy_file(&place(part, name), &file)?),
        false => Ok(()),
    }
}

/// The tokenizer opens, and the text encoder knows the ids that it gives.
fn check_tokenizer(folder: &Path, tokens: usize, vocabulary: Option<usize>, console: &Console) -> Result<(), Failure> {
    let file = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::open(if file.is_file() { &file } else { folder }, tokens)?;
    let probe = tokenizer.encode(PROBE)?;
    let Some(vocabulary) = vocabulary.and_then(|rows| u32::try_from(rows).ok()) else {
        return Ok(());
    };
    if let Some(id) = probe.ids.iter().find(|&&id| id >= vocabulary) {
        return Err(Failure::new(format!(
            "the tokenizer gives the token id {id}, the text encoder knows {vocabulary} tokens\n  --> {}",
            folder.display()
        ))
        .hint("tokenizer and text encoder are of different models: export the pipeline as one"));
    }
    let beyond = tokenizer.added_from(vocabulary);
    if let Some((id, token)) = beyond.first() {
        console.warn(&format!(
            "the tokenizer's added token `{token}` has the id {id}, the text encoder knows {vocabulary} tokens: \
             prompts with it will fail; export the text encoder after its embeddings were resized"
        ));
    }
    Ok(())
}

/// Says when the model's own sampler is not built, and what can be chosen.
fn tell_sampler(scheduler: &SamplerConfig, console: &Console) {
    let Err(error) = scheduler.default_kind() else { return };
    let class = scheduler.class.as_deref().unwrap_or_default();
    let few = FEW_STEPS.iter().any(|start| class.starts_with(start));
    let caution = match few {
        true => "; models of this scheduler are made for its few steps, and other samplers show less of what they can",
        false => "",
    };
    let hint = error.hint().unwrap_or_default();
    console.warn(&format!("{error}; for `run`, {hint}{caution}"));
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
