//! Counters of gRPC calls (`envoy.filters.http.grpc_stats`): statuses and messages of a cluster, by method
//! where that is configured.
//!
//! It looks at what passes and changes nothing. Names of methods come from clients: a configuration that
//! wants them all has a limited number of them counted apart.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use moorgate_codecs::Head;

use super::{Filter, FilterFactory, Verdict};
use crate::grpc;
use crate::telemetry::recorder::Recorder;
use crate::telemetry::stats::{Counter, GrpcCallStats, Names};

/// Methods that are counted apart where every one is. The others are counted together, as if they were
/// not on the list.
const MOST_METHODS: usize = 1000;

/// gRPC has names for the statuses 0 to 16.
const STATUSES: usize = 17;

/// Whose counters have the method in their name.
#[derive(Debug, PartialEq, Eq)]
pub enum Methods {
    /// Those of all methods.
    All,
    /// Those of these methods: (service, method).
    These(HashSet<(String, String)>),
}

/// The filter as configured.
#[derive(Debug)]
pub struct GrpcStats(Arc<Shared>);

struct Shared {
    methods: Methods,
    /// Time that upstreams take, too.
    upstream: bool,
    /// `a.b.Service` is counted as `a_b_Service` where all methods are; names on a list stay, as in Envoy.
    replace_dots: bool,
    names: Arc<dyn Names + Send + Sync>,
    /// By prefix of the names. Read once for each call, written once for each prefix.
    known: RwLock<HashMap<Box<str>, Arc<CallStats>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

/// The counters of one prefix; those of a status come to be with the first that has it, as in Envoy.
#[derive(Debug)]
struct CallStats {
    all: GrpcCallStats,
    prefix: Box<str>,
    statuses: [OnceLock<Counter>; STATUSES],
}

impl GrpcStats {
    /// `upstream`: histograms of the time that upstreams take. `replace_dots`: in names of services.
    #[must_use]
    pub fn new(
        methods: Methods,
        upstream: bool,
        replace_dots: bool,
        names: Arc<dyn Names + Send + Sync>,
    ) -> Self {
        Self(Arc::new(Shared {
            methods,
            upstream,
            replace_dots,
            names,
            known: RwLock::default(),
        }))
    }
}

impl FilterFactory for GrpcStats {
    fn name(&self) -> &str {
        "envoy.filters.http.grpc_stats"
    }

    fn make(&self) -> Box<dyn Filter> {
        Box::new(Call {
            shared: Arc::clone(&self.0),
            tracked: false,
            method: None,
            answers: false,
            stats: None,
            requests: Frames::default(),
            responses: Frames::default(),
            status: None,
            took_ms: None,
        })
    }
}

impl Shared {
    fn prefix(&self, cluster: &str, method: Option<&(String, String)>) -> String {
        match method {
            None => format!("cluster.{cluster}.grpc."),
            Some((service, method)) if self.replace_dots && self.methods == Methods::All => {
                let service = service.replace('.', "_");
                format!("cluster.{cluster}.grpc.{service}.{method}.")
            }
            Some((service, method)) => format!("cluster.{cluster}.grpc.{service}.{method}."),
        }
    }

    fn stats(&self, cluster: &str, method: Option<&(String, String)>) -> Arc<CallStats> {
        let prefix = self.prefix(cluster, method);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = known.get(prefix.as_str()) {
            return Arc::clone(stats);
        }
        let full = known.len() >= MOST_METHODS && self.methods == Methods::All;
        drop(known);
        if full && method.is_some() {
            return self.stats(cluster, None);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let stats = known.entry(prefix.as_str().into()).or_insert_with(|| {
            Arc::new(CallStats {
                all: GrpcCallStats::new(&*self.names, &prefix),
                prefix: prefix.as_str().into(),
                statuses: [const { OnceLock::new() }; STATUSES],
            })
        });
        Arc::clone(stats)
    }
}

/// One call.
struct Call {
    shared: Arc<Shared>,
    /// It is gRPC to something that looks like a method.
    tracked: bool,
    method: Option<Box<(String, String)>>,
    /// The answer is gRPC, too.
    answers: bool,
    stats: Option<Arc<CallStats>>,
    requests: Frames,
    responses: Frames,
    /// To be counted: `Err` is a status without a name.
    status: Option<Result<u8, ()>>,
    took_ms: Option<u64>,
}

/// `/service/method`, and nothing else.
fn method_of(path: &[u8]) -> Option<(String, String)> {
    let path = path.split(|&byte| byte == b'?').next()?;
    let mut parts = std::str::from_utf8(path).ok()?.split('/');
    let (front, service, method) = (parts.next()?, parts.next()?, parts.next()?);
    let whole =
        front.is_empty() && !service.is_empty() && !method.is_empty() && parts.next().is_none();
    whole.then(|| (service.to_owned(), method.to_owned()))
}

impl Call {
    fn note_status(&mut self, head: &Head) {
        if let Some(status) = grpc::status(head) {
            let known = status.and_then(|status| u8::try_from(status).ok());
            self.status = Some(
                known
                    .filter(|status| usize::from(*status) < STATUSES)
                    .ok_or(()),
            );
        }
    }
}

impl Filter for Call {
    fn request_head(&mut self, head: &mut Head, _end: bool) -> Verdict {
        if grpc::is_grpc(head)
            && let Some(method) = method_of(head.path())
        {
            self.tracked = true;
            let wanted = match &self.shared.methods {
                Methods::All => true,
                Methods::These(these) => these.contains(&method),
            };
            self.method = wanted.then(|| Box::new(method));
        }
        Verdict::Continue
    }

    fn routed(&mut self, cluster: &str) {
        if self.tracked {
            let method = self.method.take();
            self.stats = Some(self.shared.stats(cluster, method.as_deref()));
        }
    }

    fn response_head(&mut self, head: &mut Head, end: bool) -> Verdict {
        self.answers = grpc::is_grpc(head) && !end;
        self.note_status(head);
        Verdict::Continue
    }

    fn response_trailers(&mut self, trailers: &mut Head, _data: &mut Vec<u8>) -> bool {
        self.note_status(trailers);
        false
    }

    fn local_reply(&mut self, head: &mut Head, _body: &mut Vec<u8>) {
        self.note_status(head);
    }

    fn body_passes(&mut self, of_request: bool, data: &[u8]) {
        if of_request {
            self.requests.count(data);
        } else if self.answers {
            self.responses.count(data);
        }
    }

    fn ended(&mut self, upstream_ms: Option<u64>) {
        self.took_ms = upstream_ms.filter(|_| self.shared.upstream);
    }

    fn count(&mut self, worker: &Recorder) {
        let Some(stats) = &self.stats else { return };
        for (frames, counter) in [
            (&mut self.requests, stats.all.request_message_count),
            (&mut self.responses, stats.all.response_message_count),
        ] {
            match std::mem::take(&mut frames.uncounted) {
                0 => {}
                some => worker.add(counter, u64::from(some)),
            }
        }
        if let Some(status) = self.status.take() {
            if let Ok(status) = status {
                let counter = stats.statuses[usize::from(status)].get_or_init(|| {
                    self.shared
                        .names
                        .counter(&format!("{}{status}", stats.prefix))
                });
                worker.inc(*counter);
            }
            worker.inc(if status == Ok(0) {
                stats.all.success
            } else {
                stats.all.failure
            });
            worker.inc(stats.all.total);
        }
        if let Some(took) = self.took_ms.take() {
            worker.record(stats.all.upstream_rq_time, took);
        }
    }

    fn watches_body(&self) -> bool {
        self.tracked
    }

    fn wants_response(&self) -> bool {
        self.tracked
    }
}

/// Counts messages in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    /// The length of the message, as far as it came.
    len: u32,
    /// Bytes of its prefix that came; none: the next byte begins a message.
    has: u8,
    /// What is left of the message.
    left: u32,
    uncounted: u32,
}

impl Frames {
    fn count(&mut self, mut data: &[u8]) {
        while let Some((&first, rest)) = data.split_first() {
            if self.left > 0 {
                let skip = data.len().min(self.left as usize);
                data = &data[skip..];
                // At most what was left.
                self.left -= skip as u32;
                continue;
            }
            if self.has == 0 {
                self.uncounted += 1;
            } else {
                self.len = self.len << 8 | u32::from(first);
            }
            self.has += 1;
            if self.has == 5 {
                (self.has, self.left) = (0, std::mem::take(&mut self.len));
            }
            data = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::registry::Registry;

    fn head(content_type: &str, path: &str) -> Head {
        let mut head = Head::new();
        head.set_path(path.as_bytes());
        head.push(b"content-type", content_type.as_bytes());
        head
    }

    fn trailers(status: &str) -> Head {
        let mut head = Head::new();
        head.push(b"grpc-status", status.as_bytes());
        head
    }

    /// Makes one call and gives what was counted.
    fn run(filter: &GrpcStats, worker: &Recorder, path: &str, status: &str) {
        let mut call = filter.make();
        call.request_head(&mut head("application/grpc+proto", path), false);
        call.routed("up");
        call.body_passes(true, b"\0\0\0\0\x02ab\0\0\0\0\0");
        call.count(worker);
        call.response_head(&mut head("application/grpc", ""), false);
        call.body_passes(false, b"\0\0\0\0\x01a");
        call.response_trailers(&mut trailers(status), &mut Vec::new());
        call.ended(Some(3));
        call.count(worker);
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let data = b"\0\0\0\0\x02ab\0\0\0\0\0\x01\0\0\x01\0";
        for cut in 0..=data.len() {
            let mut frames = Frames::default();
            frames.count(&data[..cut]);
            frames.count(&data[cut..]);
            assert_eq!((frames.uncounted, frames.left), (3, 256));
        }
    }

    #[test]
    fn what_is_a_method() {
        for (path, expected) in [
            ("/a.B/c", Some(("a.B", "c"))),
            ("/a/b?c=d", Some(("a", "b"))),
            ("/a", None),
            ("/a/", None),
            ("//b", None),
            ("/a/b/c", None),
            ("a/b", None),
        ] {
            let found = method_of(path.as_bytes());
            let expected = expected.map(|(a, b): (&str, &str)| (a.to_owned(), b.to_owned()));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn names_are_those_of_the_list() {
        let registry = Registry::new();
        let worker = registry.recorder();
        let these = [("a.B".to_owned(), "C".to_owned())].into();
        let filter = GrpcStats::new(
            Methods::These(these),
            true,
            true,
            Arc::clone(&registry) as _,
        );
        run(&filter, &worker, "/a.B/C", "0");
        run(&filter, &worker, "/a.B/D", "5");
        run(&filter, &worker, "/a.B/D", "what");
        run(&filter, &worker, "/none", "0");
        for (name, expected) in [
            ("cluster.up.grpc.a.B.C.0", 1),
            ("cluster.up.grpc.a.B.C.success", 1),
            ("cluster.up.grpc.a.B.C.total", 1),
            ("cluster.up.grpc.a.B.C.request_message_count", 2),
            ("cluster.up.grpc.a.B.C.response_message_count", 1),
            ("cluster.up.grpc.5", 1),
            ("cluster.up.grpc.failure", 2),
            ("cluster.up.grpc.total", 2),
            ("cluster.up.grpc.request_message_count", 4),
        ] {
            assert_eq!(registry.value(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn clients_cannot_make_names_without_end() {
        let registry = Registry::new();
        let worker = registry.recorder();
        let filter = GrpcStats::new(Methods::All, false, true, Arc::clone(&registry) as _);
        for number in 0..MOST_METHODS + 10 {
            run(&filter, &worker, &format!("/a.b/m{number}"), "0");
        }
        assert_eq!(registry.value("cluster.up.grpc.total"), Some(10));
        assert_eq!(registry.value("cluster.up.grpc.a_b.m7.total"), Some(1));
    }
}
