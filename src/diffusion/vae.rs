//! The VAE: between latents and pixels.

use std::path::Path;

use fisec_plan::NetworkKind;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{Area, HostTensor};

use crate::network::Network;
use crate::{DiffusionError, Image};

/// A VAE decoder.
pub struct VaeDecoder {
    network: Network,
    scaling_factor: f64,
}

impl VaeDecoder {
    /// Opens the ONNX file `model`. `scaling_factor` is the factor on latents before the denoiser.
    pub fn open(runtime: &OnnxRuntime, model: &Path, scaling_factor: f64) -> Result<Self, DiffusionError> {
        let network = Network::open(runtime, model, NetworkKind::VaeDecoder)?;
        Ok(VaeDecoder::of(network, scaling_factor))
    }

    pub(crate) fn of(network: Network, scaling_factor: f64) -> Self {
        VaeDecoder {
            network,
            scaling_factor,
        }
    }

    /// The image of latents `[1, C, h, w]`.
    pub fn decode(&mut self, latents: &HostTensor) -> Result<Image, DiffusionError> {
        let scaled = self.scaled(latents);
        self.network.image(&scaled)
    }

    /// The image of latents `[1, C, h, w]` in an area of latents, with the area that is shown: at least that one. `norms` are
    /// those of a whole image. `None` where only the whole can be made.
    pub(crate) fn decode_part(
        &mut self,
        latents: &HostTensor,
        area: &Area,
        norms: &HostTensor,
    ) -> Result<Option<(Image, Area)>, DiffusionError> {
        let scaled = self.scaled(latents);
        self.network.part(&scaled, area, norms)
    }

    fn scaled(&self, latents: &HostTensor) -> HostTensor {
        let scale = |value: f32| (f64::from(value) / self.scaling_factor) as f32;
        let values = latents.to_f32_vec().into_iter().map(scale).collect();
        HostTensor::from_f32(latents.shape().clone(), values)
    }

    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }
}

/// A VAE encoder.
pub struct VaeEncoder {
    network: Network,
    scaling_factor: f64,
}

impl VaeEncoder {
    /// Opens the ONNX file `model`. `scaling_factor` is the factor on latents before the denoiser.
    pub fn open(runtime: &OnnxRuntime, model: &Path, scaling_factor: f64) -> Result<Self, DiffusionError> {
        let network = Network::open(runtime, model, NetworkKind::VaeEncoder)?;
        Ok(VaeEncoder::of(network, scaling_factor))
    }

    pub(crate) fn of(network: Network, scaling_factor: f64) -> Self {
        VaeEncoder {
            network,
            scaling_factor,
        }
    }

    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// The most likely latents `[1, channels, h, w]` of an image. An encoder that gives mean and log variance, twice as
    /// many channels, gives the mean.
    pub fn encode(&mut self, image: &Image, channels: usize) -> Result<HostTensor, DiffusionError> {
        let output = self.network.run(&image.to_tensor())?;
        let [1, found, height, width] = **output.shape() else {
            return Err(unfit(format!("its latents have shape [{}]", output.shape())));
        };
        if found != channels && found != 2 * channels {
            return Err(unfit(format!(
                "it gives {found} channels, the denoiser takes {channels}"
            )));
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

fn unfit(reason: String) -> DiffusionError {
    DiffusionError::Network {
        network: NetworkKind::VaeEncoder.title(),
        reason,
    }
}
