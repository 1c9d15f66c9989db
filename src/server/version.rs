//! Which build this is, in the shape that tools parse.

/// Version of the package.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// Commit this was built from, when the build said so.
pub const REVISION: &str = match option_env!("MOORGATE_REVISION") {
    Some(revision) => revision,
    None => "0000000000000000000000000000000000000000",
};

/// `Clean` or `Modified` work tree, or a `Distribution` that knows of none.
pub const STATUS: &str = match option_env!("MOORGATE_REVISION_STATUS") {
    Some(status) => status,
    None => "Distribution",
};

/// How it was compiled.
pub const BUILD: &str = if cfg!(debug_assertions) {
    "DEBUG"
} else {
    "RELEASE"
};

/// TLS library.
pub const TLS: &str = "none";

/// `revision/version/status/build/tls`, as in `/server_info`.
#[must_use]
pub fn full() -> String {
    format!("{REVISION}/{NUMBER}/{STATUS}/{BUILD}/{TLS}")
}

/// The first 24 bits of the revision, as the gauge `server.version` has it.
#[must_use]
pub fn gauge() -> i64 {
    REVISION
        .get(..6)
        .and_then(|digits| i64::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
}
