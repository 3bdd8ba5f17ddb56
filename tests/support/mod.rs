//! What several end-to-end tests share.
#![allow(dead_code, reason = "each test uses its part")]

pub mod compare;
pub mod masks;
pub mod unet;
