//! What the result of a check means for a host, and when it is checked again.
//!
//! Sans-IO; Envoy's rules: the first success counts alone, network failures and retriable statuses
//! count towards the threshold, another wrong answer fails the host at once.

use crate::cluster::{HealthCheck, Host};

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered as wanted.
    Success {
        /// It wants less traffic (`x-envoy-degraded`).
        degraded: bool,
    },
    /// No connection, or it was lost.
    Network,
    /// No answer in time.
    Timeout,
    /// Another answer than wanted.
    Wrong {
        /// Counts towards the threshold instead of failing the host at once.
        retriable: bool,
        /// It asks not to be counted (`x-envoy-immediate-health-check-fail`).
        excluded: bool,
    },
}

/// What happened to the health of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Unchanged,
    /// Not often enough yet.
    Pending,
    Changed,
}

/// What follows from a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Host flags to set.
    pub(super) set: u32,
    /// Host flags to clear.
    pub(super) clear: u32,
    pub(super) transition: Transition,
    pub(super) success: bool,
    /// It was the first result for this host.
    pub(super) first: bool,
}

/// Results in a row for one host.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    first: bool,
    successes: u32,
    failures: u32,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            first: true,
            successes: 0,
            failures: 0,
        }
    }
}

impl Tally {
    /// Takes a result for a host with these flags.
    pub(super) fn conclude(
        &mut self,
        check: &HealthCheck,
        flags: u32,
        outcome: Outcome,
    ) -> Verdict {
        let first = std::mem::replace(&mut self.first, false);
        let failed = flags & Host::FAILED_ACTIVE_HC != 0;
        let mut verdict = Verdict {
            set: 0,
            clear: Host::PENDING_ACTIVE_HC,
            transition: Transition::Unchanged,
            success: false,
            first,
        };
        match outcome {
            Outcome::Success { degraded } => {
                self.success(check, failed, &mut verdict);
                let flag = Host::DEGRADED_ACTIVE_HC;
                if degraded {
                    verdict.set |= flag;
                } else {
                    verdict.clear |= flag;
                }
                if degraded != (flags & flag != 0) && verdict.transition == Transition::Unchanged {
                    verdict.transition = Transition::Changed;
                }
            }
            Outcome::Network | Outcome::Timeout => {
                self.failure(check, failed, false, &mut verdict);
            }
            Outcome::Wrong {
                retriable,
                excluded,
            } => {
                self.failure(check, failed, !retriable, &mut verdict);
                if excluded {
                    verdict.set |= Host::EXCLUDED_VIA_IMMEDIATE_HC_FAIL;
                }
            }
        }
        let fails = (failed || verdict.set & Host::FAILED_ACTIVE_HC != 0) && !verdict.success;
        if outcome == Outcome::Timeout && fails {
            verdict.set |= Host::ACTIVE_HC_TIMEOUT;
        } else if !verdict.success {
            verdict.clear |= Host::ACTIVE_HC_TIMEOUT;
        }
        if flags & Host::PENDING_ACTIVE_HC != 0 {
            verdict.transition = Transition::Changed;
        }
        verdict
    }

    fn success(&mut self, check: &HealthCheck, failed: bool, verdict: &mut Verdict) {
        verdict.success = true;
        self.failures = 0;
        if !failed {
            return;
        }
        self.successes += 1;
        if verdict.first || self.successes >= check.healthy_threshold {
            verdict.clear |= Host::FAILED_ACTIVE_HC
                | Host::ACTIVE_HC_TIMEOUT
                | Host::EXCLUDED_VIA_IMMEDIATE_HC_FAIL;
            verdict.transition = Transition::Changed;
            // The next time it fails, it starts from nothing.
            self.successes = 0;
        } else {
            verdict.transition = Transition::Pending;
        }
    }

    fn failure(&mut self, check: &HealthCheck, failed: bool, at_once: bool, verdict: &mut Verdict) {
        self.successes = 0;
        if failed {
            return;
        }
        self.failures += 1;
        if at_once || self.failures >= check.unhealthy_threshold {
            verdict.set |= Host::FAILED_ACTIVE_HC;
            verdict.transition = Transition::Changed;
            self.failures = 0;
        } else {
            verdict.transition = Transition::Pending;
        }
    }
}

/// Milliseconds until the next check. `traffic`: the cluster ever had a connection.
pub(super) fn interval(
    check: &HealthCheck,
    verdict: Verdict,
    traffic: bool,
    random: &mut dyn FnMut() -> u64,
) -> u64 {
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let pending = verdict.transition == Transition::Pending;
    let unhealthy = or(check.unhealthy_interval_ms, check.interval_ms);
    let base = match (traffic, verdict.success, pending) {
        (false, true, false) => or(
            check.no_traffic_healthy_interval_ms,
            check.no_traffic_interval_ms,
        ),
        (false, ..) => check.no_traffic_interval_ms,
        (true, true, false) => check.interval_ms,
        (true, true, true) => or(check.healthy_edge_interval_ms, check.interval_ms),
        (true, false, false) => unhealthy,
        (true, false, true) => or(check.unhealthy_edge_interval_ms, unhealthy),
    };
    with_jitter(check, base, check.interval_jitter_ms, random)
}

/// Milliseconds until the first check; 0 is now.
pub(super) fn initial_wait(check: &HealthCheck, random: &mut dyn FnMut() -> u64) -> u64 {
    if check.initial_jitter_ms == 0 {
        return 0;
    }
    with_jitter(check, 0, check.initial_jitter_ms, random)
}

fn with_jitter(
    check: &HealthCheck,
    base: u64,
    jitter: u64,
    random: &mut dyn FnMut() -> u64,
) -> u64 {
    let share = base.saturating_mul(check.interval_jitter_percent.into()) / 100;
    let mut part = |most: u64| if most == 0 { 0 } else { random() % most };
    let wait = base
        .saturating_add(part(share))
        .saturating_add(part(jitter));
    wait.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::dice;

    const FAILED: u32 = Host::FAILED_ACTIVE_HC;
    const GOOD: Outcome = Outcome::Success { degraded: false };

    fn wrong(retriable: bool) -> Outcome {
        Outcome::Wrong {
            retriable,
            excluded: false,
        }
    }

    /// A host and the results for it.
    struct Bench {
        check: HealthCheck,
        tally: Tally,
        flags: u32,
    }

    impl Bench {
        fn new(flags: u32) -> Self {
            Self {
                check: HealthCheck {
                    healthy_threshold: 2,
                    unhealthy_threshold: 3,
                    ..HealthCheck::default()
                },
                tally: Tally::default(),
                flags,
            }
        }

        /// Not the first any more.
        fn seasoned(flags: u32) -> Self {
            let mut bench = Self::new(flags);
            bench.tally.first = false;
            bench
        }

        fn take(&mut self, outcome: Outcome) -> Transition {
            let verdict = self.tally.conclude(&self.check, self.flags, outcome);
            self.flags = (self.flags & !verdict.clear) | verdict.set;
            verdict.transition
        }
    }

    #[test]
    fn the_first_success_counts_alone() {
        let mut bench = Bench::new(FAILED);
        assert_eq!(bench.take(GOOD), Transition::Changed);
        assert_eq!(bench.flags, 0);
    }

    #[test]
    fn after_a_first_failure_the_threshold_holds() {
        let mut bench = Bench::new(FAILED);
        assert_eq!(bench.take(Outcome::Network), Transition::Unchanged);
        assert_eq!(bench.take(GOOD), Transition::Pending);
        assert_eq!(bench.flags, FAILED);
        assert_eq!(bench.take(Outcome::Network), Transition::Unchanged);
        assert_eq!(bench.take(GOOD), Transition::Pending);
        assert_eq!(bench.take(GOOD), Transition::Changed);
        assert_eq!(bench.flags, 0);
    }

    #[test]
    fn network_failures_count_up_and_success_resets() {
        let mut bench = Bench::seasoned(0);
        assert_eq!(bench.take(Outcome::Network), Transition::Pending);
        assert_eq!(bench.take(Outcome::Timeout), Transition::Pending);
        assert_eq!(bench.take(GOOD), Transition::Unchanged);
        for _ in 0..2 {
            assert_eq!(bench.take(Outcome::Network), Transition::Pending);
        }
        assert_eq!(bench.take(Outcome::Network), Transition::Changed);
        assert_eq!(bench.flags, FAILED);
        assert_eq!(bench.take(GOOD), Transition::Pending);
        assert_eq!(bench.take(GOOD), Transition::Changed);
        for _ in 0..2 {
            assert_eq!(
                bench.take(Outcome::Network),
                Transition::Pending,
                "from nothing"
            );
        }
    }

    #[test]
    fn a_wrong_status_fails_at_once_unless_it_is_retriable() {
        let mut bench = Bench::seasoned(0);
        assert_eq!(bench.take(wrong(false)), Transition::Changed);
        assert_eq!(bench.flags, FAILED);
        let mut bench = Bench::seasoned(0);
        assert_eq!(bench.take(wrong(true)), Transition::Pending);
        assert_eq!(bench.take(wrong(true)), Transition::Pending);
        assert_eq!(bench.take(wrong(true)), Transition::Changed);
    }

    #[test]
    fn a_timeout_is_marked_while_the_host_is_failed() {
        let mut bench = Bench::seasoned(FAILED);
        bench.take(Outcome::Timeout);
        assert_eq!(bench.flags, FAILED | Host::ACTIVE_HC_TIMEOUT);
        bench.take(Outcome::Network);
        assert_eq!(bench.flags, FAILED);
        bench.take(Outcome::Timeout);
        bench.take(GOOD);
        assert_eq!(
            bench.flags,
            FAILED | Host::ACTIVE_HC_TIMEOUT,
            "still failed"
        );
        bench.take(GOOD);
        assert_eq!(bench.flags, 0);
        bench.take(Outcome::Timeout);
        assert_eq!(bench.flags, 0, "not failed yet");
    }

    #[test]
    fn pending_and_excluded_hosts_are_released() {
        let mut bench = Bench::new(FAILED | Host::PENDING_ACTIVE_HC);
        assert_eq!(bench.take(Outcome::Network), Transition::Changed);
        assert_eq!(bench.flags, FAILED);
        let mut bench = Bench::seasoned(0);
        bench.take(Outcome::Wrong {
            retriable: false,
            excluded: true,
        });
        assert_eq!(bench.flags, FAILED | Host::EXCLUDED_VIA_IMMEDIATE_HC_FAIL);
        bench.take(GOOD);
        bench.take(GOOD);
        assert_eq!(bench.flags, 0);
    }

    #[test]
    fn a_host_can_be_degraded() {
        let mut bench = Bench::new(FAILED);
        let degraded = Outcome::Success { degraded: true };
        assert_eq!(bench.take(degraded), Transition::Changed);
        assert_eq!(bench.flags, Host::DEGRADED_ACTIVE_HC);
        assert_eq!(bench.take(degraded), Transition::Unchanged);
        assert_eq!(bench.take(GOOD), Transition::Changed);
        assert_eq!(bench.flags, 0);
    }

    /// Envoy's example: unhealthy, threshold 3, then healthy for good.
    #[test]
    fn intervals_by_state() {
        let check = HealthCheck {
            interval_ms: 1,
            unhealthy_interval_ms: 2,
            unhealthy_edge_interval_ms: 3,
            healthy_edge_interval_ms: 4,
            no_traffic_interval_ms: 5,
            no_traffic_healthy_interval_ms: 6,
            healthy_threshold: 3,
            unhealthy_threshold: 2,
            ..HealthCheck::default()
        };
        let mut flags = FAILED;
        let mut tally = Tally::default();
        let steps = [
            (Outcome::Network, 2, 5),
            (GOOD, 4, 5),
            (GOOD, 4, 5),
            (GOOD, 1, 6),
            (GOOD, 1, 6),
            (Outcome::Network, 3, 5),
            (Outcome::Network, 2, 5),
        ];
        for (step, (outcome, busy, quiet)) in steps.into_iter().enumerate() {
            let verdict = tally.conclude(&check, flags, outcome);
            flags = (flags & !verdict.clear) | verdict.set;
            assert_eq!(
                interval(&check, verdict, true, &mut dice(1)),
                busy,
                "{step}"
            );
            assert_eq!(
                interval(&check, verdict, false, &mut dice(1)),
                quiet,
                "{step}"
            );
        }
    }

    #[test]
    fn intervals_that_are_not_set_are_the_usual_one() {
        let check = HealthCheck {
            interval_ms: 7,
            no_traffic_interval_ms: 9,
            ..HealthCheck::default()
        };
        for success in [true, false] {
            for transition in [
                Transition::Unchanged,
                Transition::Pending,
                Transition::Changed,
            ] {
                let verdict = Verdict {
                    set: 0,
                    clear: 0,
                    transition,
                    success,
                    first: false,
                };
                assert_eq!(interval(&check, verdict, true, &mut dice(1)), 7);
                assert_eq!(interval(&check, verdict, false, &mut dice(1)), 9);
            }
        }
    }

    #[test]
    fn jitter_is_bounded() {
        let check = HealthCheck {
            interval_ms: 1_000,
            interval_jitter_ms: 50,
            interval_jitter_percent: 20,
            initial_jitter_ms: 30,
            ..HealthCheck::default()
        };
        let verdict = Verdict {
            set: 0,
            clear: 0,
            transition: Transition::Unchanged,
            success: true,
            first: false,
        };
        let mut random = dice(3);
        for _ in 0..200 {
            let wait = interval(&check, verdict, true, &mut random);
            assert!((1_000..1_250).contains(&wait), "{wait}");
            assert!((1..30).contains(&initial_wait(&check, &mut random)));
        }
        assert_eq!(initial_wait(&HealthCheck::default(), &mut random), 0);
    }
}
