//! Kernels of fisec: CUDA sources with their launchers, and the CPU kernels.

pub mod cpu;
pub mod cuda;
