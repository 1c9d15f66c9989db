//! The resolver on real sockets, against a small server in this process.

use std::net::UdpSocket as StdUdp;
use std::net::{TcpListener, TcpStream as StdTcp};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::base::iana::Rcode;

use super::super::message::tests::{Record, answer};
use super::*;
use crate::cluster::manager::Manager;
use crate::cluster::testing::{definition, dns_name, manager};
use crate::cluster::{ClusterConfig, ClusterId, Discovery, DnsFamily, DnsSource};
use crate::server::control::{ControlLoop, State};

struct Shared {
    manager: Manager,
}

impl State for Shared {}

impl ClusterState for Shared {
    fn clusters(&mut self) -> &mut Manager {
        &mut self.manager
    }
}

type Script = dyn FnMut(&[u8], bool) -> Vec<Vec<u8>> + Send;

/// A DNS server on a loopback address: a script turns each query into datagrams (or messages).
struct Server {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn new(script: impl FnMut(&[u8], bool) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        // The same port for both: a free one for TCP is nearly always free for UDP too.
        let (udp, tcp) = (0..50)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.2:0").unwrap();
                let udp = StdUdp::bind(tcp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .expect("a port");
        let addr = udp.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let threads = vec![
            std::thread::spawn({
                let (stop, script) = (Arc::clone(&stop), Arc::clone(&script));
                move || {
                    let mut buffer = [0; 2048];
                    while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let replies = script.lock().unwrap()(&buffer[..length], false);
                        for reply in replies {
                            let _ = udp.send_to(&reply, from);
                        }
                    }
                }
            }),
            std::thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    for stream in tcp.incoming() {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        serve_tcp(stream.unwrap(), &script);
                    }
                }
            }),
        ];
        Self {
            addr,
            stop,
            threads,
        }
    }
}

fn serve_tcp(mut stream: StdTcp, script: &Mutex<Box<Script>>) {
    let mut length = [0; 2];
    if stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    if stream.read_exact(&mut query).is_err() {
        return;
    }
    for reply in script.lock().unwrap()(&query, true) {
        let mut bytes = (reply.len() as u16).to_be_bytes().to_vec();
        bytes.extend_from_slice(&reply);
        // In two parts, to be put together again.
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let _ = stream.write_all(head);
        let _ = stream.flush();
        let _ = stream.write_all(tail);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let poke = StdUdp::bind("127.0.0.1:0").unwrap();
        let _ = poke.send_to(&[0], self.addr);
        drop(StdTcp::connect(self.addr));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn loop_with(source: DnsSource, dns: Dns) -> (ControlLoop<Shared>, ClusterId) {
    let mut manager = manager();
    let config = ClusterConfig {
        discovery: Discovery::StrictDns(Arc::new(source)),
        ..ClusterConfig::default()
    };
    manager.set(vec![definition("a", config, vec![])]);
    let id = manager.ids().id("a");
    let mut control = ControlLoop::new(Shared { manager }).unwrap();
    control.add(Box::new(dns)).unwrap();
    (control, id)
}

fn source(name: &str, resolvers: Vec<SocketAddr>) -> DnsSource {
    DnsSource {
        names: vec![dns_name(name, 80)],
        family: DnsFamily::V4Only,
        refresh_ms: 20,
        no_search: true,
        resolvers,
        ..DnsSource::default()
    }
}

fn files(text: &str) -> (tempdir::Dir, Dns) {
    let dir = tempdir::Dir::new();
    fs::write(dir.path("hosts"), text).unwrap();
    fs::write(dir.path("resolv.conf"), "options timeout:1\n").unwrap();
    let mut dns = Dns::with_files(dir.path("hosts"), dir.path("resolv.conf"));
    dns.file_check_ms = 0;
    (dir, dns)
}

mod tempdir {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that goes with the test.
    pub(super) struct Dir(PathBuf);

    impl Dir {
        pub(super) fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("moorgate-dns-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(super) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn addrs(control: &ControlLoop<Shared>, id: ClusterId) -> Vec<String> {
    let cluster = control.state.manager.get(id).unwrap();
    let mut list: Vec<_> = cluster
        .hosts
        .iter()
        .map(|host| host.addr.to_string())
        .collect();
    list.sort();
    list
}

/// Turns until the cluster has these hosts; gives up after very many turns.
fn until(control: &mut ControlLoop<Shared>, id: ClusterId, expected: &[&str]) {
    for _ in 0..3_000 {
        if addrs(control, id) == expected {
            return;
        }
        control.turn(Some(Duration::from_millis(10))).unwrap();
    }
    assert_eq!(addrs(control, id), expected);
}

fn one(ip: [u8; 4]) -> [Record; 1] {
    [Record::Ip("a.test", 60, ip.into())]
}

#[test]
fn hosts_follow_the_records() {
    let last = Arc::new(AtomicU32::new(1));
    let server = Server::new({
        let last = Arc::clone(&last);
        move |query, _| {
            let ip = [127, 0, 0, last.load(Ordering::Relaxed) as u8];
            vec![answer(query, Rcode::NOERROR, &one(ip), None, false)]
        }
    });
    let (_dir, dns) = files("");
    let (mut control, id) = loop_with(source("a.test", vec![server.addr]), dns);
    until(&mut control, id, &["127.0.0.1:80"]);
    assert!(control.state.manager.take_dirty());
    last.store(2, Ordering::Relaxed);
    until(&mut control, id, &["127.0.0.2:80"]);
    assert!(control.state.manager.take_dirty());
}

#[test]
fn long_answers_come_over_tcp() {
    let server = Server::new(|query, tcp| {
        let records: Vec<_> = (0..250)
            .map(|last| Record::Ip("a.test", 60, [127, 0, 1, last].into()))
            .collect();
        let records = if tcp { &records[..] } else { &[] };
        vec![answer(query, Rcode::NOERROR, records, None, !tcp)]
    });
    let (_dir, dns) = files("");
    let (mut control, id) = loop_with(source("a.test", vec![server.addr]), dns);
    for _ in 0..3_000 {
        if !addrs(&control, id).is_empty() {
            break;
        }
        control.turn(Some(Duration::from_millis(10))).unwrap();
    }
    assert_eq!(addrs(&control, id).len(), 250);
}

#[test]
fn a_server_that_is_not_there_is_passed_over() {
    let server = Server::new(|query, _| {
        vec![answer(
            query,
            Rcode::NOERROR,
            &one([127, 0, 0, 9]),
            None,
            false,
        )]
    });
    let nobody = StdUdp::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let (_dir, dns) = files("");
    let (mut control, id) = loop_with(source("a.test", vec![nobody, server.addr]), dns);
    until(&mut control, id, &["127.0.0.9:80"]);
}

#[test]
fn forged_answers_are_not_believed() {
    let server = Server::new(|query, _| {
        let forged = answer(query, Rcode::NOERROR, &one([127, 0, 0, 66]), None, false);
        let mut wrong_id = forged.clone();
        wrong_id[0] ^= 0xff;
        let mut wrong_name = forged.clone();
        wrong_name[13] = b'x';
        let cut = forged[..11].to_vec();
        let real = answer(query, Rcode::NOERROR, &one([127, 0, 0, 1]), None, false);
        vec![
            wrong_id,
            wrong_name,
            cut,
            Vec::new(),
            vec![0xff; 3_000],
            real,
        ]
    });
    let (_dir, dns) = files("");
    let (mut control, id) = loop_with(source("a.test", vec![server.addr]), dns);
    until(&mut control, id, &["127.0.0.1:80"]);
}

#[test]
fn the_hosts_file_is_read_again_when_it_changed() {
    let (dir, dns) = files("127.0.0.4 a.test\n");
    let (mut control, id) = loop_with(source("a.test", vec![]), dns);
    until(&mut control, id, &["127.0.0.4:80"]);
    fs::write(dir.path("hosts"), "127.0.0.5 a.test\n127.0.0.6 a.test\n").unwrap();
    until(&mut control, id, &["127.0.0.5:80", "127.0.0.6:80"]);
}

#[test]
fn a_removed_cluster_is_not_asked_for_any_more() {
    let asked = Arc::new(AtomicU32::new(0));
    let server = Server::new({
        let asked = Arc::clone(&asked);
        move |query, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            vec![answer(
                query,
                Rcode::NOERROR,
                &one([127, 0, 0, 1]),
                None,
                false,
            )]
        }
    });
    let (_dir, dns) = files("");
    let (mut control, id) = loop_with(source("a.test", vec![server.addr]), dns);
    until(&mut control, id, &["127.0.0.1:80"]);
    control.state.manager.set(vec![]);
    control.turn(Some(Duration::ZERO)).unwrap();
    control.turn(Some(Duration::ZERO)).unwrap();
    let before = asked.load(Ordering::Relaxed);
    for _ in 0..5 {
        control.turn(Some(Duration::from_millis(25))).unwrap();
    }
    // One may have been under way.
    assert!(asked.load(Ordering::Relaxed) <= before + 1);
}
