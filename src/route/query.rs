//! Conditions on query parameters.
//!
//! Parameters are compared as they stand in the target, never decoded, and never copied.

use super::strings::StringMatch;

/// Envoy's `QueryParameterMatcher`: the first parameter of the name, not decoded.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// Condition on it.
    pub condition: QueryCondition,
}

/// Condition on a query parameter.
#[derive(Clone, Debug)]
pub enum QueryCondition {
    /// It is there (true) or is not (false), whatever its value.
    Present(bool),
    /// It is there and its value, empty when it has no equals sign, fulfils the condition.
    Value(StringMatch),
}

impl QueryMatch {
    /// The target (path and query) fulfils the condition.
    pub(super) fn matches(&self, target: &[u8]) -> bool {
        let value = self.value(target);
        match &self.condition {
            QueryCondition::Present(present) => value.is_some() == *present,
            QueryCondition::Value(condition) => value.is_some_and(|value| condition.matches(value)),
        }
    }

    fn value<'a>(&self, target: &'a [u8]) -> Option<&'a [u8]> {
        let start = target.iter().position(|byte| *byte == b'?')? + 1;
        target[start..]
            .split(|byte| *byte == b'&')
            .map(
                |parameter| match parameter.iter().position(|byte| *byte == b'=') {
                    Some(equals) => (&parameter[..equals], &parameter[equals + 1..]),
                    None => (parameter, &b""[..]),
                },
            )
            .find(|(name, _)| *name == self.name.as_bytes())
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters() {
        let exact = |name: &str, text: &str| QueryMatch {
            name: name.into(),
            condition: QueryCondition::Value(StringMatch::Exact {
                text: text.into(),
                ignore_case: false,
            }),
        };
        let present = |name: &str, present| QueryMatch {
            name: name.into(),
            condition: QueryCondition::Present(present),
        };
        let cases = [
            (exact("a", "1"), "/?a=1", true),
            (exact("a", "1"), "/?b=2&a=1", true),
            (exact("a", "1"), "/?a=2&a=1", false),
            (exact("a", ""), "/?a", true),
            (exact("a", "1=2"), "/?a=1=2", true),
            (present("debug", true), "/?x=1&debug", true),
            (present("debug", true), "/?x=debug", false),
            (present("debug", true), "/debug", false),
            (present("debug", false), "/?debug=", false),
            (present("debug", false), "/?x", true),
            (present("debug", false), "/", true),
        ];
        for (condition, path, expected) in cases {
            assert_eq!(
                condition.matches(path.as_bytes()),
                expected,
                "{condition:?} {path}"
            );
        }
    }
}
