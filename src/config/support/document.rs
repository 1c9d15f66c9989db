//! `docs/configuration.md`: the tables, written out. A test keeps the file true.

use std::fmt::Write as _;

use super::{FOREIGN_RUNTIME_KEYS, Rule, Support, tables};

const INTRODUCTION: &str = "\
# What of Envoy's configuration is supported

Moorgate reads Envoy's v3 bootstrap. A field that is not in the table of its message is refused when
it is set, with file, path and reason, and so is a message that has no table here. Fields that are
accepted without effect are named once at start. This file is written from the tables that the program
checks with (`src/config/support`) by `MOORGATE_BLESS=1 cargo test --lib support::document`.

- *yes*: honoured.
- *no effect*: accepted, and changes nothing about which bytes go where.
- *only off*, *only on*: may be said, with that value alone.

`watched_directory` of certificates and validation contexts works where Envoy has it for SDS alone: whenever
something is moved into the directory, all files of that TLS context are read again. New connections use them
from then on; files that are no good are logged and counted (`ssl.context_updated`,
`ssl.context_update_rejected`), and those before stay.

TLS chooses suites in the order AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305 where `cipher_suites` does not
say otherwise and `prefer_client_ciphers` is off. Envoy does so for TLS 1.2, and follows the client in TLS 1.3;
groups of equal suites in brackets are an order like any other here. `require_sni` is honoured, which Envoy
does not do. With `STRICT_STAPLING` and `MUST_STAPLE` a certificate without a good OCSP response is not shown to
any client, also not to one that asked for none. `allow_renegotiation` stays off: there is none in rustls.

Without a `socket_options` for TCP_CONGESTION, sockets on the loopback use reno: there is no path to pace
for.
";

fn names(list: &[&str]) -> String {
    let names: Vec<_> = list.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn rule(rule: Rule) -> String {
    match rule {
        Rule::Yes | Rule::Types([]) => "yes".to_owned(),
        Rule::Ignored => "no effect".to_owned(),
        Rule::Off => "only off".to_owned(),
        Rule::On => "only on".to_owned(),
        Rule::Values(values) => names(values),
        Rule::Types(types) => format!("yes: {}", names(types)),
        Rule::As(_) => "yes, fields as follows".to_owned(),
        Rule::Runtime(keys) => format!(
            "keys {}; no effect: {}",
            names(keys),
            FOREIGN_RUNTIME_KEYS
                .iter()
                .map(|start| format!("`{start}*`"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn table(table: &Support, place: &str, out: &mut String) {
    let _ = writeln!(out, "\n## {}{place}\n", table.message);
    if table.fields.is_empty() {
        out.push_str("No fields.\n");
        return;
    }
    out.push_str("| field | |\n|---|---|\n");
    for (name, how) in table.fields {
        let _ = writeln!(out, "| `{name}` | {} |", rule(*how));
    }
    for (name, how) in table.fields {
        if let Rule::As(inner) = how {
            let place = format!(" as `{name}` of {}", table.message);
            self::table(inner, &place, out);
        }
    }
}

#[test]
fn the_document_is_what_the_tables_say() {
    let mut all: Vec<_> = tables().collect();
    all.sort_by_key(|table| table.message);
    let mut text = INTRODUCTION.to_owned();
    for support in all {
        table(support, "", &mut text);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("MOORGATE_BLESS").is_some() {
        std::fs::write(path, &text).expect("the file can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "docs/configuration.md: MOORGATE_BLESS=1");
}
