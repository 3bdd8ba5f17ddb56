//! Launching `latent_update`.

use bytemuck::{Pod, Zeroable};

use super::{Address, Launch};

/// One step of a sampler; see the kernel's README.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)]
pub struct StepCoefficients {
    pub guidance: f32,
    pub x_x: f32,
    pub x_e: f32,
    pub x_h: [f32; 3],
    pub h_x: f32,
    pub h_e: f32,
    pub input_scale: f32,
    pub reserved: [f32; 3],
}

/// Parameters of `latent_update`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct UpdateParams {
    /// f32 `[pixels][4]`
    pub latent: Address,
    /// likewise, written
    pub updated: Address,
    /// f16 `[2][rows][prediction_stride]`
    pub prediction: Address,
    /// f32 `[pixels][4]`, newest first
    pub history: [Address; 3],
    /// the new entry
    pub history_out: Address,
    /// the base image's latent after this step
    pub recorded: Address,
    /// likewise its history
    pub recorded_history: Address,
    /// f16 `[2][pixels][input_stride]`, the next model input
    pub input: Address,
    /// i32 `[pixels]`: row of the prediction, -1 outside the mask; absent: row = pixel
    pub ranks: u64,
    /// [`StepCoefficients`] per step
    pub coefficients: u64,
    /// i32: the step
    pub step: u64,
    /// this step's table
    pub slots: u64,
    /// latents of one image
    pub pixels: i32,
    /// rows of the prediction of one image
    pub rows: i32,
    /// elements
    pub prediction_stride: i32,
    /// elements
    pub input_stride: i32,
}

/// A sampler's step.
pub fn latent_update(params: &UpdateParams) -> Launch {
    let grid = [(params.pixels as usize).div_ceil(128), 1, 1];
    Launch::new("latent", "latent_update", grid, 128, params)
}
