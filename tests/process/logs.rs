//! Access logs of the running program: reopened, and on a disk that is full.

use nix::sys::signal::Signal;

use crate::support::{Gateway, Upstream, cluster, config, get, http_listener, text, until};

fn gateway(a: &Upstream, path: &str) -> Gateway {
    let log = format!(
        "access_log: [ {{ name: envoy.access_loggers.file, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {path}, \
         log_format: {{ text_format_source: {{ inline_string: \"%REQ(:PATH)% %RESPONSE_CODE%\\n\" \
         }} }} }} }} ]"
    );
    let listeners = [http_listener("web", "a", &log)];
    let text = config(&listeners, &[cluster("a", &[a.addr], "")]);
    Gateway::with(&text, &["--file-flush-interval-msec", "20"])
}

#[test]
fn a_log_that_was_moved_away_is_opened_again() {
    let a = Upstream::start("a");
    let gateway = gateway(&a, "DIR/access.log");
    let (new, old) = (gateway.dir.path("access.log"), gateway.dir.path("old.log"));
    let web = gateway.listener("web");
    get(web, "/one");
    until("the entry", || text(&new) == "/one 200\n");
    std::fs::rename(&new, &old).expect("it is there");
    get(web, "/two");
    until("still the old file", || {
        text(&old) == "/one 200\n/two 200\n"
    });
    gateway.signal(Signal::SIGUSR1);
    until("the new file", || new.exists());
    get(web, "/three");
    until("the entry", || text(&new) == "/three 200\n");
    assert_eq!(text(&old), "/one 200\n/two 200\n");
}

/// A log of requests that were slow, failed, or said so; and who the client is.
#[test]
fn a_filter_decides_what_is_written() {
    let a = Upstream::start("a");
    let entry = |name: &str, filter: &str| {
        format!(
            "{{ name: {name}, filter: {filter}, typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, \
             path: DIR/{name}, log_format: {{ text_format_source: {{ inline_string: \
             \"%REQ(:PATH)% %REQ(X-FORWARDED-PORT)% %REQ(X-ENVOY-INTERNAL)%\\n\" }} }} }} }}"
        )
    };
    let at_least_400 =
        "{ status_code_filter: { comparison: { op: GE, value: { default_value: 400 } } } }";
    let marked =
        "{ header_filter: { header: { name: \":path\", string_match: { prefix: /mark } } } }";
    let quick = "{ duration_filter: { comparison: { op: LE, value: { default_value: 60000, \
                 runtime_key: some.key } } } }";
    let logs = [
        entry("failed", at_least_400),
        entry("flagged", "{ response_flag_filter: { flags: [ UF, NR ] } }"),
        entry(
            "either",
            &format!("{{ or_filter: {{ filters: [ {at_least_400}, {marked} ] }} }}"),
        ),
        entry(
            "both",
            &format!("{{ and_filter: {{ filters: [ {quick}, {marked} ] }} }}"),
        ),
        entry("all", "{ not_health_check_filter: {} }"),
    ];
    let extra = format!(
        "append_x_forwarded_port: true\n          use_remote_address: true\n          \
         internal_address_config: {{ cidr_ranges: [ {{ address_prefix: 127.0.0.0, prefix_len: 8 }} \
         ] }}\n          access_log: [ {} ]",
        logs.join(", ")
    );
    let listeners = [
        http_listener("web", "a", &extra),
        http_listener("dead", "nobody", &extra),
    ];
    let nobody = "127.0.0.1:1".parse().expect("an address");
    let clusters = [
        cluster("a", &[a.addr], ""),
        cluster("nobody", &[nobody], ""),
    ];
    let text_of = config(&listeners, &clusters);
    let gateway = Gateway::with(&text_of, &["--file-flush-interval-msec", "20"]);
    let (web, dead) = (gateway.listener("web"), gateway.listener("dead"));
    assert_eq!(get(web, "/plain").0, 200);
    assert_eq!(get(web, "/marked").0, 200);
    assert_eq!(get(dead, "/dead").0, 503);
    let line = |path: &str, addr: std::net::SocketAddr| format!("{path} {} true\n", addr.port());
    let all = line("/plain", web) + &line("/marked", web) + &line("/dead", dead);
    // Two workers write: the order is theirs.
    let sorted = |name: &str| {
        let text = text(&gateway.dir.path(name));
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n") + "\n"
    };
    let order = |text: &str| {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n") + "\n"
    };
    until("all", || sorted("all") == order(&all));
    until("failed", || sorted("failed") == line("/dead", dead));
    until("flagged", || sorted("flagged") == line("/dead", dead));
    let either = line("/marked", web) + &line("/dead", dead);
    until("either", || sorted("either") == order(&either));
    until("both", || sorted("both") == line("/marked", web));
}

#[test]
fn the_admin_interface_has_a_log_of_its_own() {
    let a = Upstream::start("a");
    let text_of = config(
        &[http_listener("web", "a", "")],
        &[cluster("a", &[a.addr], "")],
    );
    let text_of = text_of.replace(
        "ADMIN",
        "admin: { access_log_path: DIR/plain, access_log: [ { name: a, typed_config: { \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: DIR/admin.log, \
         log_format: { text_format_source: { inline_string: \"%REQ(:PATH)% %RESPONSE_CODE%\\n\" } } \
         } } ], address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }",
    );
    let gateway = Gateway::with(&text_of, &["--file-flush-interval-msec", "20"]);
    assert_eq!(gateway.get("/nowhere").0, 404);
    until("the entry", || {
        text(&gateway.dir.path("admin.log")).contains("/nowhere 404\n")
    });
    until("the other entry", || {
        text(&gateway.dir.path("plain")).contains("\"GET /nowhere HTTP/1.1\" 404")
    });
}

#[test]
fn a_full_disk_is_counted_and_harms_nobody() {
    let a = Upstream::start("a");
    let gateway = gateway(&a, "/dev/full");
    let web = gateway.listener("web");
    for _ in 0..10 {
        assert_eq!(get(web, "/"), (200, "a".to_owned()));
    }
    until("it was tried", || {
        gateway.stat("filesystem.write_failed") > 0
    });
    assert_eq!(get(web, "/"), (200, "a".to_owned()));
    assert_eq!(gateway.get("/ready").0, 200);
}
