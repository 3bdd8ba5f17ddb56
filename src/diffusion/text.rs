//! The text encoder: token ids to the embedding that the denoiser attends to.

use std::path::Path;

use fisec_plan::NetworkKind;
use fisec_runtime::ort::OnnxRuntime;
use fisec_tensor::{DType, HostTensor};

use crate::DiffusionError;
use crate::network::Network;

const NETWORK: &str = "text encoder";

/// A text encoder.
pub struct TextEncoder {
    network: Network,
}

impl TextEncoder {
    /// Opens the ONNX file `model`. Its integer input takes the ids; [`NetworkKind::output`] says which output is
    /// read.
    pub fn open(runtime: &OnnxRuntime, model: &Path) -> Result<Self, DiffusionError> {
        Ok(TextEncoder {
            network: Network::open(runtime, model, NetworkKind::TextEncoder)?,
        })
    }

    pub(crate) fn of(network: Network) -> Self {
        TextEncoder { network }
    }

    /// The embedding `[1, tokens, width]`, f32, of one prompt's ids.
    pub fn encode(&mut self, ids: &[u32]) -> Result<HostTensor, DiffusionError> {
        let values = ids.iter().map(|&id| i64::from(id)).collect();
        let embedding = self.network.run(&HostTensor::from_i64([1, ids.len()], values))?;
        let [images, tokens, width] = **embedding.shape() else {
            let reason = format!("its output has shape [{}]", embedding.shape());
            return Err(DiffusionError::Network {
                network: NETWORK,
                reason,
            });
        };
        let bytes = embedding.data().len() / images.max(1);
        Ok(HostTensor::new(
            DType::F32,
            [1, tokens, width],
            embedding.data().slice(..bytes),
        )?)
    }

    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }
}

/// `embedding` with every token's distance from that of the empty prompt scaled by its weight: 1 leaves it, 0 makes the
/// token say nothing. Both are `[1, tokens, width]`; the rule is ComfyUI's.
pub fn emphasised(embedding: &HostTensor, empty: &HostTensor, weights: &[f32]) -> HostTensor {
    let width = embedding.shape().last().copied().unwrap_or(1).max(1);
    let pairs = embedding.to_f32_vec().into_iter().zip(empty.to_f32_vec());
    let scaled = pairs.enumerate().map(|(index, (value, nothing))| {
        let weight = weights.get(index / width).copied().unwrap_or(1.0);
        nothing + (value - nothing) * weight
    });
    HostTensor::from_f32(embedding.shape().clone(), scaled.collect())
}

/// `[2, tokens, width]` for guidance: unconditional first.
pub fn guidance_context(negative: &HostTensor, prompt: &HostTensor) -> Result<HostTensor, DiffusionError> {
    let [1, tokens, width] = **prompt.shape() else {
        let reason = format!("its output has shape [{}]", prompt.shape());
        return Err(DiffusionError::Network {
            network: NETWORK,
            reason,
        });
    };
    let halves = [negative.data().as_ref(), prompt.data().as_ref()].concat();
    Ok(HostTensor::new(DType::F32, [2, tokens, width], halves.into())?)
}
