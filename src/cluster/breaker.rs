//! Circuit breakers: how much one cluster may have under way in the whole process.
//!
//! Envoy's four resources per priority: connections, requests that wait for a connection, requests,
//! and retries. What is under way is held by a [`Permit`]; dropping it, on whatever thread, gives it
//! back. Nothing here locks, and no count can be given back twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_utils::CachePadded;

use super::Thresholds;

/// Counts that thresholds limit, process-wide: default priority, high priority.
#[derive(Debug, Default)]
pub struct Breakers {
    /// By priority.
    pub counts: [BreakerCounts; 2],
}

/// Counts of one priority, each on a cache line of its own.
#[derive(Debug, Default)]
pub struct BreakerCounts {
    /// Upstream connections.
    pub connections: CachePadded<AtomicU32>,
    /// Requests waiting for a connection.
    pub pending: CachePadded<AtomicU32>,
    /// Requests in flight.
    pub requests: CachePadded<AtomicU32>,
    /// Retries in flight.
    pub retries: CachePadded<AtomicU32>,
}

/// Which set of thresholds a request counts against (`RoutingPriority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Priority {
    #[default]
    Default = 0,
    High = 1,
}

impl Priority {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::High];

    /// As stat names have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
        }
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// Upstream connections.
    Connections = 0,
    /// Requests (or tunnels) that wait for a connection.
    Pending = 1,
    /// Requests that have a connection.
    Requests = 2,
    /// Retries from the decision to retry to the end of that try.
    Retries = 3,
}

impl Resource {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Pending,
        Self::Requests,
        Self::Retries,
    ];
}

impl Thresholds {
    /// The limit of one resource.
    #[must_use]
    pub fn limit(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => self.max_connections,
            Resource::Pending => self.max_pending_requests,
            Resource::Requests => self.max_requests,
            Resource::Retries => self.max_retries,
        }
    }
}

impl Breakers {
    fn cell(&self, resource: Resource, priority: Priority) -> &AtomicU32 {
        let counts = &self.counts[priority as usize];
        match resource {
            Resource::Connections => &counts.connections,
            Resource::Pending => &counts.pending,
            Resource::Requests => &counts.requests,
            Resource::Retries => &counts.retries,
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn count(&self, resource: Resource, priority: Priority) -> u32 {
        self.cell(resource, priority).load(Ordering::Relaxed)
    }

    /// Takes one, or `None` when the limit is reached. Exact: the count never passes the limit.
    #[must_use]
    pub fn acquire(
        self: &Arc<Self>,
        resource: Resource,
        priority: Priority,
        thresholds: &[Thresholds; 2],
    ) -> Option<Permit> {
        let limit = thresholds[priority as usize].limit(resource);
        self.cell(resource, priority)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < limit).then(|| count + 1)
            })
            .ok()
            .map(|_| self.permit(resource, priority))
    }

    /// Takes one whatever the limit says. Envoy lets a pool that has no connection at all open one, so
    /// that what waits for it is not stuck.
    pub fn acquire_anyway(self: &Arc<Self>, resource: Resource, priority: Priority) -> Permit {
        self.cell(resource, priority)
            .fetch_add(1, Ordering::Relaxed);
        self.permit(resource, priority)
    }

    /// One more would be admitted now.
    #[must_use]
    pub fn has_room(
        &self,
        resource: Resource,
        priority: Priority,
        thresholds: &[Thresholds; 2],
    ) -> bool {
        self.count(resource, priority) < thresholds[priority as usize].limit(resource)
    }

    /// How many more would be admitted now.
    #[must_use]
    pub fn remaining(
        &self,
        resource: Resource,
        priority: Priority,
        thresholds: &[Thresholds; 2],
    ) -> u32 {
        let limit = thresholds[priority as usize].limit(resource);
        limit.saturating_sub(self.count(resource, priority))
    }

    /// The permit of something that is counted already and whose own permit was set aside.
    pub fn take_up_kind(self: &Arc<Self>, resource: Resource, priority: Priority) -> Permit {
        self.permit(resource, priority)
    }

    /// Makes a permit of one that was set aside with [`Permit::set_aside`] from these same breakers.
    pub fn take_up(self: &Arc<Self>, aside: SetAside) -> Permit {
        Permit {
            breakers: Some(Arc::clone(self)),
            resource: aside.resource,
            priority: aside.priority,
        }
    }

    fn permit(self: &Arc<Self>, resource: Resource, priority: Priority) -> Permit {
        Permit {
            breakers: Some(Arc::clone(self)),
            resource,
            priority,
        }
    }
}

/// One of a resource, held until this is dropped. It may be dropped on any thread.
#[must_use = "dropping a permit gives it back at once"]
pub struct Permit {
    /// `None` once it is set aside.
    breakers: Option<Arc<Breakers>>,
    resource: Resource,
    priority: Priority,
}

/// A permit in two bytes, for a parked record that knows its cluster by id. It does not give itself
/// back: whoever owns the record takes it up again with [`Breakers::take_up`].
#[must_use = "what is set aside stays counted until it is taken up"]
#[derive(Debug, PartialEq, Eq)]
pub struct SetAside {
    resource: Resource,
    priority: Priority,
}

impl Permit {
    /// What it is one of.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// Which thresholds it counts against.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Keeps it counted, without the way back to its breakers.
    pub fn set_aside(mut self) -> SetAside {
        self.breakers = None;
        SetAside {
            resource: self.resource,
            priority: self.priority,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(breakers) = &self.breakers else {
            return;
        };
        let cell = breakers.cell(self.resource, self.priority);
        let before = cell.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a permit was given back twice");
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?}, {:?})", self.resource, self.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(n: u32) -> [Thresholds; 2] {
        let low = Thresholds {
            max_connections: n,
            max_pending_requests: n,
            max_requests: n,
            max_retries: n,
            track_remaining: true,
        };
        [low, Thresholds::default()]
    }

    #[test]
    fn each_resource_and_priority_has_its_own_count() {
        let breakers = Arc::new(Breakers::default());
        for resource in Resource::ALL {
            for priority in Priority::ALL {
                let permit = breakers.acquire(resource, priority, &limits(1)).unwrap();
                for other in Resource::ALL {
                    for at in Priority::ALL {
                        let held = (other, at) == (resource, priority);
                        assert_eq!(breakers.count(other, at), u32::from(held));
                    }
                }
                drop(permit);
                assert_eq!(breakers.count(resource, priority), 0);
            }
        }
    }

    #[test]
    fn the_limit_is_the_largest_count() {
        let breakers = Arc::new(Breakers::default());
        let limits = limits(2);
        let take = || breakers.acquire(Resource::Requests, Priority::Default, &limits);
        let (first, second) = (take().unwrap(), take().unwrap());
        assert!(take().is_none());
        assert!(!breakers.has_room(Resource::Requests, Priority::Default, &limits));
        assert!(breakers.has_room(Resource::Requests, Priority::High, &limits));
        drop(first);
        assert_eq!(
            breakers.remaining(Resource::Requests, Priority::Default, &limits),
            1
        );
        let third = take().unwrap();
        let over = breakers.acquire_anyway(Resource::Requests, Priority::Default);
        assert_eq!(breakers.count(Resource::Requests, Priority::Default), 3);
        assert_eq!(
            breakers.remaining(Resource::Requests, Priority::Default, &limits),
            0
        );
        drop((second, third, over));
        assert_eq!(breakers.count(Resource::Requests, Priority::Default), 0);
    }

    #[test]
    fn a_limit_of_zero_admits_nothing() {
        let breakers = Arc::new(Breakers::default());
        for resource in Resource::ALL {
            assert!(
                breakers
                    .acquire(resource, Priority::Default, &limits(0))
                    .is_none()
            );
        }
    }

    #[test]
    fn what_is_set_aside_stays_counted() {
        let breakers = Arc::new(Breakers::default());
        let permit = breakers
            .acquire(Resource::Connections, Priority::High, &limits(1))
            .unwrap();
        let aside = permit.set_aside();
        assert_eq!(size_of::<SetAside>(), 2);
        assert_eq!(breakers.count(Resource::Connections, Priority::High), 1);
        assert_eq!(Arc::strong_count(&breakers), 1);
        drop(breakers.take_up(aside));
        assert_eq!(breakers.count(Resource::Connections, Priority::High), 0);
    }

    #[test]
    fn threads_share_one_limit_and_leave_nothing_behind() {
        let breakers = Arc::new(Breakers::default());
        let limits = limits(3);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let breakers = Arc::clone(&breakers);
                std::thread::spawn(move || {
                    let (sender, receiver) = std::sync::mpsc::channel();
                    // Permits are given back on another thread.
                    let other =
                        std::thread::spawn(move || receiver.iter().for_each(drop::<Permit>));
                    for _ in 0..5_000 {
                        let permit =
                            breakers.acquire(Resource::Pending, Priority::Default, &limits);
                        assert!(breakers.count(Resource::Pending, Priority::Default) <= 3);
                        if let Some(permit) = permit {
                            sender.send(permit).unwrap();
                        }
                    }
                    drop(sender);
                    other.join().unwrap();
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(breakers.count(Resource::Pending, Priority::Default), 0);
        assert_eq!(Arc::strong_count(&breakers), 1);
    }
}
