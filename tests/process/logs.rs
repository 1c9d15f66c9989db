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
