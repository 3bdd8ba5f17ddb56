//! The command line of fisec.

// As in every crate of the workspace; this package's integration tests may print.
#![deny(clippy::print_stderr, clippy::print_stdout)]
#![warn(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod cli;

#[global_allocator]
static MEMORY: cli::internal::Memory = cli::internal::Memory;

fn main() -> std::process::ExitCode {
    cli::main()
}
