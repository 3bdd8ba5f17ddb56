//! What several end-to-end tests share.
#![allow(dead_code, reason = "each test uses its part")]

pub mod cases;
pub mod compare;
pub mod image;
pub mod masks;
pub mod options;
pub mod unet;
