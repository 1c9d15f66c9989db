//! What TLS is made from, as the command line says it.

use std::path::Path;

use moorgate::engine::reactor::{Reactor, Sock};
use moorgate::tls::client::ClientPlan;
use moorgate::tls::identity::Identity;
use moorgate::tls::server::ServerPlan;
use moorgate::tls::verify::Validation;
use moorgate::tls::{ClientContext, Parameters, ServerContext, trust};

use crate::cli::{ServeOptions, TlsOptions, TlsVersion};
use crate::reader::Failure;
use crate::secure::Secure;
use crate::target::{Scheme, Target};

/// Sessions that are kept to be resumed, of one worker.
const SESSIONS: usize = 256;

/// What the clients of a worker shake hands with.
#[derive(Debug)]
pub struct Client {
    context: ClientContext,
    name: String,
    /// Protocols that were offered.
    alpn: Vec<Vec<u8>>,
}

impl Client {
    /// As the options say, for `target`; `None` where it does not speak TLS. `resume`: connections continue
    /// the sessions of earlier ones.
    ///
    /// # Errors
    /// Options that are missing, contradict each other, or name files that cannot be used.
    pub fn new(target: &Target, options: &TlsOptions) -> Result<Option<Self>, String> {
        if !target.tls {
            return if options.is_default() {
                Ok(None)
            } else {
                Err(format!("options of TLS are not for {target}"))
            };
        }
        let validation = match (&options.cacert, options.tls_insecure) {
            (None, false) => {
                return Err(
                    "--cacert FILE says whom to trust, --tls-insecure trusts everybody".to_owned(),
                );
            }
            (None, true) => Validation {
                accept_untrusted: true,
                ..Validation::default()
            },
            (Some(path), _) => Validation {
                anchors: Some(
                    trust::anchors(&read(path)?)
                        .ok_or_else(|| format!("{}: no certificates in PEM", path.display()))?,
                ),
                ..Validation::default()
            },
        };
        let alpn = match &options.alpn {
            Some(list) => protocols(list),
            None => match target.scheme {
                Scheme::Http2 | Scheme::Grpc => vec![b"h2".to_vec()],
                Scheme::Http | Scheme::Ws => vec![b"http/1.1".to_vec()],
                Scheme::Tcp => Vec::new(),
            },
        };
        let plan = ClientPlan {
            parameters: parameters(options.tls_version),
            identities: Vec::new(),
            alpn: alpn.clone(),
            validation,
            match_server_name: !options.tls_insecure,
            server_name: None,
            max_sessions: if options.no_resume { 0 } else { SESSIONS },
            match_requested_name: false,
            key_log: None,
        };
        let context = ClientContext::build(plan).map_err(|error| error.to_string())?;
        let name = match &options.sni {
            Some(name) => name.clone(),
            None => target.host().to_owned(),
        };
        let client = Self {
            context,
            name,
            alpn,
        };
        // A name that is none would fail with each connection.
        client.connect().map_err(|error| error.to_string())?;
        Ok(Some(client))
    }

    /// Makes the client's side of a connection.
    ///
    /// # Errors
    /// None, once one was made.
    fn connect(&self) -> Result<Box<Secure>, moorgate::tls::TlsError> {
        Secure::client(&self.context, Some(&self.name))
    }

    /// Begins a handshake on a socket that has just connected.
    ///
    /// # Errors
    /// What the attempt counts as; a new socket takes more than a hello, so one that does not is broken.
    pub fn begin<R: Reactor>(&self, reactor: &mut R, sock: Sock) -> Result<Box<Secure>, Failure> {
        let mut tls = self.connect().map_err(|_| Failure::Tls)?;
        match tls.flush(reactor, sock) {
            Ok(true) => Ok(tls),
            Ok(false) | Err(_) => Err(Failure::Connect),
        }
    }

    /// The peer took a protocol that was offered, if any was.
    #[must_use]
    pub fn agrees(&self, tls: &Secure) -> bool {
        match &tls.agreed().alpn {
            Some(chosen) => self.alpn.iter().any(|offered| **offered == **chosen),
            // A server of HTTP/1 need not know of ALPN (RFC 9113 section 3.2 asks it of HTTP/2's).
            None => self.alpn.iter().all(|offered| offered != b"h2"),
        }
    }
}

/// What a server shakes hands with; `None` in the clear.
///
/// # Errors
/// Files that cannot be used.
pub fn server(options: &ServeOptions) -> Result<Option<ServerContext>, String> {
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else {
        return Ok(None);
    };
    let identity = Identity::from_pem(&read(cert)?, &read(key)?).map_err(|error| {
        let (cert, key) = (cert.display(), key.display());
        format!("{cert} and {key} are no certificate and key: {error:?}")
    })?;
    let alpn = match &options.alpn {
        Some(list) => protocols(list),
        None => options.service.alpn(),
    };
    let plan = ServerPlan {
        parameters: parameters(options.tls_version),
        identities: vec![identity],
        alpn,
        validation: None,
        require_certificate: false,
        ticket_keys: Vec::new(),
        no_tickets: options.no_tickets,
        no_sessions: options.no_tickets,
        lifetime_s: None,
        scope: [0; 32],
        client_order: false,
        require_name: false,
        full_scan: false,
        key_log: None,
    };
    let context = ServerContext::build(plan).map_err(|error| error.to_string())?;
    Ok(Some(context))
}

fn parameters(only: Option<TlsVersion>) -> Parameters {
    Parameters {
        tls12: only != Some(TlsVersion::Tls13),
        tls13: only != Some(TlsVersion::Tls12),
        suites: Vec::new(),
        groups: Vec::new(),
    }
}

fn protocols(list: &str) -> Vec<Vec<u8>> {
    let names = list.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(|name| name.as_bytes().to_vec()).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
