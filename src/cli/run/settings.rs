//! The flags that shape an edit.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fisec_diffusion::denoise::{GuideSteps, MaskFrom, Method};
use fisec_diffusion::words::{ControlOptions, Steering};
use serde_json::json;

use crate::cli::numbers;

#[derive(Args, Clone, Debug)]
pub struct EditSettings {
    /// Edit inside this PNG's white pixels only; `last`: inside the newest edit's region of the same base
    #[arg(long, value_name = "M.png|last", conflicts_with = "edit_size")]
    pub mask: Option<PathBuf>,
    /// Edit exactly this share of the image, where the words change it most: 0.1 or 10%
    #[arg(long, value_name = "Q", allow_negative_numbers = true, value_parser = parse_share)]
    pub edit_size: Option<f64>,
    /// What finds the region: how far latents move, where changed words are looked at, or either
    #[arg(long, value_enum, value_name = "latents|attention|both")]
    mask_from: Option<MaskChoice>,
    /// Pixels by which a found region grows where anything moved at all; 0: the region as it is found [default: 8]
    #[arg(long, value_name = "PX", allow_negative_numbers = true, value_parser = numbers::whole(numbers::PIXELS))]
    grow: Option<usize>,
    /// Pixels inside the region's edge over which the edit fades in
    #[arg(
        long,
        value_name = "PX",
        default_value_t = 8,
        allow_negative_numbers = true,
        value_parser = numbers::whole(numbers::PIXELS)
    )]
    pub feather: usize,
    /// Dense steps that find the region: auto, or a number [default: auto]
    #[arg(long, value_name = "auto|K", allow_negative_numbers = true, value_parser = parse_steps)]
    guide_steps: Option<Steps>,
    /// Whose attention guided steps follow: kept words look where they looked (refine), replaced ones where those looked
    /// that they replace (replace), none, or auto: replace, and none where words were only taken away [default: auto]
    #[arg(long, value_enum, value_name = "auto|replace|refine|none")]
    control: Option<ControlChoice>,
    /// Guided steps that follow recorded attention
    #[arg(
        long,
        value_name = "auto|K",
        default_value = "auto",
        allow_negative_numbers = true,
        value_parser = parse_steps
    )]
    control_steps: Steps,
    /// Factor on the attention that changed words get while guided
    #[arg(
        long,
        value_name = "W",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        value_parser = numbers::decimal(numbers::EMPHASIS)
    )]
    emphasis: f64,
    /// Compute the same edit with no sparsity, to compare
    #[arg(long, conflicts_with = "sparse")]
    pub dense: bool,
    /// Remember the image although it was made with `--dense`, so that dense edits chain
    #[arg(long, requires = "dense", conflicts_with = "forget")]
    pub remember: bool,
    /// Use sparse steps however large the region is
    #[arg(long)]
    pub sparse: bool,
    /// Edit by another method, to compare: regenerate, blend, p2p, sdedit[:STRENGTH], diffedit
    #[arg(long, default_value = "fisec", value_parser = parse_method, conflicts_with_all = ["dense", "sparse"])]
    pub method: MethodChoice,
    /// Defaults of other work: the FISEdit paper's
    #[arg(long, value_enum)]
    preset: Option<Preset>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// ten guided steps without control, the region as it is found
    Paper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MaskChoice {
    Latents,
    Attention,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ControlChoice {
    Auto,
    Replace,
    Refine,
    None,
}

/// A number of steps, or whatever fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    Auto,
    Exactly(usize),
}

/// A method with the name that it was asked for by.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodChoice {
    pub name: String,
    pub method: Method,
}

impl EditSettings {
    /// Pixels by which a found region grows: one latent of eight pixels when nobody says otherwise.
    pub fn grow(&self) -> usize {
        self.grow.unwrap_or(if self.preset.is_some() { 0 } else { 8 })
    }

    pub fn guide_steps(&self) -> GuideSteps {
        let default = match self.preset {
            Some(Preset::Paper) => Steps::Exactly(10),
            None => Steps::Auto,
        };
        match self.guide_steps.unwrap_or(default) {
            Steps::Auto => GuideSteps::Auto,
            Steps::Exactly(steps) => GuideSteps::Exactly(steps),
        }
    }

    pub fn mask_from(&self) -> MaskFrom {
        match self.mask_from {
            None => MaskFrom::default(),
            Some(MaskChoice::Latents) => MaskFrom::Latents,
            Some(MaskChoice::Attention) => MaskFrom::Attention,
            Some(MaskChoice::Both) => MaskFrom::Both,
        }
    }

    pub fn control(&self) -> ControlOptions {
        let default = match self.preset {
            Some(Preset::Paper) => ControlChoice::None,
            None => ControlChoice::Auto,
        };
        ControlOptions {
            steering: match self.control.unwrap_or(default) {
                ControlChoice::Auto => Steering::Auto,
                ControlChoice::Replace => Steering::Replace,
                ControlChoice::Refine => Steering::Refine,
                ControlChoice::None => Steering::None,
            },
            calls: match self.control_steps {
                Steps::Auto => None,
                Steps::Exactly(steps) => Some(steps),
            },
            replace_calls: None,
            emphasis: self.emphasis as f32,
        }
    }

    /// Whether the mask of an earlier edit is to be used.
    pub fn reuses_mask(&self) -> bool {
        self.mask.as_ref().is_some_and(|path| path.as_os_str() == "last")
    }

    /// The mask's file, where there is one.
    pub fn mask_file(&self) -> Option<&Path> {
        self.mask.as_deref().filter(|_| !self.reuses_mask())
    }

    /// The settings as text, which tells edits of one base and prompt apart.
    pub fn text(&self) -> String {
        let mask = self.mask.as_ref().map(|path| {
            if self.reuses_mask() {
                return "last".to_owned();
            }
            let mut hasher = blake3::Hasher::new();
            // What cannot be read fails later, with a message.
            let _ = fisec_files::open(path).and_then(|file| hasher.update_reader(file).map(drop));
            hasher.finalize().to_hex()[..16].to_owned()
        });
        let mut fields = self.described();
        fields["mask"] = json!(mask);
        fields["edit_size"] = json!(self.edit_size);
        fields["sparse"] = json!(self.sparse);
        fields["dense"] = json!(self.dense);
        fields.to_string()
    }

    /// What `--json` says of the settings.
    pub fn described(&self) -> serde_json::Value {
        let guide_steps = match self.guide_steps() {
            GuideSteps::Auto => json!("auto"),
            GuideSteps::Exactly(steps) => json!(steps),
        };
        let control = self.control();
        let name = match control.steering {
            Steering::None => "none",
            Steering::Auto => "auto",
            Steering::Refine => "refine",
            Steering::Replace => "replace",
        };
        let mask_from = match self.mask_from() {
            MaskFrom::Latents => "latents",
            MaskFrom::Attention => "attention",
            MaskFrom::Both => "both",
        };
        json!({
            "method": self.method.name,
            "preset": self.preset.map(|_| "paper"),
            "grow": self.grow(),
            "feather": self.feather,
            "guide_steps": guide_steps,
            "mask_from": mask_from,
            "control": name,
            "control_steps": control.calls,
            "emphasis": control.emphasis,
        })
    }

    /// A flag that makes sense for edits only, when one is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--mask", self.mask.is_some()),
            ("--edit-size", self.edit_size.is_some()),
            ("--dense", self.dense),
            ("--method", self.method.method != Method::Fisec),
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
        _ => Err("it is a share of the image above 0 and up to 1, like 0.1 or 10%".into()),
    }
}

fn parse_steps(text: &str) -> Result<Steps, String> {
    let steps = numbers::auto_or_whole(0..=*numbers::STEPS.end())(text)?;
    Ok(steps.map_or(Steps::Auto, Steps::Exactly))
}

fn parse_method(text: &str) -> Result<MethodChoice, String> {
    let (name, strength) = text.split_once(':').unwrap_or((text, ""));
    let method = match (name, strength) {
        ("fisec", "") => Method::Fisec,
        ("regenerate", "") => Method::Regenerate,
        ("blend", "") => Method::Blend,
        ("p2p", "") => Method::PromptToPrompt,
        ("diffedit", "") => Method::DiffEdit,
        ("sdedit", "") => Method::SdEdit(0.6),
        ("sdedit", strength) => Method::SdEdit(parse_share(strength)?),
        _ => return Err("it is fisec, regenerate, blend, p2p, sdedit, sdedit:0.75 or diffedit".into()),
    };
    Ok(MethodChoice {
        name: text.to_owned(),
        method,
    })
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

    #[test]
    fn methods_have_names() {
        assert_eq!(parse_method("sdedit:0.75").unwrap().method, Method::SdEdit(0.75));
        assert_eq!(parse_method("sdedit").unwrap().method, Method::SdEdit(0.6));
        assert_eq!(parse_method("p2p").unwrap().method, Method::PromptToPrompt);
        for wrong in ["", "p2p:0.5", "sdedit:2", "magic"] {
            assert!(parse_method(wrong).is_err(), "{wrong}");
        }
    }
}
