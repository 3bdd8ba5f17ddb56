//! The command line as a user meets it: exit status, stdout, stderr, files.

mod bad_input;
mod compile;
mod edits;
mod general;
mod inspect;
mod limits;
mod machine;
mod names;
mod outputs;
mod run;
mod signals;
mod streams;
