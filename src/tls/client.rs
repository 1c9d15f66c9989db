//! What the client's ends of connections are made from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;

use super::identity::{Identity, Own, has_common_ground};
use super::verify::{Validation, Verifier};
use super::{Asked, KeyLog, Parameters, TlsError, shared_provider};

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
    /// Its certificate has to have the name we asked for, in place of `validation.alt_names`
    /// (`auto_sni_san_validation`).
    pub match_server_name: bool,
    /// The same where the name was a request's (`auto_san_validation`).
    pub match_requested_name: bool,
    /// Name to ask for where a connection brings none.
    pub server_name: Option<String>,
    /// Sessions kept for resumption; 0 is none.
    pub max_sessions: usize,
    /// Secrets go to a file, for debugging.
    pub key_log: Option<KeyLog>,
}

/// An upstream context, shared by all its connections.
pub struct ClientContext {
    config: Arc<ClientConfig>,
    /// For names that requests brought.
    requested: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    key_log: Option<KeyLog>,
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
        let validation = Arc::new(plan.validation);
        let verifier = |by_name| Verifier::new(Arc::clone(&validation), algorithms, true, by_name);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&plan.parameters.versions())
            .map_err(|error| TlsError::of(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(plan.match_server_name))
            .with_client_cert_resolver(Arc::new(Own(plan.identities)));
        config.alpn_protocols = plan.alpn;
        config.enable_secret_extraction = true;
        let sessions = || match plan.max_sessions {
            0 => Resumption::disabled(),
            most => Resumption::in_memory_sessions(most),
        };
        config.resumption = sessions();
        let server_name = match plan.server_name {
            Some(name) => Some(ServerName::try_from(name).map_err(|_| TlsError::Protocol)?),
            None => None,
        };
        let config = Arc::new(config);
        let mut requested = Arc::clone(&config);
        if plan.match_requested_name && !plan.match_server_name {
            let mut stricter = ClientConfig::clone(&config);
            let verifier = verifier(true);
            stricter.dangerous().set_certificate_verifier(verifier);
            // What was not judged by a name is not resumed under one.
            stricter.resumption = sessions();
            requested = Arc::new(stricter);
        }
        Ok(Self {
            config,
            requested,
            server_name,
            key_log: plan.key_log,
        })
    }

    /// Where secrets of connections go, if they do.
    #[must_use]
    pub fn key_log(&self) -> Option<&KeyLog> {
        self.key_log.as_ref()
    }

    pub(super) fn connect(
        &self,
        asked: &Asked<'_>,
    ) -> Result<UnbufferedClientConnection, TlsError> {
        let name = match (asked.name, &self.server_name) {
            (Some(name), _) => ServerName::try_from(name.to_owned()).ok(),
            (None, name) => name.clone(),
        };
        // An address is not sent: without a name the extension is left out, as in Envoy.
        let name = name
            .unwrap_or_else(|| ServerName::IpAddress(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()));
        let config = match asked.by_request {
            true => &self.requested,
            false => &self.config,
        };
        let alpn = asked.alpn.unwrap_or(&config.alpn_protocols).to_vec();
        let config = match &self.key_log {
            Some(log) if asked.logged => {
                let mut config = ClientConfig::clone(config);
                config.key_log = Arc::clone(&log.lines) as _;
                Arc::new(config)
            }
            _ => Arc::clone(config),
        };
        UnbufferedClientConnection::new_with_alpn(config, name, alpn)
            .map_err(|error| TlsError::of(&error))
    }
}
