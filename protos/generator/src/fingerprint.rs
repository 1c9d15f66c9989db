//! A hash over files, recorded beside the generated code so that a cheap test sees when inputs,
//! generator and outputs are no longer of one run. Not meant to resist anybody.

use std::path::{Path, PathBuf};

/// What the generated code is made from, relative to the crate.
pub(crate) const INPUTS: &[&str] = &[
    "proto",
    "roots.txt",
    "types.txt",
    "generator/src",
    "generator/Cargo.toml",
    "generator/Cargo.lock",
];

/// Where the generated code lies, relative to the crate.
pub(crate) const OUTPUT: &str = "src/gen";

/// The file in [`OUTPUT`] that records the fingerprint.
pub(crate) const RECORD: &str = "FINGERPRINT";

/// The text of [`RECORD`] for the files as they are now.
///
/// # Errors
/// The path that cannot be read, and why.
pub(crate) fn record(crate_dir: &Path) -> Result<String, String> {
    let outputs: Vec<PathBuf> = files(&crate_dir.join(OUTPUT))?
        .into_iter()
        .filter(|path| !path.ends_with(RECORD))
        .collect();
    let mut inputs = Vec::new();
    for input in INPUTS {
        inputs.extend(files(&crate_dir.join(input))?);
    }
    let inputs = hash(crate_dir, &inputs)?;
    let outputs = hash(crate_dir, &outputs)?;
    Ok(format!("inputs {inputs:016x}\noutputs {outputs:016x}\n"))
}

/// All files below `path` (or `path` itself), sorted.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))? {
        let entry = entry.map_err(|e| format!("{}: {e}", path.display()))?;
        found.extend(files(&entry.path())?);
    }
    found.sort();
    Ok(found)
}

/// FNV-1a, 64 bit, over names and contents.
fn hash(base: &Path, files: &[PathBuf]) -> Result<u64, String> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for &byte in bytes {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for file in files {
        let name = file.strip_prefix(base).unwrap_or(file);
        let content = std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
        feed(name.to_string_lossy().as_bytes());
        feed(&(content.len() as u64).to_le_bytes());
        feed(&content);
    }
    Ok(state)
}
