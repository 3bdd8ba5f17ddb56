//! Fold neighbours into the operators that can do their work on the way.

mod conv_epilogue;
mod conv_prologue;
mod fold_upsample;
mod linear;
mod operands;
mod sink_views;

pub use conv_epilogue::fuse_conv_epilogue;
pub use conv_prologue::fuse_conv_prologue;
pub use fold_upsample::fold_upsample;
pub use linear::fuse_linear;
pub use sink_views::sink_views;
