//! The command line: Envoy's flags are taken, and do what they say.

use std::process::Output;

use crate::support::{
    Gateway, Scratch, Upstream, cluster, config, get, http_listener, program, text, until,
};

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program")
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn validation_says_ok_or_fails() {
    let dir = Scratch::new();
    let path = dir.path("a.yaml");
    let name = path.display().to_string();
    let good = config(
        &[http_listener("web", "a", "")],
        &[cluster(
            "a",
            &["127.0.0.1:1".parse().expect("an address")],
            "",
        )],
    );
    let good = good.replace("ADMIN", "{}").replace("{}\n", "");
    std::fs::write(&path, &good).expect("a file");
    let output = run(&["--mode", "validate", "-c", &name]);
    assert_eq!(said(&output).0, format!("configuration '{name}' OK\n"));
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(&path, good.replace("cluster: a ", "cluster: b ")).expect("a file");
    let output = run(&["--mode", "validate", "-c", &name]);
    assert_eq!(output.status.code(), Some(1));
    let (out, err) = said(&output);
    assert_eq!(out, "");
    assert!(
        err.contains(&name) && err.contains("route.cluster: there is no cluster 'b'"),
        "{err}"
    );
    let output = run(&["--mode", "validate", "-c", "/nonexistent/file.yaml"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn text_is_merged_over_the_file() {
    let a = Upstream::start("a");
    let text = config(
        &[http_listener("web", "a", "")],
        &[cluster("a", &[a.addr], "")],
    );
    let more = "{ node: { id: from-text, locality: { zone: z } }, static_resources: { clusters: \
                [ { name: more, load_assignment: { cluster_name: more } } ] } }";
    let gateway = Gateway::with(&text, &["--config-yaml", more]);
    assert_eq!(get(gateway.listener("web"), "/"), (200, "a".to_owned()));
    assert!(
        gateway
            .get("/clusters")
            .1
            .contains("more::observability_name::more")
    );
    assert!(
        gateway
            .get("/server_info")
            .1
            .contains("\"id\": \"from-text\"")
    );
}

#[test]
fn every_flag_of_envoys_is_taken() {
    let a = Upstream::start("a");
    let dir = Scratch::new();
    let log = dir.path("moorgate.log");
    let text_of = config(
        &[http_listener("web", "a", "")],
        &[cluster("a", &[a.addr], "")],
    );
    let log_path = log.display().to_string();
    let gateway = Gateway::with(
        &text_of,
        &[
            "--mode",
            "serve",
            "--concurrency",
            "1",
            "-l",
            "debug",
            "--component-log-level",
            "upstream:info,config:trace",
            "--log-path",
            &log_path,
            "--log-format",
            "%l|%v",
            "--service-cluster",
            "some-cluster",
            "--service-node",
            "some-node",
            "--service-zone",
            "some-zone",
            "--drain-time-s",
            "45",
            "--drain-strategy",
            "immediate",
            "--parent-shutdown-time-s",
            "60",
            "--base-id",
            "7",
            "--disable-hot-restart",
            "--restart-epoch",
            "3",
            "--allow-unknown-static-fields",
            "--reject-unknown-dynamic-fields",
            "--file-flush-interval-msec",
            "1000",
            "--local-address-ip-version",
            "v4",
        ],
    );
    assert_eq!(get(gateway.listener("web"), "/"), (200, "a".to_owned()));
    let (_, info) = gateway.get("/server_info");
    for part in [
        "\"concurrency\": 1",
        "\"log_level\": \"debug\"",
        "\"drain_time\": \"45s\"",
        "\"drain_strategy\": \"Immediate\"",
        "\"service_node\": \"some-node\"",
        "\"id\": \"some-node\"",
        "\"cluster\": \"some-cluster\"",
        "\"zone\": \"some-zone\"",
        "\"base_id\": \"7\"",
        "\"restart_epoch\": 3",
    ] {
        assert!(info.contains(part), "{part}: {info}");
    }
    for flag in [
        "--parent-shutdown-time-s",
        "--base-id",
        "--restart-epoch",
        "--reject-unknown-dynamic-fields",
    ] {
        let line = format!("info|{flag} has no effect");
        until(&line, || text(&log).contains(&line));
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(said(&version).0.contains("version: "));
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(said(&help).0.contains("--config-path"));
    let wrong = run(&["--no-such-flag"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(said(&wrong).1.contains("--no-such-flag"));
}
