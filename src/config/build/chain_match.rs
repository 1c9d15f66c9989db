//! `filter_chain_match`: the conditions of a listener's chains, and the tables that choose by them.

use moorgate_protos::envoy::config::core::v3::CidrRange;
use moorgate_protos::envoy::config::listener::v3::filter_chain_match::ConnectionSourceType;
use moorgate_protos::envoy::config::listener::v3::{FilterChainMatch, Listener as Message};

use super::{Outcome, address};
use crate::config::FieldPath;
use crate::proxy::chain_match::{Chooser, Match, Overlap, SourceType};
use crate::proxy::config::Network;

/// What chooses among a listener's chains. `None`: one chain serves all.
pub(super) fn build(message: &Message, path: &FieldPath<'_>) -> Outcome<Option<Box<Chooser>>> {
    let list = path.field("filter_chains");
    let mut matches: Vec<Match> = Vec::new();
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let path = list.index(index);
        let path = path.field("filter_chain_match");
        let conditions = match &chain.filter_chain_match {
            Some(conditions) => conditions_of(conditions, &path)?,
            None => Match::default(),
        };
        if let Some(other) = matches.iter().position(|other| *other == conditions) {
            return Err(path.error(format!(
                "filter chain '{}' has the same matching rules as '{}' (filter_chains[{other}])",
                chain.name, message.filter_chains[other].name
            )));
        }
        matches.push(conditions);
    }
    let open = matches.iter().all(|one| *one == Match::default());
    if open {
        // At most one chain is left without conditions, and it takes everything.
        return Ok(None);
    }
    // The default chain stands behind the others.
    let default = message.default_filter_chain.as_ref();
    let default = default.map(|_| matches.len());
    let chooser = Chooser::new(&matches, default).map_err(|Overlap { chain, other }| {
        let path = list.index(chain);
        let path = path.field("filter_chain_match");
        path.error(format!(
            "overlaps with the matching rules of filter_chains[{other}]"
        ))
    })?;
    Ok(Some(Box::new(chooser)))
}

fn conditions_of(message: &FilterChainMatch, path: &FieldPath<'_>) -> Outcome<Match> {
    let destination_port = message
        .destination_port
        .map(|value| port(value, &path.field("destination_port")));
    let ports = path.field("source_ports");
    let source_ports = message.source_ports.iter().enumerate();
    let names = path.field("server_names");
    let server_names = message.server_names.iter().enumerate();
    Ok(Match {
        destination_port: destination_port.transpose()?,
        destinations: networks(&message.prefix_ranges, &path.field("prefix_ranges"))?,
        server_names: server_names
            .map(|(index, name)| server_name(name, &names.index(index)))
            .collect::<Outcome<_>>()?,
        transport: message.transport_protocol.clone(),
        protocols: message.application_protocols.clone(),
        peers: networks(
            &message.direct_source_prefix_ranges,
            &path.field("direct_source_prefix_ranges"),
        )?,
        source_type: match ConnectionSourceType::try_from(message.source_type) {
            Ok(ConnectionSourceType::Any) => SourceType::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
            Ok(ConnectionSourceType::External) => SourceType::External,
            Err(_) => return Err(path.field("source_type").error("is not known")),
        },
        sources: networks(
            &message.source_prefix_ranges,
            &path.field("source_prefix_ranges"),
        )?,
        source_ports: source_ports
            .map(|(index, value)| port(*value, &ports.index(index)))
            .collect::<Outcome<_>>()?,
    })
}

fn port(value: u32, path: &FieldPath<'_>) -> Outcome<u16> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| path.error("has to be between 1 and 65535"))
}

fn networks(ranges: &[CidrRange], path: &FieldPath<'_>) -> Outcome<Vec<Network>> {
    let ranges = ranges.iter().enumerate();
    ranges
        .map(|(index, range)| address::network(range, &path.index(index)))
        .collect()
}

/// Names are compared in lower case, as those of a hello are.
fn server_name(name: &str, path: &FieldPath<'_>) -> Outcome<String> {
    let plain = name.strip_prefix("*.").unwrap_or(name);
    if plain.contains('*') {
        return Err(path.error("partial wildcards are not supported: only '*.' in front is one"));
    }
    Ok(name.to_ascii_lowercase())
}
