//! Takes the comments out of a .proto file. Must not touch what stands in a string literal.

/// `source` without comments, trailing blanks and runs of empty lines.
pub fn strip_comments(source: &str) -> String {
    let mut bare = String::with_capacity(source.len());
    let mut chars = source.chars().peekable();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                bare.push(c);
                bare.extend(chars.next());
            }
            (Some(open), _) => {
                if c == open {
                    quote = None;
                }
                bare.push(c);
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                bare.push(c);
            }
            (None, '/') if chars.peek() == Some(&'/') => {
                while chars.next_if(|&c| c != '\n').is_some() {}
            }
            (None, '/') if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in chars.by_ref().skip(1) {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            (None, _) => bare.push(c),
        }
    }
    tidy(&bare)
}

fn tidy(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut blank = true;
    for line in source.lines().map(str::trim_end) {
        if line.is_empty() {
            blank = true;
            continue;
        }
        // An empty line survives between top-level items only.
        if blank && !out.is_empty() && !line.starts_with([' ', '}']) {
            out.push('\n');
        }
        blank = false;
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strip_comments;

    #[test]
    fn comments_go_and_strings_stay() {
        let source = "a = \"//x\"; // y\n/* b\n * c */d = '/*';\n\n\n  e;\n}\n";
        assert_eq!(strip_comments(source), "a = \"//x\";\nd = '/*';\n  e;\n}\n");
    }
}
