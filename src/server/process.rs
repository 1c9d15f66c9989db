//! The process: from options to workers, through reloads, to the end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cli::{DrainStrategy, IpVersion, Mode, Options};
use super::control::{ControlLoop, Handle};
use super::dump::Dump;
use super::facts::{ServerFacts, StatsFlush};
use super::listeners::Sockets;
use super::log::Log;
use super::publish::Published;
use super::signals::{self, Signals};
use super::watching::{Directories, Watches};
use crate::admin::Admin;
use crate::cluster::dns::Dns;
use crate::cluster::health::Health;
use crate::cluster::manager::{ClusterIds, Manager};
use crate::config::build::{self, Builder, Built, Interner};
use crate::config::{ConfigError, ParseOptions, ParsedBootstrap, Source, parse_bootstrap};
use crate::engine::chunk::Budget;
use crate::engine::core::{Core, Group};
use crate::engine::limits;
use crate::engine::reactor::clock::Clock;
use crate::engine::reactor::epoll::{Epoll, EpollRemote};
use crate::engine::worker::Worker;
use crate::proxy::config::{Listener, Snapshot};
use crate::proxy::facts::ProxyFacts;
use crate::proxy::{Gateway, Parts, Shared, Tuning};
use crate::telemetry::log_thread::LogThread;
use crate::telemetry::recorder::Recorder;
use crate::telemetry::registry::Registry;
use crate::telemetry::stats::{EngineStats, Names, WorkerStats};

/// What runs without `-c` and `--config-yaml`.
const DEFAULT: &str = include_str!("default.yaml");

/// Interval of histograms and counters in statistics, Envoy's default.
const STATS_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// The process as the control thread sees it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) options: Options,
    pub(super) registry: Arc<Registry>,
    pub(super) manager: Manager,
    pub(super) logs: LogThread,
    pub(super) log: Option<Log>,
    pub(super) shared: Arc<Shared>,
    pub(super) sockets: Sockets,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) facts: ServerFacts,
    pub(super) node: Option<String>,
    pub(super) draining: bool,
    pub(super) health_failed: bool,
    pub(super) workers_left: usize,
    /// Workers accept: every cluster knows its hosts and their health.
    pub(super) accepting: bool,
    pub(super) group: Arc<Group<EpollRemote, ProxyFacts>>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) budget: Arc<Budget>,
    pub(super) engine_stats: EngineStats,
    pub(super) interner: Interner,
    pub(super) cluster_ids: Arc<ClusterIds>,
    pub(super) max_connections: u64,
    pub(super) published: Published,
    pub(super) dump: Dump,
    pub(super) watches: Watches,
}

/// Reads the configuration that the options name.
pub(super) fn load(options: &Options) -> Result<ParsedBootstrap, ConfigError> {
    let mut source = Source {
        path: options.config_path.clone(),
        yaml: options.config_yaml.clone(),
    };
    if source.path.is_none() && source.yaml.is_none() {
        source.yaml = Some(DEFAULT.to_owned());
    }
    let parsing = ParseOptions {
        allow_unknown_static_fields: options.allow_unknown_static_fields,
    };
    parse_bootstrap(&source, &parsing)
}

/// Says once what is set and has no effect.
pub(super) fn tell_ignored(parsed: &ParsedBootstrap) {
    if !parsed.ignored.is_empty() {
        tracing::info!("accepted without effect: {}", parsed.ignored.join(", "));
    }
    if !parsed.unknown.is_empty() {
        tracing::warn!("unknown fields skipped: {}", parsed.unknown.join(", "));
    }
}

/// Runs the gateway; returns when it has ended.
pub fn run(options: Options) -> ExitCode {
    match start(options) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("moorgate: {why}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> Result<ExitCode, String> {
    signals::block().map_err(|error| format!("cannot block signals: {error}"))?;
    let log =
        Log::start(super::log::Settings::new(&options)?).map_err(|error| error.to_string())?;
    log.install();
    let outcome = configured(options, log.clone());
    if let Err(why) = &outcome {
        tracing::error!("{why}");
    }
    log.flush();
    outcome
}

fn configured(options: Options, log: Log) -> Result<ExitCode, String> {
    for note in options.ignored() {
        tracing::info!("{note}");
    }
    let descriptors = limits::raise_descriptors().map_err(|error| error.to_string())?;
    let parsed = load(&options).map_err(|error| error.to_string())?;
    let registry = Registry::new();
    let logs = LogThread::start(options.access_logs(), &registry)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    let interner = Interner::default();
    let cluster_ids = Arc::<ClusterIds>::default();
    let built = build_with(&parsed, &registry, &interner, &cluster_ids, &logs, &options)
        .map_err(|error| error.to_string())?;
    if options.mode == Mode::Validate {
        let name = options.config_path.as_ref().map_or_else(
            || "(built in)".to_owned(),
            |path| path.display().to_string(),
        );
        println!("configuration '{name}' OK");
        return Ok(ExitCode::SUCCESS);
    }
    tell_ignored(&parsed);
    let concurrency = options
        .concurrency
        .map_or_else(limits::cores, |n| n as usize);
    tracing::info!(
        "{} workers, {} descriptors at most (were {})",
        concurrency,
        descriptors.now,
        descriptors.before
    );
    serve(
        options,
        log,
        parsed,
        built,
        (registry, logs, interner, cluster_ids),
        concurrency,
    )
}

pub(super) fn build_with(
    parsed: &ParsedBootstrap,
    registry: &Arc<Registry>,
    interner: &Interner,
    clusters: &Arc<ClusterIds>,
    logs: &LogThread,
    options: &Options,
) -> Result<Built, ConfigError> {
    let hostname = hostname();
    let names: Arc<dyn Names + Send + Sync> = Arc::clone(registry) as _;
    let builder = Builder {
        names: &names,
        ids: interner,
        clusters,
        logs: logs.logs(),
        options: build::Options {
            file: &parsed.file,
            hostname: &hostname,
            service_node: &options.service_node,
            service_cluster: &options.service_cluster,
            service_zone: &options.service_zone,
            dry: options.mode == Mode::Validate,
        },
    };
    build::build(&parsed.bootstrap, &builder)
}

type Telemetry = (Arc<Registry>, LogThread, Interner, Arc<ClusterIds>);

fn serve(
    options: Options,
    log: Log,
    parsed: ParsedBootstrap,
    built: Built,
    (registry, logs, interner, cluster_ids): Telemetry,
    concurrency: usize,
) -> Result<ExitCode, String> {
    let clock = Clock::start();
    let reactors = (0..concurrency)
        .map(|_| Epoll::new(clock))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("cannot make an epoll set: {error}"))?;
    let budget = options
        .max_buffer_bytes
        .unwrap_or_else(|| limits::memory().map_or(1 << 30, |bytes| bytes / 4));
    let budget = Arc::new(Budget::new(budget as usize));
    let cores = Core::<Epoll, ProxyFacts>::group(reactors, &budget);
    let group = Arc::clone(cores[0].siblings());
    let engine_stats = EngineStats::new(&*registry, "moorgate.");
    let facts = ServerFacts::new(&registry, concurrency as u32);
    let recorder = registry.recorder();
    let mut manager = Manager::new(
        Arc::clone(&cluster_ids),
        Arc::clone(&registry) as Arc<dyn Names + Send + Sync>,
        Arc::clone(&recorder),
    );
    manager.set(built.definitions);
    manager.take_dirty();
    let mut process = Process {
        max_connections: options.max_connections.unwrap_or(built.max_connections),
        options,
        manager,
        logs,
        log: Some(log),
        shared: Arc::default(),
        sockets: Sockets::default(),
        listeners: built.listeners,
        facts,
        node: built.node.json,
        draining: false,
        health_failed: false,
        workers_left: concurrency,
        accepting: false,
        group,
        published: Published::new(&registry),
        dump: Dump::new(&parsed.bootstrap),
        registry,
        recorder,
        budget,
        engine_stats,
        interner,
        cluster_ids,
        watches: Watches::default(),
    };
    process.watches.set(built.watches);
    let admin = built.admin;
    process
        .sockets
        .update(&process.listeners)
        .map_err(|error| format!("{}: {error}", parsed.file))?;
    process.published.listeners(&Dump::default(), &process.dump);
    let snapshot = process.snapshot();
    let mut control = ControlLoop::new(process).map_err(|error| error.to_string())?;
    let handle = control.handle();
    let signals = Signals::new().map_err(|error| error.to_string())?;
    control
        .add(Box::new(signals))
        .map_err(|error| error.to_string())?;
    let flush = StatsFlush::new(Arc::clone(&control.state.registry), STATS_INTERVAL);
    control
        .add(Box::new(flush))
        .map_err(|error| error.to_string())?;
    control
        .add(Box::new(Dns::new()))
        .map_err(|error| error.to_string())?;
    control
        .add(Box::new(Directories::default()))
        .map_err(|error| error.to_string())?;
    control
        .add(Box::new(Health::new()))
        .map_err(|error| error.to_string())?;
    if let Some(admin) = admin {
        let settings = crate::admin::Settings {
            address: admin.addr,
            unix_mode: admin.unix_mode,
            address_path: control.state.options.admin_address_path.clone(),
            access_logs: admin.access_logs,
            writer: Some(
                control
                    .state
                    .logs
                    .logs()
                    .writer(Arc::clone(&control.state.recorder), u64::MAX),
            ),
        };
        let address = settings.address.clone();
        let names = Arc::clone(&control.state.registry);
        let admin = Admin::open(settings, &*names, Arc::clone(&control.state.recorder))
            .map_err(|error| format!("admin: cannot listen on {address}: {error}"))?;
        control
            .add(Box::new(admin))
            .map_err(|error| error.to_string())?;
    }
    let threads = spawn(cores, &control.state, &snapshot, &handle)?;
    drop(snapshot);
    if control.state.options.config_path.is_none() && control.state.options.config_yaml.is_none() {
        tell_what_to_try();
    }
    let process = control.run().map_err(|error| error.to_string())?;
    for thread in threads {
        // A panic was already printed; the others still end in order.
        let _ = thread.join();
    }
    process.logs.stop();
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

fn tell_what_to_try() {
    println!(
        "Moorgate runs its built-in demonstration. Try:\n  \
         curl -v http://127.0.0.1:8080/\n  \
         curl http://127.0.0.1:9901/stats\n  \
         curl http://127.0.0.1:9901/help\n\
         Run your own configuration with: moorgate -c envoy.yaml"
    );
}

fn spawn(
    cores: Vec<Core<Epoll, ProxyFacts>>,
    process: &Process,
    snapshot: &Arc<Snapshot>,
    handle: &Handle<Process>,
) -> Result<Vec<thread::JoinHandle<()>>, String> {
    let engine_stats = process.engine_stats;
    let cpus = if process.options.pin_workers || process.options.cpuset_threads {
        limits::allowed_cpus().map_err(|error| error.to_string())?
    } else {
        Vec::new()
    };
    let mut threads = Vec::new();
    for core in cores {
        let number = usize::from(core.id());
        let recorder = process.registry.recorder();
        let parts = Parts {
            shared: Arc::clone(&process.shared),
            snapshot: Arc::clone(snapshot),
            logs: process
                .logs
                .logs()
                .writer(Arc::clone(&recorder), number as u64),
            recorder,
            engine_stats,
            worker_stats: WorkerStats::new(
                &*process.registry,
                &format!("moorgate.worker_{}.", core.id()),
            ),
            tuning: Tuning {
                drain_ms: process.options.drain_time().as_millis() as u64,
                drain_gradually: process.options.drain_strategy == DrainStrategy::Gradual,
                ..Tuning::default()
            },
            hostname: hostname(),
            wall_clock,
            local_ip: Some(local_ip(process.options.local_address_ip_version)),
        };
        let handle = handle.clone();
        let cpus = cpus.clone();
        let thread = thread::Builder::new()
            .name(format!("wrk:worker_{number}"))
            .spawn(move || {
                if !cpus.is_empty()
                    && let Err(error) = limits::pin_thread(number, &cpus)
                {
                    tracing::warn!("worker {number} could not be pinned: {error}");
                }
                let gateway = Gateway::new(parts, core.now());
                let ended = Worker::new(core, gateway).run();
                if let Err(error) = ended {
                    tracing::error!("worker {number} ended: {error}");
                }
                handle.send(|process, _| process.workers_left -= 1);
            })
            .map_err(|error| format!("cannot start worker {number}: {error}"))?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Microseconds since the Unix epoch.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The address by which others know this machine: the first of the version that is not of the
/// loopback, else the loopback's own.
fn local_ip(version: IpVersion) -> IpAddr {
    let loopback = match version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return loopback;
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            match version {
                IpVersion::V4 => Some(IpAddr::V4(address.as_sockaddr_in()?.ip())),
                IpVersion::V6 => Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())),
            }
        })
        .find(|address| !address.is_loopback())
        .unwrap_or(loopback)
}
