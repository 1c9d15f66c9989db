//! `upstream_proxy_protocol`: a header before everything else that goes to an upstream.

use moorgate_codecs::preface::proxy::{self, Version};
use moorgate_protos::Name;
use moorgate_protos::envoy::config::core::v3::TransportSocket;
use moorgate_protos::envoy::config::core::v3::proxy_protocol_config::Version as VersionMessage;
use moorgate_protos::envoy::config::core::v3::transport_socket::ConfigType;
use moorgate_protos::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;

use super::{Outcome, present};
use crate::cluster::ProxyHeader;
use crate::config::{FieldPath, packed_type, unpack};

/// The header, and the transport socket that is behind it. `None` where there is no header.
pub(super) fn of(
    socket: Option<&TransportSocket>,
    path: &FieldPath<'_>,
) -> Outcome<Option<(ProxyHeader, Option<TransportSocket>)>> {
    let path = path.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = socket.and_then(|socket| socket.config_type.as_ref())
    else {
        return Ok(None);
    };
    if packed_type(any, &path)? != ProxyProtocolUpstreamTransport::full_name() {
        return Ok(None);
    }
    let message: ProxyProtocolUpstreamTransport = unpack(any, &path)?;
    present(
        message.transport_socket.as_ref(),
        &path.field("transport_socket"),
    )?;
    let config = message.config.unwrap_or_default();
    let path = path.field("config");
    let version = match VersionMessage::try_from(config.version) {
        Ok(VersionMessage::V1) => Version::V1,
        Ok(VersionMessage::V2) => Version::V2,
        Err(_) => return Err(path.field("version").error("is not known")),
    };
    let path = path.field("added_tlvs");
    let mut tlvs = Vec::new();
    for (index, tlv) in config.added_tlvs.iter().enumerate() {
        let path = path.index(index);
        if version == Version::V1 {
            return Err(path.error("needs version V2"));
        }
        let kind = u8::try_from(tlv.r#type)
            .map_err(|_| path.field("type").error("has to be below 256"))?;
        tlvs.push((kind, tlv.value.as_ref().into()));
    }
    // The longest addresses count: 36 bytes.
    let longest = "[::1]:1".parse().ok().map(|address| (address, address));
    if !proxy::write_v2_with(longest, &tlvs, &mut Vec::new()) {
        return Err(path.error("are more than a header can have"));
    }
    Ok(Some((
        ProxyHeader { version, tlvs },
        message.transport_socket,
    )))
}
