//! The command line of fisec.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
