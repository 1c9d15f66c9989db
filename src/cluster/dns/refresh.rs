//! When each name of each cluster is looked up again.
//!
//! Sans-IO. The waits are Envoy's: the refresh rate, or the TTL where it is respected; after failures
//! a jittered exponential back-off where one is configured.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::resolver::{Answer, Request};
use crate::cluster::{ClusterId, DnsSource};
use crate::server::control::Millis;

/// A refresh is never nearer than this, whatever TTL or configuration say.
const MIN_WAIT_MS: u64 = 1;

/// A name of a cluster.
type Key = (ClusterId, String);

#[derive(Debug)]
struct Target {
    source: Arc<DnsSource>,
    /// Number of the lookup under way, or the time of the next one.
    state: TargetState,
    /// Ceiling of the next wait after a failure.
    backoff_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TargetState {
    Waiting(Millis),
    Running(u64),
}

/// All names and their timers.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    targets: HashMap<Key, Target>,
    by_time: BTreeSet<(Millis, Key)>,
    running: HashMap<u64, Key>,
    next_number: u64,
}

/// A lookup to start.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) number: u64,
    pub(super) cluster: ClusterId,
    pub(super) request: Request,
}

impl Refresh {
    /// Makes these the names to keep fresh. New ones, and those asked for differently, are due at
    /// once; the numbers of lookups that nobody wants any more are returned.
    pub(super) fn sync(
        &mut self,
        clusters: &[(ClusterId, Arc<DnsSource>)],
        now: Millis,
    ) -> Vec<u64> {
        let mut old = std::mem::take(&mut self.targets);
        let mut cancelled = Vec::new();
        for (cluster, source) in clusters {
            for name in &source.names {
                let key = (*cluster, name.host.clone());
                if self.targets.contains_key(&key) {
                    continue;
                }
                let kept = old
                    .remove(&key)
                    .filter(|target| asks_the_same(&target.source, source));
                let target = match kept {
                    Some(target) => Target {
                        source: Arc::clone(source),
                        ..target
                    },
                    None => Target {
                        source: Arc::clone(source),
                        state: TargetState::Waiting(now),
                        backoff_ms: first_backoff(source),
                    },
                };
                self.targets.insert(key, target);
            }
        }
        self.by_time.clear();
        let mut running = HashMap::new();
        for (key, target) in &self.targets {
            match target.state {
                TargetState::Waiting(at) => {
                    self.by_time.insert((at, key.clone()));
                }
                TargetState::Running(number) => {
                    running.insert(number, key.clone());
                }
            }
        }
        cancelled.extend(
            self.running
                .keys()
                .filter(|number| !running.contains_key(number)),
        );
        self.running = running;
        cancelled
    }

    /// When the next name is due.
    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The next lookup that is due now.
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<Due> {
        if self.next_deadline()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        let target = self.targets.get_mut(&key)?;
        let number = self.next_number;
        self.next_number += 1;
        target.state = TargetState::Running(number);
        let request = Request {
            host: key.1.clone(),
            family: target.source.family,
            servers: target.source.resolvers.clone(),
            tcp_only: target.source.tcp_only,
            search: !target.source.no_search,
        };
        let cluster = key.0;
        self.running.insert(number, key);
        Some(Due {
            number,
            cluster,
            request,
        })
    }

    /// A lookup ended: which name it was for. Sets the time of the next one.
    pub(super) fn done(
        &mut self,
        number: u64,
        answer: &Answer,
        now: Millis,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Key> {
        let key = self.running.remove(&number)?;
        let target = self.targets.get_mut(&key)?;
        let source = &target.source;
        let wait = match answer {
            Answer::Failed => match source.failure_refresh_ms {
                None => source.refresh_ms,
                Some((_, most)) => {
                    let ceiling = target.backoff_ms.max(1);
                    target.backoff_ms = ceiling.saturating_mul(2).min(most.max(1));
                    random() % ceiling
                }
            },
            Answer::Found { ttl, .. } | Answer::Nothing { ttl } => {
                target.backoff_ms = first_backoff(source);
                let wait = match ttl {
                    Some(ttl) if source.respect_ttl && *ttl > 0 => {
                        (u64::from(*ttl) * 1_000).max(source.min_refresh_ms)
                    }
                    _ => source.refresh_ms,
                };
                wait + random().checked_rem(source.jitter_ms).unwrap_or(0)
            }
        };
        let at = now + wait.max(MIN_WAIT_MS);
        target.state = TargetState::Waiting(at);
        self.by_time.insert((at, key.clone()));
        Some(key)
    }
}

fn first_backoff(source: &DnsSource) -> u64 {
    source.failure_refresh_ms.map_or(0, |(base, _)| base)
}

/// Settings that change the answer are the same; the rest only changes when to ask again.
fn asks_the_same(one: &DnsSource, other: &DnsSource) -> bool {
    one.family == other.family
        && one.resolvers == other.resolvers
        && one.tcp_only == other.tcp_only
        && one.no_search == other.no_search
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::{dice, dns_name};
    use crate::cluster::{DnsFamily, DnsSource};
    use std::net::IpAddr;

    const ID: ClusterId = ClusterId(3);

    fn source(names: &[&str]) -> DnsSource {
        DnsSource {
            names: names.iter().map(|name| dns_name(name, 80)).collect(),
            ..DnsSource::default()
        }
    }

    fn found(ttl: u32) -> Answer {
        Answer::Found {
            ips: vec![IpAddr::from([127, 0, 0, 1])],
            ttl: Some(ttl),
        }
    }

    /// Runs one lookup of the only name and gives the wait until the next.
    fn wait(refresh: &mut Refresh, answer: &Answer) -> u64 {
        let now = refresh.next_deadline().unwrap();
        let due = refresh.pop_due(now).unwrap();
        assert_eq!(refresh.next_deadline(), None);
        refresh.done(due.number, answer, now, &mut dice(5)).unwrap();
        refresh.next_deadline().unwrap() - now
    }

    fn with(source: DnsSource) -> Refresh {
        let mut refresh = Refresh::default();
        refresh.sync(&[(ID, Arc::new(source))], 0);
        refresh
    }

    #[test]
    fn the_rate_is_the_wait_unless_ttl_is_respected() {
        let mut refresh = with(source(&["a.test"]));
        assert_eq!(wait(&mut refresh, &found(60)), 5_000);
        assert_eq!(wait(&mut refresh, &Answer::Failed), 5_000);
        let mut refresh = with(DnsSource {
            respect_ttl: true,
            min_refresh_ms: 2_000,
            ..source(&["a.test"])
        });
        assert_eq!(wait(&mut refresh, &found(60)), 60_000);
        assert_eq!(wait(&mut refresh, &found(1)), 2_000);
        assert_eq!(wait(&mut refresh, &found(0)), 5_000);
        assert_eq!(wait(&mut refresh, &Answer::Nothing { ttl: Some(9) }), 9_000);
        assert_eq!(wait(&mut refresh, &Answer::Nothing { ttl: None }), 5_000);
    }

    #[test]
    fn failures_back_off_with_jitter_and_success_forgets_them() {
        let mut refresh = with(DnsSource {
            failure_refresh_ms: Some((100, 400)),
            ..source(&["a.test"])
        });
        for ceiling in [100, 200, 400, 400] {
            assert!(wait(&mut refresh, &Answer::Failed) < ceiling.max(2));
        }
        let key = (ID, "a.test".to_owned());
        assert_eq!(refresh.targets[&key].backoff_ms, 400);
        assert_eq!(wait(&mut refresh, &found(60)), 5_000);
        assert_eq!(refresh.targets[&key].backoff_ms, 100);
    }

    #[test]
    fn jitter_lengthens_the_wait() {
        let mut refresh = with(DnsSource {
            jitter_ms: 1_000,
            ..source(&["a.test"])
        });
        let waited = wait(&mut refresh, &found(60));
        assert!((5_000..6_000).contains(&waited));
    }

    #[test]
    fn a_reload_leaves_unchanged_names_alone() {
        let mut refresh = with(source(&["a.test", "a.test", "b.test", "c.test"]));
        assert_eq!(refresh.targets.len(), 3);
        let first = refresh.pop_due(0).unwrap();
        let second = refresh.pop_due(0).unwrap();
        let third = refresh.pop_due(0).unwrap();
        assert!(refresh.pop_due(0).is_none());
        refresh.done(first.number, &found(1), 0, &mut dice(1));
        let next = DnsSource {
            refresh_ms: 9_000,
            ..source(&[&first.request.host, &second.request.host, "new.test"])
        };
        let cancelled = refresh.sync(&[(ID, Arc::new(next.clone()))], 100);
        assert_eq!(cancelled, [third.number]);
        let due = refresh.pop_due(100).unwrap();
        assert_eq!(due.request.host, "new.test");
        assert!(refresh.pop_due(4_999).is_none());
        assert!(
            refresh
                .done(second.number, &found(1), 200, &mut dice(1))
                .is_some()
        );
        assert!(
            refresh
                .done(third.number, &found(1), 200, &mut dice(1))
                .is_none()
        );
        assert_eq!(refresh.by_time.last().unwrap().0, 9_200);

        let other = DnsSource {
            family: DnsFamily::V4Only,
            ..next
        };
        assert_eq!(refresh.sync(&[(ID, Arc::new(other))], 300), [due.number]);
        assert_eq!(refresh.next_deadline(), Some(300), "asked anew");
        assert!(refresh.sync(&[], 400).is_empty());
        assert_eq!(refresh.next_deadline(), None);
    }
}
