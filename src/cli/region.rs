//! The regions that `explain` and `bench` look at: a user's mask, or a typical one of a given size.

use std::io::BufReader;
use std::path::PathBuf;

use clap::Args;
use fisec_diffusion::read_user_mask;
use fisec_passes::analysis::representative_mask;
use fisec_plan::Plan;
use fisec_tensor::Mask;

use super::failure::Failure;
use super::run::parse_share;
use super::units;

#[derive(Args, Clone, Debug)]
pub struct Regions {
    /// Active where this PNG is white
    #[arg(long, value_name = "M.png")]
    mask: Vec<PathBuf>,
    /// A typical region of this share of the image: 0.1 or 10%
    #[arg(long, value_name = "Q", allow_negative_numbers = true, value_parser = parse_share)]
    edit_size: Vec<f64>,
}

/// A mask of latents with its name.
pub struct Region {
    pub name: String,
    pub mask: Mask,
}

impl Regions {
    /// Every region asked for; `default` shares when none is.
    pub fn of(&self, plan: &Plan, default: &[f64]) -> Result<Vec<Region>, Failure> {
        let [_, height, width] = plan.latent;
        let mut regions = Vec::new();
        for path in &self.mask {
            let png = fisec_files::open(path).map_err(Failure::file(path))?;
            let scale = plan.pipeline.as_ref().map_or(8, |pipeline| pipeline.vae_scale);
            let image = (height * scale, width * scale);
            let mask = read_user_mask(BufReader::new(png), (height, width), image)?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            regions.push(Region { name, mask });
        }
        let shares: &[f64] = match regions.is_empty() && self.edit_size.is_empty() {
            true => default,
            false => &self.edit_size,
        };
        regions.extend(shares.iter().map(|&share| Region {
            name: units::percent(share),
            mask: representative_mask(height, width, share),
        }));
        Ok(regions)
    }
}
