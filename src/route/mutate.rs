//! What a chosen route does to a head: header operations in their order, then authority and path.

use moorgate_codecs::Head;

use super::formatter::Facts;
use super::headers::{HeaderOps, Scratch};
use super::rewrite::set_authority;
use super::{Action, Forward, Pick, Redirect, Route, RouteTable, Target, WeightedCluster};

/// Where a rewritten path is remembered.
const ORIGINAL_PATH: &[u8] = b"x-envoy-original-path";

impl Forward {
    /// The cluster of a request. `random` is the number the route was found with.
    #[must_use]
    pub fn pick<'a>(&'a self, head: &'a Head, random: u64) -> Pick<'a> {
        match &self.target {
            Target::Cluster(cluster) => Pick::Cluster(cluster),
            Target::Weighted(clusters) => {
                let total = clusters.last().map_or(0, |last| last.cumulative_weight);
                let Some(chosen) = random.checked_rem(total) else {
                    return Pick::None;
                };
                let index = clusters.partition_point(|entry| entry.cumulative_weight <= chosen);
                match clusters.get(index) {
                    Some(entry) => Pick::Weighted(index as u32, &entry.cluster),
                    None => Pick::None,
                }
            }
            Target::Header(name) => match head.get(name.as_bytes()) {
                Some(value) if !value.is_empty() => Pick::Named(value),
                _ => Pick::None,
            },
        }
    }

    /// The entry that [`Pick::Weighted`] named.
    #[must_use]
    pub fn weighted(&self, index: u32) -> Option<&WeightedCluster> {
        match &self.target {
            Target::Weighted(clusters) => clusters.get(index as usize),
            _ => None,
        }
    }
}

impl RouteTable {
    /// Everything a forwarding route does to a request head: header operations from the weighted
    /// cluster to the table (or the other way round), then authority, then path. With
    /// `keep_original` a changed path is remembered in `x-envoy-original-path`, an authority that the
    /// route changed in `x-envoy-original-host`.
    pub fn finalize_request(
        &self,
        route: &Route,
        weighted: Option<&WeightedCluster>,
        head: &mut Head,
        keep_original: bool,
        facts: &Facts<'_>,
        scratch: &mut Scratch,
    ) {
        if let Some(weighted) = weighted {
            weighted.request_headers.apply_request(head, facts, scratch);
            if let Some(host) = &weighted.host_rewrite {
                head.set_authority(host.as_bytes());
            }
        }
        let levels = [
            &route.request_headers,
            &route.host.request_headers,
            &self.request_headers,
        ];
        for ops in self.in_order(levels) {
            ops.apply_request(head, facts, scratch);
        }
        let Action::Forward(forward) = &route.action else {
            return;
        };
        if let Some(host) = &forward.host_rewrite {
            let append = forward.append_x_forwarded_host;
            set_authority(
                head,
                host.as_bytes(),
                append,
                keep_original,
                &mut scratch.bytes,
            );
        }
        scratch.bytes.clear();
        if forward
            .path_rewrite
            .write(&route.matcher.path, head.path(), &mut scratch.bytes)
        {
            let new = scratch.bytes.len();
            if keep_original {
                scratch.bytes.extend_from_slice(head.path());
                head.set(ORIGINAL_PATH, &scratch.bytes[new..]);
            }
            head.set_path(&scratch.bytes[..new]);
        }
    }

    /// Header operations on a response, in the same order. `request` is the head as it went
    /// upstream, where [`response_needs_request`](Self::response_needs_request) asked for it.
    pub fn finalize_response(
        &self,
        route: &Route,
        weighted: Option<&WeightedCluster>,
        head: &mut Head,
        request: Option<&Head>,
        facts: &Facts<'_>,
        scratch: &mut Scratch,
    ) {
        if let Some(weighted) = weighted {
            weighted
                .response_headers
                .apply_response(head, request, facts, scratch);
        }
        let levels = [
            &route.response_headers,
            &route.host.response_headers,
            &self.response_headers,
        ];
        for ops in self.in_order(levels) {
            ops.apply_response(head, request, facts, scratch);
        }
    }

    /// The request head has to be kept for the response's header operations.
    #[must_use]
    pub fn response_needs_request(
        &self,
        route: &Route,
        weighted: Option<&WeightedCluster>,
    ) -> bool {
        weighted.is_some_and(|weighted| weighted.response_headers.needs_request())
            || route.response_headers.needs_request()
            || route.host.response_headers.needs_request()
            || self.response_headers.needs_request()
    }

    /// Later operations win: from most to least specific unless it was asked otherwise.
    fn in_order<'a>(&self, mut levels: [&'a HeaderOps; 3]) -> [&'a HeaderOps; 3] {
        if self.most_specific_header_mutations_wins {
            levels.reverse();
        }
        levels
    }
}

impl Route {
    /// Appends the `location` of a redirect, as it answers this request.
    pub fn write_location(&self, redirect: &Redirect, head: &Head, out: &mut Vec<u8>) {
        redirect.write_location(&self.matcher.path, head, out);
    }
}
