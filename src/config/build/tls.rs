//! Transport sockets: `DownstreamTlsContext` and `UpstreamTlsContext`.
//!
//! Certificates, keys and lists are read here, so that a configuration whose files are not there or do not
//! fit each other is refused as a whole, and a reload takes up what is in the files by then.

use std::net::IpAddr;
use std::sync::Arc;

use moorgate_protos::{Message as _, Name};
use moorgate_protos::envoy::config::core::v3::{CidrRange, TransportSocket};
use moorgate_protos::envoy::config::core::v3::transport_socket::ConfigType;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::{
    OcspStaplePolicy, SessionTicketKeysType,
};
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use moorgate_protos::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher,
    TlsCertificate, TlsKeyLog, TlsParameters, TlsSessionTicketKeys, UpstreamTlsContext,
};

use super::watch::{self, Watch};
use super::{Context, Outcome, address, data, headers, present, required, time};
use crate::cluster::{AutoSni, UpstreamTls};
use crate::config::{FieldPath, base64, packed_type, unpack};
use crate::proxy::config::{DownstreamTls, Network};
use crate::telemetry::stats::TlsStats;
use crate::tls::client::ClientPlan;
use crate::tls::identity::{Identity, Unstapled, Unusable};
use crate::tls::ocsp::StaplePolicy;
use crate::tls::server::ServerPlan;
use crate::tls::verify::{AltNameKind, AltNameMatcher, Validation};
use crate::tls::{
    ClientContext, GROUPS, KeyLog, Live, Parameters, SUITES, ServerContext, TicketKey, trust,
};

/// The message of a transport socket, when it is of this type; `None` for bytes as they are.
fn context<M: moorgate_protos::Message + Name + Default>(
    socket: Option<&TransportSocket>,
    path: &FieldPath<'_>,
) -> Outcome<Option<M>> {
    let Some(socket) = socket else {
        return Ok(None);
    };
    required(&socket.name, &path.field("name"))?;
    let path = path.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(path.error("is required"));
    };
    if packed_type(any, &path)? != M::full_name() {
        return Ok(None);
    }
    unpack(any, &path).map(Some)
}

/// TLS of a filter chain. Its counters are below `prefix`.
pub(super) fn downstream(
    socket: Option<&TransportSocket>,
    handshake_timeout_ms: u64,
    prefix: &str,
    around: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Option<Arc<DownstreamTls>>> {
    let Some(message) = context::<DownstreamTlsContext>(socket, path)? else {
        return Ok(None);
    };
    let path = path.field("typed_config");
    let common = message.common_tls_context.as_ref();
    let sources = sources(common, &path)?;
    let stats = TlsStats::new(&**around.builder.names, prefix);
    let dry = around.builder.options.dry;
    let tls = Arc::new(DownstreamTls {
        context: Live::new(server(&message, dry, &path)?),
        handshake_timeout_ms,
        stats,
    });
    if let Some(sources) = sources {
        fn live(tls: &DownstreamTls) -> &Live<ServerContext> {
            &tls.context
        }
        let again = move |path: &FieldPath<'_>| server(&message, dry, path);
        let watch = Watch::new(sources, stats, &tls, live, &path, again);
        around.watches.borrow_mut().push(watch);
    }
    Ok(Some(tls))
}

fn sources(
    common: Option<&CommonTlsContext>,
    path: &FieldPath<'_>,
) -> Outcome<Option<watch::Sources>> {
    match common {
        Some(common) => watch::Sources::of(common, &path.field("common_tls_context")),
        None => Ok(None),
    }
}

fn server(
    message: &DownstreamTlsContext,
    dry: bool,
    path: &FieldPath<'_>,
) -> Outcome<ServerContext> {
    let at = path.field("common_tls_context");
    let common = present(message.common_tls_context.as_ref(), &at)?;
    let policy = match message.ocsp_staple_policy() {
        OcspStaplePolicy::LenientStapling => StaplePolicy::Lenient,
        OcspStaplePolicy::StrictStapling => StaplePolicy::Strict,
        OcspStaplePolicy::MustStaple => StaplePolicy::Must,
    };
    let identities = identities(common, Some(policy), &at)?;
    if identities.is_empty() {
        return Err(at.field("tls_certificates").error("is required"));
    }
    let required = message.require_client_certificate.unwrap_or(false);
    let validation = match validation(common, &at)? {
        // It is asked for, and any will do.
        None if required => Some(Validation::default()),
        validation => validation,
    };
    let (ticket_keys, no_tickets) = match &message.session_ticket_keys_type {
        Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
            (tickets(keys, &path.field("session_ticket_keys"))?, false)
        }
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(off)) => (Vec::new(), *off),
        _ => (Vec::new(), false),
    };
    let scope = scope(common, required, &identities, &at)?;
    let lifetime = time::optional(
        message.session_timeout.as_ref(),
        &path.field("session_timeout"),
    )?;
    let parameters = at.field("tls_params");
    let plan = ServerPlan {
        parameters: self::parameters(common.tls_params.as_ref(), true, &parameters)?,
        identities,
        alpn: alpn(common),
        validation,
        require_certificate: required,
        ticket_keys,
        no_tickets,
        no_sessions: message.disable_stateful_session_resumption,
        lifetime_s: lifetime.map(|ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX)),
        key_log: key_log(common.key_log.as_ref(), dry, &at.field("key_log"))?,
        scope,
        client_order: message.prefer_client_ciphers,
        require_name: message.require_sni.unwrap_or(false),
        full_scan: message.full_scan_certs_on_sni_mismatch.unwrap_or(false),
    };
    ServerContext::build(plan)
        .map_err(|_| parameters.error("leaves nothing that could be agreed on"))
}

/// Whether hosts that are reached so are spoken to through TLS.
pub(super) fn is_upstream(socket: Option<&TransportSocket>, path: &FieldPath<'_>) -> Outcome<bool> {
    Ok(context::<UpstreamTlsContext>(socket, path)?.is_some())
}

/// TLS towards the hosts of a cluster, its counters below `prefix`. `spoken` is offered by ALPN where the
/// configuration names no protocol.
pub(super) fn upstream(
    socket: Option<&TransportSocket>,
    spoken: Option<&'static str>,
    auto_sni: Option<AutoSni>,
    prefix: &str,
    around: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Option<Arc<UpstreamTls>>> {
    let Some(message) = context::<UpstreamTlsContext>(socket, path)? else {
        return Ok(None);
    };
    let path = path.field("typed_config");
    let sources = sources(message.common_tls_context.as_ref(), &path)?;
    let stats = TlsStats::new(&**around.builder.names, prefix);
    let dry = around.builder.options.dry;
    let verify = auto_sni.as_ref().is_some_and(|auto| auto.verify);
    let tls = Arc::new(UpstreamTls {
        context: Live::new(client(&message, spoken, verify, dry, &path)?),
        auto_sni,
        by_host_name: message.auto_host_sni,
        alpn_is_implied: message
            .common_tls_context
            .as_ref()
            .is_none_or(|common| common.alpn_protocols.is_empty()),
        stats,
    });
    if let Some(sources) = sources {
        fn live(tls: &UpstreamTls) -> &Live<ClientContext> {
            &tls.context
        }
        let again = move |path: &FieldPath<'_>| client(&message, spoken, verify, dry, path);
        let watch = Watch::new(sources, stats, &tls, live, &path, again);
        around.watches.borrow_mut().push(watch);
    }
    Ok(Some(tls))
}

fn client(
    message: &UpstreamTlsContext,
    spoken: Option<&str>,
    match_requested_name: bool,
    dry: bool,
    path: &FieldPath<'_>,
) -> Outcome<ClientContext> {
    let at = path.field("common_tls_context");
    let nothing = CommonTlsContext::default();
    let common = message.common_tls_context.as_ref().unwrap_or(&nothing);
    let sni = (!message.sni.is_empty()).then(|| message.sni.clone());
    if message.auto_sni_san_validation && sni.is_none() && !message.auto_host_sni {
        return Err(path
            .field("auto_sni_san_validation")
            .error("needs sni or auto_host_sni"));
    }
    let mut validation = validation(common, &at)?.unwrap_or_default();
    if message.auto_sni_san_validation {
        if validation.anchors.is_none() {
            return Err(path
                .field("auto_sni_san_validation")
                .error("needs validation_context.trusted_ca"));
        }
        // It takes the place of the list.
        validation.alt_names.clear();
    }
    if match_requested_name && validation.anchors.is_none() {
        return Err(at
            .field("validation_context")
            .field("trusted_ca")
            .error("is required for auto_san_validation"));
    }
    let parameters = at.field("tls_params");
    let plan = ClientPlan {
        parameters: self::parameters(common.tls_params.as_ref(), false, &parameters)?,
        identities: identities(common, None, &at)?,
        alpn: match (alpn(common), spoken) {
            (none, Some(spoken)) if none.is_empty() => vec![spoken.as_bytes().to_vec()],
            (named, _) => named,
        },
        validation,
        match_server_name: message.auto_sni_san_validation,
        match_requested_name,
        server_name: sni,
        max_sessions: message.max_session_keys.unwrap_or(1) as usize,
        key_log: key_log(common.key_log.as_ref(), dry, &at.field("key_log"))?,
    };
    if plan.identities.len() > 1 {
        return Err(at
            .field("tls_certificates")
            .index(1)
            .error("a cluster has one certificate"));
    }
    let name = path.field("sni");
    ClientContext::build(plan).map_err(|error| match message.sni.as_str() {
        "" => parameters.error("leaves nothing that could be agreed on"),
        sni => name.error(format!("'{sni}' is no host name, or: {error}")),
    })
}

/// What tells contexts apart that have the same keys for tickets: who is asked for a certificate and how it is
/// judged, and who we are. A session that another context agreed to is not taken for one of ours.
fn scope(
    common: &CommonTlsContext,
    required: bool,
    identities: &[Identity],
    path: &FieldPath<'_>,
) -> Outcome<[u8; 32]> {
    let mut parts = vec![vec![u8::from(required)]];
    if let Some(ValidationContextType::ValidationContext(validation)) =
        &common.validation_context_type
    {
        let path = path.field("validation_context");
        parts.push(validation.encode_to_vec());
        let files = [
            (&validation.trusted_ca, "trusted_ca"),
            (&validation.crl, "crl"),
        ];
        for (source, name) in files {
            if let Some(source) = source {
                parts.push(data::bytes(source, &path.field(name))?);
            }
        }
    }
    let names = identities.iter().flat_map(Identity::names);
    parts.extend(names.map(|name| name.as_bytes().to_vec()));
    Ok(crate::tls::fingerprint(parts.iter().map(Vec::as_slice)))
}

/// `key_log`: opens its file, or with `dry` sees whether it could.
fn key_log(
    message: Option<&TlsKeyLog>,
    dry: bool,
    path: &FieldPath<'_>,
) -> Outcome<Option<KeyLog>> {
    let Some(message) = message else {
        return Ok(None);
    };
    let networks = |list: &[CidrRange], name: &str| {
        let path = path.field(name);
        let list = list.iter().enumerate();
        list.map(|(index, range)| address::network(range, &path.index(index)))
            .collect::<Outcome<Vec<_>>>()
    };
    let local = networks(&message.local_address_range, "local_address_range")?;
    let remote = networks(&message.remote_address_range, "remote_address_range")?;
    let within = |list: &[Network], address: Option<IpAddr>| {
        list.is_empty()
            || address.is_some_and(|address| list.iter().any(|network| network.contains(address)))
    };
    let at = path.field("path");
    let file = required(&message.path, &at)?;
    let opened = if dry {
        KeyLog::check(file.as_ref()).map(|()| None)
    } else {
        let filter = move |ours, theirs| within(&local, ours) && within(&remote, theirs);
        KeyLog::open(file.as_ref(), filter).map(Some)
    };
    opened.map_err(|error| at.error(format!("'{file}' cannot be opened: {error}")))
}

fn alpn(common: &CommonTlsContext) -> Vec<Vec<u8>> {
    let protocols = common.alpn_protocols.iter();
    protocols.map(|name| name.as_bytes().to_vec()).collect()
}

/// `policy`: that of OCSP responses, which only servers staple.
fn identities(
    common: &CommonTlsContext,
    policy: Option<StaplePolicy>,
    path: &FieldPath<'_>,
) -> Outcome<Vec<Identity>> {
    let path = path.field("tls_certificates");
    let certificates = common.tls_certificates.iter().enumerate();
    certificates
        .map(|(index, certificate)| {
            let path = path.index(index);
            let identity = identity(certificate, &path)?;
            let staple = certificate.ocsp_staple.as_ref();
            let at = path.field("ocsp_staple");
            let Some(policy) = policy else {
                return match staple {
                    None => Ok(identity),
                    Some(_) => Err(at.error("is of no use to a client")),
                };
            };
            let staple = staple.map(|source| data::bytes(source, &at)).transpose()?;
            identity.staple(staple, policy).map_err(|why| match why {
                Unstapled::Malformed => at.error("is no OCSP response for one certificate"),
                Unstapled::Other => at.error("is for another certificate"),
                Unstapled::Missing => at.error("is required for this certificate or policy"),
            })
        })
        .collect()
}

fn identity(certificate: &TlsCertificate, path: &FieldPath<'_>) -> Outcome<Identity> {
    let (chain_at, key_at) = (path.field("certificate_chain"), path.field("private_key"));
    let chain = present(certificate.certificate_chain.as_ref(), &chain_at)?;
    let key = present(certificate.private_key.as_ref(), &key_at)?;
    let chain = data::bytes(chain, &chain_at)?;
    let key = zeroize::Zeroizing::new(data::bytes(key, &key_at)?);
    Identity::from_pem(&chain, &key).map_err(|why| match why {
        Unusable::Chain => chain_at.error("is no certificate in PEM"),
        Unusable::Key => key_at.error("is no private key in PEM, or of a kind that is not known"),
        Unusable::Mismatch => key_at.error("is not the key of the certificate"),
    })
}

fn tickets(keys: &TlsSessionTicketKeys, path: &FieldPath<'_>) -> Outcome<Vec<TicketKey>> {
    let path = path.field("keys");
    if keys.keys.is_empty() {
        return Err(path.error("is empty"));
    }
    let keys = keys.keys.iter().enumerate().map(|(index, key)| {
        let path = path.index(index);
        let bytes = zeroize::Zeroizing::new(data::bytes(key, &path)?);
        TicketKey::new(&bytes).ok_or_else(|| path.error("has to be 80 bytes"))
    });
    keys.collect()
}

fn parameters(
    message: Option<&TlsParameters>,
    server: bool,
    path: &FieldPath<'_>,
) -> Outcome<Parameters> {
    let nothing = TlsParameters::default();
    let message = message.unwrap_or(&nothing);
    let least = match message.tls_minimum_protocol_version() {
        TlsProtocol::TlSv13 => 3,
        _ => 2,
    };
    let most = match message.tls_maximum_protocol_version() {
        TlsProtocol::TlSv12 => 2,
        // Envoy's own defaults.
        TlsProtocol::TlsAuto if !server => 2,
        _ => 3,
    };
    if least > most {
        return Err(path
            .field("tls_minimum_protocol_version")
            .error("is above tls_maximum_protocol_version"));
    }
    Ok(Parameters {
        tls12: least == 2,
        tls13: most == 3,
        suites: suites(&message.cipher_suites, &path.field("cipher_suites"))?,
        groups: groups(&message.ecdh_curves, &path.field("ecdh_curves"))?,
    })
}

/// Cipher suites of TLS 1.2, by OpenSSL's or IANA's names, with groups of equal ones in brackets.
fn suites(names: &[String], path: &FieldPath<'_>) -> Outcome<Vec<u16>> {
    let mut numbers = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let inner = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        for name in inner.unwrap_or(name).split('|') {
            let known = SUITES.iter().find(|(number, openssl, iana)| {
                *number > 0x1303 && (*openssl == name || *iana == name)
            });
            let Some((number, ..)) = known else {
                let all: Vec<_> = SUITES[3..].iter().map(|(_, name, _)| *name).collect();
                return Err(path.index(index).error(format!(
                    "'{name}' is not supported by Moorgate; supported: {}",
                    all.join(", ")
                )));
            };
            numbers.push(*number);
        }
    }
    Ok(numbers)
}

fn groups(names: &[String], path: &FieldPath<'_>) -> Outcome<Vec<u16>> {
    let groups = names.iter().enumerate().map(|(index, name)| {
        let known = GROUPS.iter().find(|(_, known)| known == name);
        known.map(|(number, _)| *number).ok_or_else(|| {
            let all: Vec<_> = GROUPS.iter().map(|(_, name)| *name).collect();
            path.index(index).error(format!(
                "'{name}' is not supported by Moorgate; supported: {}",
                all.join(", ")
            ))
        })
    });
    groups.collect()
}

fn validation(common: &CommonTlsContext, path: &FieldPath<'_>) -> Outcome<Option<Validation>> {
    let Some(ValidationContextType::ValidationContext(message)) = &common.validation_context_type
    else {
        return Ok(None);
    };
    validation_context(message, &path.field("validation_context")).map(Some)
}

fn validation_context(
    message: &CertificateValidationContext,
    path: &FieldPath<'_>,
) -> Outcome<Validation> {
    let anchors = match &message.trusted_ca {
        Some(source) => {
            let path = path.field("trusted_ca");
            let anchors = trust::anchors(&data::bytes(source, &path)?);
            Some(anchors.ok_or_else(|| path.error("has no certificate in PEM, or a bad one"))?)
        }
        None => None,
    };
    let alt_names = path.field("match_typed_subject_alt_names");
    if anchors.is_none() && !message.match_typed_subject_alt_names.is_empty() {
        // As in Envoy: whoever signs its own certificate can have any name.
        return Err(alt_names.error("needs trusted_ca"));
    }
    let revoked = match &message.crl {
        Some(source) => {
            let path = path.field("crl");
            if anchors.is_none() {
                return Err(path.error("needs trusted_ca"));
            }
            let lists = trust::revocation_lists(&data::bytes(source, &path)?);
            lists.ok_or_else(|| path.error("has no revocation list in PEM, or a bad one"))?
        }
        None => Vec::new(),
    };
    let matchers = message.match_typed_subject_alt_names.iter().enumerate();
    let hashes = message.verify_certificate_hash.iter().enumerate();
    let keys = message.verify_certificate_spki.iter().enumerate();
    Ok(Validation {
        anchors,
        revoked,
        leaf_revocation_only: message.only_verify_leaf_cert_crl,
        alt_names: matchers
            .map(|(index, matcher)| alt_name(matcher, &alt_names.index(index)))
            .collect::<Outcome<_>>()?,
        hashes: hashes
            .map(|(index, text)| {
                let path = path.field("verify_certificate_hash");
                from_hex(text).ok_or_else(|| {
                    path.index(index)
                        .error("has to be a SHA-256 in hexadecimal digits")
                })
            })
            .collect::<Outcome<_>>()?,
        keys: keys
            .map(|(index, text)| {
                let path = path.field("verify_certificate_spki");
                let bytes = base64::decode(text).and_then(|bytes| bytes.try_into().ok());
                bytes.ok_or_else(|| path.index(index).error("has to be a SHA-256 in base64"))
            })
            .collect::<Outcome<_>>()?,
        allow_expired: message.allow_expired_certificate,
        accept_untrusted: message.trust_chain_verification()
            == TrustChainVerification::AcceptUntrusted,
    })
}

fn alt_name(message: &SubjectAltNameMatcher, path: &FieldPath<'_>) -> Outcome<AltNameMatcher> {
    let kind = match message.san_type() {
        SanType::Email => AltNameKind::Email,
        SanType::Dns => AltNameKind::Dns,
        SanType::Uri => AltNameKind::Uri,
        SanType::IpAddress => AltNameKind::Ip,
        _ => return Err(path.field("san_type").error("is required")),
    };
    let at = path.field("matcher");
    let matcher = headers::string(present(message.matcher.as_ref(), &at)?, &at)?;
    let exact = match &matcher {
        crate::route::strings::StringMatch::Exact { text, .. } => {
            String::from_utf8(text.clone()).ok()
        }
        _ => None,
    };
    Ok(AltNameMatcher {
        kind,
        exact,
        matches: Box::new(move |text| matcher.matches(text.as_bytes())),
    })
}

/// 64 hexadecimal digits, with colons between the bytes or without.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}
