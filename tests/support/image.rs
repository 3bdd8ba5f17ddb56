//! Images that steps are tested with, and what the oracle makes of them.

use std::collections::BTreeMap;

use fisec_oracle::{Oracle, Tensor, levels};
use fisec_passes::Module;
use fisec_plan::Samples;
use fisec_tensor::{HostTensor, Mask};

use super::unet::{BATCH, Random, Shape, disturbed};

/// Step that everything runs at.
pub const STEP: usize = 1;
/// Timesteps of a schedule.
pub const TIMESTEPS: [f32; 2] = [700.0, 321.0];

/// What one image is made of.
pub struct Image {
    /// the latent of all images of the batch, or one for each
    pub sample: HostTensor,
    /// text
    pub context: HostTensor,
}

impl Image {
    /// Latents and text for a U-Net of this shape.
    pub fn random(shape: &Shape, seed: u64) -> Self {
        let mut random = Random(seed);
        let ([height, width], [tokens, text]) = (shape.size, shape.context);
        let samples = match shape.samples {
            Samples::Shared => 1,
            Samples::Each => BATCH,
        };
        let sample = random.tensor(&[samples, 4, height, width], 0.0, 1.5);
        Image {
            sample,
            context: random.tensor(&[BATCH, tokens, text], 0.0, 1.0),
        }
    }

    /// Every value off by its own share of at most `error`.
    pub fn disturbed(&self, error: f32, random: &mut Random) -> Self {
        Image {
            sample: disturbed(&self.sample, error, random),
            context: disturbed(&self.context, error, random),
        }
    }

    /// The latents as an executor takes them.
    pub fn values(&self) -> Vec<f32> {
        self.sample.to_f32_vec()
    }

    /// The inputs of a graph at [`STEP`].
    pub fn oracle_inputs(&self) -> BTreeMap<String, Tensor> {
        let samples = self.sample.shape()[0];
        let timestep = Tensor::new([samples], vec![f64::from(TIMESTEPS[STEP]); samples]);
        BTreeMap::from([
            ("sample".to_owned(), Tensor::from_host(&self.sample)),
            ("timestep".to_owned(), timestep),
            ("context".to_owned(), Tensor::from_host(&self.context)),
        ])
    }

    /// The inputs of the model as it was exported, which takes a latent and a timestep for each of [`BATCH`] images.
    pub fn oracle_inputs_for_each(&self) -> BTreeMap<String, Tensor> {
        let each = self.oracle_inputs().into_iter().map(|(name, value)| {
            let mut shape = value.shape.to_vec();
            let repeats = BATCH / shape[0];
            shape[0] = BATCH;
            (name, Tensor::new(shape, value.data.repeat(repeats)))
        });
        each.collect()
    }
}

/// The prediction of an edit under a mask, recorded from `base`.
pub fn oracle_edit(module: &Module, base: &Image, edited: &Image, mask: &Mask) -> Tensor {
    let recorded = Oracle::new(&module.record).inputs(base.oracle_inputs()).run();
    let edit = module.edit.as_ref().expect("sparse levels were asked for");
    let run = Oracle::new(edit)
        .inputs(edited.oracle_inputs())
        .slots(recorded.expect("record runs").slots)
        .masks(&levels(mask, 4))
        .run();
    run.expect("edit runs").outputs["prediction"].clone()
}

/// A map `[N, C, H, W]` as slots hold it, `[N, H, W, C]`.
pub fn channels_last(tensor: &Tensor) -> Tensor {
    let [batch, channels, height, width] = tensor.shape[..] else {
        return tensor.clone();
    };
    let pixels = height * width;
    let value = |index: usize| {
        let (image, pixel, channel) = (index / channels / pixels, index / channels % pixels, index % channels);
        tensor.data[(image * channels + channel) * pixels + pixel]
    };
    Tensor::new(
        [batch, height, width, channels],
        (0..tensor.data.len()).map(value).collect(),
    )
}
