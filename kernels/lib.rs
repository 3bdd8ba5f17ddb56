//! fisec-kernels
