//! The resolver against a real server: dnsmasq, where it is installed (Debian: dnsmasq-base).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use moorgate::cluster::dns::Dns;
use moorgate::cluster::manager::{ClusterIds, ClusterState, Definition, Manager};
use moorgate::cluster::{ClusterConfig, Discovery, DnsFamily, DnsName, DnsSource, HealthTarget};
use moorgate::server::control::{ControlLoop, State};
use moorgate::telemetry::registry::Registry;

struct Shared {
    manager: Manager,
}

impl State for Shared {}

impl ClusterState for Shared {
    fn clusters(&mut self) -> &mut Manager {
        &mut self.manager
    }
}

struct Dnsmasq {
    child: Child,
    addr: SocketAddr,
    dir: PathBuf,
}

impl Dnsmasq {
    /// `None` when it is not installed.
    fn start() -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("moorgate-dnsmasq-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let port = UdpSocket::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let mut config = format!(
            "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\n\
             keep-in-foreground\nuser=\ngroup=\npid-file=\nlocal=/test/\nlocal-ttl=7\n\
             host-record=one.test,127.0.0.1\n\
             host-record=both.test,127.0.0.2,::1\n\
             cname=alias.test,alias2.test\ncname=alias2.test,one.test\n"
        );
        for last in 0..200 {
            config += &format!("host-record=many.test,127.0.1.{last}\n");
        }
        let path = dir.join("dnsmasq.conf");
        std::fs::write(&path, config).expect("its configuration");
        let child = Command::new("dnsmasq")
            .arg(format!("--conf-file={}", path.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self {
                child,
                addr: ([127, 0, 0, 1], port).into(),
                dir,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("dnsmasq: {error}"),
        }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Resolves a name as the only one of a cluster; the hosts' addresses, sorted.
fn resolve(server: &Dnsmasq, host: &str, family: DnsFamily, wanted: usize) -> Vec<String> {
    let registry = Registry::new();
    let recorder = registry.recorder();
    let mut manager = Manager::new(Arc::<ClusterIds>::default(), registry, recorder);
    let source = DnsSource {
        names: vec![DnsName {
            host: host.to_owned(),
            port: 80,
            weight: 1,
            priority: 0,
            hostname: String::new(),
            health_target: HealthTarget::default(),
        }],
        family,
        refresh_ms: 50,
        resolvers: vec![server.addr],
        ..DnsSource::default()
    };
    manager.set(vec![Definition {
        name: "a".into(),
        stat_name: "a".into(),
        config: Arc::new(ClusterConfig {
            discovery: Discovery::StrictDns(Arc::new(source)),
            ..ClusterConfig::default()
        }),
        endpoints: Vec::new(),
    }]);
    let mut control = ControlLoop::new(Shared { manager }).expect("a loop");
    let dns = Dns::with_files(server.dir.join("no-hosts"), server.dir.join("no-resolv"));
    control.add(Box::new(dns)).expect("a source");
    // The server may need a moment to start; refused questions are asked again.
    for _ in 0..1_000 {
        let cluster = control.state.manager.iter().next().expect("a cluster");
        let mut list: Vec<_> = cluster
            .hosts
            .iter()
            .map(|host| host.addr.to_string())
            .collect();
        if list.len() == wanted && control.state.manager.is_warm() {
            list.sort();
            return list;
        }
        control
            .turn(Some(Duration::from_millis(20)))
            .expect("a turn");
    }
    panic!("{host} {family:?}: not resolved");
}

#[test]
fn names_are_resolved_by_a_real_server() {
    let Some(server) = Dnsmasq::start() else {
        eprintln!("dnsmasq is not installed: skipped");
        return;
    };
    let get = |host, family, wanted| resolve(&server, host, family, wanted);
    assert_eq!(get("one.test", DnsFamily::Auto, 1), ["127.0.0.1:80"]);
    assert_eq!(get("alias.test", DnsFamily::V4Only, 1), ["127.0.0.1:80"]);
    assert_eq!(get("both.test", DnsFamily::Auto, 1), ["[::1]:80"]);
    assert_eq!(
        get("both.test", DnsFamily::All, 2),
        ["127.0.0.2:80", "[::1]:80"]
    );
    // Does not fit in a datagram.
    assert_eq!(get("many.test", DnsFamily::V4Only, 200).len(), 200);
    assert_eq!(get("nobody.test", DnsFamily::Auto, 0).len(), 0);
}
