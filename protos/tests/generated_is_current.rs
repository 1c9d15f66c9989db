//! The generated code, its inputs and the generator belong to one run.
//!
//! Cheap on purpose: compares recorded hashes. `generator/check.sh` regenerates and compares files.

#[path = "../generator/src/fingerprint.rs"]
mod fingerprint;

use std::path::Path;

use moorgate_protos::envoy::config::bootstrap::v3::Bootstrap;
use moorgate_protos::{Message as _, Name as _};

#[test]
fn inputs_and_outputs_are_of_one_run() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = std::fs::read_to_string(
        crate_dir
            .join(fingerprint::OUTPUT)
            .join(fingerprint::RECORD),
    );
    assert_eq!(
        recorded.expect("the record is checked in"),
        fingerprint::record(crate_dir).expect("every input is readable"),
        "run: cargo run --manifest-path protos/generator/Cargo.toml"
    );
}

#[test]
fn types_carry_their_full_names() {
    assert_eq!(
        Bootstrap::full_name(),
        "envoy.config.bootstrap.v3.Bootstrap"
    );
    assert_eq!(
        Bootstrap::type_url(),
        "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap"
    );
}

#[test]
fn the_descriptor_set_is_valid_and_closed() {
    let set = prost_types::FileDescriptorSet::decode(moorgate_protos::DESCRIPTORS)
        .expect("a valid descriptor set");
    let names: std::collections::HashSet<&str> = set.file.iter().map(|f| f.name()).collect();
    for file in &set.file {
        for import in &file.dependency {
            assert!(
                names.contains(import.as_str()),
                "{} lacks {import}",
                file.name()
            );
        }
    }
    assert!(names.contains("udpa/type/v1/typed_struct.proto"));
}
