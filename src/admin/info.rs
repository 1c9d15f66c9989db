//! `/server_info`, `/ready`, `/memory`.

use super::json::Json;
use super::{AdminBackend, Response, ServerState};
use crate::server::cli::{DrainStrategy, IpVersion, Mode, Options};
use crate::server::version;

/// `/ready`
pub(super) fn ready(backend: &impl AdminBackend) -> Response {
    let state = backend.state();
    let status = if state == ServerState::Live { 200 } else { 503 };
    Response::error(status, format!("{}\n", state.name()))
}

/// `/memory`
pub(super) fn memory(backend: &impl AdminBackend) -> Response {
    let memory = backend.memory();
    let number = |value: u64| Json::Text(value.to_string());
    let document = Json::Object(vec![
        ("allocated", number(memory.allocated)),
        ("heap_size", number(memory.heap_size)),
        ("pageheap_unmapped", number(0)),
        ("pageheap_free", number(memory.free)),
        ("total_thread_cache", number(0)),
        ("total_physical_bytes", number(memory.physical)),
    ]);
    Response::json(document.document())
}

/// `/server_info`
pub(super) fn server_info(backend: &impl AdminBackend) -> Response {
    let uptime = Json::Text(format!("{}s", backend.uptime().as_secs()));
    let mut fields = vec![
        ("version", Json::Text(version::full())),
        ("state", backend.state().name().into()),
        ("uptime_current_epoch", uptime.clone()),
        ("uptime_all_epochs", uptime),
        ("hot_restart_version", "disabled".into()),
        ("hot_restart_initializing", Json::Bool(false)),
        ("command_line_options", options(backend.options())),
    ];
    if let Some(node) = backend.node() {
        fields.push(("node", Json::Raw(node)));
    }
    Response::json(Json::Object(fields).document())
}

/// `envoy.admin.v3.CommandLineOptions`
fn options(options: &Options) -> Json {
    let path = |path: &Option<std::path::PathBuf>| {
        let path = path.as_ref().map(|path| path.display().to_string());
        Json::Text(path.unwrap_or_default())
    };
    let number = |value: u32| Json::Number(u64::from(value));
    let interval = options.file_flush_interval_msec;
    let mut fields = vec![(
        "base_id",
        Json::Text(options.base_id.unwrap_or(0).to_string()),
    )];
    if let Some(concurrency) = options.concurrency {
        fields.push(("concurrency", number(concurrency)));
    }
    fields.extend([
        ("config_path", path(&options.config_path)),
        (
            "config_yaml",
            Json::Text(options.config_yaml.clone().unwrap_or_default()),
        ),
        (
            "allow_unknown_static_fields",
            Json::Bool(options.allow_unknown_static_fields),
        ),
        ("admin_address_path", path(&options.admin_address_path)),
        (
            "local_address_ip_version",
            match options.local_address_ip_version {
                IpVersion::V4 => "v4".into(),
                IpVersion::V6 => "v6".into(),
            },
        ),
        ("log_level", options.log_level.name().into()),
        (
            "component_log_level",
            Json::Text(options.component_log_level.to_string()),
        ),
        ("log_format", (&*options.log_format).into()),
        ("log_path", path(&options.log_path)),
        ("service_cluster", (&*options.service_cluster).into()),
        ("service_node", (&*options.service_node).into()),
        ("service_zone", (&*options.service_zone).into()),
        (
            "file_flush_interval",
            Json::Text(format!("{}.{:03}s", interval / 1000, interval % 1000)),
        ),
        (
            "drain_time",
            Json::Text(format!("{}s", options.drain_time_s)),
        ),
        (
            "parent_shutdown_time",
            Json::Text(format!(
                "{}s",
                options.parent_shutdown_time_s.unwrap_or(900)
            )),
        ),
        (
            "mode",
            match options.mode {
                Mode::Serve => "Serve".into(),
                Mode::Validate => "Validate".into(),
                Mode::InitOnly => "InitOnly".into(),
            },
        ),
        (
            "disable_hot_restart",
            Json::Bool(options.disable_hot_restart),
        ),
        ("restart_epoch", number(options.restart_epoch)),
        ("cpuset_threads", Json::Bool(options.cpuset_threads)),
        (
            "reject_unknown_dynamic_fields",
            Json::Bool(options.reject_unknown_dynamic_fields),
        ),
        ("log_format_escaped", Json::Bool(options.log_format_escaped)),
        (
            "ignore_unknown_dynamic_fields",
            Json::Bool(options.ignore_unknown_dynamic_fields),
        ),
        (
            "drain_strategy",
            match options.drain_strategy {
                DrainStrategy::Gradual => "Gradual".into(),
                DrainStrategy::Immediate => "Immediate".into(),
            },
        ),
        (
            "file_flush_min_size",
            number(options.file_flush_min_size_kb),
        ),
    ]);
    Json::Object(fields)
}
