//! The flags that shape an edit.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

/// Growth when nobody says otherwise: one latent.
const GROW: usize = 8;

#[derive(Args, Clone, Debug)]
pub struct EditSettings {
    /// Edit inside this PNG's white pixels only
    #[arg(long, value_name = "M.png", conflicts_with = "edit_size")]
    pub mask: Option<PathBuf>,
    /// Edit exactly this share of the image, where the words change it most: 0.1 or 10%
    #[arg(long, value_name = "Q", value_parser = parse_share)]
    pub edit_size: Option<f64>,
    /// Pixels by which a found region grows
    #[arg(long, value_name = "PX", default_value_t = GROW)]
    pub grow: usize,
    /// Dense steps that find the region: auto, or a number
    #[arg(long, value_name = "auto|K", default_value = "auto", value_parser = parse_guide)]
    pub guide_steps: GuideChoice,
    /// Compute the same edit with no sparsity, to compare
    #[arg(long, conflicts_with = "sparse")]
    pub dense: bool,
    /// Use sparse steps however large the region is
    #[arg(long)]
    pub sparse: bool,
}

/// How many dense steps find the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuideChoice {
    Auto,
    Steps(usize),
}

impl EditSettings {
    /// The settings as text, which tells edits of one base and prompt apart.
    pub fn text(&self) -> String {
        let guide = match self.guide_steps {
            GuideChoice::Auto => "auto".to_owned(),
            GuideChoice::Steps(steps) => steps.to_string(),
        };
        let mask = self.mask.as_ref().map(|path| {
            // What cannot be read fails later, with a message.
            let bytes = std::fs::read(path).unwrap_or_default();
            blake3::hash(&bytes).to_hex()[..16].to_owned()
        });
        let fields = json!({ "mask": mask, "edit_size": self.edit_size, "grow": self.grow, "guide_steps": guide, "sparse": self.sparse });
        fields.to_string()
    }

    /// A flag that makes sense for edits only, when one is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--mask", self.mask.is_some()),
            ("--edit-size", self.edit_size.is_some()),
            ("--dense", self.dense),
        ];
        given.into_iter().find(|(_, is_given)| *is_given).map(|(flag, _)| flag)
    }
}

/// `0.1` or `10%`, above 0 and at most 1.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let (number, unit) = match text.trim().strip_suffix('%') {
        Some(percent) => (percent, 0.01),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>().map(|value| value * unit) {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("write a share of the image like 0.1 or 10%".into()),
    }
}

fn parse_guide(text: &str) -> Result<GuideChoice, String> {
    match text {
        "auto" => Ok(GuideChoice::Auto),
        number => {
            let steps = number
                .parse()
                .map_err(|_| "write auto or a number of steps".to_owned())?;
            Ok(GuideChoice::Steps(steps))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbers_or_percentages() {
        assert_eq!(parse_share("0.25"), Ok(0.25));
        assert_eq!(parse_share("25%"), Ok(0.25));
        for wrong in ["0", "1.5", "150%", "-0.1", "half", "nan"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
