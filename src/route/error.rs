//! Why a route table could not be built. Each error names what was wrong, so that the configuration
//! can say in which field.

use std::fmt;

/// A part of a route configuration that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// A domain that another virtual host (or the same one) already has.
    DuplicateDomain { domain: String, host: String },
    /// A second virtual host with the domain `*`.
    DuplicateDefault { host: String },
    /// A virtual host name used twice.
    DuplicateHost { host: String },
    /// A domain with a wildcard that is neither first nor last, or an empty one.
    InvalidDomain { domain: String, host: String },
    /// A virtual host without domains.
    NoDomains { host: String },
    /// An expression that does not compile.
    Regex { pattern: String, reason: String },
    /// A replacement that names a group the expression does not have, or is malformed.
    Substitution { text: String, reason: &'static str },
    /// A header name that is empty, has characters names cannot have, or may not be changed.
    HeaderName { name: String, reason: &'static str },
    /// A header value with characters that values cannot have.
    HeaderValue { name: String },
    /// A format string with an unknown operator or bad arguments.
    Format {
        text: String,
        operator: String,
        reason: &'static str,
    },
    /// Weighted clusters whose weights sum to zero or above 2^32 - 1.
    Weights { total: u64 },
    /// A path condition or rewrite that cannot be served.
    Path { path: String, reason: &'static str },
    /// A status outside of what the field takes.
    Status { status: u16 },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateDomain { domain, host } => write!(
                f,
                "only unique values for domains are permitted: '{domain}' of virtual host '{host}' \
                 appears twice"
            ),
            Self::DuplicateDefault { host } => write!(
                f,
                "only a single virtual host may have the domain '*': '{host}' is a second one"
            ),
            Self::DuplicateHost { host } => {
                write!(f, "virtual host name '{host}' is used twice")
            }
            Self::InvalidDomain { domain, host } => write!(
                f,
                "domain '{domain}' of virtual host '{host}' is empty or has a wildcard that is \
                 neither its first nor its last character"
            ),
            Self::NoDomains { host } => write!(f, "virtual host '{host}' has no domains"),
            Self::Regex { pattern, reason } => {
                write!(f, "expression '{pattern}' does not compile: {reason}")
            }
            Self::Substitution { text, reason } => write!(f, "substitution '{text}': {reason}"),
            Self::HeaderName { name, reason } => write!(f, "header '{name}': {reason}"),
            Self::HeaderValue { name } => write!(
                f,
                "value of header '{name}' contains a NUL, carriage return or line feed"
            ),
            Self::Format {
                text,
                operator,
                reason,
            } => write!(f, "format '{text}': operator '{operator}': {reason}"),
            Self::Weights { total } => write!(
                f,
                "the weights of weighted_clusters sum to {total}; it has to be between 1 and \
                 4294967295"
            ),
            Self::Path { path, reason } => write!(f, "path '{path}': {reason}"),
            Self::Status { status } => write!(f, "status {status} cannot be used here"),
        }
    }
}

impl std::error::Error for BuildError {}
