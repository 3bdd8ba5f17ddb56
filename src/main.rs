//! The command line of fisec.

mod cli;

#[global_allocator]
static MEMORY: cli::internal::Memory = cli::internal::Memory;

fn main() -> std::process::ExitCode {
    cli::main()
}
