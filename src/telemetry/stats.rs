//! Names of counters, gauges and histograms, in groups as Envoy names them.
//!
//! A name is interned once, when configuration is built, and gives a small number; a worker adds to
//! its own table ([`Recorder`]) at that number without a lock or an atomic read-modify-write. Reading
//! sums the tables of all workers ([`Registry`](super::registry::Registry)).

pub use super::recorder::Recorder;
use crate::tls::{Agreed, SUITES, TlsError};

/// A value that only goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter(pub(crate) u32);

/// A value that goes up and down. One worker's share may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gauge(pub(crate) u32);

/// A distribution of milliseconds (or bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Histogram(pub(crate) u32);

/// Counters by HTTP status, of which only those that were used are shown: `<name>_200` …
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codes(pub(crate) u32);

/// Interns names. Same name and kind, same number.
pub trait Names {
    /// A counter.
    fn counter(&self, name: &str) -> Counter;
    /// A gauge.
    fn gauge(&self, name: &str) -> Gauge;
    /// A histogram.
    fn histogram(&self, name: &str) -> Histogram;
    /// Counters by status, named `name` with `_` and the status appended. Who has no table of them
    /// gives a number that nothing is counted at.
    fn codes(&self, name: &str) -> Codes {
        let _ = name;
        Codes(u32::MAX)
    }
}

/// `counters`, `gauges`, `histograms`, and optionally `codes`. A field whose name in statistics is
/// not its own says it in parentheses.
macro_rules! group {
    (@name $prefix:ident $field:ident) => { format!("{}{}", $prefix, stringify!($field)) };
    (@name $prefix:ident $field:ident $text:literal) => { format!("{}{}", $prefix, $text) };
    ($(#[$doc:meta])* $name:ident {
        counters: $($counter:ident $(($counter_name:literal))?)*;
        gauges: $($gauge:ident $(($gauge_name:literal))?)*;
        histograms: $($histogram:ident $(($histogram_name:literal))?)*;
        $(codes: $($codes:ident $(($codes_name:literal))?)*;)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs)]
        pub struct $name {
            $(pub $counter: Counter,)*
            $(pub $gauge: Gauge,)*
            $(pub $histogram: Histogram,)*
            $($(pub $codes: Codes,)*)?
        }

        impl $name {
            /// Interns the names below `prefix` (which ends with a dot).
            pub fn new(names: &dyn Names, prefix: &str) -> Self {
                Self {
                    $($counter: names.counter(&group!(@name prefix $counter $($counter_name)?)),)*
                    $($gauge: names.gauge(&group!(@name prefix $gauge $($gauge_name)?)),)*
                    $($histogram:
                        names.histogram(&group!(@name prefix $histogram $($histogram_name)?)),)*
                    $($($codes: names.codes(&group!(@name prefix $codes $($codes_name)?)),)*)?
                }
            }
        }
    };
}

group! {
    /// `listener.<address>.*`
    ListenerStats {
        counters: downstream_cx_total downstream_cx_destroy downstream_cx_overflow
            downstream_global_cx_overflow downstream_cx_reclaimed no_filter_chain_match accept_errors
            downstream_pre_cx_timeout downstream_listener_filter_error
            downstream_listener_filter_remote_close downstream_cx_transport_socket_connect_timeout;
        gauges: downstream_cx_active downstream_pre_cx_active;
        histograms: downstream_cx_length_ms connections_accepted_per_socket_event;
    }
}

/// `listener.<address>.ssl.*` and `cluster.<name>.ssl.*`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct TlsStats {
    pub connection_error: Counter,
    pub handshake: Counter,
    pub session_reused: Counter,
    pub no_certificate: Counter,
    pub fail_verify_no_cert: Counter,
    pub fail_verify_error: Counter,
    pub fail_verify_san: Counter,
    pub fail_verify_cert_hash: Counter,
    /// Certificates, keys or authorities were read again and taken.
    pub context_updated: Counter,
    /// They were read again and are no good: those before stay.
    pub context_update_rejected: Counter,
    /// In the order of [`SUITES`](crate::tls::SUITES).
    pub ciphers: [Counter; 9],
    /// TLS 1.2, TLS 1.3.
    pub versions: [Counter; 2],
}

impl TlsStats {
    /// Interns the names below `prefix` (which ends with a dot).
    pub fn new(names: &dyn Names, prefix: &str) -> Self {
        let counter = |name: &str| names.counter(&format!("{prefix}ssl.{name}"));
        Self {
            connection_error: counter("connection_error"),
            handshake: counter("handshake"),
            session_reused: counter("session_reused"),
            no_certificate: counter("no_certificate"),
            fail_verify_no_cert: counter("fail_verify_no_cert"),
            fail_verify_error: counter("fail_verify_error"),
            fail_verify_san: counter("fail_verify_san"),
            fail_verify_cert_hash: counter("fail_verify_cert_hash"),
            context_updated: counter("context_updated"),
            context_update_rejected: counter("context_update_rejected"),
            ciphers: SUITES.map(|(_, name, _)| counter(&format!("ciphers.{name}"))),
            versions: ["TLSv1.2", "TLSv1.3"].map(|name| counter(&format!("versions.{name}"))),
        }
    }

    /// Counts a handshake that is over, as Envoy does.
    pub fn shaken(&self, recorder: &Recorder, agreed: &Agreed, server: bool) {
        recorder.inc(self.handshake);
        if agreed.resumed {
            recorder.inc(self.session_reused);
        }
        if server && agreed.peer.is_none() {
            recorder.inc(self.no_certificate);
        }
        let suite = SUITES.iter().position(|(suite, ..)| *suite == agreed.suite);
        if let Some(name) = suite.and_then(|at| self.ciphers.get(at)) {
            recorder.inc(*name);
        }
        recorder.inc(match agreed.version_name() {
            "TLSv1.2" => self.versions[0],
            _ => self.versions[1],
        });
    }

    /// Counts why a connection broke.
    pub fn broken(&self, recorder: &Recorder, error: TlsError) {
        recorder.inc(match error {
            TlsError::NoCertificate => self.fail_verify_no_cert,
            TlsError::Certificate => self.fail_verify_error,
            TlsError::AltName => self.fail_verify_san,
            TlsError::Hash => self.fail_verify_cert_hash,
            TlsError::Protocol | TlsError::PeerAlert | TlsError::Exhausted => self.connection_error,
        });
    }
}

group! {
    /// `tls_inspector.*`
    TlsInspectorStats {
        counters: client_hello_too_large tls_found tls_not_found alpn_found alpn_not_found sni_found
            sni_not_found;
        gauges:;
        histograms: bytes_processed;
    }
}

group! {
    /// `http_inspector.*`
    HttpInspectorStats {
        counters: read_error http10_found http11_found http2_found http_not_found;
        gauges:;
        histograms:;
    }
}

group! {
    /// `proxy_proto.[<stat_prefix>.]*`
    ProxyProtocolStats {
        counters: not_found_allowed not_found_disallowed;
        gauges:;
        histograms:;
    }
}

group! {
    /// `proxy_proto.[<stat_prefix>.]versions.<v1 or v2>.*`
    ProxyVersionStats {
        counters: found disallowed error;
        gauges:;
        histograms:;
    }
}

group! {
    /// `http.<stat_prefix>.*`
    HttpStats {
        counters: downstream_cx_total downstream_cx_destroy downstream_cx_destroy_remote
            downstream_cx_destroy_local downstream_cx_destroy_active_rq
            downstream_cx_destroy_local_active_rq downstream_cx_destroy_remote_active_rq
            downstream_cx_idle_timeout downstream_cx_max_duration_reached downstream_cx_max_requests_reached
            downstream_cx_protocol_error downstream_cx_drain_close downstream_cx_delayed_close_timeout
            downstream_cx_upgrades_total downstream_cx_rx_bytes_total downstream_cx_tx_bytes_total
            downstream_cx_http1_total downstream_cx_http2_total downstream_cx_overload_disable_keepalive
            downstream_flow_control_paused_reading_total downstream_flow_control_resumed_reading_total
            downstream_rq_total downstream_rq_http1_total downstream_rq_http2_total downstream_rq_completed downstream_rq_1xx
            downstream_rq_2xx downstream_rq_3xx downstream_rq_4xx downstream_rq_5xx
            downstream_rq_failed_path_normalization downstream_rq_non_relative_path downstream_rq_too_large downstream_rq_rx_reset
            downstream_rq_tx_reset downstream_rq_timeout downstream_rq_header_timeout
            downstream_rq_idle_timeout downstream_rq_max_duration_reached downstream_rq_overload_close
            downstream_rq_redirected_with_normalized_path downstream_rq_rejected_via_ip_detection
            downstream_rq_response_before_rq_complete downstream_rq_ws_on_non_ws_route
            no_route no_cluster rq_direct_response rq_redirect rq_reset_after_downstream_response_started
            rq_retry_skipped_request_not_complete rq_total rs_too_large;
        gauges: downstream_cx_active downstream_cx_http1_active downstream_cx_http2_active downstream_cx_upgrades_active
            downstream_cx_rx_bytes_buffered downstream_cx_tx_bytes_buffered downstream_rq_active;
        histograms: downstream_cx_length_ms downstream_rq_time;
    }
}

group! {
    /// `http2.*` of clients, `cluster.<name>.http2.*` of upstreams. The last four have no name in Envoy.
    Http2Stats {
        counters: goaway_sent header_overflow inbound_empty_frames_flood inbound_priority_frames_flood
            inbound_window_update_frames_flood keepalive_timeout outbound_control_flood outbound_flood
            rx_messaging_error rx_reset stream_refused_errors trailers tx_flush_timeout tx_reset
            continuation_flood inbound_reset_frames_flood too_many_premature_resets;
        gauges: streams_active;
        histograms:;
    }
}

group! {
    /// `tcp.<stat_prefix>.*`
    TcpStats {
        counters: downstream_cx_total downstream_cx_no_route downstream_cx_rx_bytes_total
            downstream_cx_tx_bytes_total downstream_flow_control_paused_reading_total
            downstream_flow_control_resumed_reading_total idle_timeout max_downstream_connection_duration
            upstream_flush_total;
        gauges: downstream_cx_rx_bytes_buffered downstream_cx_tx_bytes_buffered upstream_flush_active;
        histograms:;
    }
}

group! {
    /// `cluster.<name>.*`
    ClusterStats {
        counters: upstream_cx_total upstream_cx_http1_total upstream_cx_http2_total upstream_cx_connect_fail
            upstream_cx_connect_timeout upstream_cx_connect_attempts_exceeded upstream_cx_overflow
            upstream_cx_destroy upstream_cx_destroy_local upstream_cx_destroy_remote
            upstream_cx_destroy_with_active_rq upstream_cx_destroy_local_with_active_rq
            upstream_cx_destroy_remote_with_active_rq upstream_cx_close_notify upstream_cx_rx_bytes_total
            upstream_cx_tx_bytes_total upstream_cx_protocol_error upstream_cx_max_requests
            upstream_cx_max_duration_reached upstream_cx_none_healthy upstream_cx_idle_timeout
            upstream_cx_pool_overflow
            upstream_rq_total upstream_rq_completed upstream_rq_1xx upstream_rq_2xx upstream_rq_3xx
            upstream_rq_4xx upstream_rq_5xx upstream_rq_pending_total upstream_rq_pending_overflow
            upstream_rq_pending_failure_eject upstream_rq_cancelled upstream_rq_maintenance_mode
            upstream_rq_timeout upstream_rq_max_duration_reached upstream_rq_per_try_timeout
            upstream_rq_per_try_idle_timeout upstream_rq_rx_reset upstream_rq_tx_reset upstream_rq_retry
            upstream_rq_retry_backoff_exponential upstream_rq_retry_limit_exceeded
            upstream_rq_retry_success upstream_rq_retry_overflow upstream_rq_0rtt
            upstream_flow_control_paused_reading_total upstream_flow_control_resumed_reading_total
            upstream_flow_control_backed_up_total upstream_flow_control_drained_total
            upstream_internal_redirect_failed_total upstream_internal_redirect_succeeded_total
            membership_change update_attempt update_success update_failure update_no_rebuild update_empty
            bind_errors lb_healthy_panic lb_subsets_created retry_or_shadow_abandoned;
        gauges: upstream_cx_active upstream_cx_rx_bytes_buffered upstream_cx_tx_bytes_buffered
            upstream_cx_http1_active upstream_rq_active upstream_rq_pending_active membership_total
            membership_healthy membership_degraded membership_excluded max_host_weight version;
        histograms: upstream_cx_connect_ms upstream_cx_length_ms upstream_rq_time upstream_rq_per_cx;
        codes: upstream_rq;
    }
}

group! {
    /// `listener.<address>.worker_<n>.*`
    ListenerWorkerStats {
        counters: downstream_cx_total;
        gauges: downstream_cx_active;
        histograms:;
    }
}

group! {
    /// `cluster.<name>.grpc.*`, `cluster.<name>.grpc.<service>.<method>.*`; counters by status beside them.
    GrpcCallStats {
        counters: success failure total request_message_count response_message_count;
        gauges:;
        histograms: upstream_rq_time;
    }
}

group! {
    /// `cluster.<name>.circuit_breakers.<priority>.*`
    BreakerStats {
        counters:;
        gauges: cx_open cx_pool_open rq_open rq_pending_open rq_retry_open;
        histograms:;
    }
}

group! {
    /// `cluster.<name>.circuit_breakers.<priority>.remaining_*`, with `track_remaining`.
    BreakerRemainingStats {
        counters:;
        gauges: remaining_cx remaining_pending remaining_rq remaining_retries;
        histograms:;
    }
}

group! {
    /// `cluster.<name>.health_check.*`
    HealthCheckStats {
        counters: attempt success failure passive_failure network_failure verify_cluster;
        gauges: healthy degraded;
        histograms:;
    }
}

group! {
    /// `listener_manager.*`
    ListenerManagerStats {
        counters: listener_added listener_create_failure listener_create_success
            listener_in_place_updated listener_modified listener_removed listener_stopped;
        gauges: total_filter_chains_draining total_listeners_active total_listeners_draining
            total_listeners_warming workers_started;
        histograms:;
    }
}

group! {
    /// `cluster_manager.*`
    ClusterManagerStats {
        counters: cluster_added cluster_modified cluster_removed cluster_updated;
        gauges: active_clusters warming_clusters;
        histograms:;
    }
}

group! {
    /// `server.*`: set by the control thread alone.
    ServerStats {
        counters: dynamic_unknown_fields static_unknown_fields;
        gauges: concurrency hot_restart_epoch live memory_allocated memory_heap_size
            memory_physical_size parent_connections state total_connections uptime version;
        histograms: initialization_time_ms;
    }
}

group! {
    /// `filesystem.*`: what the log thread does.
    FilesystemStats {
        counters: flushed_by_timer reopen_failed write_buffered write_completed write_failed;
        gauges: write_total_buffered;
        histograms:;
    }
}

group! {
    /// `access_log.*`: entries of a worker.
    AccessLogStats {
        counters: written dropped;
        gauges:;
        histograms:;
    }
}

group! {
    /// `moorgate.*`: the engine, summed over the workers.
    EngineStats {
        counters: steals moves wakeups listener_errors out_of_descriptors
            refused_connecting("move_refused.connecting")
            refused_closing("move_refused.closing")
            refused_shared_upstream("move_refused.shared_upstream")
            refused_mid_message("move_refused.mid_message")
            refused_pending_filter("move_refused.pending_filter")
            refused_unsent_bytes("move_refused.unsent_bytes")
            refused_no_target("move_refused.no_target")
            refused_codec("move_refused.codec")
            buffers_shrunk("buffers.shrunk")
            buffers_reads_paused("buffers.reads_paused")
            buffers_requests_refused("buffers.requests_refused")
            buffers_holders_reset("buffers.holders_reset")
            websockets_told("websockets.going_away")
            websockets_untold("websockets.closed_untold");
        gauges: resident
            parked_idle("parked.idle")
            parked_pair("parked.pair")
            parked_mux("parked.mux")
            parked_pooled("parked.pooled")
            buffers_bytes("buffers.bytes")
            buffers_limit_bytes("buffers.limit_bytes");
        histograms:;
    }
}

group! {
    /// `moorgate.worker_<n>.*`: `load` is the share of the last window that it worked, per cent.
    WorkerStats {
        counters: turns tls_handshakes_deferred;
        gauges: load busy_clients;
        histograms:;
    }
}

group! {
    /// `moorgate.config.*`: publications of a snapshot.
    ConfigStats {
        counters: reload_success reload_rejected;
        gauges: version snapshots_alive;
        histograms:;
    }
}
