//! A filter that makes some streams wait, and is told by the driver when they may go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use moorgate_codecs::Head;

use super::script::Script;
use crate::filter::{Filter, FilterFactory, Token, Verdict};

/// Calls that wait.
#[derive(Debug, Default)]
pub(in crate::proxy::tests) struct Waiting {
    tokens: Mutex<Vec<Token>>,
    next: AtomicU64,
}

impl Waiting {
    fn suspend(&self) -> Verdict {
        let token = Token(self.next.fetch_add(1, Ordering::Relaxed));
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push(token);
        Verdict::Pending(token)
    }

    /// One that may go on; `drawn` chooses which.
    pub(in crate::proxy::tests) fn take(&self, drawn: u64) -> Option<Token> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.is_empty() {
            return None;
        }
        let at = (drawn % tokens.len() as u64) as usize;
        Some(tokens.swap_remove(at))
    }
}

/// Makes the filter.
#[derive(Debug)]
pub(in crate::proxy::tests) struct Gate(pub(in crate::proxy::tests) Arc<Waiting>);

impl FilterFactory for Gate {
    fn name(&self) -> &str {
        "gate"
    }

    fn make(&self) -> Box<dyn Filter> {
        Box::new(Waiter {
            waiting: Arc::clone(&self.0),
            id: 0,
        })
    }
}

struct Waiter {
    waiting: Arc<Waiting>,
    id: u64,
}

impl Filter for Waiter {
    fn request_head(&mut self, head: &mut Head, _: bool) -> Verdict {
        let path = String::from_utf8_lossy(head.path()).into_owned();
        self.id = Script::parse(&path).map_or(0, |script| script.id);
        if self.id.is_multiple_of(3) {
            self.waiting.suspend()
        } else {
            Verdict::Continue
        }
    }

    fn response_head(&mut self, _: &mut Head, _: bool) -> Verdict {
        if self.id.is_multiple_of(5) {
            self.waiting.suspend()
        } else {
            Verdict::Continue
        }
    }

    fn wants_response(&self) -> bool {
        true
    }
}
