//! The files of a model: one U-Net, and the rest of its pipeline where there is one.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::failure::Failure;

/// Where a model's parts are.
#[derive(Debug)]
pub struct Model {
    unet: PathBuf,
    /// the folder that holds `unet`, `vae_decoder` and so on
    folder: Option<PathBuf>,
}

const UNET: &str = "unet/model.onnx";

impl Model {
    /// The model at `path`: a pipeline folder, or an ONNX file with its neighbours.
    pub fn find(path: &Path) -> Result<Self, Failure> {
        if path.is_dir() {
            let unet = path.join(UNET);
            if !unet.exists() {
                return Err(Failure::new(format!("{} has no {UNET}", path.display()))
                    .hint("give a pipeline folder as diffusers and optimum export it, or a U-Net's .onnx file"));
            }
            let folder = Some(path.to_owned());
            return Ok(Model { unet, folder });
        }
        if !path.exists() {
            return Err(Failure::new(format!("{} does not exist", path.display())).hint("check the path"));
        }
        let parent = path.parent().and_then(Path::parent).map(Path::to_owned);
        Ok(Model {
            unet: path.to_owned(),
            folder: parent.filter(|folder| folder.join("vae_decoder/model.onnx").is_file()),
        })
    }

    /// The U-Net.
    pub fn unet(&self) -> &Path {
        &self.unet
    }

    /// The pipeline's folder.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Its name: the folder's, or the file's.
    pub fn name(&self) -> String {
        let named = self.folder.clone().unwrap_or_else(|| self.unet.with_extension(""));
        let named = named.canonicalize().unwrap_or(named);
        named.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the plan goes when the user does not say.
    pub fn default_plan(&self) -> PathBuf {
        PathBuf::from(format!("{}.plan", self.name()))
    }

    /// The image size that the model was trained for: width, height.
    pub fn default_size(&self) -> Result<(usize, usize), Failure> {
        let beside = self.unet.parent().unwrap_or(Path::new(".")).join("config.json");
        let latents = match &config(&beside)["sample_size"] {
            Value::Array(sizes) => sizes
                .first()
                .zip(sizes.get(1))
                .and_then(|(h, w)| Some((w.as_u64()?, h.as_u64()?))),
            size => size.as_u64().map(|size| (size, size)),
        };
        let Some((width, height)) = latents else {
            return Err(Failure::new("the model does not say for which size it was trained")
                .hint("give the size to compile for, e.g. `--size 768`"));
        };
        let pixels = |latents: u64| (latents as usize).saturating_mul(self.vae_scale());
        Ok((pixels(width), pixels(height)))
    }

    /// Pixels per latent along one axis: the decoder doubles between its blocks.
    pub fn vae_scale(&self) -> usize {
        let blocks = self.part_config("vae_decoder")["block_out_channels"]
            .as_array()
            .map_or(4, Vec::len);
        1 << (blocks.clamp(1, 7) - 1)
    }

    /// Factor on latents before the denoiser.
    pub fn scaling_factor(&self) -> f64 {
        self.part_config("vae_decoder")["scaling_factor"]
            .as_f64()
            .unwrap_or(0.18215)
    }

    /// Tokens of a prompt.
    pub fn tokens(&self) -> usize {
        let encoder = self.part_config("text_encoder");
        let tokens = encoder["max_position_embeddings"].as_u64().unwrap_or(77);
        tokens.clamp(1, 4096) as usize
    }

    fn part_config(&self, part: &str) -> Value {
        self.folder
            .as_ref()
            .map_or(Value::Null, |folder| config(&folder.join(part).join("config.json")))
    }
}

/// A configuration that is missing or unreadable says nothing.
fn config(path: &Path) -> Value {
    let text = fisec_files::read_text(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}
