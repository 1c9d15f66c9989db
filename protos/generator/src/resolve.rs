//! Rewrites type references of a .proto file into fully qualified ones.
//!
//! protoc resolves a relative name against the files that are imported; protox against all files
//! it has loaded, so `common.tap.v3.X` inside `envoy.extensions.filters` would find
//! `envoy.extensions.filters.common` as soon as any file of that package is loaded. Writing the
//! leading dot out settles it for every compiler.

/// `source` with every dotted type reference made absolute. `imported` are the packages of the
/// files it imports.
pub fn qualify(source: &str, imported: &[String]) -> String {
    let package = package_of(source).unwrap_or_default();
    let mut out = String::with_capacity(source.len());
    for line in source.lines() {
        let trimmed = line.trim_start();
        if ["import ", "package ", "syntax ", "option "]
            .iter()
            .any(|k| trimmed.starts_with(k))
        {
            out.push_str(line);
        } else {
            qualify_line(line, package, imported, &mut out);
        }
        out.push('\n');
    }
    out
}

/// The `package` statement of a .proto file.
pub fn package_of(source: &str) -> Option<&str> {
    source
        .lines()
        .find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'))
}

/// The files a .proto file imports.
pub fn imports_of(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let rest = line.strip_prefix("import ")?;
        let rest = rest.strip_prefix("public ").unwrap_or(rest);
        rest.strip_suffix("\";")?.strip_prefix('"')
    })
}

fn qualify_line(line: &str, package: &str, imported: &[String], out: &mut String) {
    let mut in_string = false;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let word_len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if in_string || word_len == 0 {
            in_string ^= c == '"';
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (word, tail) = rest.split_at(word_len);
        if let Some(absolute) = absolute(word, package, imported) {
            out.push('.');
            out.push_str(&absolute);
        } else {
            out.push_str(word);
        }
        rest = tail;
    }
}

/// The absolute name of `word` if it is `lower.case.path.Type` of an imported package, searched
/// from the innermost enclosing package outwards as protoc does.
fn absolute(word: &str, package: &str, imported: &[String]) -> Option<String> {
    let (path, _) = word.split_at(word.find(|c: char| c.is_ascii_uppercase())?);
    let path = path
        .strip_suffix('.')
        .filter(|p| !p.is_empty() && !p.starts_with('.'))?;
    let mut scope = Some(package);
    while let Some(outer) = scope {
        let (candidate, full) = if outer.is_empty() {
            (path.to_owned(), word.to_owned())
        } else {
            (format!("{outer}.{path}"), format!("{outer}.{word}"))
        };
        if imported.contains(&candidate) {
            return Some(full);
        }
        scope = match outer.rsplit_once('.') {
            Some((parent, _)) => Some(parent),
            None if outer.is_empty() => None,
            None => Some(""),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::qualify;

    #[test]
    fn a_relative_name_is_found_from_the_inside_out() {
        let imported = [
            "envoy.extensions.common.tap.v3".to_owned(),
            "google.protobuf".to_owned(),
        ];
        let source = "package envoy.extensions.filters.http.tap.v3;\n  common.tap.v3.X a = 1;\n  \
                      map<string, google.protobuf.Any> b = 2 [(validate.rules).any = {in: \"c.D\"}];\n";
        assert_eq!(
            qualify(source, &imported),
            "package envoy.extensions.filters.http.tap.v3;\n  .envoy.extensions.common.tap.v3.X a = 1;\n  \
             map<string, .google.protobuf.Any> b = 2 [(validate.rules).any = {in: \"c.D\"}];\n"
        );
    }
}
