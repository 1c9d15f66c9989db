//! Numbers for listeners and filter chains that survive a reload.
//!
//! A connection knows its filter chain by number. A chain is the same as long as its listener, its
//! name (or place) and the kind of its filter are: with changed routes its connections stay, and
//! their next request takes the new ones. A number is never given to another name.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::proxy::config::{ChainId, ListenerId};

/// Interns names of listeners and filter chains for the life of the process.
#[derive(Debug, Default)]
pub struct Interner {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    listeners: HashMap<String, ListenerId>,
    chains: HashMap<ChainKey, ChainId>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ChainKey {
    listener: ListenerId,
    chain: ChainName,
    kind: FilterKind,
}

/// How a filter chain is told from the others of its listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ChainName {
    Named(String),
    /// A chain without a name, by its place.
    At(usize),
    /// `default_filter_chain` without a name.
    Default,
}

/// What a chain ends in: a connection that was served by one kind cannot go on with the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FilterKind {
    Tcp,
    Http,
}

impl Interner {
    /// The number of a listener's name.
    #[must_use]
    pub fn listener(&self, name: &str) -> ListenerId {
        // Held only while configuration is built. A panic meanwhile leaves the maps whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.listeners.get(name) {
            return *id;
        }
        let id = ListenerId(u32::try_from(known.listeners.len()).unwrap_or(u32::MAX));
        known.listeners.insert(name.to_owned(), id);
        id
    }

    /// The number of a filter chain.
    pub(super) fn chain(
        &self,
        listener: ListenerId,
        chain: ChainName,
        kind: FilterKind,
    ) -> ChainId {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ChainId(u32::try_from(known.chains.len()).unwrap_or(u32::MAX));
        let key = ChainKey {
            listener,
            chain,
            kind,
        };
        *known.chains.entry(key).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_has_the_same_number() {
        let ids = Interner::default();
        let (a, b) = (ids.listener("a"), ids.listener("b"));
        assert!(a != b && ids.listener("a") == a);
        let named = || ChainName::Named("c".to_owned());
        let chains = [
            ids.chain(a, named(), FilterKind::Tcp),
            ids.chain(a, named(), FilterKind::Http),
            ids.chain(b, named(), FilterKind::Http),
            ids.chain(b, ChainName::At(0), FilterKind::Http),
            ids.chain(b, ChainName::Default, FilterKind::Http),
        ];
        let distinct: std::collections::HashSet<_> = chains.iter().collect();
        assert_eq!(distinct.len(), chains.len());
        assert_eq!(ids.chain(a, named(), FilterKind::Http), chains[1]);
    }
}
