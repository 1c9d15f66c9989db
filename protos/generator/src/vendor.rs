//! Copies .proto files out of the `envoy-types` source package into `proto/`.
//!
//! The package is only read; it is never compiled, because it depends on tokio. Files it lacks
//! come from `generator/extra/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::resolve::{imports_of, package_of, qualify};
use crate::strip::strip_comments;
use crate::{Result, read_roots, read_text, write};

const PACKAGE: &str = "envoy-types";
const VERSION: &str = "0.7.7";

/// The include directories of the package, in the order they are searched.
const INCLUDES: &[&str] = &[
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "client_model",
    "opentelemetry-proto",
    "cel-spec/proto",
];

pub fn run(crate_dir: &Path) -> Result<()> {
    let package = locate()?;
    let mut includes: Vec<PathBuf> = INCLUDES
        .iter()
        .map(|dir| package.join("proto").join(dir))
        .collect();
    includes.push(crate_dir.join("generator/extra"));

    let mut pending = read_roots(&crate_dir.join("roots.txt"))?;
    pending.extend(read_roots(&crate_dir.join("types.txt"))?);
    let mut files = BTreeMap::new();
    while let Some(name) = pending.pop() {
        // protox carries google/protobuf itself.
        if name.starts_with("google/protobuf/") || files.contains_key(&name) {
            continue;
        }
        let path = includes
            .iter()
            .map(|dir| dir.join(&name))
            .find(|path| path.is_file())
            .ok_or_else(|| format!("{name} is in no include directory"))?;
        let source = strip_comments(&read_text(&path)?);
        pending.extend(imports_of(&source).map(str::to_owned));
        files.insert(name, source);
    }

    let out_dir = crate_dir.join("proto");
    remove_protos(&out_dir)?;
    for (name, source) in &files {
        let imported: BTreeSet<&str> = imports_of(source)
            .map(|import| match files.get(import) {
                Some(file) => package_of(file).unwrap_or_default(),
                None => "google.protobuf",
            })
            .collect();
        let imported: Vec<String> = imported.into_iter().map(str::to_owned).collect();
        write(&out_dir.join(name), qualify(source, &imported).as_bytes())?;
    }
    std::fs::copy(package.join("LICENSE"), out_dir.join("LICENSE"))
        .map_err(|e| format!("LICENSE: {e}"))?;
    println!("proto/: {} files from {PACKAGE} {VERSION}", files.len());
    Ok(())
}

/// The unpacked source of the package in cargo's registry. `cargo info` downloads and unpacks one
/// package without resolving, let alone building, what it depends on.
fn locate() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["info", "--quiet", &format!("{PACKAGE}@{VERSION}")])
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|e| format!("cargo info: {e}"))?;
    if !status.success() {
        return Err(format!("cargo info {PACKAGE}@{VERSION} failed"));
    }
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let sources = cargo_home.join("registry/src");
    std::fs::read_dir(&sources)
        .map_err(|e| format!("{}: {e}", sources.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join(format!("{PACKAGE}-{VERSION}"))))
        .find(|path| path.is_dir())
        .ok_or_else(|| format!("{PACKAGE}-{VERSION} is not below {}", sources.display()))
}

/// Empties `proto/` but keeps what was written by hand (NOTICE).
fn remove_protos(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            std::fs::remove_dir_all(entry.path()).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
    }
    Ok(())
}
