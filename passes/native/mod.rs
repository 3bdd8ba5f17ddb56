//! What a device without ONNX Runtime needs: dense operators in the form in which kernels take them.

mod record_coefficients;
mod spell_norms;

pub use record_coefficients::record_coefficients;
pub use spell_norms::spell_norms;
