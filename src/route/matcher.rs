//! Conditions of one route: path, headers, query parameters, a random fraction.
//!
//! Everything is compiled when the table is built. Matching must never allocate for a request whose
//! matched header is a single field, and it must never look at anything but the head and the random
//! number it is given.

use moorgate_codecs::Head;

use super::error::BuildError;
pub use super::query::{QueryCondition, QueryMatch};
pub use super::strings::{Pattern, StringMatch};
use super::strings::{equal, starts_with};

/// Condition on the path. Query and fragment are never part of what is compared.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// `prefix`.
    Prefix { prefix: String, ignore_case: bool },
    /// `path`.
    Exact { path: String, ignore_case: bool },
    /// `path_separated_prefix`: the prefix alone, or followed by a slash.
    Separated { prefix: String, ignore_case: bool },
    /// `safe_regex`, which has to match the whole path.
    Regex(Pattern),
    /// `connect_matcher`: CONNECT requests, whatever their target.
    Connect,
}

impl PathMatch {
    /// The path (without query and fragment) fulfils the condition.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Prefix {
                prefix,
                ignore_case,
            } => starts_with(path, prefix.as_bytes(), *ignore_case),
            Self::Exact {
                path: wanted,
                ignore_case,
            } => equal(path, wanted.as_bytes(), *ignore_case),
            Self::Separated {
                prefix,
                ignore_case,
            } => {
                starts_with(path, prefix.as_bytes(), *ignore_case)
                    && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(pattern) => pattern.matches(path),
            Self::Connect => false,
        }
    }

    /// Bytes of the path that the condition named: what a prefix rewrite replaces.
    pub(crate) fn matched_len(&self, path: &[u8]) -> usize {
        match self {
            Self::Prefix { prefix, .. } | Self::Separated { prefix, .. } => {
                prefix.len().min(path.len())
            }
            Self::Exact { .. } | Self::Regex(_) | Self::Connect => path.len(),
        }
    }

    fn check(&self) -> Result<(), BuildError> {
        let refuse = |path: &str, reason| {
            Err(BuildError::Path {
                path: path.to_owned(),
                reason,
            })
        };
        match self {
            Self::Separated { prefix, .. } => {
                if !prefix.starts_with('/') || prefix.len() < 2 {
                    return refuse(prefix, "path_separated_prefix has to start with a slash");
                }
                if prefix.ends_with('/') || prefix.contains(['?', '#']) {
                    return refuse(
                        prefix,
                        "path_separated_prefix has no trailing slash, '?' or '#'",
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Path without query and fragment.
#[must_use]
pub(crate) fn path_only(target: &[u8]) -> &[u8] {
    match target.iter().position(|byte| matches!(byte, b'?' | b'#')) {
        Some(end) => &target[..end],
        None => target,
    }
}

/// What a header condition looks at. Pseudo-headers are addressable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HeaderName {
    Method,
    Path,
    /// `:authority`, and `host`, which is the same.
    Authority,
    Scheme,
    Status,
    Field(Vec<u8>),
}

/// Envoy's `HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    name: HeaderName,
    value: ValueMatch,
    invert: bool,
    missing_as_empty: bool,
}

/// Condition on a header's value. Several fields of a name are joined by commas first.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// `string_match`, and the older prefix, suffix, contains and regex forms.
    String(StringMatch),
    /// The older `exact_match`; an empty one matches any value.
    Exact(Vec<u8>),
    /// Start inclusive, end exclusive; a value that is not a number does not match.
    Range(i64, i64),
    /// The header is there (true) or is not (false).
    Present(bool),
}

impl ValueMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::String(string) => string.matches(value),
            Self::Exact(text) => text.is_empty() || value == text,
            Self::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim_ascii().parse::<i64>().ok())
                .is_some_and(|number| *start <= number && number < *end),
            Self::Present(present) => *present,
        }
    }
}

impl HeaderMatch {
    /// A condition. The name is taken in any case.
    ///
    /// # Errors
    /// [`BuildError::HeaderName`] when it is no header name.
    pub fn new(
        name: &str,
        value: ValueMatch,
        invert: bool,
        missing_as_empty: bool,
    ) -> Result<Self, BuildError> {
        let lower = name.to_ascii_lowercase();
        let name = match lower.as_str() {
            ":method" => HeaderName::Method,
            ":path" => HeaderName::Path,
            ":authority" | "host" => HeaderName::Authority,
            ":scheme" => HeaderName::Scheme,
            ":status" => HeaderName::Status,
            other if is_token(other) => HeaderName::Field(lower.into_bytes()),
            _ => {
                return Err(BuildError::HeaderName {
                    name: name.to_owned(),
                    reason: "not a header name",
                });
            }
        };
        Ok(Self {
            name,
            value,
            invert,
            missing_as_empty,
        })
    }

    /// The head fulfils the condition. A missing header fulfils only `Present(false)` (or the
    /// inverted presence), unless it is to be taken as empty.
    #[must_use]
    pub fn matches(&self, head: &Head) -> bool {
        with_value(head, &self.name, |value| {
            if let ValueMatch::Present(present) = self.value {
                return (value.is_some() == present) != self.invert;
            }
            match value {
                Some(value) => self.value.matches(value) != self.invert,
                None if self.missing_as_empty => self.value.matches(b"") != self.invert,
                None => false,
            }
        })
    }
}

/// Values longer than this that are spread over several fields are joined on the heap.
const JOINED: usize = 1024;

/// Hands the value of a header to `look`: several fields are joined by commas.
fn with_value<R>(head: &Head, name: &HeaderName, look: impl FnOnce(Option<&[u8]>) -> R) -> R {
    let filled = |value: &'_ [u8]| !value.is_empty();
    let field = match name {
        HeaderName::Method => return look(Some(head.method()).filter(|value| filled(value))),
        HeaderName::Path => return look(Some(head.path()).filter(|value| filled(value))),
        HeaderName::Authority => return look(Some(head.authority()).filter(|value| filled(value))),
        HeaderName::Scheme => return look(Some(head.scheme()).filter(|value| filled(value))),
        HeaderName::Status => {
            let digits = [100, 10, 1].map(|unit| b'0' + (head.status / unit % 10) as u8);
            return look((head.status != 0).then_some(&digits[..]));
        }
        HeaderName::Field(field) => field,
    };
    let mut values = head.get_all(field);
    let first = values.next();
    if values.next().is_none() {
        return look(first);
    }
    let total: usize = head.get_all(field).map(|value| value.len() + 1).sum();
    let mut stack = [0_u8; JOINED];
    let mut heap = Vec::new();
    let joined = if total <= JOINED {
        &mut stack[..]
    } else {
        heap.resize(total, 0);
        &mut heap[..]
    };
    let mut at = 0;
    for value in head.get_all(field) {
        if at > 0 {
            joined[at - 1] = b',';
        }
        joined[at..at + value.len()].copy_from_slice(value);
        at += value.len() + 1;
    }
    look(Some(&joined[..at - 1]))
}

/// Characters of a token (RFC 9110 section 5.6.2).
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Matches that part of all requests (`runtime_fraction`, with its default value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// At least the denominator matches all.
    pub numerator: u32,
    /// 100, 10 000 or 1 000 000.
    pub denominator: u32,
}

impl Fraction {
    /// The random number is inside of the fraction.
    #[must_use]
    pub fn includes(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

/// Conditions of one route. All of them have to be met.
#[derive(Clone, Debug)]
pub struct Matcher {
    pub(crate) path: PathMatch,
    headers: Vec<HeaderMatch>,
    query: Vec<QueryMatch>,
    fraction: Option<Fraction>,
}

impl Matcher {
    /// A route with this path condition and no other.
    ///
    /// # Errors
    /// [`BuildError::Path`] when the condition cannot be met by any path.
    pub fn new(path: PathMatch) -> Result<Self, BuildError> {
        path.check()?;
        Ok(Self {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            fraction: None,
        })
    }

    /// Every path that starts with `prefix`, in this case.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self {
            path: PathMatch::Prefix {
                prefix: prefix.to_owned(),
                ignore_case: false,
            },
            headers: Vec::new(),
            query: Vec::new(),
            fraction: None,
        }
    }

    /// Adds a header condition.
    #[must_use]
    pub fn header(mut self, condition: HeaderMatch) -> Self {
        self.headers.push(condition);
        self
    }

    /// Adds a query parameter condition.
    #[must_use]
    pub fn query(mut self, condition: QueryMatch) -> Self {
        self.query.push(condition);
        self
    }

    /// Restricts the route to a fraction of the requests.
    #[must_use]
    pub fn fraction(mut self, fraction: Fraction) -> Self {
        self.fraction = Some(fraction);
        self
    }

    /// The request meets all conditions. `path` is its path without query and fragment; `None` for
    /// a CONNECT request without one, which only a `connect_matcher` takes.
    pub(super) fn matches(&self, head: &Head, path: Option<&[u8]>, random: u64) -> bool {
        let path_fits = match (&self.path, path) {
            (PathMatch::Connect, _) => head.method() == b"CONNECT",
            (condition, Some(path)) => condition.matches(path),
            (_, None) => false,
        };
        path_fits
            && self
                .fraction
                .is_none_or(|fraction| fraction.includes(random))
            && self.headers.iter().all(|condition| condition.matches(head))
            && self
                .query
                .iter()
                .all(|condition| condition.matches(head.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, fields: &[(&str, &str)]) -> Head {
        let mut head = Head::new();
        head.set_method(b"GET");
        head.set_authority(b"example.com");
        head.set_scheme(b"http");
        head.set_path(path.as_bytes());
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn takes(matcher: &Matcher, head: &Head) -> bool {
        matcher.matches(head, Some(path_only(head.path())), 0)
    }

    #[test]
    fn paths() {
        let prefix = |prefix: &str, ignore_case| PathMatch::Prefix {
            prefix: prefix.into(),
            ignore_case,
        };
        let exact = |path: &str, ignore_case| PathMatch::Exact {
            path: path.into(),
            ignore_case,
        };
        let separated = |prefix: &str| PathMatch::Separated {
            prefix: prefix.into(),
            ignore_case: false,
        };
        let regex = |pattern: &str| PathMatch::Regex(Pattern::new(pattern).unwrap());
        let cases = [
            (prefix("/", false), "/", true),
            (prefix("/api", false), "/apis?x", true),
            (prefix("/api", false), "/API", false),
            (prefix("/api", true), "/API/v1", true),
            (prefix("/api", false), "/ap", false),
            (exact("/a", false), "/a", true),
            (exact("/a", false), "/a?b=c", true),
            (exact("/a", false), "/a#b", true),
            (exact("/a", false), "/a/", false),
            (exact("/a", true), "/A", true),
            (separated("/api"), "/api", true),
            (separated("/api"), "/api?x=/", true),
            (separated("/api"), "/api/v1", true),
            (separated("/api"), "/apis", false),
            (regex("/[a-z]+"), "/abc?D", true),
            (regex("/[a-z]+"), "/abc/d", false),
            (regex("/a|/b"), "/b", true),
            (regex("/a|/ab"), "/ab", true),
        ];
        for (condition, path, expected) in cases {
            let matcher = Matcher::new(condition).unwrap();
            assert_eq!(
                takes(&matcher, &get(path, &[])),
                expected,
                "{matcher:?} {path}"
            );
        }
        for refused in ["api", "/api/", "/a?b", "/"] {
            assert!(Matcher::new(separated(refused)).is_err(), "{refused}");
        }
    }

    #[test]
    fn connect() {
        let matcher = Matcher::new(PathMatch::Connect).unwrap();
        let mut head = Head::new();
        head.set_method(b"CONNECT");
        head.set_authority(b"a:443");
        assert!(matcher.matches(&head, None, 0));
        assert!(!Matcher::prefix("/").matches(&head, None, 0));
        assert!(!takes(&matcher, &get("/", &[])));
    }

    fn value(string: StringMatch) -> ValueMatch {
        ValueMatch::String(string)
    }

    #[test]
    fn headers() {
        let exact = |text: &str| ValueMatch::Exact(text.into());
        let prefix = |text: &str| {
            value(StringMatch::Prefix {
                text: text.into(),
                ignore_case: false,
            })
        };
        let suffix = value(StringMatch::Suffix {
            text: b"Z".to_vec(),
            ignore_case: true,
        });
        let contains = value(StringMatch::Contains {
            text: b"yZ".to_vec(),
            ignore_case: true,
        });
        let regex = value(StringMatch::Regex(Pattern::new("[x-z]+").unwrap()));
        // (condition, inverted, missing as empty, value, expected)
        let cases: Vec<(ValueMatch, bool, bool, Option<&str>, bool)> = vec![
            (exact("xyz"), false, false, Some("xyz"), true),
            (exact("xyz"), true, false, Some("xyz"), false),
            (exact("xyz"), false, false, None, false),
            (exact("xyz"), true, false, None, false),
            (exact("xyz"), true, true, None, true),
            (exact(""), false, false, Some("any"), true),
            (prefix("xy"), false, false, Some("xyz"), true),
            (prefix("yz"), false, false, Some("xyz"), false),
            (prefix(""), false, true, None, true),
            (suffix.clone(), false, false, Some("xyz"), true),
            (suffix, false, false, Some(""), false),
            (contains, false, false, Some("xyzzy"), true),
            (regex.clone(), false, false, Some("xyz"), true),
            (regex, false, false, Some("xyza"), false),
            (ValueMatch::Range(-10, 0), false, false, Some("-1"), true),
            (ValueMatch::Range(-10, 0), false, false, Some("0"), false),
            (ValueMatch::Range(-10, 0), false, false, Some("a"), false),
            (ValueMatch::Range(-10, 0), true, false, Some("a"), true),
            (ValueMatch::Present(true), false, false, Some(""), true),
            (ValueMatch::Present(true), false, false, None, false),
            (ValueMatch::Present(true), true, false, None, true),
            (ValueMatch::Present(false), false, false, None, true),
            (ValueMatch::Present(false), false, false, Some("a"), false),
            (ValueMatch::Present(false), true, false, Some("a"), true),
        ];
        for (condition, invert, missing, value, expected) in cases {
            let fields: Vec<_> = value.iter().map(|value| ("x-test", *value)).collect();
            let matcher = HeaderMatch::new("X-Test", condition, invert, missing).unwrap();
            assert_eq!(
                matcher.matches(&get("/", &fields)),
                expected,
                "{matcher:?} {value:?}"
            );
        }
        assert!(HeaderMatch::new("a b", ValueMatch::Present(true), false, false).is_err());
        assert!(HeaderMatch::new("", ValueMatch::Present(true), false, false).is_err());
    }

    #[test]
    fn several_fields_are_one_value() {
        let joined = "a".repeat(600);
        let mut head = get("/", &[("x-test", "a"), ("other", "b"), ("x-test", "c")]);
        let exact = |text: &str| {
            HeaderMatch::new("x-test", ValueMatch::Exact(text.into()), false, false).unwrap()
        };
        assert!(exact("a,c").matches(&head));
        head.push(b"x-test", joined.as_bytes());
        head.push(b"x-test", joined.as_bytes());
        assert!(exact(&format!("a,c,{joined},{joined}")).matches(&head));
        let empty = get("/", &[("x-test", ""), ("x-test", "")]);
        assert!(exact(",").matches(&empty));
    }

    #[test]
    fn pseudo_headers() {
        let head = get("/p?q", &[]);
        for (name, text) in [
            (":method", "GET"),
            (":path", "/p?q"),
            (":authority", "example.com"),
            ("Host", "example.com"),
            (":scheme", "http"),
        ] {
            let condition =
                HeaderMatch::new(name, ValueMatch::Exact(text.into()), false, false).unwrap();
            assert!(condition.matches(&head), "{name}");
        }
        let mut response = Head::new();
        response.status = 503;
        let status =
            HeaderMatch::new(":status", ValueMatch::Range(500, 504), false, false).unwrap();
        assert!(status.matches(&response));
        assert!(!status.matches(&head));
    }

    #[test]
    fn fractions() {
        let half = Fraction {
            numerator: 50,
            denominator: 100,
        };
        assert!(half.includes(49) && half.includes(149));
        assert!(!half.includes(50) && !half.includes(99));
        let none = Fraction {
            numerator: 0,
            denominator: 100,
        };
        assert!(!none.includes(0));
    }
}
