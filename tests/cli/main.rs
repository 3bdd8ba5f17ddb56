//! The command line as a user meets it: exit status, stdout, stderr, files.

mod bad_input;
#[path = "../support/cases.rs"]
mod cases;
mod compile;
mod edits;
mod finite;
mod general;
mod guidance;
mod hostile;
mod inspect;
mod kills;
mod limits;
mod machine;
mod models;
mod names;
mod numbers;
#[path = "../support/onnx.rs"]
mod onnx;
#[path = "../support/onnx_edit.rs"]
mod onnx_edit;
mod onnx_file;
mod outputs;
mod parts;
mod run;
mod signals;
mod special_files;
mod store;
mod streams;
mod together;
#[path = "../support/unet.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod unet;
