//! The text encoder: token ids to the embedding that the denoiser attends to.

use std::path::Path;

use fisec_runtime::ort::{OnnxRuntime, Outlet, Session};
use fisec_tensor::{DType, HostTensor};

use crate::DiffusionError;

const NETWORK: &str = "text encoder";

/// An ONNX text encoder.
pub struct TextEncoder {
    session: Session,
    input: Outlet,
    output: String,
}

impl TextEncoder {
    /// Opens `model`. Its integer input takes the ids; its output is `last_hidden_state`, or the first of rank 3.
    pub fn open(runtime: &OnnxRuntime, model: &Path) -> Result<Self, DiffusionError> {
        let session = runtime.session(model, 0)?;
        let refuse = |reason: &str| DiffusionError::Network {
            network: NETWORK,
            reason: reason.into(),
        };
        let [input] = session.inputs() else {
            return Err(refuse("it should have one input, token ids"));
        };
        if !matches!(input.dtype, DType::I32 | DType::I64) {
            return Err(refuse("its input should be 32-bit or 64-bit token ids"));
        }
        let named = session
            .outputs()
            .iter()
            .find(|output| output.name == "last_hidden_state");
        let output = named
            .or_else(|| session.outputs().iter().find(|output| output.dims.len() == 3))
            .ok_or_else(|| refuse("it has no output [batch, tokens, width]"))?;
        Ok(TextEncoder {
            input: input.clone(),
            output: output.name.clone(),
            session,
        })
    }

    /// The embedding `[1, tokens, width]`, f32, of one prompt's ids.
    pub fn encode(&mut self, ids: &[u32]) -> Result<HostTensor, DiffusionError> {
        let batch = self.input.dims.first().copied().flatten().unwrap_or(1).max(1);
        let values = ids
            .iter()
            .map(|&id| i64::from(id))
            .cycle()
            .take(batch * ids.len())
            .collect();
        let ids = HostTensor::from_i64([batch, ids.len()], values).cast(self.input.dtype);
        let outputs = self.session.run(&[(&self.input.name, &ids)], &[&self.output])?;
        let embedding = outputs[0].cast(DType::F32);
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
