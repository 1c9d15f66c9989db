//! Which path does what.

use std::fmt::Write as _;

use super::{AdminBackend, Drain, Request, Response, clusters, config_dump, info, logging};
use super::{prometheus, stats};
use crate::server::control::Turn;

/// A path, as `/help` lists it.
struct Endpoint {
    path: &'static str,
    /// It changes something: only POST may.
    mutates: bool,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
}

const FILTER: (&str, &str) = ("filter", "Regular expression for filtering stats");
const USED_ONLY: (&str, &str) = (
    "usedonly",
    "Only include stats that have been written by system since restart",
);
const INVERT: (&str, &str) = ("invert_filter", "Invert the filter regex");

/// All paths, sorted.
const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/",
        mutates: false,
        help: "Admin home page",
        parameters: &[],
    },
    Endpoint {
        path: "/certs",
        mutates: false,
        help: "print certs on machine",
        parameters: &[],
    },
    Endpoint {
        path: "/clusters",
        mutates: false,
        help: "upstream cluster status",
        parameters: &[
            (
                "filter",
                "Regular expression for filtering clusters by name",
            ),
            ("format", "File format to use; One of (text, json)"),
        ],
    },
    Endpoint {
        path: "/config_dump",
        mutates: false,
        help: "dump current configuration",
        parameters: &[
            ("resource", "The resource to dump"),
            (
                "name_regex",
                "Dump only the currently loaded configurations whose names match the specified \
                 regex. Can be used with the resource query parameter.",
            ),
            (
                "include_eds",
                "Dump currently loaded configuration including EDS.",
            ),
        ],
    },
    Endpoint {
        path: "/drain_listeners",
        mutates: true,
        help: "drain listeners",
        parameters: &[
            (
                "graceful",
                "When draining listeners, enter a graceful drain period prior to closing listeners",
            ),
            (
                "skip_exit",
                "When draining listeners, drain the connections but never stop the listeners",
            ),
            (
                "inboundonly",
                "Drains all inbound listeners, as their traffic_direction says",
            ),
        ],
    },
    Endpoint {
        path: "/healthcheck/fail",
        mutates: true,
        help: "cause the server to fail health checks",
        parameters: &[],
    },
    Endpoint {
        path: "/healthcheck/ok",
        mutates: true,
        help: "cause the server to pass health checks",
        parameters: &[],
    },
    Endpoint {
        path: "/help",
        mutates: false,
        help: "print out list of admin commands",
        parameters: &[],
    },
    Endpoint {
        path: "/hot_restart_version",
        mutates: false,
        help: "print the hot restart compatibility version",
        parameters: &[],
    },
    Endpoint {
        path: "/listeners",
        mutates: false,
        help: "print listener info",
        parameters: &[("format", "File format to use; One of (text, json)")],
    },
    Endpoint {
        path: "/logging",
        mutates: true,
        help: "query/change logging levels",
        parameters: &[
            (
                "paths",
                "Change multiple logging levels by setting to \
                 <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>",
            ),
            (
                "level",
                "desired logging level, this will change all loggers's level; One of (, trace, \
                 debug, info, warning, error, critical, off)",
            ),
        ],
    },
    Endpoint {
        path: "/memory",
        mutates: false,
        help: "print current allocation/heap usage",
        parameters: &[],
    },
    Endpoint {
        path: "/quitquitquit",
        mutates: true,
        help: "exit the server",
        parameters: &[],
    },
    Endpoint {
        path: "/ready",
        mutates: false,
        help: "print server state, return 200 if LIVE, otherwise return 503",
        parameters: &[],
    },
    Endpoint {
        path: "/reopen_logs",
        mutates: true,
        help: "reopen access logs",
        parameters: &[],
    },
    Endpoint {
        path: "/reset_counters",
        mutates: true,
        help: "reset all counters to zero",
        parameters: &[],
    },
    Endpoint {
        path: "/server_info",
        mutates: false,
        help: "print server version/status information",
        parameters: &[],
    },
    Endpoint {
        path: "/stats",
        mutates: false,
        help: "print server stats",
        parameters: &[
            USED_ONLY,
            FILTER,
            INVERT,
            ("format", "Format to use; One of (text, json, prometheus)"),
            (
                "type",
                "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)",
            ),
            (
                "histogram_buckets",
                "Histogram bucket display mode; One of (cumulative, disjoint, summary)",
            ),
        ],
    },
    Endpoint {
        path: "/stats/prometheus",
        mutates: false,
        help: "print server stats in prometheus format",
        parameters: &[
            USED_ONLY,
            FILTER,
            INVERT,
            (
                "histogram_buckets",
                "Histogram bucket display mode; One of (cumulative, summary)",
            ),
        ],
    },
];

fn help(out: &mut String) {
    out.push_str("admin commands are:\n");
    for endpoint in ENDPOINTS {
        let post = if endpoint.mutates { " (POST)" } else { "" };
        let _ = writeln!(out, "  {}{post}: {}", endpoint.path, endpoint.help);
        for (name, text) in endpoint.parameters {
            let _ = writeln!(out, "      {name}: {text}");
        }
    }
}

fn index() -> String {
    let mut out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                   <title>Moorgate Admin</title>\n</head>\n<body>\n<table>\n"
        .to_owned();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path != "/") {
        let (path, help) = (&endpoint.path[1..], endpoint.help);
        let command = if endpoint.mutates {
            format!("<form action=\"{path}\" method=\"post\"><button>{path}</button></form>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        let _ = writeln!(out, "<tr><td>{command}</td><td>{help}</td></tr>");
    }
    out.push_str("</table>\n</body>\n</html>\n");
    out
}

/// Answers a request.
pub fn handle(request: &Request, backend: &mut impl AdminBackend, turn: &mut Turn) -> Response {
    let found = ENDPOINTS
        .iter()
        .find(|endpoint| endpoint.path == request.path);
    let Some(endpoint) = found else {
        let mut text = "invalid path. ".to_owned();
        help(&mut text);
        return Response::error(404, text);
    };
    if endpoint.mutates && request.method != "POST" {
        let method = &request.method;
        tracing::error!(
            "admin path \"{}\" mutates state, method={method} rather than POST",
            endpoint.path
        );
        return Response::error(405, format!("Method {method} not allowed, POST required."));
    }
    match endpoint.path {
        "/" => Response::html(index()),
        "/certs" => Response::json("{\n \"certificates\": []\n}\n"),
        "/clusters" => clusters::clusters(request, backend),
        "/config_dump" => config_dump::config_dump(request, backend),
        "/drain_listeners" => {
            let drain = Drain {
                graceful: request.has("graceful"),
                skip_exit: request.has("skip_exit"),
                inbound_only: request.has("inboundonly"),
            };
            backend.drain_listeners(drain, turn);
            ok()
        }
        "/healthcheck/fail" => {
            backend.fail_health_checks(true);
            ok()
        }
        "/healthcheck/ok" => {
            backend.fail_health_checks(false);
            ok()
        }
        "/help" => {
            let mut text = String::new();
            help(&mut text);
            Response::text(text)
        }
        "/hot_restart_version" => Response::text("disabled"),
        "/listeners" => clusters::listeners(request, backend),
        "/logging" => logging::logging(request, backend),
        "/memory" => info::memory(backend),
        "/quitquitquit" => {
            backend.quit(turn);
            ok()
        }
        "/ready" => info::ready(backend),
        "/reopen_logs" => {
            backend.reopen_logs();
            ok()
        }
        "/reset_counters" => {
            backend.registry().reset_counters();
            ok()
        }
        "/server_info" => info::server_info(backend),
        "/stats" => stats::stats(request, backend),
        _ => prometheus::stats(request, backend),
    }
}

fn ok() -> Response {
    Response::text("OK\n")
}
