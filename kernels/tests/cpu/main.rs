//! CPU kernels against plain loops in f64.

mod attention;
mod conv;
mod data;
mod linear;
mod norms;
mod rows;
