//! The command line: Envoy's flags, and a few of our own.
//!
//! A flag of Envoy's that means nothing here yet is accepted, and [`Options::ignored`] says so: it is
//! printed at start. An unknown flag is an error.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use super::log::level::{ComponentLevels, Level};

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve traffic.
    #[default]
    Serve,
    /// Check it and exit.
    Validate,
    /// Check it without resolving or opening anything, and exit.
    InitOnly,
}

/// How connections are drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// More and more of them as the drain time passes.
    #[default]
    Gradual,
    /// All at once.
    Immediate,
}

/// Address family of the local address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IpVersion {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// The arguments of `moorgate`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "moorgate",
    about = "A proxy for long-lived connections, configured by Envoy's v3 API.",
    after_help = "Without -c or --config-yaml a demo runs on 127.0.0.1:8080, with the admin \
                  interface on 127.0.0.1:9901.",
    disable_version_flag = true
)]
pub struct Options {
    /// Configuration file (YAML or JSON)
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,

    /// Configuration text, merged over the file
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,

    /// Serve, or check the configuration and exit
    #[arg(long, value_enum, default_value_t)]
    pub mode: Mode,

    /// Number of workers; by default the cores this process may use
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,

    /// Bind every worker to a core of its own
    #[arg(long)]
    pub pin_workers: bool,

    /// Limit on client connections of the whole process
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u64>,

    /// Limit on bytes in buffers of the whole process; by default a quarter of the memory there is
    #[arg(long, value_name = "BYTES")]
    pub max_buffer_bytes: Option<u64>,

    /// trace, debug, info, warning, error, critical or off
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = Level::parse)]
    pub log_level: Level,

    /// Levels by component, for instance upstream:debug,config:trace
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true,
          value_parser = ComponentLevels::parse)]
    pub component_log_level: ComponentLevels,

    /// Log file; standard error by default
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,

    /// Pattern of log lines
    #[arg(long, value_name = "PATTERN", default_value = super::log::pattern::DEFAULT)]
    pub log_format: String,

    /// Line breaks in log messages are escaped
    #[arg(long)]
    pub log_format_escaped: bool,

    /// node.cluster, when the configuration has none
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub service_cluster: String,

    /// node.id, when the configuration has none
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub service_node: String,

    /// node.locality.zone, when the configuration has none
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub service_zone: String,

    /// Seconds over which connections are drained
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub drain_time_s: u32,

    /// How connections are drained
    #[arg(long, value_enum, default_value_t)]
    pub drain_strategy: DrainStrategy,

    /// Milliseconds that an access log entry may wait to be written
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub file_flush_interval_msec: u32,

    /// KiB of access log entries that are written at once
    #[arg(long, value_name = "KIB", default_value_t = 64)]
    pub file_flush_min_size_kb: u32,

    /// File to write the address of the admin interface to
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,

    /// Address family of the local address
    #[arg(long, value_enum, default_value_t)]
    pub local_address_ip_version: IpVersion,

    /// Unknown fields of the configuration are no error
    #[arg(long, alias = "allow-unknown-fields")]
    pub allow_unknown_static_fields: bool,

    /// Unknown fields of dynamic configuration are an error
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,

    /// Unknown fields of dynamic configuration are not even counted
    #[arg(long)]
    pub ignore_unknown_dynamic_fields: bool,

    /// No warnings about deprecated fields
    #[arg(long)]
    pub skip_deprecated_logs: bool,

    /// Hot restart: seconds until the parent ends
    #[arg(long, value_name = "S")]
    pub parent_shutdown_time_s: Option<u32>,

    /// Hot restart: tells installations on a host apart
    #[arg(long, value_name = "N")]
    pub base_id: Option<u32>,

    /// Hot restart: choose a base id
    #[arg(long)]
    pub use_dynamic_base_id: bool,

    /// Hot restart: file to write the base id to
    #[arg(long, value_name = "FILE")]
    pub base_id_path: Option<PathBuf>,

    /// Hot restart: counts restarts
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub restart_epoch: u32,

    /// Hot restart: off
    #[arg(long)]
    pub disable_hot_restart: bool,

    /// Hot restart: statistics start anew
    #[arg(long)]
    pub skip_hot_restart_parent_stats: bool,

    /// Hot restart: a missing parent is no error
    #[arg(long)]
    pub skip_hot_restart_on_no_parent: bool,

    /// Hot restart: path of the socket
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<String>,

    /// Hot restart: permissions of the socket
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,

    /// The number of workers comes from the cores this process may use (it always does)
    #[arg(long)]
    pub cpuset_threads: bool,

    /// Core dumps
    #[arg(long)]
    pub enable_core_dump: bool,

    /// Contention of mutexes is counted
    #[arg(long)]
    pub enable_mutex_tracing: bool,

    /// Log levels by file
    #[arg(long)]
    pub enable_fine_grain_logging: bool,

    /// Stack traces as one log entry
    #[arg(long)]
    pub log_stacktrace_single_entry: bool,

    /// Extensions to leave out
    #[arg(long, value_name = "LIST")]
    pub disable_extensions: Option<String>,

    /// A tag on all statistics
    #[arg(long, value_name = "NAME:VALUE")]
    pub stats_tag: Vec<String>,

    /// Print the version and exit
    #[arg(long)]
    pub version: bool,

    /// Print the version of the hot restart protocol and exit
    #[arg(long)]
    pub hot_restart_version: bool,
}

/// What remains to be done after the command line was read.
#[derive(Debug)]
pub enum Command {
    /// Run with these options.
    Run(Box<Options>),
    /// Print this to standard output and exit 0.
    Print(String),
    /// Print this to standard error and exit 1.
    Refuse(String),
}

impl Options {
    /// Reads arguments, the program's name first.
    pub fn read(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Command {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let program = arguments.first().map_or_else(
            || "moorgate".into(),
            |name| name.to_string_lossy().into_owned(),
        );
        match Self::try_parse_from(arguments) {
            Ok(options) if options.version => {
                let version = super::version::full();
                Command::Print(format!("\n{program}  version: {version}\n\n"))
            }
            Ok(options) if options.hot_restart_version => Command::Print("disabled\n".to_owned()),
            Ok(options) => match options.check() {
                Ok(()) => Command::Run(Box::new(options)),
                Err(why) => Command::Refuse(format!("error: {why}\n")),
            },
            Err(error) if error.use_stderr() => Command::Refuse(error.render().to_string()),
            Err(help) => Command::Print(help.render().to_string()),
        }
    }

    fn check(&self) -> Result<(), String> {
        super::log::pattern::Pattern::parse(&self.log_format)?;
        if self.concurrency == Some(0) {
            return Err("--concurrency must be at least 1".to_owned());
        }
        if !self.stats_tag.is_empty() {
            return Err("--stats-tag is not supported".to_owned());
        }
        if self.disable_extensions.is_some() {
            return Err("--disable-extensions is not supported".to_owned());
        }
        Ok(())
    }

    /// The given flags that mean nothing here, with the reason, to be printed at start.
    #[must_use]
    pub fn ignored(&self) -> Vec<String> {
        const RESTART: &str = "there is no hot restart";
        const DYNAMIC: &str = "there is no dynamic configuration";
        let flags = [
            (
                self.parent_shutdown_time_s.is_some(),
                "parent-shutdown-time-s",
                RESTART,
            ),
            (self.base_id.is_some(), "base-id", RESTART),
            (self.restart_epoch > 0, "restart-epoch", RESTART),
            (self.use_dynamic_base_id, "use-dynamic-base-id", RESTART),
            (self.base_id_path.is_some(), "base-id-path", RESTART),
            (
                self.skip_hot_restart_parent_stats,
                "skip-hot-restart-parent-stats",
                RESTART,
            ),
            (
                self.skip_hot_restart_on_no_parent,
                "skip-hot-restart-on-no-parent",
                RESTART,
            ),
            (self.socket_path.is_some(), "socket-path", RESTART),
            (self.socket_mode.is_some(), "socket-mode", RESTART),
            (
                self.reject_unknown_dynamic_fields,
                "reject-unknown-dynamic-fields",
                DYNAMIC,
            ),
            (
                self.ignore_unknown_dynamic_fields,
                "ignore-unknown-dynamic-fields",
                DYNAMIC,
            ),
            (
                self.skip_deprecated_logs,
                "skip-deprecated-logs",
                "there are no such warnings",
            ),
            (
                self.enable_core_dump,
                "enable-core-dump",
                "the limits of the process decide",
            ),
            (
                self.enable_mutex_tracing,
                "enable-mutex-tracing",
                "the data path has no mutexes",
            ),
            (
                self.enable_fine_grain_logging,
                "enable-fine-grain-logging",
                "levels are set by component",
            ),
            (
                self.log_stacktrace_single_entry,
                "log-stacktrace-single-entry",
                "there are no stack traces in the log",
            ),
        ];
        let given = flags.iter().filter(|(given, _, _)| *given);
        given
            .map(|(_, flag, why)| format!("--{flag} has no effect: {why}"))
            .collect()
    }

    /// `--drain-time-s`
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(u64::from(self.drain_time_s))
    }

    /// How the log thread is to work.
    #[must_use]
    pub fn access_logs(&self) -> crate::telemetry::log_thread::Settings {
        crate::telemetry::log_thread::Settings {
            flush_interval: Duration::from_millis(u64::from(self.file_flush_interval_msec.max(1))),
            flush_bytes: self.file_flush_min_size_kb as usize * 1024,
            ..crate::telemetry::log_thread::Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Command {
        let arguments = std::iter::once("moorgate").chain(arguments.split_whitespace());
        Options::read(arguments.map(Into::into))
    }

    fn run(arguments: &str) -> Box<Options> {
        match read(arguments) {
            Command::Run(options) => options,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    fn refuse(arguments: &str) -> String {
        match read(arguments) {
            Command::Refuse(why) => why,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_envoy() {
        let options = run("");
        assert_eq!(options.mode, Mode::Serve);
        assert_eq!(options.log_level, Level::Info);
        assert_eq!(options.drain_time(), Duration::from_secs(600));
        assert_eq!(options.drain_strategy, DrainStrategy::Gradual);
        assert_eq!(
            options.access_logs().flush_interval,
            Duration::from_secs(10)
        );
        assert_eq!(options.concurrency, None);
        assert!(options.ignored().is_empty());
    }

    /// What a service mesh's agent passes to its proxy.
    #[test]
    fn an_agents_flags_are_understood() {
        let options = run(
            "-c etc/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate \
             --local-address-ip-version v6 --file-flush-interval-msec 1000 --disable-hot-restart \
             --allow-unknown-static-fields -l warning --component-log-level misc:error,main:info \
             --skip-deprecated-logs --enable-core-dump --config-yaml {} --concurrency 2",
        );
        assert_eq!(options.config_path, Some("etc/proxy/envoy-rev.json".into()));
        assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
        assert_eq!(options.local_address_ip_version, IpVersion::V6);
        assert_eq!(options.log_level, Level::Warning);
        assert_eq!(options.concurrency, Some(2));
        assert!(options.allow_unknown_static_fields);
        assert_eq!(
            options.ignored(),
            [
                "--skip-deprecated-logs has no effect: there are no such warnings",
                "--enable-core-dump has no effect: the limits of the process decide"
            ]
        );
    }

    #[test]
    fn flags_without_meaning_are_said() {
        let options = run("--base-id 7 --parent-shutdown-time-s 900 --restart-epoch 1");
        assert_eq!(options.ignored().len(), 3);
        let options = run("--reject-unknown-dynamic-fields");
        assert_eq!(
            options.ignored(),
            ["--reject-unknown-dynamic-fields has no effect: there is no dynamic configuration"]
        );
    }

    #[test]
    fn mistakes_are_refused() {
        for (arguments, why) in [
            ("--nosuch", "--nosuch"),
            ("--mode foo", "foo"),
            ("-l foo", "foo"),
            ("--component-log-level upstream", "upstream"),
            ("--component-log-level nosuch:info", "nosuch"),
            ("--concurrency x", "x"),
            ("--concurrency 0", "at least 1"),
            ("--log-format %Q", "%Q"),
            ("--drain-strategy never", "never"),
            ("--stats-tag a:b", "not supported"),
            ("surplus", "surplus"),
        ] {
            let said = refuse(arguments);
            assert!(said.contains(why), "{arguments}: {said}");
        }
    }

    #[test]
    fn the_version_has_the_shape_that_tools_parse() {
        let Command::Print(text) = read("--version") else {
            panic!("no version");
        };
        let (before, version) = text.trim().split_once("  version: ").unwrap();
        assert_eq!(before, "moorgate");
        assert_eq!(version.split('/').count(), 5);
        assert_eq!(version.split('/').nth(1), Some(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn help_is_no_error() {
        assert!(matches!(read("--help"), Command::Print(text) if text.contains("--config-path")));
    }
}
