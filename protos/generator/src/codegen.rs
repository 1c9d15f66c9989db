//! Compiles `proto/` into `src/gen/`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Result, descriptors, fingerprint, read_roots, write};

pub fn run(crate_dir: &Path) -> Result<()> {
    let roots = read_roots(&crate_dir.join("roots.txt"))?;
    let types = read_roots(&crate_dir.join("types.txt"))?;
    let all: BTreeSet<&String> = roots.iter().chain(&types).collect();

    let mut compiler =
        protox::Compiler::new([crate_dir.join("proto")]).map_err(|e| format!("{e:?}"))?;
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(all).map_err(|e| format!("{e:?}"))?;
    let descriptors = descriptors::strip(&compiler.encode_file_descriptor_set())?;
    let mut files = compiler.file_descriptor_set();
    let messages: usize = files.file.iter().map(|file| file.message_type.len()).sum();
    println!(
        "descriptors: {} files, {messages} top-level messages, {} bytes",
        files.file.len(),
        descriptors.len()
    );

    refuse_json_names(&files)?;
    let reached = closure(&files, &types);
    files
        .file
        .retain(|file| reached.contains(file.name()) && !is_option_package(file.package()));
    println!("types: {} files", files.file.len());

    let out_dir = crate_dir.join(fingerprint::OUTPUT);
    if out_dir.is_dir() {
        std::fs::remove_dir_all(&out_dir).map_err(|e| format!("{}: {e}", out_dir.display()))?;
    }
    std::fs::create_dir_all(&out_dir).map_err(|e| format!("{}: {e}", out_dir.display()))?;
    prost_build::Config::new()
        .out_dir(&out_dir)
        .include_file("mod.rs")
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .bytes(["."])
        .skip_debug(["."])
        .disable_comments(["."])
        .compile_fds(files)
        .map_err(|e| format!("prost-build: {e}"))?;
    write(&out_dir.join("descriptors.bin"), &descriptors)?;
    write(
        &out_dir.join(fingerprint::RECORD),
        fingerprint::record(crate_dir)?.as_bytes(),
    )
}

/// The names of `roots` and of everything they import.
fn closure(files: &prost_types::FileDescriptorSet, roots: &[String]) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut pending = roots.to_vec();
    while let Some(name) = pending.pop() {
        if let Some(file) = files.file.iter().find(|file| file.name() == name) {
            pending.extend(
                file.dependency
                    .iter()
                    .filter(|dep| !reached.contains(*dep))
                    .cloned(),
            );
        }
        reached.insert(name);
    }
    reached
}

/// Packages that only declare options: read from the descriptors, never as Rust types.
fn is_option_package(package: &str) -> bool {
    package == "validate" || package.contains(".annotations")
}

/// The descriptors drop `json_name`, so it has to be what the field name makes of itself.
fn refuse_json_names(files: &prost_types::FileDescriptorSet) -> Result<()> {
    let mut pending: Vec<_> = files
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .collect();
    while let Some(message) = pending.pop() {
        pending.extend(&message.nested_type);
        for field in &message.field {
            let mut camel = String::new();
            for part in field.name().split('_') {
                match part.chars().next() {
                    Some(first) if !camel.is_empty() || field.name().starts_with('_') => {
                        camel.push(first.to_ascii_uppercase());
                        camel.push_str(&part[1..]);
                    }
                    _ => camel.push_str(part),
                }
            }
            if field.json_name() != camel {
                return Err(format!(
                    "{}.{} has a json_name of its own",
                    message.name(),
                    field.name()
                ));
            }
        }
    }
    Ok(())
}
