//! `/clusters` and `/listeners`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use regex::Regex;

use super::json::Json;
use super::{AdminBackend, Request, Response};
use crate::cluster::{Cluster, Host, Thresholds};
use crate::engine::reactor::Addr;

/// `envoy.config.core.v3.Address`
pub(super) fn address(addr: &Addr) -> Json {
    match addr {
        Addr::Ip(addr) => {
            let fields = vec![
                ("address", Json::Text(addr.ip().to_string())),
                ("port_value", Json::Number(u64::from(addr.port()))),
            ];
            Json::Object(vec![("socket_address", Json::Object(fields))])
        }
        Addr::Unix(_) => {
            let path = vec![("path", Json::Text(addr.to_string()))];
            Json::Object(vec![("pipe", Json::Object(path))])
        }
    }
}

/// `/clusters`
pub(super) fn clusters(request: &Request, backend: &mut impl AdminBackend) -> Response {
    let filter = match request.parameter("filter").map(Regex::new) {
        None => None,
        Some(Ok(filter)) => Some(filter),
        Some(Err(_)) => return Response::error(400, "Invalid re2 regex"),
    };
    let mut clusters = backend.clusters();
    clusters.retain(|cluster| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(&cluster.name))
    });
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    match request.parameter("format") {
        Some("json") => {
            let statuses = clusters.iter().map(|cluster| status(cluster)).collect();
            let document = Json::Object(vec![("cluster_statuses", Json::List(statuses))]);
            Response::json(document.document())
        }
        _ => Response::text(as_text(&clusters)),
    }
}

const PRIORITIES: [(&str, usize); 2] = [("default", 0), ("high", 1)];

fn limits(thresholds: &Thresholds) -> [(&'static str, u32); 4] {
    [
        ("max_connections", thresholds.max_connections),
        ("max_pending_requests", thresholds.max_pending_requests),
        ("max_requests", thresholds.max_requests),
        ("max_retries", thresholds.max_retries),
    ]
}

fn as_text(clusters: &[Arc<Cluster>]) -> String {
    let mut out = String::new();
    for cluster in clusters {
        let name = &cluster.name;
        let _ = writeln!(out, "{name}::observability_name::{}", cluster.stat_name);
        for (priority, at) in PRIORITIES {
            for (limit, value) in limits(&cluster.config.thresholds[at]) {
                let _ = writeln!(out, "{name}::{priority}_priority::{limit}::{value}");
            }
        }
        let _ = writeln!(out, "{name}::added_via_api::false");
        for host in cluster.hosts.iter() {
            host_lines(name, host, &mut out);
        }
    }
    out
}

fn host_lines(name: &str, host: &Host, out: &mut String) {
    let load = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    let totals = &host.totals;
    let flags: String = Host::FLAG_NAMES
        .iter()
        .filter(|(bit, _)| host.flags() & bit != 0)
        .map(|(_, flag)| format!("/{flag}"))
        .collect();
    let health = if flags.is_empty() {
        "healthy".to_owned()
    } else {
        flags
    };
    let lines = [
        (
            "cx_active",
            u64::from(totals.cx_active.load(Ordering::Relaxed)).to_string(),
        ),
        ("cx_connect_fail", load(&totals.cx_connect_fail).to_string()),
        ("cx_total", load(&totals.cx_total).to_string()),
        (
            "rq_active",
            host.active_requests.load(Ordering::Relaxed).to_string(),
        ),
        ("rq_error", load(&totals.rq_error).to_string()),
        ("rq_pending_active", totals.rq_pending_active().to_string()),
        ("rq_success", load(&totals.rq_success).to_string()),
        ("rq_timeout", load(&totals.rq_timeout).to_string()),
        ("rq_total", load(&totals.rq_total).to_string()),
        ("hostname", host.hostname.clone()),
        ("health_flags", health),
        ("weight", host.weight().to_string()),
        ("region", String::new()),
        ("zone", String::new()),
        ("sub_zone", String::new()),
        ("canary", "false".to_owned()),
        ("priority", host.priority.to_string()),
        ("success_rate", "-1".to_owned()),
        ("local_origin_success_rate", "-1".to_owned()),
    ];
    for (fact, value) in lines {
        let _ = writeln!(out, "{name}::{}::{fact}::{value}", host.addr);
    }
}

/// `envoy.admin.v3.ClusterStatus`
fn status(cluster: &Cluster) -> Json {
    let thresholds = PRIORITIES.iter().map(|(priority, at)| {
        let mut fields = Vec::new();
        if *priority == "high" {
            fields.push(("priority", "HIGH".into()));
        }
        for (limit, value) in limits(&cluster.config.thresholds[*at]) {
            fields.push((limit, Json::Number(u64::from(value))));
        }
        Json::Object(fields)
    });
    let thresholds = Json::List(thresholds.collect());
    Json::Object(vec![
        ("name", (&*cluster.name).into()),
        (
            "host_statuses",
            Json::List(cluster.hosts.iter().map(|host| host_status(host)).collect()),
        ),
        (
            "circuit_breakers",
            Json::Object(vec![("thresholds", thresholds)]),
        ),
        ("observability_name", (&*cluster.stat_name).into()),
    ])
}

/// `envoy.admin.v3.HostStatus`
fn host_status(host: &Host) -> Json {
    let totals = &host.totals;
    let counter = |name: &'static str, value: u64| metric(None, name, value);
    let gauge = |name: &'static str, value: u32| metric(Some("GAUGE"), name, u64::from(value));
    let stats = vec![
        counter(
            "cx_connect_fail",
            totals.cx_connect_fail.load(Ordering::Relaxed),
        ),
        counter("cx_total", totals.cx_total.load(Ordering::Relaxed)),
        counter("rq_error", totals.rq_error.load(Ordering::Relaxed)),
        counter("rq_success", totals.rq_success.load(Ordering::Relaxed)),
        counter("rq_timeout", totals.rq_timeout.load(Ordering::Relaxed)),
        counter("rq_total", totals.rq_total.load(Ordering::Relaxed)),
        gauge("cx_active", totals.cx_active.load(Ordering::Relaxed)),
        gauge("rq_active", host.active_requests.load(Ordering::Relaxed)),
        gauge("rq_pending_active", totals.rq_pending_active()),
    ];
    let mut fields = vec![
        ("address", address(&host.addr)),
        ("stats", Json::List(stats)),
        ("health_status", health(host)),
        ("weight", Json::Number(u64::from(host.weight()))),
    ];
    if !host.hostname.is_empty() {
        fields.push(("hostname", (&*host.hostname).into()));
    }
    if host.priority > 0 {
        fields.push(("priority", Json::Number(u64::from(host.priority))));
    }
    fields.push(("locality", Json::Object(Vec::new())));
    Json::Object(fields)
}

/// `envoy.admin.v3.SimpleMetric`: what is zero or the default is left out, and 64-bit numbers are
/// strings.
fn metric(kind: Option<&str>, name: &'static str, value: u64) -> Json {
    let mut fields = Vec::new();
    if let Some(kind) = kind {
        fields.push(("type", kind.into()));
    }
    if value > 0 {
        fields.push(("value", Json::Text(value.to_string())));
    }
    fields.push(("name", name.into()));
    Json::Object(fields)
}

/// `envoy.admin.v3.HostHealthStatus`
fn health(host: &Host) -> Json {
    let flags = host.flags();
    let eds = if flags & Host::FAILED_EDS_HEALTH != 0 {
        "UNHEALTHY"
    } else if flags & Host::EDS_STATUS_DRAINING != 0 {
        "DRAINING"
    } else if flags & Host::DEGRADED_EDS_HEALTH != 0 {
        "DEGRADED"
    } else {
        "HEALTHY"
    };
    let mut fields = Vec::new();
    let mut add = |bit: u32, name: &'static str| {
        if flags & bit != 0 {
            fields.push((name, Json::Bool(true)));
        }
    };
    add(Host::FAILED_ACTIVE_HC, "failed_active_health_check");
    add(Host::FAILED_OUTLIER_CHECK, "failed_outlier_check");
    let place = fields.len();
    let mut add = |bit: u32, name: &'static str| {
        if flags & bit != 0 {
            fields.push((name, Json::Bool(true)));
        }
    };
    add(Host::DEGRADED_ACTIVE_HC, "failed_active_degraded_check");
    add(Host::PENDING_DYNAMIC_REMOVAL, "pending_dynamic_removal");
    add(Host::PENDING_ACTIVE_HC, "pending_active_hc");
    add(Host::ACTIVE_HC_TIMEOUT, "active_hc_timeout");
    fields.insert(place, ("eds_health_status", eds.into()));
    Json::Object(fields)
}

/// `/listeners`
pub(super) fn listeners(request: &Request, backend: &mut impl AdminBackend) -> Response {
    let listeners = backend.listeners();
    if request.parameter("format") == Some("json") {
        let statuses = listeners.iter().map(|listener| {
            let mut fields = vec![("name", (&*listener.name).into())];
            let mut addresses = listener.addresses.iter().map(address);
            if let Some(main) = addresses.next() {
                fields.push(("local_address", main));
            }
            let additional: Vec<_> = addresses.collect();
            if !additional.is_empty() {
                fields.push(("additional_local_addresses", Json::List(additional)));
            }
            Json::Object(fields)
        });
        let document = Json::Object(vec![("listener_statuses", Json::List(statuses.collect()))]);
        return Response::json(document.document());
    }
    let mut out = String::new();
    for listener in &listeners {
        for addr in &listener.addresses {
            let _ = writeln!(out, "{}::{addr}", listener.name);
        }
    }
    Response::text(out)
}
