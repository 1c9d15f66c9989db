//! What the client's ends of connections are made from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;

use super::identity::{Identity, Own, has_common_ground};
use super::verify::{Validation, Verifier};
use super::{Parameters, TlsError, shared_provider};

/// An upstream context before it is built.
#[derive(Debug)]
pub struct ClientPlan {
    /// Versions, suites, groups.
    pub parameters: Parameters,
    /// Our certificate, when we have one to show.
    pub identities: Vec<Identity>,
    /// Protocols for ALPN, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// How the server's certificate is judged.
    pub validation: Validation,
    /// Its certificate has to have the name we asked for (`auto_san_validation`).
    pub match_server_name: bool,
    /// Name to ask for where a connection brings none.
    pub server_name: Option<String>,
    /// Sessions kept for resumption; 0 is none.
    pub max_sessions: usize,
    /// A file for the session keys, for debugging.
    pub key_log: Option<Arc<dyn rustls::KeyLog>>,
}

/// An upstream context, shared by all its connections.
pub struct ClientContext {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientContext({:?})", self.server_name)
    }
}

impl ClientContext {
    /// Builds a context.
    ///
    /// # Errors
    /// When the parameters leave nothing that could be agreed on, or the server's name is none.
    pub fn build(plan: ClientPlan) -> Result<Self, TlsError> {
        let provider = shared_provider(&plan.parameters);
        if !has_common_ground(&provider) {
            return Err(TlsError::Protocol);
        }
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Verifier::new(plan.validation, algorithms, true, plan.match_server_name);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&plan.parameters.versions())
            .map_err(|error| TlsError::of(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(Own(plan.identities)));
        config.alpn_protocols = plan.alpn;
        config.enable_secret_extraction = true;
        config.resumption = match plan.max_sessions {
            0 => Resumption::disabled(),
            most => Resumption::in_memory_sessions(most),
        };
        if let Some(log) = plan.key_log {
            config.key_log = log;
        }
        let server_name = match plan.server_name {
            Some(name) => Some(ServerName::try_from(name).map_err(|_| TlsError::Protocol)?),
            None => None,
        };
        Ok(Self {
            config: Arc::new(config),
            server_name,
        })
    }

    pub(super) fn connect(
        &self,
        server_name: Option<&str>,
    ) -> Result<UnbufferedClientConnection, TlsError> {
        let name = match (server_name, &self.server_name) {
            (Some(name), _) => ServerName::try_from(name.to_owned()).ok(),
            (None, name) => name.clone(),
        };
        // An address is not sent: without a name the extension is left out, as in Envoy.
        let name = name
            .unwrap_or_else(|| ServerName::IpAddress(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()));
        UnbufferedClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| TlsError::of(&error))
    }
}
