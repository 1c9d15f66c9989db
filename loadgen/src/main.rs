//! Arguments to one of the three programs. Nothing else.

use clap::Parser;
use moorgate_load::cli::{Cli, Command};

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(options) => moorgate_load::serve::main(&options),
        Command::Run(options) => moorgate_load::run::main(&options),
        Command::Hold(options) => moorgate_load::hold::main(&options),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moorgate-load: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
