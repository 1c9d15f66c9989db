//! The real process under test: started with a configuration, asked through its admin interface, ended.
//!
//! Nothing here waits for time to pass: whoever waits, waits until a counter says so, and gives up only
//! when nothing can come any more.

// Every test that uses this room uses a part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// When what must come has not come for so long, it will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port of the loopback that was free a moment ago.
pub(crate) fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// Waits until `done` says so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running gateway.
pub(crate) struct Moorgate {
    child: Child,
    pub(crate) admin: SocketAddr,
    dir: PathBuf,
}

impl Moorgate {
    /// Starts it with a configuration, in which `ADMIN` stands for the admin address's port. With
    /// `descriptors`, the process may not have more of them open.
    pub(crate) fn start(
        name: &str,
        config: &str,
        arguments: &[&str],
        descriptors: Option<u32>,
    ) -> Self {
        let admin = free_addr();
        let dir = std::env::temp_dir().join(format!("moorgate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("moorgate.yaml");
        std::fs::write(&path, config.replace("ADMIN", &admin.port().to_string()))
            .expect("its configuration");
        let binary = env!("CARGO_BIN_EXE_moorgate");
        let mut command = match descriptors {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args([
                    "-c",
                    &format!("ulimit -n {limit} && exec \"$0\" \"$@\""),
                    binary,
                ]);
                shell
            }
        };
        let child = command
            .arg("-c")
            .arg(&path)
            .args(["-l", "error"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("the gateway");
        let mut moorgate = Self { child, admin, dir };
        wait_until("the admin interface", || {
            let ended = moorgate.child.try_wait().expect("its state");
            assert!(ended.is_none(), "the gateway ended: {ended:?}");
            TcpStream::connect(admin).is_ok()
        });
        moorgate
    }

    /// Sends a request to the admin interface; gives the answer's body.
    pub(crate) fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin interface");
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        match answer.split_once("\r\n\r\n") {
            Some((_, body)) => body.to_owned(),
            None => panic!("no answer for {path}: {answer:?}"),
        }
    }

    /// A counter or gauge by its name; 0 when nothing was counted.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let body = self.ask("/stats");
        body.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// A connection to the admin interface that stays open, for when there are no descriptors left.
    pub(crate) fn asker(&self) -> Asker {
        let stream = TcpStream::connect(self.admin).expect("the admin interface");
        let mut asker = Asker { stream };
        asker.stat("server.live");
        asker
    }

    /// Bytes from `/proc/<pid>/status`, by the name of the line.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process's status");
        let kilobytes = status
            .lines()
            .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
            .and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.expect("a line of the status") * 1024
    }

    /// Descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("its descriptors").count()
    }
}

impl Drop for Moorgate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A kept connection to the admin interface.
pub(crate) struct Asker {
    stream: TcpStream,
}

impl Asker {
    /// A counter or gauge by its name; 0 when nothing was counted.
    pub(crate) fn stat(&mut self, name: &str) -> u64 {
        let request = format!("GET /stats?filter=^{name}$ HTTP/1.1\r\nhost: admin\r\n\r\n");
        self.stream.write_all(request.as_bytes()).expect("request");
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&seen);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .and_then(|length| length.parse::<usize>().ok())
                    .expect("a length");
                if body.len() >= length {
                    let value = body.trim().rsplit(": ").next().unwrap_or_default();
                    return value.parse().unwrap_or(0);
                }
            }
            match self.stream.read(&mut piece).expect("an answer") {
                0 => panic!("the admin interface closed"),
                n => seen.extend_from_slice(&piece[..n]),
            }
        }
    }
}

/// The limit on this process's descriptors, raised as far as it may be.
pub(crate) fn descriptors() -> u64 {
    moorgate::engine::limits::raise_descriptors()
        .expect("the limit on descriptors")
        .now
}
