//! Finding the virtual host and the route.
//!
//! A lookup costs one hash per distinct length of wildcard domains, however many virtual hosts there
//! are, and then the routes of one virtual host in their order.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use moorgate_codecs::Head;

use super::error::BuildError;
use super::matcher::{Matcher, path_only};
use super::{Action, HeaderOps, PathRewrite, Redirect, RequireTls, Route, RouteTable, VirtualHost};

/// The route of a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteMatch<'a> {
    /// What to do. Its [`Route::host`] is the virtual host that was found.
    pub route: &'a Arc<Route>,
}

/// Routes of one virtual host, in order.
#[derive(Debug)]
struct HostRoutes {
    host: Arc<VirtualHost>,
    routes: Vec<Arc<Route>>,
    /// What a request that should have come over TLS gets; `None` when TLS is not required.
    tls_redirect: Option<Arc<Route>>,
}

/// All virtual hosts of a table.
#[derive(Debug, Default)]
pub(crate) struct VirtualHosts {
    hosts: Vec<HostRoutes>,
    exact: DomainMap,
    /// `*.foo`: by length of what follows the star, longest first.
    suffixes: Vec<(usize, DomainMap)>,
    /// `foo.*`: by length of what precedes the star, longest first.
    prefixes: Vec<(usize, DomainMap)>,
    /// `*`.
    default: Option<u32>,
    ignore_port: bool,
}

type DomainMap = HashMap<Box<[u8]>, u32, BuildHasherDefault<DomainHasher>>;

/// Multiply and rotate over words. Keys come from the configuration, so nobody can aim for
/// collisions; what clients send is only looked up.
#[derive(Clone, Copy, Default)]
struct DomainHasher(u64);

impl DomainHasher {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for DomainHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0_u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_usize(&mut self, _length: usize) {
        // The length is part of the last word already.
    }

    fn finish(&self) -> u64 {
        // The table uses the top bits as tags and the low ones as place.
        self.0 ^ (self.0 >> 32)
    }
}

/// Longer authorities are lowered on the heap; DNS names end at 253 bytes.
const LONG_AUTHORITY: usize = 272;

impl VirtualHosts {
    fn find(&self, authority: &[u8]) -> Option<&HostRoutes> {
        let index = if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty()
        {
            self.default
        } else if authority.is_empty() {
            None
        } else {
            let authority = if self.ignore_port {
                &authority[..port_start(authority).unwrap_or(authority.len())]
            } else {
                authority
            };
            let mut stack = [0_u8; LONG_AUTHORITY];
            if let Some(lower) = stack.get_mut(..authority.len()) {
                lower.copy_from_slice(authority);
                lower.make_ascii_lowercase();
                self.find_lower(lower)
            } else {
                self.find_lower(&authority.to_ascii_lowercase())
            }
        };
        index.and_then(|index| self.hosts.get(index as usize))
    }

    fn find_lower(&self, authority: &[u8]) -> Option<u32> {
        if let Some(index) = self.exact.get(authority) {
            return Some(*index);
        }
        // The star stands for at least one character.
        let of_shorter = |(length, _): &&(usize, DomainMap)| *length < authority.len();
        for (length, domains) in self.suffixes.iter().filter(of_shorter) {
            if let Some(index) = domains.get(&authority[authority.len() - length..]) {
                return Some(*index);
            }
        }
        for (length, domains) in self.prefixes.iter().filter(of_shorter) {
            if let Some(index) = domains.get(&authority[..*length]) {
                return Some(*index);
            }
        }
        self.default
    }
}

/// Where `:port` begins in an authority; `None` when it has no port.
#[must_use]
pub(crate) fn port_start(authority: &[u8]) -> Option<usize> {
    let colon = authority.iter().rposition(|byte| *byte == b':')?;
    // Colons inside of brackets belong to an IPv6 address.
    let inside = authority[colon..].contains(&b']');
    (!inside).then_some(colon)
}

impl RouteTable {
    /// Begins a table.
    #[must_use]
    pub fn builder(name: &str) -> RouteTableBuilder {
        RouteTableBuilder {
            table: Self {
                name: name.to_owned(),
                ..Self::default()
            },
            host_names: HashSet::new(),
        }
    }

    /// The route of a request. `random` decides on fractions; use the same number for
    /// [`Forward::pick`](super::Forward::pick). `is_tls` is asked where the request has no
    /// `x-forwarded-proto`.
    #[must_use]
    pub fn route(&self, head: &Head, random: u64, is_tls: bool) -> Option<RouteMatch<'_>> {
        let host = self.hosts.find(head.authority())?;
        if let Some(redirect) = &host.tls_redirect {
            let secure = match head.get(b"x-forwarded-proto") {
                Some(proto) => proto == b"https",
                None => is_tls,
            };
            let internal = || head.get(b"x-envoy-internal") == Some(b"true");
            if !secure && (host.host.require_tls == RequireTls::All || !internal()) {
                return Some(RouteMatch { route: redirect });
            }
        }
        let target = head.path();
        let pathless = !target.starts_with(b"/") && head.method() == b"CONNECT";
        let path = (!pathless).then(|| path_only(target));
        host.routes
            .iter()
            .find(|route| route.matcher.matches(head, path, random))
            .map(|route| RouteMatch { route })
    }

    /// All routes, host by host, for reports.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.hosts.hosts.iter().flat_map(|host| &host.routes)
    }
}

/// Names a virtual host while a table is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostKey(u32);

/// What a new route does; what it matches is given beside it.
#[derive(Debug)]
pub struct NewRoute {
    /// Name, for `%ROUTE_NAME%`.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// Operations of the route.
    pub request_headers: HeaderOps,
    /// Operations of the route.
    pub response_headers: HeaderOps,
}

/// Builds a [`RouteTable`].
pub struct RouteTableBuilder {
    table: RouteTable,
    host_names: HashSet<String>,
}

impl fmt::Debug for RouteTableBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteTableBuilder")
            .field(&self.table.name)
            .finish()
    }
}

impl RouteTableBuilder {
    /// Header operations of the whole table.
    pub fn headers(&mut self, request: HeaderOps, response: HeaderOps) -> &mut Self {
        self.table.request_headers = request;
        self.table.response_headers = response;
        self
    }

    /// `most_specific_header_mutations_wins`.
    pub fn most_specific_header_mutations_wins(&mut self, wins: bool) -> &mut Self {
        self.table.most_specific_header_mutations_wins = wins;
        self
    }

    /// `ignore_port_in_host_matching`.
    pub fn ignore_port_in_host_matching(&mut self, ignore: bool) -> &mut Self {
        self.table.hosts.ignore_port = ignore;
        self
    }

    /// Adds a virtual host with its domains.
    ///
    /// # Errors
    /// A duplicate name or domain, a domain with a misplaced wildcard, no domain at all.
    pub fn virtual_host(
        &mut self,
        host: VirtualHost,
        domains: &[impl AsRef<str>],
    ) -> Result<HostKey, BuildError> {
        let hosts = &mut self.table.hosts;
        if domains.is_empty() {
            return Err(BuildError::NoDomains { host: host.name });
        }
        if !self.host_names.insert(host.name.clone()) {
            return Err(BuildError::DuplicateHost { host: host.name });
        }
        let key = hosts.hosts.len() as u32;
        for domain in domains {
            let domain = domain.as_ref();
            let lower = domain.to_ascii_lowercase();
            let named = |domain: &str| (domain.to_owned(), host.name.clone());
            let (map, text) = if lower == "*" {
                if hosts.default.replace(key).is_some() {
                    return Err(BuildError::DuplicateDefault { host: host.name });
                }
                continue;
            } else if let Some(suffix) = lower.strip_prefix('*') {
                (by_length(&mut hosts.suffixes, suffix.len()), suffix)
            } else if let Some(prefix) = lower.strip_suffix('*') {
                (by_length(&mut hosts.prefixes, prefix.len()), prefix)
            } else {
                (&mut hosts.exact, lower.as_str())
            };
            if text.is_empty() || text.contains('*') {
                let (domain, host) = named(domain);
                return Err(BuildError::InvalidDomain { domain, host });
            }
            if map.insert(text.as_bytes().into(), key).is_some() {
                let (domain, host) = named(domain);
                return Err(BuildError::DuplicateDomain { domain, host });
            }
        }
        let host = Arc::new(host);
        let tls_redirect = (host.require_tls != RequireTls::None).then(|| Arc::new(to_tls(&host)));
        hosts.hosts.push(HostRoutes {
            host,
            routes: Vec::new(),
            tls_redirect,
        });
        Ok(HostKey(key))
    }

    /// Adds a route after those its virtual host already has.
    ///
    /// # Errors
    /// An action that cannot be carried out: weights, statuses.
    pub fn route(
        &mut self,
        host: HostKey,
        matcher: Matcher,
        route: NewRoute,
    ) -> Result<(), BuildError> {
        route.action.check()?;
        if let Some(host) = self.table.hosts.hosts.get_mut(host.0 as usize) {
            host.routes.push(Arc::new(Route {
                name: route.name,
                host: Arc::clone(&host.host),
                action: route.action,
                request_headers: route.request_headers,
                response_headers: route.response_headers,
                matcher,
            }));
        }
        Ok(())
    }

    /// The finished table.
    #[must_use]
    pub fn build(mut self) -> RouteTable {
        let hosts = &mut self.table.hosts;
        for lengths in [&mut hosts.suffixes, &mut hosts.prefixes] {
            lengths.sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        }
        self.table
    }
}

fn by_length(lengths: &mut Vec<(usize, DomainMap)>, length: usize) -> &mut DomainMap {
    let place = match lengths.iter().position(|(other, _)| *other == length) {
        Some(place) => place,
        None => {
            lengths.push((length, DomainMap::default()));
            lengths.len() - 1
        }
    };
    &mut lengths[place].1
}

/// What `require_tls` answers: same authority, port included, and same path, over https.
fn to_tls(host: &Arc<VirtualHost>) -> Route {
    Route {
        name: String::new(),
        host: Arc::new(VirtualHost {
            name: host.name.clone(),
            ..VirtualHost::default()
        }),
        action: Action::Redirect(Redirect {
            scheme: None,
            https: true,
            host: None,
            port: None,
            path: PathRewrite::None,
            status: 301,
            strip_query: false,
            keep_port: true,
        }),
        request_headers: HeaderOps::default(),
        response_headers: HeaderOps::default(),
        matcher: Matcher::prefix(""),
    }
}
