//! The loops around a real U-Net, dense in ONNX Runtime, against PyTorch: records of `tools/references/emulate.py`.
//! Needs the ONNX Runtime library (`cargo xtask setup`).

mod support;

use std::path::{Path, PathBuf};

use fisec_diffusion::denoise::{Base, Conditions, EditOptions, GuideSteps, MaskFrom, Outcome, Region, edit, generate};
use fisec_diffusion::mask::MapSlot;
use fisec_diffusion::noise::randn;
use fisec_diffusion::samplers::{Sampler, SamplerConfig};
use fisec_diffusion::words::{ControlOptions, Words};
use fisec_diffusion::{
    Denoiser, DiffusionError, Image, TextEncoder, Tokenizer, VaeDecoder, VaeEncoder, Work, guidance_context,
    mask_from_png,
};
use fisec_runtime::ort::{OnnxRuntime, Session};
use fisec_runtime::{Control, SlotSink, SlotSource};
use fisec_tensor::{HostTensor, Mask};
use serde_json::Value;
use support::{silent, store};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data")
        .join(path)
}

fn runtime() -> OnnxRuntime {
    OnnxRuntime::load().expect("ONNX Runtime is installed")
}

/// The exported U-Net as it is.
struct Exported {
    session: Session,
    timesteps: Vec<f32>,
    context: HostTensor,
}

impl Denoiser for Exported {
    fn latent(&self) -> [usize; 3] {
        [4, 16, 16]
    }

    fn set_timesteps(&mut self, timesteps: &[f32]) -> Result<(), DiffusionError> {
        self.timesteps = timesteps.to_vec();
        Ok(())
    }

    fn set_context(&mut self, context: &HostTensor) -> Result<(), DiffusionError> {
        self.context = context.clone();
        Ok(())
    }

    fn map_slots(&self) -> Vec<MapSlot> {
        Vec::new()
    }

    fn guide(
        &mut self,
        _: usize,
        _: &[f32],
        _: &Control,
        _: &dyn SlotSource,
        _: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        unreachable!("there are no maps")
    }

    fn dense(&mut self, step: usize, sample: &[f32], _: Option<&mut dyn SlotSink>) -> Result<Vec<f32>, DiffusionError> {
        let sample = HostTensor::from_f32([2, 4, 16, 16], sample.repeat(2));
        let time = HostTensor::from_f32(Vec::new(), vec![self.timesteps[step]]);
        let inputs = [
            ("sample", &sample),
            ("timestep", &time),
            ("encoder_hidden_states", &self.context),
        ];
        Ok(self.session.run(&inputs, &["out_sample"])?.remove(0).to_f32_vec())
    }

    fn can_edit(&self) -> bool {
        false
    }

    fn bind(&mut self, _: &Mask, _: bool) -> Result<(), DiffusionError> {
        unreachable!("there is no sparse program")
    }

    fn edit(
        &mut self,
        _: usize,
        _: &[f32],
        _: &dyn SlotSource,
        _: Option<&mut dyn SlotSink>,
    ) -> Result<Vec<f32>, DiffusionError> {
        unreachable!("there is no sparse program")
    }

    fn dense_macs(&self) -> u64 {
        0
    }

    fn last_step(&self) -> Work {
        Work::default()
    }
}

struct Records(Value, Vec<f32>);

impl Records {
    fn read() -> Self {
        let text = std::fs::read_to_string(data("emulation/nano/emulation.json")).unwrap();
        let bytes = std::fs::read(data("emulation/nano/latents.f32")).unwrap();
        let values = bytes
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        Records(serde_json::from_str(&text).unwrap(), values)
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }

    fn count(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap() as usize
    }

    fn latents(&self, name: &str) -> &[f32] {
        let place = self.0["latents"]
            .as_array()
            .unwrap()
            .iter()
            .position(|found| found == name)
            .unwrap();
        &self.1[place * 1024..(place + 1) * 1024]
    }

    /// f32 in another order of additions, over a dozen steps with guidance.
    fn assert_close(&self, name: &str, ours: &[f32]) {
        let size = self
            .latents(name)
            .iter()
            .fold(0.0f32, |size, value| size.max(value.abs()));
        let error = ours
            .iter()
            .zip(self.latents(name))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(error <= 1e-4 * size, "{name}: off by {error} of {size}");
    }
}

fn context(prompt: &str) -> HostTensor {
    let tokenizer = Tokenizer::open(&data("nano-pipeline/tokenizer"), 77).unwrap();
    let mut encoder = TextEncoder::open(&runtime(), &data("nano-pipeline/text_encoder/model.onnx")).unwrap();
    let mut embed = |text: &str| encoder.encode(&tokenizer.encode(text).unwrap().ids).unwrap();
    guidance_context(&embed(""), &embed(prompt)).unwrap()
}

#[test]
fn words_to_latents_as_in_pytorch() {
    let records = Records::read();
    let config = SamplerConfig::read(&data("nano-pipeline/scheduler/scheduler_config.json")).unwrap();
    let sampler = Sampler::new(config.default_kind().unwrap(), &config, records.count("steps")).unwrap();
    let conditions = |prompt: &str| Conditions {
        sampler: sampler.clone(),
        context: context(prompt),
        guidance: records.0["guidance"].as_f64().unwrap() as f32,
    };
    let mut unet = Exported {
        session: runtime().session(&data("nano-pipeline/unet/model.onnx"), 2).unwrap(),
        timesteps: Vec::new(),
        context: HostTensor::from_f32([0], Vec::new()),
    };
    let noise = randn(1024, records.count("seed") as u64);
    let (base, _) = generate(&mut unet, &conditions(records.text("base")), &noise, None, &mut silent).unwrap();
    let new = conditions(records.text("prompt"));
    let (prompt, _) = generate(&mut unet, &new, &noise, None, &mut silent).unwrap();
    let guided = records.count("guide_steps");
    records.assert_close("base", base.last());
    records.assert_close("base_k", base.at(guided));
    records.assert_close("prompt", prompt.last());
    records.assert_close("prompt_k", prompt.at(guided));

    let mask = mask_from_png(&std::fs::read(data("emulation/nano/mask.png")).unwrap()).unwrap();
    let options = EditOptions {
        region: Region::Given(mask),
        mask_from: MaskFrom::Latents,
        control: ControlOptions::default(),
        guide_steps: GuideSteps::Exactly(guided),
        dense: true,
        break_even: 1.0,
        feather: 8,
    };
    let source = Base {
        trajectory: &base,
        slots: &store(),
        map_calls: 0,
    };
    let edited = edit(&mut unet, &new, source, &Words::default(), &options, None, &mut silent).unwrap();
    assert_eq!((edited.outcome, edited.guided_steps), (Outcome::Dense, guided));
    records.assert_close("yardstick", edited.trajectory.last());
}

#[test]
fn latents_become_an_image_and_come_back() {
    let mut decoder = VaeDecoder::open(&runtime(), &data("nano-pipeline/vae_decoder/model.onnx"), 0.18215).unwrap();
    let mut encoder = VaeEncoder::open(&runtime(), &data("nano-pipeline/vae_encoder/model.onnx"), 0.18215).unwrap();
    let latents = HostTensor::from_f32([1, 4, 16, 16], randn(1024, 5));
    let image = decoder.decode(&latents).unwrap();
    assert_eq!((image.width, image.height, image.rgb.len()), (128, 128, 128 * 128 * 3));
    assert_eq!(image, decoder.decode(&latents).unwrap());
    let encoded = encoder.encode(&image, 4).unwrap();
    assert_eq!(encoded.shape().dims(), [1, 4, 16, 16]);
    assert!(encoded.to_f32_vec().iter().all(|value| value.is_finite()));
    assert!(encoder.encode(&image, 3).is_err());
}

#[test]
fn pixels_are_rounded_as_diffusers_does() {
    let values = vec![-2.0, -1.0, 0.0, 1.0, 0.5, 2.0, -0.5, 0.1, 0.2, 0.3, 0.4, 0.6];
    let image = Image::from_tensor(&HostTensor::from_f32([1, 3, 2, 2], values)).unwrap();
    assert_eq!(image.rgb[..3], [0, 191, 153]); // -2, 0.5, 0.2
    assert_eq!(image.rgb[6..9], [128, 64, 178]); // 0 -> 127.5 to even, -0.5, 0.4
    let again = Image::from_tensor(&image.to_tensor()).unwrap();
    assert_eq!(again, image);
}

#[test]
fn a_network_of_another_kind_is_refused() {
    let unet = data("nano-pipeline/unet/model.onnx");
    for error in [
        TextEncoder::open(&runtime(), &unet).err().unwrap(),
        VaeDecoder::open(&runtime(), &unet, 1.0).err().unwrap(),
    ] {
        assert!(error.to_string().contains("one input"), "{error}");
    }
    assert!(TextEncoder::open(&runtime(), &data("no.onnx")).is_err());
}
