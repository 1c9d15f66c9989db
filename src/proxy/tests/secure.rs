//! TLS inside a test gateway: every cluster is reached over TLS, by way of a listener of the same gateway
//! that opens it and passes the bytes on. So the peers stay what they are, both ends of TLS are ours, and
//! whatever else a run does (faults, parking, stealing, moving) it does to them, too.

use std::sync::{Arc, OnceLock};

use super::Plan;
use crate::cluster::{ClusterConfig, UpstreamTls};
use crate::engine::reactor::Addr;
use crate::proxy::config::DownstreamTls;
use crate::telemetry::stats::{Names, TlsStats};
use crate::tls::tests::{Authority, client_plan, server_plan};
use crate::tls::{ClientContext, Live, ServerContext};

/// Listeners of the way in between have ports from this on.
pub(super) const FIRST_PORT: u16 = 700;
/// Both need ports of their own.
const NAMES: [(&str, &str); 4] = [
    ("web", "web-behind"),
    ("tcp", "tcp-behind"),
    ("mux", "mux-behind"),
    ("echo", "echo-behind"),
];

struct Material {
    authority: Authority,
    issued: crate::tls::tests::Issued,
}

/// Made once: keys are not what a seed decides.
fn material() -> &'static Material {
    static MATERIAL: OnceLock<Material> = OnceLock::new();
    MATERIAL.get_or_init(|| {
        let authority = Authority::new("root");
        let issued = authority.issue(&["moorgate.test"], 1);
        Material { authority, issued }
    })
}

pub(super) fn downstream(names: &dyn Names) -> Arc<DownstreamTls> {
    let plan = server_plan(&material().issued);
    Arc::new(DownstreamTls {
        context: Live::new(ServerContext::build(plan).expect("a server")),
        handshake_timeout_ms: 60_000,
        stats: TlsStats::new(names, "listener.secure."),
    })
}

/// What a client needs to trust the listeners that speak TLS here.
pub(super) fn client_context() -> ClientContext {
    ClientContext::build(client_plan(&material().authority)).expect("a client")
}

fn upstream(names: &dyn Names) -> Arc<UpstreamTls> {
    let plan = client_plan(&material().authority);
    Arc::new(UpstreamTls {
        context: Live::new(ClientContext::build(plan).expect("a client")),
        by_host_name: false,
        auto_sni: None,
        alpn_is_implied: false,
        stats: TlsStats::new(names, "cluster.secure."),
    })
}

/// Puts TLS between the gateway and its upstreams, of which idle ones are closed after `idle_timeout_ms`.
/// Gives the addresses of the listeners in between.
pub(super) fn wrap(
    mut plan: Plan,
    names: &dyn Names,
    addr: &dyn Fn(u16) -> Addr,
    idle_timeout_ms: u64,
) -> (Plan, Vec<Addr>) {
    let mut between = Vec::new();
    let tls = upstream(names);
    for (number, (name, config, hosts)) in
        std::mem::take(&mut plan.clusters).into_iter().enumerate()
    {
        let (_, behind) = NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .expect("a name");
        let at = addr(FIRST_PORT + number as u16);
        let raw = ClusterConfig {
            buffer_limit: config.buffer_limit,
            connect_timeout_ms: config.connect_timeout_ms,
            ..ClusterConfig::default()
        };
        let config = ClusterConfig {
            tls: Some(Arc::clone(&tls)),
            // An idle one holds a client of the listener behind it: they go before a run is judged.
            idle_timeout_ms,
            ..config
        };
        plan.clusters.push((name, config, vec![at.clone()]));
        plan.clusters.push((behind, raw, hosts));
        plan.tcp.push((at.clone(), behind, 3_600_000));
        between.push(at);
    }
    (plan, between)
}
