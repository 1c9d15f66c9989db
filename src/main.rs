//! Arguments to server. Nothing else.

mod allocator;

use std::io::Write;
use std::process::ExitCode;

use moorgate::server::cli::{Command, Options};

fn main() -> ExitCode {
    match Options::read(std::env::args_os()) {
        Command::Run(options) => moorgate::server::run(*options),
        Command::Print(text) => {
            // Nobody is left to be told when standard output is gone.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Command::Refuse(text) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
