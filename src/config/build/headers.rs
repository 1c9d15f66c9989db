//! Header operations and header conditions.

use moorgate_protos::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use moorgate_protos::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use moorgate_protos::envoy::config::route::v3::HeaderMatcher;
use moorgate_protos::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use moorgate_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use moorgate_protos::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher,
};

use super::{Outcome, present, required};
use crate::config::FieldPath;
use crate::route::matcher::ValueMatch;
use crate::route::{AppendAction, HeaderMatch, HeaderOps, Pattern, RegexRewrite, StringMatch};

/// The operations of one level: fields to add, whose path is `add`, and to remove.
pub(super) fn build(
    to_add: &[HeaderValueOption],
    to_remove: &[String],
    add: &FieldPath<'_>,
    remove: &FieldPath<'_>,
) -> Outcome<HeaderOps> {
    let mut ops = HeaderOps::default();
    for (index, option) in to_add.iter().enumerate() {
        let path = add.index(index);
        let header = present(option.header.as_ref(), &path.field("header"))?;
        let action = match action(option, &path)? {
            HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
            HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
        };
        let path = path.field("header");
        required(&header.key, &path.field("key"))?;
        let value = value(header, &path)?;
        ops.add(&header.key, value, action, option.keep_empty_value)
            .map_err(|error| path.error(error.to_string()))?;
    }
    for (index, name) in to_remove.iter().enumerate() {
        let path = remove.index(index);
        ops.remove(required(name, &path)?)
            .map_err(|error| path.error(error.to_string()))?;
    }
    Ok(ops)
}

/// What happens to fields that are there, by the newer or the older field.
pub(super) fn action(
    option: &HeaderValueOption,
    path: &FieldPath<'_>,
) -> Outcome<HeaderAppendAction> {
    let at = path.field("append_action");
    let action =
        HeaderAppendAction::try_from(option.append_action).map_err(|_| at.error("is not known"))?;
    match option.append {
        None => Ok(action),
        Some(_) if action != HeaderAppendAction::AppendIfExistsOrAdd => {
            Err(at.error("cannot be used together with append"))
        }
        Some(true) => Ok(action),
        Some(false) => Ok(HeaderAppendAction::OverwriteIfExistsOrAdd),
    }
}

/// The value, from the one or the other field.
pub(super) fn value<'h>(header: &'h HeaderValue, path: &FieldPath<'_>) -> Outcome<&'h str> {
    if header.raw_value.is_empty() {
        return Ok(&header.value);
    }
    let path = path.field("raw_value");
    if !header.value.is_empty() {
        return Err(path.error("cannot be used together with value"));
    }
    std::str::from_utf8(&header.raw_value).map_err(|_| path.error("is not UTF-8 text"))
}

/// Text that stands in a head as it is.
pub(super) fn check_text(text: &str, path: &FieldPath<'_>) -> Outcome<()> {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(path.error("contains control characters"));
    }
    Ok(())
}

/// Conditions on headers.
pub(super) fn conditions(
    list: &[HeaderMatcher],
    path: &FieldPath<'_>,
) -> Outcome<Vec<HeaderMatch>> {
    let list = list.iter().enumerate();
    list.map(|(index, matcher)| condition(matcher, &path.index(index)))
        .collect()
}

/// A condition on a header.
pub(super) fn condition(matcher: &HeaderMatcher, path: &FieldPath<'_>) -> Outcome<HeaderMatch> {
    let name = required(&matcher.name, &path.field("name"))?;
    let text = |text: &str, name: &str| -> Outcome<Vec<u8>> {
        Ok(required(text, &path.field(name))?.as_bytes().to_vec())
    };
    let ignore_case = false;
    let value = match &matcher.header_match_specifier {
        None => ValueMatch::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => ValueMatch::Present(*present),
        Some(HeaderMatchSpecifier::ExactMatch(text)) => ValueMatch::Exact(text.as_bytes().to_vec()),
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => ValueMatch::String(
            StringMatch::Regex(pattern(regex, &path.field("safe_regex_match"))?),
        ),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => {
            if range.start >= range.end {
                return Err(path
                    .field("range_match")
                    .error("has to start before its end"));
            }
            ValueMatch::Range(range.start, range.end)
        }
        Some(HeaderMatchSpecifier::PrefixMatch(prefix)) => {
            let text = text(prefix, "prefix_match")?;
            ValueMatch::String(StringMatch::Prefix { text, ignore_case })
        }
        Some(HeaderMatchSpecifier::SuffixMatch(suffix)) => {
            let text = text(suffix, "suffix_match")?;
            ValueMatch::String(StringMatch::Suffix { text, ignore_case })
        }
        Some(HeaderMatchSpecifier::ContainsMatch(part)) => {
            let text = text(part, "contains_match")?;
            ValueMatch::String(StringMatch::Contains { text, ignore_case })
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            ValueMatch::String(string(matcher, &path.field("string_match"))?)
        }
    };
    HeaderMatch::new(
        name,
        value,
        matcher.invert_match,
        matcher.treat_missing_header_as_empty,
    )
    .map_err(|error| path.field("name").error(error.to_string()))
}

/// A condition on a text.
pub(super) fn string(matcher: &StringMatcher, path: &FieldPath<'_>) -> Outcome<StringMatch> {
    let ignore_case = matcher.ignore_case;
    let text = |text: &str, name: &str| -> Outcome<Vec<u8>> {
        Ok(required(text, &path.field(name))?.as_bytes().to_vec())
    };
    Ok(match &matcher.match_pattern {
        // Only this one may be empty.
        Some(MatchPattern::Exact(text)) => StringMatch::Exact {
            text: text.as_bytes().to_vec(),
            ignore_case,
        },
        Some(MatchPattern::Prefix(prefix)) => StringMatch::Prefix {
            text: text(prefix, "prefix")?,
            ignore_case,
        },
        Some(MatchPattern::Suffix(suffix)) => StringMatch::Suffix {
            text: text(suffix, "suffix")?,
            ignore_case,
        },
        Some(MatchPattern::Contains(part)) => StringMatch::Contains {
            text: text(part, "contains")?,
            ignore_case,
        },
        // Expressions say for themselves whether case matters.
        Some(MatchPattern::SafeRegex(regex)) => {
            StringMatch::Regex(pattern(regex, &path.field("safe_regex"))?)
        }
        _ => return Err(path.error("has to have a condition")),
    })
}

/// An expression.
pub(super) fn pattern(regex: &RegexMatcher, path: &FieldPath<'_>) -> Outcome<Pattern> {
    let path = path.field("regex");
    Pattern::new(required(&regex.regex, &path)?).map_err(|error| path.error(error.to_string()))
}

/// An expression and what takes the place of its matches.
pub(super) fn rewrite(
    rewrite: &RegexMatchAndSubstitute,
    path: &FieldPath<'_>,
) -> Outcome<RegexRewrite> {
    let pattern = path.field("pattern");
    let regex = present(rewrite.pattern.as_ref(), &pattern)?;
    let regex = required(&regex.regex, &pattern.field("regex"))?;
    RegexRewrite::new(regex, &rewrite.substitution).map_err(|error| path.error(error.to_string()))
}
