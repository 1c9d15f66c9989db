//! What the server's ends of connections are made from.

use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, ServerConfig, ServerSessionMemoryCache};

use super::identity::{ByName, Identity, has_common_ground};
use super::tickets::{self, LIFETIME_S, TicketKey, Tickets};
use super::verify::{Validation, Verifier};
use super::{KeyLog, Parameters, TlsError, shared_provider};

/// Sessions of TLS 1.2 kept by number where clients take no tickets.
const SESSIONS: usize = 1024;

/// A downstream context before it is built.
#[derive(Debug)]
pub struct ServerPlan {
    /// Versions, suites, groups.
    pub parameters: Parameters,
    /// Our certificates.
    pub identities: Vec<Identity>,
    /// Protocols for ALPN, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// How clients' certificates are judged; `None` does not ask for one.
    pub validation: Option<Validation>,
    /// A client has to show one.
    pub require_certificate: bool,
    /// Keys for tickets; none is keys of our own.
    pub ticket_keys: Vec<TicketKey>,
    /// No tickets.
    pub no_tickets: bool,
    /// No sessions by number either.
    pub no_sessions: bool,
    /// How long a session may be resumed, s; `None` is two hours.
    pub lifetime_s: Option<u32>,
    /// Secrets go to a file, for debugging.
    pub key_log: Option<KeyLog>,
    /// Contexts with the same `ticket_keys` take each other's tickets when this is the same, too: it has to
    /// tell apart who judges clients in another way.
    pub scope: [u8; 32],
    /// The client's order of cipher suites counts, not ours.
    pub client_order: bool,
    /// Clients have to name the server they want.
    pub require_name: bool,
    /// With a name that no certificate has, the best for the client's abilities is taken, not the first.
    pub full_scan: bool,
}

/// A downstream context, shared by all its connections.
pub struct ServerContext {
    config: Arc<ServerConfig>,
    identities: Arc<ByName>,
    key_log: Option<KeyLog>,
}

impl std::fmt::Debug for ServerContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerContext")
    }
}

impl ServerContext {
    /// Builds a context.
    ///
    /// # Errors
    /// When the parameters leave nothing that could be agreed on.
    pub fn build(plan: ServerPlan) -> Result<Self, TlsError> {
        let provider = shared_provider(&plan.parameters);
        if !has_common_ground(&provider) {
            return Err(TlsError::Protocol);
        }
        let algorithms = provider.signature_verification_algorithms;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&plan.parameters.versions())
            .map_err(|error| TlsError::of(&error))?;
        let builder = match plan.validation {
            Some(validation) => builder.with_client_cert_verifier(Verifier::new(
                Arc::new(validation),
                algorithms,
                plan.require_certificate,
                false,
            )),
            None => builder.with_no_client_auth(),
        };
        let identities = Arc::new(ByName {
            list: plan.identities,
            require_name: plan.require_name,
            full_scan: plan.full_scan,
        });
        let mut config = builder.with_cert_resolver(Arc::clone(&identities) as _);
        config.alpn_protocols = plan.alpn;
        config.enable_secret_extraction = true;
        config.ignore_client_order = !plan.client_order;
        // One is enough for a client that keeps its connections.
        config.send_tls13_tickets = usize::from(!plan.no_tickets);
        if !plan.no_tickets {
            let lifetime_s = plan.lifetime_s.unwrap_or(LIFETIME_S);
            config.ticketer = if plan.ticket_keys.is_empty() {
                Arc::new(tickets::rotating(lifetime_s)?)
            } else {
                Arc::new(Tickets {
                    keys: plan.ticket_keys,
                    lifetime_s,
                    scope: plan.scope,
                })
            };
        }
        config.session_storage = if plan.no_sessions {
            Arc::new(NoServerSessionStorage {})
        } else {
            ServerSessionMemoryCache::new(SESSIONS)
        };
        Ok(Self {
            config: Arc::new(config),
            identities,
            key_log: plan.key_log,
        })
    }

    /// Where secrets of connections go, if they do.
    #[must_use]
    pub fn key_log(&self) -> Option<&KeyLog> {
        self.key_log.as_ref()
    }

    pub(super) fn config(&self, logged: bool) -> Arc<ServerConfig> {
        match &self.key_log {
            Some(log) if logged => {
                let mut config = ServerConfig::clone(&self.config);
                config.key_log = Arc::clone(&log.lines) as _;
                Arc::new(config)
            }
            _ => Arc::clone(&self.config),
        }
    }

    /// URI names of our certificate for this name.
    #[must_use]
    pub fn own_uris(&self, server_name: Option<&str>) -> &[Box<str>] {
        self.identities.uris(server_name)
    }
}
