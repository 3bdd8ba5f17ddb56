//! `model_index.json`: which pipeline of diffusers a folder is.

use std::path::Path;

use fisec_diffusion::json::Json;

use super::files;
use crate::cli::failure::Failure;

/// Words in the names of pipelines that have other parts than a U-Net with one text encoder and a VAE.
const OTHER: [(&str, &str); 16] = [
    (
        "XL",
        "it has two text encoders, and its U-Net takes their pooled embedding and sizes",
    ),
    ("StableDiffusion3", "it has a transformer in place of the U-Net"),
    ("Flux", "it has a transformer in place of the U-Net"),
    ("PixArt", "it has a transformer in place of the U-Net"),
    ("Sana", "it has a transformer in place of the U-Net"),
    ("HunyuanDiT", "it has a transformer in place of the U-Net"),
    ("DiT", "it has a transformer in place of the U-Net"),
    ("StableCascade", "it has other stages"),
    ("Wuerstchen", "it has other stages"),
    ("Kandinsky", "it has a prior and another decoder"),
    ("DeepFloyd", "it works on pixels"),
    ("IF", "it works on pixels"),
    ("Video", "it makes videos"),
    ("AnimateDiff", "it makes videos"),
    ("Audio", "it makes sound"),
    ("unCLIP", "it has a prior"),
];

/// Pipelines of the same parts whose U-Net or way of sampling is another.
const RELATIVES: [(&str, &str); 10] = [
    ("Img2Img", ""),
    ("Inpaint", "it paints inside masks with a U-Net of nine channels"),
    ("Upscale", "it enlarges a picture that its U-Net is given"),
    ("InstructPix2Pix", "its U-Net is given the picture to change"),
    ("Depth2Img", "its U-Net is given a depth map"),
    ("ImageVariation", "it is conditioned on a picture in place of words"),
    (
        "LatentConsistency",
        "its U-Net takes the guidance as an input, and its sampler is LCM",
    ),
    ("ControlNet", "its U-Net is given the outputs of a second network"),
    ("Adapter", "its U-Net is given the outputs of a second network"),
    ("LDM3D", "its VAE gives a depth map as well"),
];

/// What is to be said of the pipeline in a folder; a folder without an index is as good as one with it.
///
/// # Errors
/// Fails when the index names a pipeline of other parts.
pub fn check(folder: &Path) -> Result<Option<String>, Failure> {
    let file = folder.join("model_index.json");
    if !file.is_file() {
        return Ok(None);
    }
    let index = match Json::read(&file) {
        Ok(index @ Json::Map(_)) => index,
        Ok(_) => {
            let place = file.display();
            return Ok(Some(format!("{place}: it is not a JSON object; it is left aside")));
        }
        Err(error) => return Ok(Some(format!("{error}; it is left aside"))),
    };
    let Some(class) = index.get("_class_name").as_str() else {
        return Ok(None);
    };
    // optimum and older diffusers put the runtime's name in front
    let bare = ["ORT", "Onnx", "OV"]
        .iter()
        .find_map(|prefix| class.strip_prefix(prefix))
        .unwrap_or(class);
    if let Some((_, why)) = OTHER.iter().find(|(word, _)| is_word(bare, word)) {
        let there = files::listing(folder);
        return Err(Failure::new(format!(
            "{} is a `{class}`: {why}; the folder holds {there}",
            folder.display()
        ))
        .hint("give a text-to-image pipeline of the class StableDiffusionPipeline (Stable Diffusion 1 or 2 and models made from them)"));
    }
    let relative = RELATIVES.iter().find(|(word, _)| bare.contains(word));
    Ok(match relative {
        _ if bare == "StableDiffusionPipeline" => None,
        Some((_, "")) => None,
        Some((_, why)) => Some(format!(
            "the model is a `{class}`: {why}; it is compiled as a text-to-image pipeline, which a StableDiffusionPipeline is"
        )),
        None if bare.starts_with("StableDiffusion") => None,
        None => Some(format!(
            "the model is a `{class}`, which fisec does not know; it is compiled as a StableDiffusionPipeline"
        )),
    })
}

/// Whether a word is part of a name and no part of a longer word: `IF` of `IFPipeline`, not of `DiffusIFon`.
fn is_word(name: &str, word: &str) -> bool {
    name.match_indices(word).any(|(at, _)| {
        let behind = name[at + word.len()..].chars().next();
        let starts = at == 0 || word.starts_with(|c: char| c.is_uppercase());
        starts && behind.is_none_or(|c| c.is_uppercase() || c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn said(class: &str) -> Result<Option<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let index = format!(r#"{{"_class_name": "{class}", "requires_safety_checker": NaN}}"#);
        fs::write(folder.path().join("model_index.json"), index).unwrap();
        check(folder.path()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn pipelines_of_text_and_relatives_compile() {
        for class in [
            "StableDiffusionPipeline",
            "OnnxStableDiffusionPipeline",
            "ORTStableDiffusionPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionPipelineSafe",
        ] {
            assert_eq!(said(class), Ok(None), "{class}");
        }
        for class in [
            "StableDiffusionInpaintPipeline",
            "StableDiffusionUpscalePipeline",
            "LatentConsistencyModelPipeline",
            "ORTLatentConsistencyModelPipeline",
            "StableDiffusionControlNetPipeline",
            "SomebodysPipeline",
        ] {
            assert!(said(class).unwrap().unwrap().contains(class), "{class}");
        }
    }

    #[test]
    fn pipelines_of_other_parts_are_refused() {
        for class in [
            "StableDiffusionXLPipeline",
            "ORTStableDiffusionXLImg2ImgPipeline",
            "StableDiffusion3Pipeline",
            "FluxPipeline",
            "PixArtAlphaPipeline",
            "KandinskyV22Pipeline",
            "IFPipeline",
            "StableVideoDiffusionPipeline",
        ] {
            let failure = said(class).unwrap_err();
            assert!(failure.contains(class) && failure.contains("hint: "), "{failure}");
        }
    }
}
