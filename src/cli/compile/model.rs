//! The files of a model: one U-Net, and the rest of its pipeline where there is one.

use std::path::{Path, PathBuf};

use fisec_diffusion::Tokenizer;
use fisec_diffusion::json::Json;

use super::files::{self, Found};
use super::parts::Parts;
use super::{import, index};
use crate::cli::failure::Failure;

/// Where a model's parts are.
#[derive(Debug)]
pub struct Model {
    unet: PathBuf,
    /// the folder that holds `unet`, `vae_decoder` and so on
    folder: Option<PathBuf>,
    /// whether the U-Net's file was given: what is missing beside it is left out then
    is_file: bool,
    /// absent where there is nothing beside the U-Net
    parts: Option<Result<Parts, Failure>>,
    configs: Configs,
    /// tokens of a prompt, where the U-Net fixes their number
    fixed_tokens: Option<usize>,
    notices: Vec<String>,
}

/// `config.json` of the parts; null where there is none.
#[derive(Debug)]
struct Configs {
    unet: Json,
    text_encoder: Json,
    vae: Json,
    /// tokens of a prompt by the tokenizer
    prompt: Option<usize>,
}

/// Factor on latents of Stable Diffusion 1 and 2.
const SCALING_FACTOR: f64 = 0.18215;

/// Settings of a VAE that change latents beside their factor.
const VAE_SETTINGS: [&str; 3] = ["shift_factor", "latents_mean", "latents_std"];

impl Model {
    /// The model at `path`: a pipeline folder, or an ONNX file with its neighbours. Of every part the `variant` is taken
    /// that it has, e.g. `fp16`.
    ///
    /// # Errors
    /// Fails when there is no U-Net, when files could be meant in several ways, and when a `config.json` is damaged.
    pub fn find(path: &Path, variant: Option<&str>) -> Result<Self, Failure> {
        let is_file = path.is_file();
        if !is_file && !path.is_dir() {
            let error = fisec_files::check_path(path).err();
            return Err(match error.filter(|_| path.exists()) {
                Some(error) => Failure::file(path)(error),
                None => Failure::new(format!("{} does not exist", path.display())).hint("check the path"),
            });
        }
        let mut notices = Vec::new();
        let (unet, folder) = match is_file {
            true => (path.to_owned(), parent(path).filter(|folder| Parts::are_any_in(folder))),
            false => {
                let Found { file, notice } = unet_in(path, variant)?;
                notices.extend(notice);
                (file, Some(path.to_owned()))
            }
        };
        let parts = folder.as_deref().map(|folder| Parts::find(folder, variant));
        let parts = parts.map(|found| {
            let (parts, said) = found?;
            notices.extend(said);
            Ok(parts)
        });
        let mut configs = Configs::read(&unet, folder.as_deref())?;
        let fixed_tokens = import::fixed_tokens(&unet);
        if fixed_tokens.is_some() {
            configs.prompt = None;
        }
        Ok(Model {
            unet,
            folder,
            is_file,
            parts,
            configs,
            fixed_tokens,
            notices,
        })
    }

    /// The U-Net.
    pub fn unet(&self) -> &Path {
        &self.unet
    }

    /// Tokens of a prompt, where the U-Net fixes their number.
    pub fn fixed_tokens(&self) -> Option<usize> {
        self.fixed_tokens
    }

    /// What is to be said of how the parts were found.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Whether the U-Net's file was given, so that it can be compiled alone.
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// What is to be said of the pipeline that a folder is.
    ///
    /// # Errors
    /// Fails when it is of another kind.
    pub fn check_index(&self) -> Result<Option<String>, Failure> {
        match self.folder.as_deref().filter(|_| !self.is_file) {
            Some(folder) => index::check(folder),
            None => Ok(None),
        }
    }

    /// The other parts of the pipeline; `None` where there is nothing beside the U-Net.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn parts(&self) -> Result<Option<&Parts>, &Failure> {
        self.parts.as_ref().map(Result::as_ref).transpose()
    }

    /// Its name: the folder's, or the file's.
    pub fn name(&self) -> String {
        let is_whole = matches!(self.parts, Some(Ok(_))) || !self.is_file;
        let named = self.folder.clone().filter(|_| is_whole);
        let named = named.unwrap_or_else(|| self.unet.with_extension(""));
        let named = named.canonicalize().unwrap_or(named);
        named.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the plan goes when the user does not say.
    pub fn default_plan(&self) -> PathBuf {
        PathBuf::from(format!("{}.plan", self.name()))
    }

    /// The image size that the model was trained for: width, height.
    pub fn default_size(&self) -> Result<(usize, usize), Failure> {
        let latents = match self.configs.unet.get("sample_size") {
            Json::List(sizes) => match &sizes[..] {
                [height, width] => width.as_usize().zip(height.as_usize()),
                _ => None,
            },
            size => size.as_usize().map(|size| (size, size)),
        };
        let pixels = latents.and_then(|(width, height)| {
            let scale = self.vae_scale();
            width.checked_mul(scale).zip(height.checked_mul(scale))
        });
        pixels.ok_or_else(|| {
            Failure::new("the model does not say for which size it was trained")
                .hint("give the size to compile for, e.g. `--size 768`")
        })
    }

    /// Pixels per latent along one axis: the decoder doubles between its blocks.
    pub fn vae_scale(&self) -> usize {
        let blocks = match self.configs.vae.get("block_out_channels") {
            Json::List(blocks) => blocks.len(),
            _ => 4,
        };
        1 << (blocks.clamp(1, 7) - 1)
    }

    /// Factor on latents before the denoiser.
    ///
    /// # Errors
    /// Fails when the VAE's configuration gives none that can be divided by.
    pub fn scaling_factor(&self) -> Result<f64, Failure> {
        let given = self.configs.vae.get("scaling_factor");
        let factor = if given.is_null() {
            Some(SCALING_FACTOR)
        } else {
            given.as_f64()
        };
        let factor = factor.filter(|factor| factor.is_normal() && *factor > 0.0);
        factor.ok_or_else(|| {
            Failure::new(format!("the VAE's configuration has the scaling_factor {given}"))
                .hint("mend vae_decoder/config.json: Stable Diffusion 1 and 2 have 0.18215")
        })
    }

    /// A setting of the VAE that fisec does not know and that changes latents.
    pub fn unknown_vae_setting(&self) -> Option<&'static str> {
        let changes = |key: &&str| self.configs.vae.get(key).is_true();
        VAE_SETTINGS.into_iter().find(changes)
    }

    /// Tokens of a prompt: as many as the text encoder has positions, or the tokenizer's limit where that is less.
    pub fn tokens(&self) -> usize {
        let positions = self.configs.text_encoder.get("max_position_embeddings").as_usize();
        let positions = positions.unwrap_or(77).clamp(1, 4096);
        self.configs.prompt.unwrap_or(positions).min(positions)
    }
}

impl Configs {
    fn read(unet: &Path, folder: Option<&Path>) -> Result<Self, Failure> {
        let part = |names: &[&str]| -> Result<Json, Failure> {
            for name in names {
                let part = folder.and_then(|folder| files::part_folder(folder, name).ok().flatten());
                match part.map(|part| config(&part)).transpose()? {
                    None | Some(Json::Null) => {}
                    Some(found) => return Ok(found),
                }
            }
            Ok(Json::Null)
        };
        let tokenizer = folder.and_then(|folder| files::part_folder(folder, "tokenizer").ok().flatten());
        Ok(Configs {
            unet: config(unet.parent().unwrap_or(Path::new(".")))?,
            text_encoder: part(&["text_encoder"])?,
            vae: part(&["vae_decoder", "vae_encoder", "vae"])?,
            prompt: match tokenizer {
                Some(folder) => Tokenizer::max_length_in(&folder)?,
                None => None,
            },
        })
    }
}

/// `config.json` in a folder; null where there is none.
fn config(folder: &Path) -> Result<Json, Failure> {
    let file = folder.join("config.json");
    match file.is_file() {
        true => Ok(Json::read(&file)?),
        false => Ok(Json::Null),
    }
}

/// The folder above a file's.
fn parent(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    match folder.as_os_str().is_empty() {
        true => Some(PathBuf::from("..")),
        false => match folder.parent() {
            Some(above) if above.as_os_str().is_empty() => Some(PathBuf::from(".")),
            above => above.map(Path::to_owned),
        },
    }
}

fn unet_in(root: &Path, variant: Option<&str>) -> Result<Found, Failure> {
    let folder = files::part_folder(root, "unet")?;
    let found = folder
        .as_deref()
        .map(|folder| files::model_file(folder, "unet", variant));
    if let Some(found) = found.transpose()?.flatten() {
        return Ok(found);
    }
    let usual = folder.as_deref().unwrap_or(root).join("model.onnx");
    if usual.exists()
        && let Err(error) = fisec_files::check_path(&usual)
    {
        return Err(Failure::file(&usual)(error));
    }
    index::check(root)?;
    let (place, there) = match &folder {
        Some(folder) => (folder.as_path(), files::listing(folder)),
        None => (root, files::listing(root)),
    };
    let hint = match root.join("transformer").is_dir() {
        true => "pipelines with a transformer (Stable Diffusion 3, Flux) are not supported: give one with a U-Net",
        false => "give a pipeline folder as diffusers and optimum export it, or a U-Net's .onnx file",
    };
    Err(Failure::new(format!(
        "{} has no unet/model.onnx; {} holds {there}",
        root.display(),
        place.display()
    ))
    .hint(hint))
}
