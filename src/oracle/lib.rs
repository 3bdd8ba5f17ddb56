//! The oracle: an interpreter of the IR on dense tensors in `f64`, slow and obviously right.
//!
//! It defines what the sparse operators mean: an active value is [poison](POISON) outside its mask, so that whoever reads
//! it there is found out; a scatter is `where(A, x, base)`, poison beyond its demand. It knows tensors and masks and
//! nothing of tiles, gathers or memory layout, so it cannot share a mistake with a backend.

mod compare;
mod error;
mod masks;
mod math;
mod onnx;
mod oracle;
mod semantic;
mod tensor;

pub use compare::{Difference, RandomData, compare, difference, random_data};
pub use error::OracleError;
pub use masks::{POISON, levels};
pub use oracle::{Oracle, Run};
pub use tensor::Tensor;
