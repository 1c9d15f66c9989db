//! Response flags: why a stream or connection did not end as it should have, as Envoy names it.
//!
//! A set of flags is a `u64` of these bits. Bits are in the order in which they
//! are printed: Envoy prints them as they were set, and retries run out before what ended the last one
//! is noted.

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident $short:literal $long:literal;)*) => {
        flags!(@bits 0; $($(#[$doc])* $name;)*);

        /// (bit, short name, long name) of every flag.
        pub const NAMES: &[(u64, &str, &str)] = &[$(($name, $short, $long)),*];
    };
    (@bits $bit:expr;) => {};
    (@bits $bit:expr; $(#[$doc:meta])* $name:ident; $($rest:tt)*) => {
        $(#[$doc])*
        pub const $name: u64 = 1 << $bit;
        flags!(@bits $bit + 1; $($rest)*);
    };
}

flags! {
    /// Out of retries, or of attempts to connect.
    RETRY_LIMIT "URX" "UpstreamRetryLimitExceeded";
    /// The local service failed a health check.
    LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck";
    /// No healthy host in the cluster.
    NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream";
    /// The route's or a try's timeout passed.
    UPSTREAM_TIMEOUT "UT" "UpstreamRequestTimeout";
    /// We reset the stream.
    LOCAL_RESET "LR" "LocalReset";
    /// The upstream reset the stream.
    UPSTREAM_RESET "UR" "UpstreamRemoteReset";
    /// Could not connect to the upstream.
    UPSTREAM_CONNECT_FAILURE "UF" "UpstreamConnectionFailure";
    /// The upstream connection ended under the stream.
    UPSTREAM_TERMINATION "UC" "UpstreamConnectionTermination";
    /// A circuit breaker was open.
    UPSTREAM_OVERFLOW "UO" "UpstreamOverflow";
    /// No route, or no filter chain.
    NO_ROUTE "NR" "NoRouteFound";
    /// A delay was injected.
    DELAY_INJECTED "DI" "DelayInjected";
    /// An abort was injected.
    FAULT_INJECTED "FI" "FaultInjected";
    /// A rate limit was met.
    RATE_LIMITED "RL" "RateLimited";
    /// External authorization refused.
    UNAUTHORIZED "UAEX" "UnauthorizedExternalService";
    /// The rate limit service failed.
    RATE_LIMIT_ERROR "RLSE" "RateLimitServiceError";
    /// The downstream connection ended under the stream.
    DOWNSTREAM_TERMINATION "DC" "DownstreamConnectionTermination";
    /// Nothing moved for the stream idle timeout.
    STREAM_IDLE "SI" "StreamIdleTimeout";
    /// An `x-envoy-*` request header had an invalid value.
    INVALID_ENVOY_HEADERS "IH" "InvalidEnvoyRequestHeaders";
    /// The client broke the protocol.
    DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError";
    /// The upstream stream's maximum duration passed.
    UPSTREAM_MAX_DURATION "UMSDR" "UpstreamMaxStreamDurationReached";
    /// Answered from a cache.
    FROM_CACHE "RFCF" "ResponseFromCacheFilter";
    /// A filter's configuration is not there.
    NO_FILTER_CONFIG "NFCF" "NoFilterConfigFound";
    /// The connection's or stream's maximum duration passed.
    DURATION_TIMEOUT "DT" "DurationTimeout";
    /// The upstream broke the protocol.
    UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError";
    /// The route's cluster does not exist.
    NO_CLUSTER "NC" "NoClusterFound";
    /// Ended to save the process from overload.
    OVERLOAD "OM" "OverloadManagerTerminated";
    /// A name could not be resolved.
    DNS_FAILURE "DF" "DnsResolutionFailed";
    /// Dropped as the load assignment says.
    DROP_OVERLOAD "DO" "DropOverload";
    /// The client reset the stream.
    DOWNSTREAM_RESET "DR" "DownstreamRemoteReset";
    /// Dropped as the load assignment says, all of them.
    UNCONDITIONAL_DROP "UDO" "UnconditionalDropOverload";
}

/// The bit of a short name.
#[must_use]
pub fn by_short_name(name: &str) -> Option<u64> {
    let found = NAMES.iter().find(|(_, short, _)| *short == name)?;
    Some(found.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_distinct_and_names_found() {
        let all = NAMES.iter().fold(0, |all, (bit, _, _)| {
            assert_eq!(all & bit, 0);
            all | bit
        });
        assert_eq!(all.count_ones() as usize, NAMES.len());
        assert_eq!(RETRY_LIMIT, 1);
        assert_eq!(by_short_name("UAEX"), Some(UNAUTHORIZED));
        assert_eq!(by_short_name("uaex"), None);
    }
}
