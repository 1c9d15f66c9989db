//! Log levels and the components that have one each.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much is said. Ordered: a message is written when its level is at least that of its component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// What happens once.
    #[default]
    Info,
    /// Something is not as it should be.
    Warning,
    /// Something failed.
    Error,
    /// The process cannot go on. Such messages go to standard error directly; at this level the log
    /// has none.
    Critical,
    /// Nothing.
    Off,
}

/// All levels, from the most talkative.
pub const LEVELS: [Level; 7] = [
    Level::Trace,
    Level::Debug,
    Level::Info,
    Level::Warning,
    Level::Error,
    Level::Critical,
    Level::Off,
];

impl Level {
    /// The name, as Envoy has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// A level by name; `warn` is `warning`.
    ///
    /// # Errors
    /// There is no such level.
    pub fn parse(name: &str) -> Result<Self, String> {
        let name = if name == "warn" { "warning" } else { name };
        LEVELS
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| format!("invalid log level specified '{name}'"))
    }

    pub(super) fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Components, named as Envoy's where there is one, and the modules that belong to them. A message
/// whose target is a component's name belongs to that; the longest module decides for others.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("admin", &["moorgate::admin"]),
    ("config", &["moorgate::config"]),
    ("connection", &["moorgate::engine"]),
    ("dns", &["moorgate::cluster::dns"]),
    ("file", &["moorgate::telemetry"]),
    ("filter", &["moorgate::filter"]),
    ("hc", &["moorgate::cluster::health"]),
    ("http", &["moorgate::proxy", "moorgate_codecs"]),
    ("main", &["moorgate::server", "moorgate::main"]),
    ("misc", &[]),
    ("pool", &["moorgate::proxy::pool"]),
    ("router", &["moorgate::route", "moorgate::proxy::upstream"]),
    ("tcp", &["moorgate::proxy::tcp"]),
    ("upstream", &["moorgate::cluster"]),
];

/// Number of components.
const COUNT: usize = COMPONENTS.len();
/// What belongs to no other.
const MISC: usize = 9;

/// A component by name.
pub(super) fn by_name(name: &str) -> Option<usize> {
    COMPONENTS.iter().position(|(known, _)| *known == name)
}

/// The component of a message's target.
pub(super) fn of_target(target: &str) -> usize {
    if let Some(component) = by_name(target) {
        return component;
    }
    let below = |module: &str| {
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let candidates = COMPONENTS
        .iter()
        .enumerate()
        .flat_map(|(component, entry)| {
            let modules = entry.1.iter().filter(|module| below(module));
            modules.map(move |module| (module.len(), component))
        });
    candidates.max().map_or(MISC, |(_, component)| component)
}

/// Name of a component.
pub(super) fn name(component: usize) -> &'static str {
    COMPONENTS.get(component).map_or("misc", |entry| entry.0)
}

/// Levels asked for by component: `upstream:debug,config:trace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentLevels(pub Vec<(String, Level)>);

impl ComponentLevels {
    /// Reads a list of `component:level`.
    ///
    /// # Errors
    /// Names the entry that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = text.split(',').filter(|entry| !entry.is_empty());
        let parse = |entry: &str| {
            let (component, level) = entry
                .split_once(':')
                .ok_or_else(|| format!("component log level not correctly specified '{entry}'"))?;
            if by_name(component).is_none() {
                return Err(format!("invalid component specified '{component}'"));
            }
            Ok((component.to_owned(), Level::parse(level)?))
        };
        Ok(Self(entries.map(parse).collect::<Result<_, String>>()?))
    }
}

impl fmt::Display for ComponentLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (component, level)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{component}:{level}")?;
        }
        Ok(())
    }
}

/// The levels in force.
#[derive(Debug)]
pub(super) struct Levels([AtomicU8; COUNT]);

impl Levels {
    pub(super) fn new(level: Level) -> Self {
        Self([const { AtomicU8::new(0) }; COUNT]).with(level)
    }

    fn with(self, level: Level) -> Self {
        self.set_all(level);
        self
    }

    pub(super) fn get(&self, component: usize) -> Level {
        let level = self
            .0
            .get(component)
            .map_or(2, |level| level.load(Ordering::Relaxed));
        LEVELS.get(usize::from(level)).copied().unwrap_or_default()
    }

    pub(super) fn set(&self, component: usize, level: Level) {
        if let Some(slot) = self.0.get(component) {
            slot.store(level as u8, Ordering::Relaxed);
        }
    }

    pub(super) fn set_all(&self, level: Level) {
        (0..COUNT).for_each(|component| self.set(component, level));
    }

    /// The most talkative of all.
    pub(super) fn lowest(&self) -> Level {
        (0..COUNT)
            .map(|component| self.get(component))
            .min()
            .unwrap_or_default()
    }

    pub(super) fn all(&self) -> Vec<(&'static str, Level)> {
        (0..COUNT)
            .map(|component| (name(component), self.get(component)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_find_their_component() {
        for (target, component) in [
            ("upstream", "upstream"),
            ("moorgate::cluster", "upstream"),
            ("moorgate::cluster::manager", "upstream"),
            ("moorgate::cluster::dns", "dns"),
            ("moorgate::cluster::dns::stub", "dns"),
            ("moorgate::proxy::tcp", "tcp"),
            ("moorgate::proxy::stream", "http"),
            ("moorgate::clusters", "misc"),
            ("mio::poll", "misc"),
        ] {
            assert_eq!(name(of_target(target)), component, "{target}");
        }
        assert_eq!(name(MISC), "misc");
    }

    #[test]
    fn lists_of_levels() {
        let levels = ComponentLevels::parse("upstream:debug,config:trace").unwrap();
        assert_eq!(levels.to_string(), "upstream:debug,config:trace");
        assert_eq!(ComponentLevels::parse("").unwrap().0, []);
        assert!(ComponentLevels::parse("upstream:foo").is_err());
        assert!(ComponentLevels::parse("foo:info").is_err());
        assert!(ComponentLevels::parse("info").is_err());
        assert_eq!(Level::parse("warn"), Ok(Level::Warning));
    }
}
