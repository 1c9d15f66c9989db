//! Any text as a bootstrap: read, checked, built, shown, and read again.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use moorgate::config::build::{self, Builder, Interner};
use moorgate::config::{
    ConfigError, ParseOptions, ParsedBootstrap, parse_bootstrap_text, to_json,
};
use moorgate::telemetry::log_thread::Logs;
use moorgate::telemetry::registry::Registry;
use moorgate::telemetry::stats::Names;

const FILE: &str = "fuzzed.yaml";

/// Lives as long as the process, as in the program.
static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(Registry::new);

fn read(text: &str, json: bool, lenient: bool) -> Result<ParsedBootstrap, ConfigError> {
    let options = ParseOptions {
        allow_unknown_static_fields: lenient,
    };
    parse_bootstrap_text(FILE, text, Some(json), &options)
}

/// An error says where and why.
fn judge(error: &ConfigError) {
    let said = error.to_string();
    let reason = said.strip_prefix("fuzzed.yaml: ");
    assert!(reason.is_some_and(|reason| !reason.is_empty()), "{said:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for (json, lenient) in [(false, false), (true, true)] {
        let parsed = match read(text, json, lenient) {
            Ok(parsed) => parsed,
            Err(error) => {
                judge(&error);
                continue;
            }
        };
        let shown = to_json(&parsed.bootstrap).expect("what was read can be shown");
        let again = read(&shown, true, false).unwrap_or_else(|error| panic!("{error}: {shown}"));
        // As text: within an `Any` the bytes keep the order of the file.
        let twice = to_json(&again.bootstrap).expect("what was read can be shown");
        assert_eq!(twice, shown);
        // A body that is in a file would read whatever file the fuzzer names.
        if shown.contains("\"filename\"") {
            continue;
        }
        let builder = Builder {
            names: &(Arc::clone(&REGISTRY) as Arc<dyn Names + Send + Sync>),
            ids: &Interner::default(),
            clusters: &Arc::default(),
            // Opens nothing.
            logs: &Logs::dry(&REGISTRY),
            options: build::Options {
                file: FILE,
                ..build::Options::default()
            },
        };
        if let Err(error) = build::build(&parsed.bootstrap, &builder) {
            judge(&error);
        }
    }
});
