//! From a name with dots to a metric with labels, as Envoy's default tag extractors do it.
//!
//! This happens when metrics are scraped, not when names are interned: labels of a hundred thousand
//! names need not be kept.

/// A metric as Prometheus knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tagged<'a> {
    /// The name without what became labels, still with dots.
    pub name: String,
    /// Labels in Envoy's order.
    pub labels: Vec<(&'static str, &'a str)>,
}

/// Names of one token after a prefix: `prefix.$.**`.
const TOKENS: [(&str, &str); 7] = [
    ("cluster", "envoy_cluster_name"),
    ("tcp", "envoy_tcp_prefix"),
    ("udp", "envoy_udp_prefix"),
    ("vhost", "envoy_virtual_host"),
    ("auth.clientssl", "envoy_clientssl_prefix"),
    ("mongo", "envoy_mongo_prefix"),
    ("ratelimit", "envoy_ratelimit_prefix"),
];

/// Splits the first token off.
fn token(text: &str) -> Option<(&str, &str)> {
    text.split_once('.').filter(|(token, _)| !token.is_empty())
}

/// What follows `prefix` and a dot.
fn below<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.strip_prefix('.')
}

/// Length of a listener address at the start of `text` (`127.0.0.1_80`, `[__1]_80`), when a dot
/// follows it.
fn address_len(text: &str) -> Option<usize> {
    let v4 = |c: char| c.is_ascii_digit() || matches!(c, '_' | '.');
    let v6 = |c: char| c.is_ascii_hexdigit() || matches!(c, '_' | '[' | ']');
    let end = if text.starts_with('[') {
        text.find(|c| !v6(c))?
    } else {
        // The dots of the address end before the name that follows.
        text[..text.find(|c| !v4(c))?].rfind('.')?
    };
    (end > 0 && text[end..].starts_with('.')).then_some(end)
}

/// Takes the labels out of a name.
#[must_use]
pub fn extract(name: &str) -> Tagged<'_> {
    let mut labels = Vec::new();
    let mut rest = name;
    let mut ending = "";
    if let Some((front, code)) = name.rsplit_once('_') {
        let digit = code.as_bytes().first().filter(|byte| byte.is_ascii_digit());
        if digit.is_some() && front.ends_with("_rq") {
            if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()) {
                labels.push(("envoy_response_code", code));
                rest = front;
            } else if code.len() == 3 && code.ends_with("xx") {
                labels.push(("envoy_response_code_class", &code[..1]));
                rest = front;
                ending = "_xx";
            }
        }
    }
    let mut found = String::with_capacity(name.len());
    if let Some(tail) = below(rest, "listener") {
        listener(tail, &mut found, &mut labels);
    } else if let Some((prefix, tail)) = below(rest, "http").and_then(token) {
        labels.push(("envoy_http_conn_manager_prefix", prefix));
        found.push_str("http.");
        found.push_str(tail);
    } else if let Some((front, worker, tail)) = worker(rest) {
        labels.push(("envoy_worker_id", worker));
        found.push_str(front);
        found.push_str(".worker.");
        found.push_str(tail);
    } else if let Some((prefix, label, value, tail)) = TOKENS.into_iter().find_map(|entry| {
        let (value, tail) = below(rest, entry.0).and_then(token)?;
        Some((entry.0, entry.1, value, tail))
    }) {
        found.push_str(prefix);
        found.push('.');
        if prefix == "cluster"
            && let Some((service, method, tail)) = grpc_method(tail)
        {
            labels.push(("envoy_grpc_bridge_method", method));
            labels.push(("envoy_grpc_bridge_service", service));
            found.push_str("grpc.");
            found.push_str(tail);
        } else {
            found.push_str(tail);
        }
        labels.push((label, value));
    } else {
        found.push_str(rest);
    }
    found.push_str(ending);
    Tagged {
        name: found,
        labels,
    }
}

/// `grpc.<service>.<method>.<tail>`. A service with dots in its name is cut at the first, as by Envoy, which
/// has `replace_dots_in_grpc_service_name` for that.
fn grpc_method(name: &str) -> Option<(&str, &str, &str)> {
    let (service, rest) = below(name, "grpc").and_then(token)?;
    let (method, tail) = token(rest)?;
    Some((service, method, tail))
}

/// `<front>.worker_<n>.<tail>` of the names that have workers.
fn worker(name: &str) -> Option<(&'static str, &str, &str)> {
    ["server", "moorgate", "thread_local_cluster_manager"]
        .into_iter()
        .find_map(|front| {
            let (worker, tail) = below(name, front)?
                .strip_prefix("worker_")
                .and_then(token)?;
            let digits = worker.bytes().all(|byte| byte.is_ascii_digit());
            digits.then_some((front, worker, tail))
        })
}

/// `<address>.…`, `<address>.worker_<n>.…`, `<address>.http.<prefix>.…`
fn listener<'a>(mut tail: &'a str, found: &mut String, labels: &mut Vec<(&'static str, &'a str)>) {
    found.push_str("listener.");
    let mut address = None;
    if let Some(len) = address_len(tail) {
        address = Some(("envoy_listener_address", &tail[..len]));
        tail = &tail[len + 1..];
    } else if let Some((owner, after)) = token(tail) {
        found.push_str(owner);
        found.push('.');
        tail = after;
    }
    if let Some((worker, after)) = tail.strip_prefix("worker_").and_then(token) {
        labels.push(("envoy_worker_id", worker));
        found.push_str("worker.");
        tail = after;
    } else if let Some((prefix, after)) = below(tail, "http").and_then(token) {
        labels.push(("envoy_http_conn_manager_prefix", prefix));
        found.push_str("http.");
        tail = after;
    }
    found.push_str(tail);
    labels.extend(address);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a real Envoy 1.40 shows these names.
    #[test]
    fn labels_are_those_of_envoy() {
        let cases = [
            (
                "cluster.up.upstream_rq_200",
                "cluster.upstream_rq",
                "envoy_response_code=200,envoy_cluster_name=up",
            ),
            (
                "cluster.up.upstream_rq_2xx",
                "cluster.upstream_rq_xx",
                "envoy_response_code_class=2,envoy_cluster_name=up",
            ),
            (
                "cluster.up.external.upstream_rq_completed",
                "cluster.external.upstream_rq_completed",
                "envoy_cluster_name=up",
            ),
            (
                "http.ingress.downstream_rq_5xx",
                "http.downstream_rq_xx",
                "envoy_response_code_class=5,envoy_http_conn_manager_prefix=ingress",
            ),
            (
                "listener.127.0.0.1_29080.downstream_cx_total",
                "listener.downstream_cx_total",
                "envoy_listener_address=127.0.0.1_29080",
            ),
            (
                "listener.[__1]_29081.downstream_cx_total",
                "listener.downstream_cx_total",
                "envoy_listener_address=[__1]_29081",
            ),
            (
                "listener.127.0.0.1_29080.worker_0.downstream_cx_total",
                "listener.worker.downstream_cx_total",
                "envoy_worker_id=0,envoy_listener_address=127.0.0.1_29080",
            ),
            (
                "listener.0.0.0.0_80.http.ingress.downstream_rq_4xx",
                "listener.http.downstream_rq_xx",
                "envoy_response_code_class=4,envoy_http_conn_manager_prefix=ingress,\
                 envoy_listener_address=0.0.0.0_80",
            ),
            (
                "listener.admin.http.admin.downstream_rq_completed",
                "listener.admin.http.downstream_rq_completed",
                "envoy_http_conn_manager_prefix=admin",
            ),
            (
                "listener.admin.main_thread.downstream_cx_total",
                "listener.admin.main_thread.downstream_cx_total",
                "",
            ),
            (
                "cluster.up.grpc.shop_Orders.Place.success",
                "cluster.grpc.success",
                "envoy_grpc_bridge_method=Place,envoy_grpc_bridge_service=shop_Orders,\
                 envoy_cluster_name=up",
            ),
            (
                "cluster.up.grpc.request_message_count",
                "cluster.grpc.request_message_count",
                "envoy_cluster_name=up",
            ),
            (
                "cluster.up.grpc.test.Echo.Unary.0",
                "cluster.grpc.Unary.0",
                "envoy_grpc_bridge_method=Echo,envoy_grpc_bridge_service=test,envoy_cluster_name=up",
            ),
            (
                "tcp.tcp1.idle_timeout",
                "tcp.idle_timeout",
                "envoy_tcp_prefix=tcp1",
            ),
            (
                "server.worker_1.watchdog_miss",
                "server.worker.watchdog_miss",
                "envoy_worker_id=1",
            ),
            (
                "moorgate.worker_0.load",
                "moorgate.worker.load",
                "envoy_worker_id=0",
            ),
            ("server.uptime", "server.uptime", ""),
            (
                "cluster_manager.active_clusters",
                "cluster_manager.active_clusters",
                "",
            ),
            ("cluster.up", "cluster.up", ""),
            ("listener.", "listener.", ""),
            ("", "", ""),
        ];
        for (name, metric, labels) in cases {
            let tagged = extract(name);
            let found: Vec<_> = tagged
                .labels
                .iter()
                .map(|(label, value)| format!("{label}={value}"))
                .collect();
            assert_eq!(
                (&*tagged.name, &*found.join(",")),
                (metric, labels),
                "{name}"
            );
        }
    }
}
