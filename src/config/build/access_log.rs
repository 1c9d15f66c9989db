//! Access logs: formats and targets.

use std::path::Path;
use std::sync::Arc;

use moorgate_protos::Name;
use moorgate_protos::envoy::config::accesslog::v3::AccessLog as Message;
use moorgate_protos::envoy::config::accesslog::v3::access_log::ConfigType;
use moorgate_protos::envoy::config::core::v3::SubstitutionFormatString;
use moorgate_protos::envoy::config::core::v3::substitution_format_string::Format as FormatKind;
use moorgate_protos::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use moorgate_protos::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat as FileFormat;
use moorgate_protos::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use moorgate_protos::prost_types::value::Kind;
use moorgate_protos::prost_types::{Struct, Value};

use super::{Context, Outcome, access_filter, data, present, required};
use crate::config::{FieldPath, packed_type, unpack};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::format::{DEFAULT, Environment, Format, JsonTemplate};
use crate::telemetry::log_thread::LogTarget;

/// The access logs of a listener or filter. Opens their files.
pub(super) fn build(
    list: &[Message],
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Vec<Arc<AccessLog>>> {
    let list = list.iter().enumerate();
    list.map(|(index, message)| Ok(Arc::new(one(message, context, &path.index(index))?)))
        .collect()
}

/// A log of Envoy's default format in a file.
pub(super) fn plain(
    file: &str,
    context: &Context<'_>,
    path: &FieldPath<'_>,
) -> Outcome<Arc<AccessLog>> {
    let format = formats(context).text(DEFAULT, false, path)?;
    let target = open(file, context, path)?;
    Ok(Arc::new(AccessLog::new(None, format, target)))
}

fn formats<'a>(context: &Context<'a>) -> Formats<'a> {
    Formats {
        environment: Environment {
            hostname: context.builder.options.hostname,
            variable: |name| std::env::var(name).ok(),
        },
    }
}

fn open(file: &str, context: &Context<'_>, path: &FieldPath<'_>) -> Outcome<LogTarget> {
    let target = context.builder.logs.file(Path::new(file));
    target.map_err(|error| path.error(format!("'{file}' cannot be opened: {error}")))
}

fn one(message: &Message, context: &Context<'_>, path: &FieldPath<'_>) -> Outcome<AccessLog> {
    let filter = message.filter.as_ref();
    let filter = filter.map(|filter| access_filter::build(filter, &path.field("filter")));
    let filter = filter.transpose()?;
    let path = path.field("typed_config");
    let ConfigType::TypedConfig(any) = present(message.config_type.as_ref(), &path)?;
    let found = packed_type(any, &path)?;
    let formats = formats(context);
    let logs = context.builder.logs;
    let (format, target) = if found == FileAccessLog::full_name() {
        let log: FileAccessLog = unpack(any, &path)?;
        let format = formats.of_file(log.access_log_format.as_ref(), &path)?;
        let path = path.field("path");
        let file = required(&log.path, &path)?;
        (format, open(file, context, &path)?)
    } else if found == StdoutAccessLog::full_name() {
        let log: StdoutAccessLog = unpack(any, &path)?;
        let format = log.access_log_format.as_ref().map(|format| match format {
            stdout_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        (formats.of_stream(format, &path)?, logs.stdout())
    } else {
        let log: StderrAccessLog = unpack(any, &path)?;
        let format = log.access_log_format.as_ref().map(|format| match format {
            stderr_access_log::AccessLogFormat::LogFormat(format) => format,
        });
        (formats.of_stream(format, &path)?, logs.stderr())
    };
    Ok(AccessLog::new(filter, format, target))
}

/// Compiles formats.
struct Formats<'a> {
    environment: Environment<'a>,
}

impl Formats<'_> {
    fn of_file(&self, format: Option<&FileFormat>, path: &FieldPath<'_>) -> Outcome<Format> {
        match format {
            None => self.text(DEFAULT, false, path),
            Some(FileFormat::Format(text)) if text.is_empty() => self.text(DEFAULT, false, path),
            Some(FileFormat::Format(text)) => self.text(text, false, &path.field("format")),
            Some(FileFormat::JsonFormat(json)) => {
                self.json(json, false, &path.field("json_format"))
            }
            Some(FileFormat::TypedJsonFormat(json)) => {
                self.json(json, false, &path.field("typed_json_format"))
            }
            Some(FileFormat::LogFormat(format)) => self.log(format, &path.field("log_format")),
        }
    }

    fn of_stream(
        &self,
        format: Option<&SubstitutionFormatString>,
        path: &FieldPath<'_>,
    ) -> Outcome<Format> {
        match format {
            None => self.text(DEFAULT, false, path),
            Some(format) => self.log(format, &path.field("log_format")),
        }
    }

    fn log(&self, format: &SubstitutionFormatString, path: &FieldPath<'_>) -> Outcome<Format> {
        let omit_empty = format.omit_empty_values;
        match &format.format {
            Some(FormatKind::TextFormat(text)) => {
                self.text(text, omit_empty, &path.field("text_format"))
            }
            Some(FormatKind::TextFormatSource(source)) => {
                let path = path.field("text_format_source");
                self.text(&data::text(source, &path)?, omit_empty, &path)
            }
            Some(FormatKind::JsonFormat(json)) => {
                self.json(json, omit_empty, &path.field("json_format"))
            }
            None => Err(path.error("has to have a text_format_source or a json_format")),
        }
    }

    fn text(&self, text: &str, omit_empty: bool, path: &FieldPath<'_>) -> Outcome<Format> {
        Format::text(text, omit_empty, &self.environment).map_err(|reason| path.error(reason))
    }

    fn json(&self, json: &Struct, omit_empty: bool, path: &FieldPath<'_>) -> Outcome<Format> {
        Format::json(&object(json), omit_empty, &self.environment)
            .map_err(|reason| path.error(reason))
    }
}

fn object(json: &Struct) -> JsonTemplate {
    let fields = json.fields.iter();
    JsonTemplate::Object(
        fields
            .map(|(key, value)| (key.clone(), template(value)))
            .collect(),
    )
}

fn template(value: &Value) -> JsonTemplate {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => JsonTemplate::Null,
        Some(Kind::BoolValue(value)) => JsonTemplate::Bool(*value),
        Some(Kind::NumberValue(value)) => JsonTemplate::Number(*value),
        Some(Kind::StringValue(text)) => JsonTemplate::Text(text.clone()),
        Some(Kind::ListValue(list)) => {
            JsonTemplate::List(list.values.iter().map(template).collect())
        }
        Some(Kind::StructValue(fields)) => object(fields),
    }
}
