//! The VAE: between latents and pixels.

use std::path::Path;

use fisec_runtime::ort::{OnnxRuntime, Session};
use fisec_tensor::{DType, HostTensor};

use crate::{DiffusionError, Image};

/// An ONNX VAE decoder.
pub struct VaeDecoder {
    session: Session,
    scaling_factor: f64,
}

impl VaeDecoder {
    /// Opens `model`. `scaling_factor` is the factor on latents before the denoiser.
    pub fn open(runtime: &OnnxRuntime, model: &Path, scaling_factor: f64) -> Result<Self, DiffusionError> {
        let session = runtime.session(model, 0)?;
        check("VAE decoder", &session)?;
        Ok(VaeDecoder {
            session,
            scaling_factor,
        })
    }

    /// The image of latents `[1, C, h, w]`.
    pub fn decode(&mut self, latents: &HostTensor) -> Result<Image, DiffusionError> {
        let scale = |value: f32| (f64::from(value) / self.scaling_factor) as f32;
        let values = latents.to_f32_vec().into_iter().map(scale).collect();
        let output = run(
            &mut self.session,
            &HostTensor::from_f32(latents.shape().clone(), values),
        )?;
        Image::from_tensor(&output)
    }
}

/// An ONNX VAE encoder.
pub struct VaeEncoder {
    session: Session,
    scaling_factor: f64,
}

impl VaeEncoder {
    /// Opens `model`. `scaling_factor` is the factor on latents before the denoiser.
    pub fn open(runtime: &OnnxRuntime, model: &Path, scaling_factor: f64) -> Result<Self, DiffusionError> {
        let session = runtime.session(model, 0)?;
        check("VAE encoder", &session)?;
        Ok(VaeEncoder {
            session,
            scaling_factor,
        })
    }

    /// The most likely latents `[1, channels, h, w]` of an image. An encoder that gives mean and log variance, twice as
    /// many channels, gives the mean.
    pub fn encode(&mut self, image: &Image, channels: usize) -> Result<HostTensor, DiffusionError> {
        let output = run(&mut self.session, &image.to_tensor())?;
        let [1, found, height, width] = **output.shape() else {
            return Err(unfit(
                "VAE encoder",
                format!("its latents have shape [{}]", output.shape()),
            ));
        };
        if found != channels && found != 2 * channels {
            return Err(unfit(
                "VAE encoder",
                format!("it gives {found} channels, the denoiser takes {channels}"),
            ));
        }
        let scale = |value: f32| (f64::from(value) * self.scaling_factor) as f32;
        let values = output
            .to_f32_vec()
            .into_iter()
            .take(channels * height * width)
            .map(scale);
        Ok(HostTensor::from_f32([1, channels, height, width], values.collect()))
    }
}

fn check(network: &'static str, session: &Session) -> Result<(), DiffusionError> {
    let fits = session.inputs().len() == 1 && session.inputs()[0].dtype.is_float() && !session.outputs().is_empty();
    if fits {
        Ok(())
    } else {
        Err(unfit(
            network,
            "it should have one input of floats and an output".into(),
        ))
    }
}

fn unfit(network: &'static str, reason: String) -> DiffusionError {
    DiffusionError::Network { network, reason }
}

/// First input to first output, in f32 on both sides.
fn run(session: &mut Session, value: &HostTensor) -> Result<HostTensor, DiffusionError> {
    let (input, dtype) = (session.inputs()[0].name.clone(), session.inputs()[0].dtype);
    let output = session.outputs()[0].name.clone();
    let mut outputs = session.run(&[(&input, &value.cast(dtype))], &[&output])?;
    Ok(outputs.swap_remove(0).cast(DType::F32))
}
