//! A request: its method, path and parameters.

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path, without leading slashes beyond the first.
    pub path: String,
    /// Parameters of the query, decoded, in order.
    pub parameters: Vec<(String, String)>,
}

/// Replaces `%41` and the like. What is no such triple stays as it is: clients send regular
/// expressions without escaping them.
fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| {
            after
                .get(at)
                .and_then(|digit| (*digit as char).to_digit(16))
        };
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Request {
    /// From a method and a request target.
    #[must_use]
    pub fn new(method: &[u8], target: &[u8]) -> Self {
        let end = target.iter().position(|&byte| byte == b'?');
        let (path, query) = match end {
            Some(end) => (&target[..end], &target[end + 1..]),
            None => (target, &[][..]),
        };
        let path = String::from_utf8_lossy(path);
        let parameters = query
            .split(|&byte| byte == b'&')
            .filter(|parameter| !parameter.is_empty())
            .map(
                |parameter| match parameter.iter().position(|&byte| byte == b'=') {
                    Some(at) => (decode(&parameter[..at]), decode(&parameter[at + 1..])),
                    None => (decode(parameter), String::new()),
                },
            )
            .collect();
        Self {
            method: String::from_utf8_lossy(method).into_owned(),
            path: format!("/{}", path.trim_start_matches('/')),
            parameters,
        }
    }

    /// The first parameter of this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }

    /// The parameter is there, with whatever value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_and_escaped_expressions_are_the_same() {
        let raw = Request::new(
            b"GET",
            br"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(a|b)$",
        );
        let escaped = Request::new(
            b"GET",
            b"//stats?usedonly&filter=%5E(cluster_manager%5C.cds%7Clistener_manager%5C.lds)\
              %5C.(a%7Cb)%24",
        );
        assert_eq!(raw, escaped);
        assert!(raw.has("usedonly"));
        assert_eq!(
            raw.parameter("filter"),
            Some(r"^(cluster_manager\.cds|listener_manager\.lds)\.(a|b)$")
        );
        assert_eq!(raw.path, "/stats");
    }

    #[test]
    fn odd_queries() {
        let request = Request::new(b"GET", b"?a=b=c&&d&%4=%zz&%");
        let parameters: Vec<_> = request
            .parameters
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(request.path, "/");
        assert_eq!(
            parameters,
            [("a", "b=c"), ("d", ""), ("%4", "%zz"), ("%", "")]
        );
    }
}
