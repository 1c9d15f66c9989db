//! Rewriting path and authority of a request, and building the location of a redirect.
//!
//! Works on borrowed heads and appends to buffers; it never looks at the query when it matches.

use moorgate_codecs::Head;
use regex::bytes::Regex;

use super::error::BuildError;
use super::matcher::{PathMatch, path_only};
use super::strings::compile;
use super::{PathRewrite, Redirect};
use crate::text::{list, push_decimal};

/// An expression and what replaces each of its matches.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    regex: Regex,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Vec<u8>),
    Group(usize),
}

impl RegexRewrite {
    /// Compiles an expression and a substitution, in which `\1` … `\9` are its groups, `\0` the
    /// whole match and `\\` a backslash.
    ///
    /// # Errors
    /// [`BuildError::Regex`] or [`BuildError::Substitution`].
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, BuildError> {
        let regex = compile(pattern)?;
        let refuse = |reason| BuildError::Substitution {
            text: substitution.to_owned(),
            reason,
        };
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = substitution.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                literal.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'\\') => literal.push(b'\\'),
                Some(digit @ b'0'..=b'9') => {
                    let group = usize::from(digit - b'0');
                    if group >= regex.captures_len() {
                        return Err(refuse("names a group that the expression does not have"));
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => return Err(refuse("a backslash is followed by a digit or a backslash")),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { regex, pieces })
    }

    /// Appends `text` with every match replaced.
    pub fn replace(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut from = 0;
        for captures in self.regex.captures_iter(text) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            out.extend_from_slice(&text[from..whole.start()]);
            for piece in &self.pieces {
                match piece {
                    Piece::Literal(literal) => out.extend_from_slice(literal),
                    Piece::Group(group) => {
                        if let Some(group) = captures.get(*group) {
                            out.extend_from_slice(group.as_bytes());
                        }
                    }
                }
            }
            from = whole.end();
        }
        out.extend_from_slice(&text[from..]);
    }
}

impl PathRewrite {
    /// Appends the new target (with query) for a request that `matched`; false, and nothing
    /// appended, when the target stays as it is.
    pub(super) fn write(&self, matched: &PathMatch, target: &[u8], out: &mut Vec<u8>) -> bool {
        let path = path_only(target);
        let rest = match self {
            Self::None => return false,
            Self::Prefix(prefix) => {
                out.extend_from_slice(prefix.as_bytes());
                matched.matched_len(path)
            }
            Self::Regex(rewrite) => {
                rewrite.replace(path, out);
                path.len()
            }
            Self::Full(full) => {
                out.extend_from_slice(full.as_bytes());
                path.len()
            }
        };
        out.extend_from_slice(&target[rest..]);
        true
    }
}

/// Replaces the authority. With `append_forwarded` the old one goes to the end of
/// `x-forwarded-host`, unless it is its last element already; with `keep_original` it is remembered
/// in `x-envoy-original-host`. `buffer` is overwritten.
pub fn set_authority(
    head: &mut Head,
    authority: &[u8],
    append_forwarded: bool,
    keep_original: bool,
    buffer: &mut Vec<u8>,
) {
    const FORWARDED: &[u8] = b"x-forwarded-host";
    const ORIGINAL: &[u8] = b"x-envoy-original-host";
    if keep_original {
        buffer.clear();
        buffer.extend_from_slice(head.authority());
        head.set(ORIGINAL, buffer);
    }
    if append_forwarded && !head.authority().is_empty() {
        buffer.clear();
        let mut known = false;
        for value in head.get_all(FORWARDED) {
            if !buffer.is_empty() {
                buffer.push(b',');
            }
            buffer.extend_from_slice(value);
            known = list(value).next_back() == Some(head.authority());
        }
        if !known {
            if !buffer.is_empty() {
                buffer.push(b',');
            }
            buffer.extend_from_slice(head.authority());
            head.set(FORWARDED, buffer);
        }
    }
    head.set_authority(authority);
}

impl Redirect {
    /// Appends the `location` of the answer to a request that `matched`.
    pub(super) fn write_location(&self, matched: &PathMatch, head: &Head, out: &mut Vec<u8>) {
        let scheme: &[u8] = match &self.scheme {
            Some(scheme) => scheme.as_bytes(),
            None if self.https => b"https",
            None if head.scheme().is_empty() => b"http",
            None => head.scheme(),
        };
        out.extend_from_slice(scheme);
        out.extend_from_slice(b"://");
        match &self.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => out.extend_from_slice(self.kept_authority(scheme, head)),
        }
        if let Some(port) = self.port {
            out.push(b':');
            push_decimal(out, u64::from(port));
        }
        let start = out.len();
        let target = head.path();
        if let PathRewrite::Full(full) = &self.path {
            out.extend_from_slice(full.as_bytes());
            if full.contains('?') {
                // Its own query wins over the request's and is never stripped.
                return;
            }
            if let Some(query) = target.iter().position(|byte| *byte == b'?') {
                out.extend_from_slice(&target[query..]);
            }
        } else if !self.path.write(matched, target, out) {
            out.extend_from_slice(target);
        }
        if self.strip_query
            && let Some(query) = out[start..].iter().position(|byte| *byte == b'?')
        {
            out.truncate(start + query);
        }
    }

    /// The request's authority, without the port when another is given or when it was the default
    /// of a scheme that changes.
    fn kept_authority<'a>(&self, scheme: &[u8], head: &'a Head) -> &'a [u8] {
        let authority = head.authority();
        let Some(colon) = super::table::port_start(authority) else {
            return authority;
        };
        // The scheme the client believes in, which differs behind a proxy that ends TLS.
        let was = head
            .get(b"x-forwarded-proto")
            .unwrap_or_else(|| head.scheme());
        let port = &authority[colon..];
        let default_dropped = scheme != was
            && ((was == b"https" && port == b":443") || (was == b"http" && port == b":80"));
        if self.port.is_some() || (default_dropped && !self.keep_port) {
            &authority[..colon]
        } else {
            authority
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(authority: &str, path: &str) -> Head {
        let mut head = Head::new();
        head.set_method(b"GET");
        head.set_scheme(b"http");
        head.set_authority(authority.as_bytes());
        head.set_path(path.as_bytes());
        head.push(b"x-forwarded-proto", b"http");
        head
    }

    fn prefix(prefix: &str) -> PathMatch {
        PathMatch::Prefix {
            prefix: prefix.into(),
            ignore_case: false,
        }
    }

    #[test]
    fn path_rewrites() {
        let regex = |pattern: &str, with: &str| {
            PathRewrite::Regex(RegexRewrite::new(pattern, with).unwrap())
        };
        let to = |text: &str| PathRewrite::Prefix(text.into());
        let exact = PathMatch::Exact {
            path: "/a".into(),
            ignore_case: true,
        };
        for (matched, rewrite, target, expected) in [
            (prefix("/a"), PathRewrite::None, "/a", None),
            (prefix("/a"), to("/b"), "/a/c?d=/a", Some("/b/c?d=/a")),
            (prefix("/a/"), to("/"), "/a/c", Some("/c")),
            (prefix("/a"), to("/"), "/a/c", Some("//c")),
            (exact, to("/b"), "/A?x", Some("/b?x")),
            (
                prefix("/"),
                regex("^/service/([^/]+)(/.*)$", r"\2/instance/\1"),
                "/service/foo/v1/api?q",
                Some("/v1/api/instance/foo?q"),
            ),
            (
                prefix("/"),
                regex("one", "two"),
                "/xxx/one/yyy/one/zzz?one",
                Some("/xxx/two/yyy/two/zzz?one"),
            ),
            (prefix("/"), regex("none", "x"), "/a", Some("/a")),
            (
                prefix("/"),
                PathRewrite::Full("/n".into()),
                "/a?b",
                Some("/n?b"),
            ),
        ] {
            let mut out = Vec::new();
            let changed = rewrite.write(&matched, target.as_bytes(), &mut out);
            let written = changed.then(|| String::from_utf8(out).unwrap());
            assert_eq!(written.as_deref(), expected, "{rewrite:?}");
        }
    }

    #[test]
    fn substitutions_are_checked() {
        assert!(RegexRewrite::new("(a)", r"\1\0\\").is_ok());
        for (pattern, text) in [("(a)", r"\2"), ("a", r"\n"), ("a", r"x\"), ("(", "x")] {
            assert!(RegexRewrite::new(pattern, text).is_err(), "{text}");
        }
        let mut out = Vec::new();
        RegexRewrite::new("a", r"\\\0")
            .unwrap()
            .replace(b"bab", &mut out);
        assert_eq!(out, br"b\ab");
    }

    #[test]
    fn authorities() {
        let mut buffer = Vec::new();
        let mut request = head("old:80", "/");
        set_authority(&mut request, b"new", false, false, &mut buffer);
        assert_eq!(request.authority(), b"new");
        assert_eq!(request.get(b"x-forwarded-host"), None);
        set_authority(&mut request, b"newer", true, false, &mut buffer);
        set_authority(&mut request, b"newer", true, false, &mut buffer);
        assert_eq!(request.get(b"x-envoy-original-host"), None);
        set_authority(&mut request, b"newest", true, true, &mut buffer);
        assert_eq!(request.get(b"x-envoy-original-host"), Some(&b"newer"[..]));
        assert_eq!(request.get(b"x-forwarded-host"), Some(&b"new,newer"[..]));
    }

    #[test]
    fn locations() {
        let plain = || Redirect {
            scheme: None,
            https: false,
            host: None,
            port: None,
            path: PathRewrite::None,
            status: 301,
            strip_query: false,
            keep_port: false,
        };
        let https = || Redirect {
            https: true,
            ..plain()
        };
        let full = |path: &str| Redirect {
            path: PathRewrite::Full(path.into()),
            ..plain()
        };
        let cases = [
            (https(), "a", "/x?y", "https://a/x?y"),
            (https(), "a:80", "/", "https://a/"),
            (https(), "a:8080", "/", "https://a:8080/"),
            (https(), "a:443", "/", "https://a:443/"),
            (https(), "[::1]:80", "/", "https://[::1]/"),
            (https(), "[::1]", "/", "https://[::1]/"),
            (
                Redirect {
                    keep_port: true,
                    ..https()
                },
                "a:80",
                "/",
                "https://a:80/",
            ),
            (
                Redirect {
                    port: Some(8443),
                    ..https()
                },
                "a:8080",
                "/",
                "https://a:8443/",
            ),
            (
                Redirect {
                    host: Some("b".into()),
                    ..plain()
                },
                "a:80",
                "/x",
                "http://b/x",
            ),
            (
                Redirect {
                    scheme: Some("ftp".into()),
                    ..plain()
                },
                "a",
                "/",
                "ftp://a/",
            ),
            (full("/new"), "a", "/old?x=1", "http://a/new?x=1"),
            (full("/new?y=2"), "a", "/old?x=1", "http://a/new?y=2"),
            (
                Redirect {
                    strip_query: true,
                    ..full("/new?y=2")
                },
                "a",
                "/old?x=1",
                "http://a/new?y=2",
            ),
            (
                Redirect {
                    strip_query: true,
                    ..plain()
                },
                "a",
                "/old?x=1",
                "http://a/old",
            ),
            (
                Redirect {
                    path: PathRewrite::Prefix("/new".into()),
                    strip_query: true,
                    ..plain()
                },
                "a",
                "/old/x?y",
                "http://a/new/x",
            ),
        ];
        for (redirect, authority, path, expected) in cases {
            let mut out = Vec::new();
            redirect.write_location(&prefix("/old"), &head(authority, path), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{redirect:?}");
        }
    }
}
