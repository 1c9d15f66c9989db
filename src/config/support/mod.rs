//! Which fields of Envoy's API Moorgate honours, message by message.
//!
//! The tables are the whole truth: a field that is not in the table of its message is refused when
//! it is set, and a message without a table is refused where it stands. Putting a field in here is
//! a promise that something reads it.

mod access_log;
mod bootstrap;
mod cluster;
#[cfg(test)]
mod document;
mod http;
mod listener;
mod route;
mod tls;

/// What happens to a field that is set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// It is honoured. Messages in it are looked up in the tables.
    Yes,
    /// It is accepted, has no effect, and is named at start. For what cannot change which bytes go
    /// where: names for people, hints about memory, statistics.
    Ignored,
    /// It may be said, but only to have it off.
    Off,
    /// It may be said, but only to have it on.
    On,
    /// Honoured for these values of the enum.
    Values(&'static [&'static str]),
    /// Holds an `Any`, itself or further down, and these types are honoured in it. None: those
    /// that the field around this message names.
    Types(&'static [&'static str]),
    /// Honoured; the message in it follows this table instead of the usual one.
    As(&'static Support),
    /// A `Struct` of runtime keys, of which these are honoured.
    Runtime(&'static [&'static str]),
}

/// The table of one message.
#[derive(Debug)]
pub(super) struct Support {
    /// Full name of the message.
    pub(super) message: &'static str,
    /// Field names and what happens to them.
    pub(super) fields: &'static [(&'static str, Rule)],
}

impl Support {
    pub(super) fn rule(&self, field: &str) -> Option<Rule> {
        self.fields
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, rule)| *rule)
    }
}

/// Starts of runtime keys that switch details of Envoy's own code, and mean nothing here.
pub(super) const FOREIGN_RUNTIME_KEYS: &[&str] = &[
    "envoy.reloadable_features.",
    "envoy.restart_features.",
    "re2.",
];

/// All tables that are found by message name.
pub(super) fn tables() -> impl Iterator<Item = &'static Support> {
    [
        bootstrap::TABLES,
        listener::TABLES,
        http::TABLES,
        route::TABLES,
        cluster::TABLES,
        access_log::TABLES,
        tls::TABLES,
    ]
    .into_iter()
    .flatten()
}
