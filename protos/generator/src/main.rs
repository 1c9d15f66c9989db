//! Generates the `moorgate-protos` crate. Run by hand; never part of a build of the product.
//!
//! ```text
//! cargo run --manifest-path protos/generator/Cargo.toml             # proto/ -> src/gen/
//! cargo run --manifest-path protos/generator/Cargo.toml -- vendor   # crate source -> proto/, then the above
//! ```
//!
//! `vendor` copies what `roots.txt` reaches out of the `envoy-types` source package, comments
//! stripped, into `proto/`. The plain run compiles `proto/` into `src/gen/`: Rust types for what
//! `types.txt` reaches, and one stripped `FileDescriptorSet` for everything.

mod codegen;
mod descriptors;
mod fingerprint;
mod resolve;
mod strip;
mod vendor;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Every fallible step says in words what went wrong; nobody matches on these.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let outcome = match std::env::args().nth(1).as_deref() {
        None => codegen::run(&crate_dir),
        Some("vendor") => vendor::run(&crate_dir).and_then(|()| codegen::run(&crate_dir)),
        Some(other) => Err(format!("unknown command '{other}'; commands: vendor")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("generator: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Reads a root list: one file name a line, `#` starts a comment.
fn read_roots(path: &Path) -> Result<Vec<String>> {
    Ok(read_text(path)?
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    }
    std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}
