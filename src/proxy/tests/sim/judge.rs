//! What must hold when a run is quiet and when it has ended, and the report when it does not.

use super::{Reactor, Run, conn};

impl Run {
    pub(super) fn fail(&self, why: &str) -> ! {
        let clients: Vec<_> = self
            .actors
            .iter()
            .filter(|actor| !actor.is_done())
            .map(|actor| actor.describe())
            .collect();
        let trace = self.sim.trace();
        let trace: Vec<_> = trace
            .lines()
            .filter(|line| !line.contains("sleep"))
            .collect();
        panic!(
            "seed {}: {why}\nat {} us after {} turns\n{}\n{}{:?}\ntrace:\n{}",
            self.seed,
            self.world.now_us(),
            self.turns,
            clients.join("\n"),
            self.residents(),
            self.draw,
            trace.join("\n"),
        );
    }

    /// What the workers hold, a line for each resident connection.
    fn residents(&self) -> String {
        let mut text = String::new();
        for (at, worker) in self.workers.iter().enumerate() {
            let tally = worker.core.tally.parked;
            text += &format!("worker {at}: parked {tally:?}\n");
            for (index, conn) in worker.app.conns.iter() {
                let role = match &conn.role {
                    conn::Role::Down(down) => format!("down, streams {:?}", down.streams.entries()),
                    conn::Role::Up(up) => {
                        format!("up, idle {}, {:?}", up.idle, up.streams.entries())
                    }
                    conn::Role::Tunnel(end) => format!("tunnel, client {}", end.client),
                    conn::Role::Detecting(_) => "detecting".to_owned(),
                    conn::Role::Waking => "waking".to_owned(),
                };
                text += &format!(
                    "  {index} {:?} {role}: readable {}, read_closed {}, fin_seen {}, \
                     write_closed {}, fin_after {}, blocked {}, armed {}, throttles {}, paused {}, \
                     {:?}, rest {}, output {}\n",
                    conn.sock,
                    conn.readable,
                    conn.read_closed,
                    conn.fin_seen,
                    conn.write_closed,
                    conn.fin_after_flush,
                    conn.blocked,
                    conn.write_armed,
                    conn.throttles,
                    conn.paused,
                    conn.closing,
                    conn.rest.len(),
                    conn.output.len(),
                );
            }
            for (index, stream) in worker.app.streams.0.iter() {
                let lanes = [&stream.request, &stream.response]
                    .map(|lane| (lane.done, lane.head_sent, lane.sent, lane.buffer.len()));
                text += &format!(
                    "  stream {index}: upstream {:?}, waiting {:?}, lanes {lanes:?}\n",
                    stream.upstream, stream.waiting,
                );
            }
        }
        text
    }

    /// All clients are gone, and the workers still run.
    pub(super) fn judge_quiet(&mut self) {
        let alive: Vec<_> = self
            .snapshots
            .iter()
            .enumerate()
            .filter(|(_, snapshot)| snapshot.strong_count() > 0)
            .map(|(number, _)| number)
            .collect();
        if alive != [self.snapshots.len() - 1] {
            self.fail(&format!("snapshots {alive:?} are alive"));
        }
        let used = self.bed.budget.used();
        if used != 0 {
            self.fail(&format!("{used} bytes of buffers at rest"));
        }
        self.judge_gauges(&["upstream_cx_", "parked", "resident"]);
        for at in 0..self.workers.len() {
            let app = &self.workers[at].app;
            let streams = app.streams.0.iter().count();
            if streams != 0 {
                self.fail(&format!("{streams} streams left on worker {at}"));
            }
        }
    }

    fn judge_gauges(&self, except: &[&str]) {
        for name in [
            "moorgate.resident",
            "moorgate.parked.idle",
            "moorgate.parked.pair",
            "moorgate.parked.mux",
            "moorgate.parked.pooled",
            "http.test.downstream_cx_active",
            "http.test.downstream_cx_http1_active",
            "http.test.downstream_cx_upgrades_active",
            "http.test.downstream_rq_active",
            "tcp.test.downstream_cx_active",
            "listener.127.0.0.1:80.downstream_cx_active",
            "listener.127.0.0.1:81.downstream_cx_active",
            "cluster.web.upstream_cx_active",
            "cluster.web.upstream_rq_active",
            "cluster.web.upstream_rq_pending_active",
            "listener.127.0.0.1:82.downstream_cx_active",
            "listener.127.0.0.1:83.downstream_cx_active",
            "cluster.mux.upstream_cx_active",
            "cluster.mux.upstream_rq_active",
            "cluster.mux.upstream_rq_pending_active",
            "cluster.tcp.upstream_cx_active",
            "cluster.tcp.upstream_rq_active",
            "cluster.tcp.upstream_rq_pending_active",
        ] {
            if except.iter().any(|part| name.contains(part)) {
                continue;
            }
            let value = self.bed.registry.value(name).unwrap_or(0);
            if value != 0 {
                self.fail(&format!("{name} is {value}"));
            }
        }
        let open = self
            .bed
            .shared
            .connections
            .load(std::sync::atomic::Ordering::Relaxed);
        // A multiplexed upstream stays, and over TLS it is a client of the listener in between.
        let between = self.draw.tls && !except.is_empty();
        if open != 0 && !between {
            self.fail(&format!("{open} connections counted"));
        }
    }

    /// Every worker has ended.
    pub(super) fn judge_end(&mut self) {
        for at in 0..self.workers.len() {
            let core = &self.workers[at].core;
            let left = (core.slot_count(), core.tally.resident, core.tally.parked);
            if left != (0, 0, [0; 4]) {
                self.fail(&format!("worker {at} has {left:?} left"));
            }
        }
        self.judge_gauges(&[]);
        let used = self.bed.budget.used();
        if used != 0 {
            self.fail(&format!("{used} bytes of buffers at the end"));
        }
        let open = self.sim.open_descriptors();
        let listeners = if self.draw.tls { 8 } else { 5 };
        if open.len() != listeners {
            self.fail(&format!("descriptors left: {open:?}"));
        }
        for sock in open {
            self.workers[0].core.reactor.close(sock, false);
        }
    }
}
