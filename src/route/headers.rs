//! Header operations of routes: fields to remove, add and overwrite.
//!
//! One set of operations looks at the head as it finds it: fields are removed first, then all values
//! are made, and only then written. It never changes a pseudo-header or `host`.

use moorgate_codecs::Head;

use super::error::BuildError;
use super::formatter::{Facts, Format};
use super::matcher::is_token;

/// Envoy's `HeaderAppendAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// One more field, whether the name is there or not.
    #[default]
    AppendIfExistsOrAdd,
    /// Only when the name is not there.
    AddIfAbsent,
    /// In place of all fields of the name.
    OverwriteIfExistsOrAdd,
    /// In place of all fields of the name, when there are any.
    OverwriteIfExists,
}

#[derive(Clone, Debug)]
struct Add {
    name: Vec<u8>,
    value: Format,
    action: AppendAction,
    keep_empty: bool,
}

/// Fields to add and remove, of one level of the configuration.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    add: Vec<Add>,
    remove: Vec<Vec<u8>>,
}

/// Buffers that operations write values in; one per worker, reused.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Free for use between calls; its content is meaningless.
    pub bytes: Vec<u8>,
    planned: Vec<Planned>,
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    add: u32,
    start: u32,
    end: u32,
    overwrite: bool,
}

impl HeaderOps {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Adds a field whose value may contain operators. An empty value is not added unless
    /// `keep_empty` is set.
    ///
    /// # Errors
    /// [`BuildError::HeaderName`] for names that may not be changed, [`BuildError::HeaderValue`]
    /// and [`BuildError::Format`] for values that cannot be written.
    pub fn add(
        &mut self,
        name: &str,
        value: &str,
        action: AppendAction,
        keep_empty: bool,
    ) -> Result<(), BuildError> {
        let name = changeable(name)?;
        if value.contains(['\0', '\r', '\n']) {
            return Err(BuildError::HeaderValue {
                name: String::from_utf8_lossy(&name).into_owned(),
            });
        }
        self.add.push(Add {
            name,
            value: Format::parse(value)?,
            action,
            keep_empty,
        });
        Ok(())
    }

    /// Removes all fields of a name.
    ///
    /// # Errors
    /// [`BuildError::HeaderName`] for names that may not be changed.
    pub fn remove(&mut self, name: &str) -> Result<(), BuildError> {
        self.remove.push(changeable(name)?);
        Ok(())
    }

    /// A value refers to the request head; for response operations it has to be kept.
    #[must_use]
    pub fn needs_request(&self) -> bool {
        self.add.iter().any(|add| add.value.needs_request())
    }

    /// Changes a request head.
    pub fn apply_request(&self, head: &mut Head, facts: &Facts<'_>, scratch: &mut Scratch) {
        if self.is_empty() {
            return;
        }
        self.remove_from(head);
        self.plan(head, Some(head), None, facts, scratch);
        self.carry_out(head, scratch);
    }

    /// Changes a response head. Without `request`, request operators give nothing.
    pub fn apply_response(
        &self,
        head: &mut Head,
        request: Option<&Head>,
        facts: &Facts<'_>,
        scratch: &mut Scratch,
    ) {
        if self.is_empty() {
            return;
        }
        self.remove_from(head);
        self.plan(head, request, Some(head), facts, scratch);
        self.carry_out(head, scratch);
    }

    fn remove_from(&self, head: &mut Head) {
        for name in &self.remove {
            head.remove(name);
        }
    }

    fn plan(
        &self,
        target: &Head,
        request: Option<&Head>,
        response: Option<&Head>,
        facts: &Facts<'_>,
        scratch: &mut Scratch,
    ) {
        scratch.bytes.clear();
        scratch.planned.clear();
        for (index, add) in self.add.iter().enumerate() {
            let wanted = match add.action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => target.get(&add.name).is_none(),
                AppendAction::OverwriteIfExists => target.get(&add.name).is_some(),
            };
            if !wanted {
                continue;
            }
            let start = scratch.bytes.len();
            add.value
                .write(&mut scratch.bytes, request, response, facts);
            if scratch.bytes.len() > start || add.keep_empty {
                scratch.planned.push(Planned {
                    add: index as u32,
                    start: start as u32,
                    end: scratch.bytes.len() as u32,
                    overwrite: matches!(
                        add.action,
                        AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists
                    ),
                });
            }
        }
    }

    fn carry_out(&self, head: &mut Head, scratch: &Scratch) {
        for overwrite in [true, false] {
            for planned in &scratch.planned {
                if planned.overwrite != overwrite {
                    continue;
                }
                let name = &self.add[planned.add as usize].name;
                let value = &scratch.bytes[planned.start as usize..planned.end as usize];
                if overwrite {
                    head.set(name, value);
                } else {
                    head.push(name, value);
                }
            }
        }
    }
}

fn changeable(name: &str) -> Result<Vec<u8>, BuildError> {
    let lower = name.to_ascii_lowercase();
    let reason = if lower.starts_with(':') || lower == "host" {
        "pseudo-headers and host may not be modified"
    } else if !is_token(&lower) {
        "not a header name"
    } else {
        return Ok(lower.into_bytes());
    };
    Err(BuildError::HeaderName {
        name: name.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::super::formatter::tests::with_facts;
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::new();
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn text(head: &Head) -> String {
        head.fields()
            .map(|(name, value)| {
                format!(
                    "{}={}",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(value)
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn apply(ops: &HeaderOps, head: &mut Head) -> String {
        with_facts(|facts| ops.apply_request(head, facts, &mut Scratch::default()));
        text(head)
    }

    #[test]
    fn append_actions() {
        use AppendAction::*;
        for (action, before, after) in [
            (AppendIfExistsOrAdd, &[("a", "1")][..], "a=1 a=v"),
            (AppendIfExistsOrAdd, &[], "a=v"),
            (AddIfAbsent, &[("a", "1")], "a=1"),
            (AddIfAbsent, &[], "a=v"),
            (OverwriteIfExistsOrAdd, &[("a", "1"), ("a", "2")], "a=v"),
            (OverwriteIfExistsOrAdd, &[], "a=v"),
            (OverwriteIfExists, &[("a", "1")], "a=v"),
            (OverwriteIfExists, &[], ""),
        ] {
            let mut ops = HeaderOps::default();
            ops.add("A", "v", action, false).unwrap();
            assert_eq!(apply(&ops, &mut head(before)), after, "{action:?}");
        }
    }

    #[test]
    fn removal_comes_first_and_values_see_the_head_before() {
        let mut ops = HeaderOps::default();
        ops.add("a", "new", AppendAction::AddIfAbsent, false)
            .unwrap();
        ops.add("b", "%REQ(c)%", AppendAction::default(), false)
            .unwrap();
        ops.add("c", "2", AppendAction::OverwriteIfExistsOrAdd, false)
            .unwrap();
        ops.remove("A").unwrap();
        assert_eq!(
            apply(&ops, &mut head(&[("a", "old"), ("c", "1")])),
            "c=2 a=new b=1"
        );
    }

    #[test]
    fn empty_values() {
        let mut ops = HeaderOps::default();
        ops.add("a", "%REQ(none)%", AppendAction::default(), false)
            .unwrap();
        ops.add("b", "%REQ(none)%", AppendAction::default(), true)
            .unwrap();
        assert_eq!(apply(&ops, &mut head(&[])), "b=");
    }

    #[test]
    fn response_values_see_both_heads() {
        let mut ops = HeaderOps::default();
        ops.add("x", "%REQ(a)%%RESP(b)%", AppendAction::default(), false)
            .unwrap();
        assert!(ops.needs_request());
        let request = head(&[("a", "1")]);
        let mut response = head(&[("b", "2")]);
        with_facts(|facts| {
            ops.apply_response(
                &mut response,
                Some(&request),
                facts,
                &mut Scratch::default(),
            );
        });
        assert_eq!(text(&response), "b=2 x=12");
    }

    #[test]
    fn refused_names_and_values() {
        let mut ops = HeaderOps::default();
        for name in [":path", "host", "Host", "a b", ""] {
            assert!(
                ops.add(name, "v", AppendAction::default(), false).is_err(),
                "{name}"
            );
            assert!(ops.remove(name).is_err(), "{name}");
        }
        assert!(
            ops.add("a", "x\r\ny", AppendAction::default(), false)
                .is_err()
        );
    }
}
