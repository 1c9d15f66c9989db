//! Which streams an access log writes.

use std::sync::Arc;

use moorgate_codecs::Head;
use moorgate_protos::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use moorgate_protos::envoy::config::accesslog::v3::comparison_filter::Op as OpMessage;
use moorgate_protos::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, ResponseFlagFilter,
};

use super::{Outcome, headers, present};
use crate::config::FieldPath;
use crate::route::HeaderMatch;
use crate::telemetry::access_log::{Comparison, Filter, HeaderTest, Op};
use crate::telemetry::flags;

/// A condition on a header, for the log.
#[derive(Debug)]
struct Condition {
    /// Name, lower case.
    header: String,
    matches: HeaderMatch,
}

impl HeaderTest for Condition {
    fn matches(&self, head: &Head) -> bool {
        self.matches.matches(head)
    }

    fn header(&self) -> &str {
        &self.header
    }
}

/// The filter of an access log.
pub(super) fn build(message: &AccessLogFilter, path: &FieldPath<'_>) -> Outcome<Filter> {
    match present(message.filter_specifier.as_ref(), path)? {
        FilterSpecifier::StatusCodeFilter(filter) => {
            let path = path.field("status_code_filter");
            comparison(filter.comparison.as_ref(), &path).map(Filter::Status)
        }
        FilterSpecifier::DurationFilter(filter) => {
            let path = path.field("duration_filter");
            comparison(filter.comparison.as_ref(), &path).map(Filter::Duration)
        }
        FilterSpecifier::NotHealthCheckFilter(_) => Ok(Filter::NotHealthCheck),
        FilterSpecifier::AndFilter(all) => {
            list(&all.filters, &path.field("and_filter")).map(Filter::And)
        }
        FilterSpecifier::OrFilter(any) => {
            list(&any.filters, &path.field("or_filter")).map(Filter::Or)
        }
        FilterSpecifier::HeaderFilter(filter) => {
            let path = path.field("header_filter");
            let path = path.field("header");
            let matcher = present(filter.header.as_ref(), &path)?;
            Ok(Filter::Header(Arc::new(Condition {
                header: matcher.name.to_ascii_lowercase(),
                matches: headers::condition(matcher, &path)?,
            })))
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            flags_of(filter, &path.field("response_flag_filter")).map(Filter::Flags)
        }
        _ => Err(path.error("is not supported by Moorgate")),
    }
}

fn comparison(message: Option<&ComparisonFilter>, path: &FieldPath<'_>) -> Outcome<Comparison> {
    let path = path.field("comparison");
    let message = present(message, &path)?;
    let value = present(message.value.as_ref(), &path.field("value"))?;
    let op = match OpMessage::try_from(message.op) {
        Ok(OpMessage::Eq) => Op::Equal,
        Ok(OpMessage::Ge) => Op::AtLeast,
        Ok(OpMessage::Le) => Op::AtMost,
        Ok(OpMessage::Ne) => Op::NotEqual,
        Err(_) => return Err(path.field("op").error("is not known")),
    };
    Ok(Comparison {
        op,
        value: u64::from(value.default_value),
    })
}

/// Envoy wants two at least.
fn list(messages: &[AccessLogFilter], path: &FieldPath<'_>) -> Outcome<Vec<Filter>> {
    let path = path.field("filters");
    if messages.len() < 2 {
        return Err(path.error("has to have two filters or more"));
    }
    let messages = messages.iter().enumerate();
    messages
        .map(|(index, message)| build(message, &path.index(index)))
        .collect()
}

/// No flag at all stands for any.
fn flags_of(message: &ResponseFlagFilter, path: &FieldPath<'_>) -> Outcome<u64> {
    let path = path.field("flags");
    let mut all = 0;
    for (index, name) in message.flags.iter().enumerate() {
        all |= flags::by_short_name(name).ok_or_else(|| {
            path.index(index)
                .error(format!("'{name}' is no response flag"))
        })?;
    }
    Ok(all)
}
