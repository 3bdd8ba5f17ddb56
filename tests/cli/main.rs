//! The command line as a user meets it: exit status, stdout, stderr, files.

mod bad_input;
mod compile;
mod edits;
mod finite;
mod general;
mod guidance;
mod inspect;
mod machine;
#[path = "../support/onnx_edit.rs"]
mod onnx_edit;
mod run;
