//! The command line as a user meets it: exit status, stdout, stderr, files.

mod bad_input;
#[path = "../support/cases.rs"]
mod cases;
mod compile;
mod edits;
mod general;
mod inspect;
mod kills;
mod machine;
mod models;
mod onnx_file;
mod parts;
mod run;
mod store;
mod together;
#[path = "../support/unet.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod unet;
