//! What inputs beyond latents, timestep and text are for.

use super::ports::Port;

/// A kind of input that a text-to-image U-Net does not have.
pub struct Purpose {
    /// what the input carries
    pub what: &'static str,
    /// what the user can do
    pub hint: &'static str,
}

/// Parts of a name, and what an input whose name has one of them is for; the first that fits counts.
const KNOWN: &[(&[&str], Purpose)] = &[
    (
        &["timestep_cond", "guidance"],
        Purpose {
            what: "the guidance embedding of a latent consistency (guidance-distilled) model",
            hint: "give the U-Net of the model that it was distilled from; fisec computes guidance by itself",
        },
    ),
    (
        &["text_embeds", "pooled"],
        Purpose {
            what: "the pooled text embedding of Stable Diffusion XL",
            hint: "give the U-Net of a Stable Diffusion 1 or 2 pipeline: SDXL's text and size conditioning is not supported",
        },
    ),
    (
        &["time_ids"],
        Purpose {
            what: "the size and crop conditioning of Stable Diffusion XL",
            hint: "give the U-Net of a Stable Diffusion 1 or 2 pipeline: SDXL's text and size conditioning is not supported",
        },
    ),
    (
        &["class_label", "noise_level"],
        Purpose {
            what: "class conditioning, e.g. the noise level of an upscaler",
            hint: "give the U-Net of a text-to-image pipeline, which has no classes",
        },
    ),
    (
        &["residual", "controlnet", "control_"],
        Purpose {
            what: "the residuals of a ControlNet or T2I-Adapter",
            hint: "export the U-Net without them, as a text-to-image pipeline has it",
        },
    ),
    (
        &["attention_mask", "text_mask"],
        Purpose {
            what: "a mask of the text's tokens",
            hint: "export the U-Net without it: Stable Diffusion attends to all tokens",
        },
    ),
    (
        &["image_embed", "ip_adapter", "image_prompt"],
        Purpose {
            what: "the image embedding of an IP-Adapter or image variation model",
            hint: "export the U-Net without the adapter, as a text-to-image pipeline has it",
        },
    ),
    (
        &["mask"],
        Purpose {
            what: "the mask or masked image of an inpainting model",
            hint: "give the U-Net of the text-to-image model: fisec edits with that one, also inside a mask",
        },
    ),
    (
        &["frame", "fps", "motion"],
        Purpose {
            what: "conditioning of a video model",
            hint: "give the U-Net of a text-to-image pipeline",
        },
    ),
];

/// What an input is for, told from its name, then from its rank.
pub fn of(port: &Port) -> &'static Purpose {
    let name = port.name.to_lowercase();
    let known = KNOWN
        .iter()
        .find(|(parts, _)| parts.iter().any(|part| name.contains(part)));
    match (known, port.rank()) {
        (Some((_, purpose)), _) => purpose,
        (None, Some(4)) => &Purpose {
            what: "a second map beside the latents, as models have that are conditioned on a picture",
            hint: "give the U-Net of a text-to-image pipeline",
        },
        (None, Some(3)) => &Purpose {
            what: "a second sequence beside the text embedding",
            hint: "give the U-Net of a pipeline with one text encoder",
        },
        _ => &Purpose {
            what: "conditioning that a text-to-image U-Net does not have",
            hint: "give the U-Net of a text-to-image pipeline, or export this one without that input",
        },
    }
}

/// What latents of `sample` channels are with a prediction of `predicted`.
pub fn of_channels(sample: usize, predicted: usize) -> &'static str {
    match (sample, predicted) {
        (9, 4) => "that is an inpainting model, which reads a mask and a masked image with the latents",
        (8, 4) => {
            "that is a model that edits a picture by instruction (instruct-pix2pix) or upscales one, which reads it with the latents"
        }
        (7, 4) => "that is an upscaler, which reads a small picture with the latents",
        (5, 4) => "that is a model conditioned on depth, which reads a depth map with the latents",
        _ if predicted == 2 * sample => "that is a model that predicts a variance beside the noise",
        _ if sample > predicted => "that is a model conditioned on a picture, which reads it with the latents",
        _ => "the prediction cannot be taken from the latents",
    }
}
