//! Durations in milliseconds.

use moorgate_protos::prost_types::Duration;

use super::Outcome;
use crate::config::FieldPath;

/// A duration in milliseconds, rounded up: a time that is set never becomes 0, which is "never"
/// where it is a limit.
///
/// # Errors
/// It is negative, or not a valid duration.
fn millis(duration: &Duration, path: &FieldPath<'_>) -> Outcome<u64> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => {
            Ok(seconds.saturating_mul(1000) + u64::from(nanos.div_ceil(1_000_000)))
        }
        _ => Err(path.error("is no duration of 0 s or more")),
    }
}

/// A duration in milliseconds where one is set.
pub(super) fn optional(duration: Option<&Duration>, path: &FieldPath<'_>) -> Outcome<Option<u64>> {
    duration.map(|duration| millis(duration, path)).transpose()
}

/// A duration in milliseconds, or this one.
pub(super) fn or(duration: Option<&Duration>, default: u64, path: &FieldPath<'_>) -> Outcome<u64> {
    Ok(optional(duration, path)?.unwrap_or(default))
}

/// A duration in milliseconds above 0, or this one.
pub(super) fn positive_or(
    duration: Option<&Duration>,
    default: u64,
    path: &FieldPath<'_>,
) -> Outcome<u64> {
    match or(duration, default, path)? {
        0 => Err(path.error("has to be greater than 0 s")),
        millis => Ok(millis),
    }
}

/// A duration in milliseconds above 0 that has to be there.
pub(super) fn required(duration: Option<&Duration>, path: &FieldPath<'_>) -> Outcome<u64> {
    let duration = super::present(duration, path)?;
    positive_or(Some(duration), 0, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_milliseconds() {
        let path = FieldPath::root("f");
        let of = |seconds, nanos| millis(&Duration { seconds, nanos }, &path).ok();
        assert_eq!(of(1, 500_000_000), Some(1500));
        assert_eq!(of(0, 1), Some(1));
        assert_eq!(of(0, 0), Some(0));
        assert_eq!(of(-1, 0), None);
        assert_eq!(of(0, -1), None);
        assert_eq!(or(None, 7, &path), Ok(7));
        assert!(positive_or(Some(&Duration::default()), 7, &path).is_err());
        assert!(required(None, &path).is_err());
    }
}
