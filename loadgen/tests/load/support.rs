//! Starts the program under test, and ends what it started.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_moorgate-load"))
}

/// A running `serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: String,
}

impl Server {
    /// Ends it and starts another on the same address.
    pub(crate) fn restart(&mut self, line: &str) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let again = Self::start(&format!("{line} --listen {}", self.addr));
        // What is dropped is the one that has ended.
        drop(std::mem::replace(self, again));
    }

    /// Starts `serve` with the words of `line` and waits until it listens.
    pub(crate) fn start(line: &str) -> Self {
        let mut child = program()
            .arg("serve")
            .args(line.split(' '))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut first)
            .expect("a line");
        let addr = first
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("serve said {first:?}"))
            .to_owned();
        Self { child, addr }
    }

    /// Its URL.
    pub(crate) fn http(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// The same for WebSockets.
    pub(crate) fn ws(&self) -> String {
        format!("ws://{}/", self.addr)
    }

    /// Its URL with this scheme.
    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.addr)
    }

    /// The same for TCP.
    pub(crate) fn tcp(&self) -> String {
        format!("tcp://{}", self.addr)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that goes away.
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let id = std::process::id();
        Self(std::env::temp_dir().join(format!("moorgate-load-{id}-{name}")))
    }

    pub(crate) fn json(&self) -> Value {
        let text = std::fs::read_to_string(&self.0).expect("a report");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A certificate for 127.0.0.1 and `load.test` and its key, in files.
pub(crate) struct Certificate {
    pub(crate) cert: Scratch,
    pub(crate) key: Scratch,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Self {
        let names = ["127.0.0.1".to_owned(), "load.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let cert = Scratch::new(&format!("{name}.pem"));
        let key = Scratch::new(&format!("{name}.key"));
        std::fs::write(&cert.0, made.cert.pem()).expect("a file");
        std::fs::write(&key.0, made.signing_key.serialize_pem()).expect("a file");
        Self { cert, key }
    }

    /// The words that make `serve` speak TLS.
    pub(crate) fn words(&self) -> String {
        format!(
            "--cert {} --key {}",
            self.cert.0.display(),
            self.key.0.display()
        )
    }
}

/// Runs `command target line --json …` and gives its report.
pub(crate) fn report(name: &str, command: &str, target: &str, line: &str) -> Value {
    let file = Scratch::new(name);
    let output = program()
        .args([command, target])
        .args(line.split(' '))
        .arg("--json")
        .arg(&file.0)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", said(&output));
    file.json()
}

/// What the program said.
pub(crate) fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// A number of a report, by path.
pub(crate) fn number(report: &Value, pointer: &str) -> u64 {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no number {pointer} in {report:#}"))
}

/// Established connections to a port of 127.0.0.1, as the kernel lists them.
pub(crate) fn established(port: &str) -> usize {
    let port: u16 = port.trim_start_matches(':').parse().unwrap();
    let mark = format!(" 0100007F:{port:04X} 01 ");
    std::fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(&mark))
        .count()
}
