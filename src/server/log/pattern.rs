//! Patterns of log lines, as `--log-format` takes them (spdlog's flags).
//!
//! Times are in UTC. An unknown flag is an error when the pattern is compiled.

use std::fmt::Write as _;

use super::level::Level;
use crate::telemetry::format::time::TimeFormat;

/// Envoy's default pattern.
pub const DEFAULT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// What a line is made of.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// Level.
    pub level: Level,
    /// Component.
    pub component: &'a str,
    /// Source file.
    pub file: &'a str,
    /// Line in it.
    pub line: u32,
    /// Number of the thread, as the kernel knows it.
    pub thread: i32,
    /// Number of the process.
    pub process: u32,
    /// Text.
    pub message: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Message,
    Escaped,
    Json,
    Level,
    ShortLevel,
    Component,
    Thread,
    Process,
    File,
    FileName,
    LineNumber,
    FileAndLine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
    Center,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Time(TimeFormat),
    Field(Field, Align, usize),
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Names the flag that is not known.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = pattern;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            rest = &rest[at + 1..];
            let align = match rest.chars().next() {
                Some('-') => Align::Left,
                Some('=') => Align::Center,
                _ => Align::Right,
            };
            rest = rest.strip_prefix(['-', '=']).unwrap_or(rest);
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let width = match digits {
                0 => 0,
                _ => rest[..digits]
                    .parse()
                    .ok()
                    .filter(|width| *width <= 64)
                    .ok_or_else(|| format!("log format: width {} is too large", &rest[..digits]))?,
            };
            rest = rest[digits..].trim_start_matches('!');
            let Some(flag) = rest.chars().next() else {
                return Err("log format: '%' at the end".to_owned());
            };
            rest = &rest[flag.len_utf8()..];
            let field = |field| Piece::Field(field, align, width);
            pieces.push(match flag {
                'v' => field(Field::Message),
                '_' => field(Field::Escaped),
                'j' => field(Field::Json),
                'l' => field(Field::Level),
                'L' => field(Field::ShortLevel),
                'n' => field(Field::Component),
                't' => field(Field::Thread),
                'P' => field(Field::Process),
                'g' => field(Field::File),
                's' => field(Field::FileName),
                '#' => field(Field::LineNumber),
                '@' => field(Field::FileAndLine),
                '%' => Piece::Text("%".to_owned()),
                // Where colours begin and end; a file has none.
                '^' | '$' => continue,
                _ => Piece::Time(time(flag)?),
            });
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Writes a line, without its end.
    #[must_use]
    pub fn format(&self, line: &Line<'_>) -> String {
        let mut out = String::with_capacity(128);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Time(format) => {
                    let mut bytes = Vec::new();
                    format.write(line.time_us, &mut bytes);
                    out.push_str(&String::from_utf8_lossy(&bytes));
                }
                Piece::Field(field, align, width) => {
                    let text = field.text(line);
                    let missing = width.saturating_sub(text.chars().count());
                    let before = match align {
                        Align::Left => 0,
                        Align::Right => missing,
                        Align::Center => missing / 2,
                    };
                    out.extend(std::iter::repeat_n(' ', before));
                    out.push_str(&text);
                    out.extend(std::iter::repeat_n(' ', missing - before));
                }
            }
        }
        out
    }
}

/// The flags that tell the time.
fn time(flag: char) -> Result<TimeFormat, String> {
    let pattern = match flag {
        'e' => "%3f",
        'f' => "%6f",
        'F' => "%9f",
        'E' => "%s",
        'z' => "+00:00",
        'a' | 'A' | 'b' | 'B' | 'c' | 'D' | 'x' | 'Y' | 'm' | 'd' | 'H' | 'I' | 'M' | 'S' | 'p'
        | 'r' | 'R' | 'T' | 'X' => return TimeFormat::parse(&format!("%{flag}")),
        'C' => "%y",
        _ => return Err(format!("log format: unknown flag '%{flag}'")),
    };
    TimeFormat::parse(pattern)
}

impl Field {
    fn text(self, line: &Line<'_>) -> String {
        let mut out = String::new();
        // Writing to a String never fails.
        let _ = match self {
            Self::Message => write!(out, "{}", line.message),
            Self::Escaped => write!(out, "{}", escape(line.message)),
            Self::Json => write!(out, "{}", json(line.message)),
            Self::Level => write!(out, "{}", line.level),
            Self::ShortLevel => write!(out, "{}", line.level.name()[..1].to_ascii_uppercase()),
            Self::Component => write!(out, "{}", line.component),
            Self::Thread => write!(out, "{}", line.thread),
            Self::Process => write!(out, "{}", line.process),
            Self::File => write!(out, "{}", line.file),
            Self::FileName => write!(out, "{}", file_name(line.file)),
            Self::LineNumber => write!(out, "{}", line.line),
            Self::FileAndLine => write!(out, "{}:{}", line.file, line.line),
        };
        out
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Text on one line: control characters and backslashes as C writes them.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// The inside of a JSON string.
fn json(text: &str) -> String {
    let mut bytes = Vec::new();
    crate::telemetry::format::write_json_string(text, &mut bytes);
    let quoted = String::from_utf8_lossy(&bytes);
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            time_us: 1_795_263_341_720_269,
            level: Level::Warning,
            component: "main",
            file: "src/server/log.rs",
            line: 7,
            thread: 12,
            process: 3,
            message: "a \"b\"\nc",
        }
    }

    #[test]
    fn lines_are_those_of_envoy() {
        let cases = [
            (
                DEFAULT,
                "[2026-11-21 12:15:41.720][12][warning][main] [src/server/log.rs:7] a \"b\"\nc",
            ),
            (
                "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%_\tthread=%t",
                "2026-11-21T12:15:41.720269Z\twarning\tenvoy main src/server/log.rs:7\t\
                 a \"b\"\\nc\tthread=12",
            ),
            (
                "%L %P %s %@ %j %% %E%z",
                "W 3 log.rs src/server/log.rs:7 a \\\"b\\\"\\nc % 1795263341+00:00",
            ),
            (
                "[%10l][%-10l][%=10l]%^%$",
                "[   warning][warning   ][ warning  ]",
            ),
        ];
        for (pattern, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().format(&line()), expected);
        }
    }

    #[test]
    fn unknown_flags_are_named() {
        assert_eq!(
            Pattern::parse("%v %Q").unwrap_err(),
            "log format: unknown flag '%Q'"
        );
        assert!(Pattern::parse("%").is_err());
        assert!(Pattern::parse("%99999999999v").is_err());
    }
}
