//! `/config_dump`.

use regex::Regex;

use super::json::Json;
use super::{AdminBackend, Request, Response};

/// One message of the dump, for instance `envoy.admin.v3.ClustersConfigDump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Full name of the message.
    pub message: &'static str,
    /// Its fields, in order.
    pub fields: Vec<(&'static str, Field)>,
}

/// A field of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// One value, as JSON.
    One(String),
    /// A list of resources.
    Many {
        /// Name of the elements' message within that of the section, for instance `StaticCluster`.
        element: &'static str,
        /// The resources.
        items: Vec<Item>,
    },
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Name, for `name_regex`.
    pub name: String,
    /// The element of the list, as a JSON object.
    pub json: String,
}

fn type_url(message: &str) -> Json {
    Json::Text(format!("type.googleapis.com/{message}"))
}

/// A JSON object with `@type` put in front.
fn typed(message: &str, object: &str) -> Json {
    let url = type_url(message).document();
    let body = object.trim();
    let inner = body.strip_prefix('{').unwrap_or(body);
    let comma = if inner.trim() == "}" { "" } else { "," };
    Json::Raw(format!("{{\n \"@type\": {}{comma}{inner}", url.trim_end()))
}

/// `/config_dump`
pub(super) fn config_dump(request: &Request, backend: &mut impl AdminBackend) -> Response {
    if request.has("mask") {
        return Response::error(400, "the parameter mask is not supported\n");
    }
    let names = match request.parameter("name_regex") {
        None | Some("") => None,
        Some(pattern) => match Regex::new(pattern) {
            Ok(names) => Some(names),
            Err(_) => {
                return Response::error(
                    400,
                    format!("Error while parsing name_regex from {pattern}"),
                );
            }
        },
    };
    let wanted = |item: &&Item| {
        names
            .as_ref()
            .is_none_or(|names| names.is_match(&item.name))
    };
    let sections = backend.config(request.has("include_eds"));
    if let Some(resource) = request.parameter("resource") {
        let found = sections.iter().find_map(|section| {
            let field = section.fields.iter().find(|(name, _)| *name == resource)?;
            Some((section, &field.1))
        });
        let configs = match found {
            None => return Response::error(404, format!("{resource} not found in config dump")),
            Some((_, Field::One(_))) => {
                let why = format!(
                    "{resource} is not a repeated field. Use ?mask={resource} to get only this field"
                );
                return Response::error(400, why);
            }
            Some((section, Field::Many { element, items })) => {
                let message = format!("{}.{element}", section.message);
                let items = items.iter().filter(wanted);
                items.map(|item| typed(&message, &item.json)).collect()
            }
        };
        return Response::json(Json::Object(vec![("configs", Json::List(configs))]).document());
    }
    let configs = sections.iter().map(|section| {
        let mut fields = vec![("@type", type_url(section.message))];
        for (name, field) in &section.fields {
            match field {
                Field::One(json) => fields.push((name, Json::Raw(json.clone()))),
                Field::Many { items, .. } => {
                    let items: Vec<_> = items
                        .iter()
                        .filter(wanted)
                        .map(|item| Json::Raw(item.json.clone()))
                        .collect();
                    if !items.is_empty() {
                        fields.push((name, Json::List(items)));
                    }
                }
            }
        }
        Json::Object(fields)
    });
    let configs = Json::List(configs.collect());
    Response::json(Json::Object(vec![("configs", configs)]).document())
}
