//! Transport sockets with TLS, and files that change.

use super::*;
use crate::tls::tests::{Authority, Issued};

const DOWN: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

const UP: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A directory of its own with a certificate in it; gone with the value.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("moorgate-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn put(&self, chain: &Issued, key: &Issued) {
        std::fs::write(self.0.join("a.pem"), &chain.chain).expect("written");
        std::fs::write(self.0.join("a.key"), &key.key).expect("written");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left of a test harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A listener whose certificate is in `directory`; `fields` are the certificate's other ones, `context` the
/// context's.
fn listener(directory: &Path, fields: &str, context: &str) -> String {
    let at = directory.display();
    format!(
        r#"{{static_resources: {{
          listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}},
            filter_chains: [{{
              transport_socket: {{name: tls, typed_config: {{"@type": {DOWN}, {context} common_tls_context: {{
                tls_certificates: [{{certificate_chain: {{filename: "{at}/a.pem"}},
                  private_key: {{filename: "{at}/a.key"}}, {fields}}}]}}}}}},
              filters: [{{name: tcp, typed_config: {{"@type": {TCP}, stat_prefix: s, cluster: a}}}}]}}]}}],
          clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]}}}}"#
    )
}

#[test]
fn files_in_a_watched_directory_are_read_again() {
    let files = Files::new("watched");
    let authority = Authority::new("root");
    let [first, second] = [1, 2].map(|serial| authority.issue(&["moorgate.test"], serial));
    files.put(&first, &first);
    let at = files.0.display();
    let mut built = built(&listener(
        &files.0,
        &format!("watched_directory: {{path: '{at}'}}"),
        "",
    ));
    let tls = Arc::clone(built.listeners[0].chains[0].tls.as_ref().expect("TLS"));
    let [watch] = built.watches.as_mut_slice() else {
        panic!("one watch");
    };
    assert_eq!(watch.directories(), std::slice::from_ref(&files.0));
    let before = tls.context.get();
    assert_eq!(watch.check(), Checked::Same);
    files.put(&second, &first);
    let Checked::Rejected(error) = watch.check() else {
        panic!("a key of another certificate");
    };
    assert_eq!(
        error.path,
        "static_resources.listeners[0].filter_chains[0].transport_socket.typed_config.\
         common_tls_context.tls_certificates[0].private_key"
    );
    assert!(Arc::ptr_eq(&before, &tls.context.get()));
    files.put(&second, &second);
    assert_eq!(watch.check(), Checked::Updated);
    assert!(!Arc::ptr_eq(&before, &tls.context.get()));
    assert_eq!(watch.check(), Checked::Same);
    files.put(&first, &first);
    drop(tls);
    built.listeners.clear();
    assert_eq!(built.watches[0].check(), Checked::Gone);
}

#[test]
fn a_watched_directory_has_to_be_one() {
    let files = Files::new("unwatched");
    let issued = Authority::new("root").issue(&["moorgate.test"], 1);
    files.put(&issued, &issued);
    let error = refusal(&listener(
        &files.0,
        "watched_directory: {path: /nowhere}",
        "",
    ));
    let wanted = "tls_certificates[0].watched_directory.path: '/nowhere' is no directory";
    assert!(error.ends_with(wanted), "{error}");
    assert!(built(&listener(&files.0, "", "")).watches.is_empty());
}

#[test]
fn a_header_before_everything_else() {
    const HEADER: &str = "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.\
         ProxyProtocolUpstreamTransport";
    let raw = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let raw = format!(r#"transport_socket: {{name: raw, typed_config: {{"@type": {raw}}}}}"#);
    let with = |fields: &str, rest: &str| {
        cluster(&format!(
            r#"transport_socket: {{name: p, typed_config: {{"@type": {HEADER}, {fields}}}}}, {rest}"#
        ))
    };
    let header = |yaml: &str| built(yaml).definitions[0].config.proxy_header.clone();
    let first = header(&with(&raw, "")).expect("a header");
    assert_eq!(first.version, moorgate_codecs::preface::proxy::Version::V1);
    let tlvs = format!("{raw}, config: {{version: V2, added_tlvs: [{{type: 241, value: aGk=}}]}}");
    let second = header(&with(&tlvs, "")).expect("a header");
    assert_eq!(second.tlvs, [(241, (*b"hi").into())]);
    assert_eq!(header(&cluster("")), None);
    let at = "static_resources.clusters[0].transport_socket.typed_config";
    let said = refusal(&with("", ""));
    assert_eq!(said, format!("{at}.transport_socket: is required"));
    let said = refusal(&with(
        &format!("{raw}, config: {{added_tlvs: [{{type: 1}}]}}"),
        "",
    ));
    assert_eq!(said, format!("{at}.config.added_tlvs[0]: needs version V2"));
    let said = refusal(&with(
        &format!("{raw}, config: {{pass_through_tlvs: {{}}}}"),
        "",
    ));
    assert_eq!(
        said,
        format!("{at}.config.pass_through_tlvs: is not supported by Moorgate")
    );
}

#[test]
fn names_that_requests_bring() {
    let with = |fields: &str| {
        format!(
            r#"transport_socket: {{name: t, typed_config: {{"@type": {UP}}}}},
               upstream_http_protocol_options: {{{fields}}}"#
        )
    };
    let of = |fields: &str| {
        let built = built(&cluster(&with(fields)));
        let config = Arc::clone(&built.definitions[0].config);
        config.tls.as_ref().expect("TLS").auto_sni.clone()
    };
    assert_eq!(of(""), None);
    assert!(of("auto_sni: true").expect("names").header.is_empty());
    let auto = of("auto_sni: true, override_auto_sni_header: X-Name").expect("names");
    assert_eq!(*auto.header, *b"x-name");
    let said = |fields: &str| refusal(&cluster(&with(fields)));
    let at = "static_resources.clusters[0].upstream_http_protocol_options";
    assert_eq!(
        said("auto_san_validation: true"),
        format!("{at}.auto_san_validation: is supported by Moorgate together with auto_sni alone")
    );
    assert!(
        said("auto_sni: true, auto_san_validation: true")
            .ends_with("validation_context.trusted_ca: is required for auto_san_validation")
    );
    // Without TLS they would be accepted and do nothing.
    for (fields, name) in [
        ("auto_sni: true", "auto_sni"),
        (
            "auto_sni: true, auto_san_validation: true",
            "auto_san_validation",
        ),
    ] {
        let plain = format!("upstream_http_protocol_options: {{{fields}}}");
        assert_eq!(
            refusal(&cluster(&plain)),
            format!("{at}.{name}: does nothing for a cluster without TLS")
        );
    }
    let check = "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1,
        healthy_threshold: 1, tcp_health_check: {}, tls_options: {alpn_protocols: [h2]}}]";
    assert_eq!(
        refusal(&cluster(check)),
        "static_resources.clusters[0].health_checks[0].tls_options.alpn_protocols: \
         does nothing for a cluster without TLS"
    );
}
