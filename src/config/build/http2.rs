//! `Http2ProtocolOptions`, of clients and of upstreams.

use moorgate_codecs::http2::{Keepalive, Settings};
use moorgate_protos::envoy::config::core::v3::Http2ProtocolOptions;

use super::{Outcome, time};
use crate::config::FieldPath;

/// Largest window and largest number of streams.
const MAX_31: u32 = (1 << 31) - 1;

/// Settings and limits of one side; `limits` are the bytes and fields of one head.
pub(super) fn settings(
    options: &Http2ProtocolOptions,
    limits: (usize, usize),
    path: &FieldPath<'_>,
) -> Outcome<Settings> {
    let defaults = Settings::default();
    let within = |value: Option<u32>, default: u32, least: u32, most: u32, name: &str| match value {
        None => Ok(default),
        Some(value) if (least..=most).contains(&value) => Ok(value),
        Some(_) => Err(path
            .field(name)
            .error(format!("has to be between {least} and {most}"))),
    };
    #[allow(deprecated)] // Envoy still reads it.
    let old_stream_errors = options.stream_error_on_invalid_http_messaging;
    Ok(Settings {
        max_concurrent_streams: within(
            options.max_concurrent_streams,
            defaults.max_concurrent_streams,
            1,
            MAX_31,
            "max_concurrent_streams",
        )?,
        stream_window: within(
            options.initial_stream_window_size,
            defaults.stream_window,
            65_535,
            MAX_31,
            "initial_stream_window_size",
        )?,
        connection_window: within(
            options.initial_connection_window_size,
            defaults.connection_window,
            65_535,
            MAX_31,
            "initial_connection_window_size",
        )?,
        header_table_size: within(
            options.hpack_table_size,
            defaults.header_table_size,
            0,
            1 << 20,
            "hpack_table_size",
        )?,
        max_head_bytes: limits.0,
        max_fields: limits.1,
        stream_errors: options
            .override_stream_error_on_invalid_http_message
            .unwrap_or(old_stream_errors),
        allow_connect: options.allow_connect,
        max_outbound_frames: within(
            options.max_outbound_frames,
            defaults.max_outbound_frames,
            1,
            u32::MAX,
            "max_outbound_frames",
        )?,
        max_outbound_control_frames: within(
            options.max_outbound_control_frames,
            defaults.max_outbound_control_frames,
            1,
            u32::MAX,
            "max_outbound_control_frames",
        )?,
        max_empty_frames: options
            .max_consecutive_inbound_frames_with_empty_payload
            .unwrap_or(defaults.max_empty_frames),
        max_priority_frames: options
            .max_inbound_priority_frames_per_stream
            .unwrap_or(defaults.max_priority_frames),
        max_window_updates: within(
            options.max_inbound_window_update_frames_per_data_frame_sent,
            defaults.max_window_updates,
            1,
            u32::MAX,
            "max_inbound_window_update_frames_per_data_frame_sent",
        )?,
        max_premature_resets: defaults.max_premature_resets,
        keepalive: keepalive(options, path)?,
    })
}

/// `connection_keepalive`; without an interval nobody is asked.
fn keepalive(options: &Http2ProtocolOptions, path: &FieldPath<'_>) -> Outcome<Option<Keepalive>> {
    let Some(keepalive) = &options.connection_keepalive else {
        return Ok(None);
    };
    let path = path.field("connection_keepalive");
    let timeout = time::required(keepalive.timeout.as_ref(), &path.field("timeout"))?;
    if keepalive.interval.is_none() {
        return Ok(None);
    }
    let interval = time::required(keepalive.interval.as_ref(), &path.field("interval"))?;
    let jitter = keepalive.interval_jitter.as_ref();
    let percent = jitter.map_or(15.0, |jitter| jitter.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(path
            .field("interval_jitter")
            .field("value")
            .error("has to be between 0 and 100"));
    }
    Ok(Some(Keepalive {
        interval,
        // Whole hundredths are fine enough for what nobody can foresee.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        jitter_percent: percent.ceil() as u32,
        timeout,
    }))
}
