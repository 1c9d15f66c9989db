//! A context that may be exchanged while connections are made from it.
//!
//! Certificates change while the process runs. Who makes a connection takes the context of that moment;
//! connections that run keep what they were made from and notice nothing. The lock is held for the copy of
//! a pointer, never longer, so that no worker waits for whoever reads files.

use std::sync::{Arc, PoisonError, RwLock};

/// The current one of several contexts, one after the other.
#[derive(Debug)]
pub struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    /// Begins with this one.
    pub fn new(first: T) -> Self {
        Self(RwLock::new(Arc::new(first)))
    }

    /// The current one.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        // A pointer is whole, whatever became of who held the lock.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `next` the current one. The one before goes when nobody uses it any more.
    pub fn set(&self, next: T) {
        let next = Arc::new(next);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        drop(current);
        drop(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_one_keeps_it() {
        let live = Live::new(1);
        let old = live.get();
        live.set(2);
        assert_eq!((*old, *live.get()), (1, 2));
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
