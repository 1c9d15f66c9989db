//! `DataSource`: bytes that stand in the configuration or somewhere it names.

use moorgate_protos::envoy::config::core::v3::DataSource;
use moorgate_protos::envoy::config::core::v3::data_source::Specifier;

use super::Outcome;
use crate::config::FieldPath;

/// The bytes of a data source. Reads files.
pub(super) fn bytes(source: &DataSource, path: &FieldPath<'_>) -> Outcome<Vec<u8>> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes().to_vec()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.to_vec()),
        Some(Specifier::Filename(file)) => {
            let path = path.field("filename");
            std::fs::read(super::required(file, &path)?)
                .map_err(|error| path.error(format!("'{file}' cannot be read: {error}")))
        }
        Some(Specifier::EnvironmentVariable(name)) => {
            let path = path.field("environment_variable");
            std::env::var(super::required(name, &path)?)
                .map(String::into_bytes)
                .map_err(|_| path.error(format!("there is no environment variable '{name}'")))
        }
        None => Err(path.error("has to say where its data is")),
    }
}

/// The text of a data source.
pub(super) fn text(source: &DataSource, path: &FieldPath<'_>) -> Outcome<String> {
    String::from_utf8(bytes(source, path)?).map_err(|_| path.error("is not UTF-8 text"))
}
