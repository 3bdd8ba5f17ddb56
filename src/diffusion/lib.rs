//! fisec-diffusion
