//! The command line as a user meets it: exit status, stdout, stderr, files.

mod bad_input;
mod compile;
mod edits;
mod general;
mod hostile;
mod inspect;
mod machine;
mod numbers;
#[path = "../support/onnx.rs"]
mod onnx;
mod run;
mod special_files;
