//! `/logging`: levels of the application log.

use std::fmt::Write as _;

use super::{AdminBackend, Request, Response};
use crate::server::log::Log;
use crate::server::log::level::{LEVELS, Level};

/// `/logging`
pub(super) fn logging(request: &Request, backend: &impl AdminBackend) -> Response {
    let Some(log) = backend.log() else {
        return Response::error(503, "there is no log\n");
    };
    match change(request, log) {
        Ok(()) => Response::text(loggers(log)),
        Err(why) => {
            let levels = LEVELS.map(Level::name).join(" ");
            Response::error(
                400,
                format!(
                    "error: {why}\n\n\
                     usage: /logging?<name>=<level> (change single level)\n\
                     usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                     usage: /logging?level=<level> (change all levels)\n\
                     levels: {levels} \n{}",
                    loggers(log)
                ),
            )
        }
    }
}

fn loggers(log: &Log) -> String {
    let mut out = "active loggers:\n".to_owned();
    for (name, level) in log.levels() {
        let _ = writeln!(out, "  {name}: {level}");
    }
    out.push('\n');
    out
}

fn change(request: &Request, log: &Log) -> Result<(), &'static str> {
    let level = |name: &str| Level::parse(name).map_err(|_| "unknown logger level");
    match &request.parameters[..] {
        [] => Ok(()),
        [(name, value)] if name == "level" => {
            log.set_all(level(value)?);
            Ok(())
        }
        [(name, value)] if name == "paths" => {
            let entries = value.split(',').filter(|entry| !entry.is_empty());
            let mut changes = Vec::new();
            for entry in entries {
                let (name, value) = entry
                    .split_once(':')
                    .ok_or("empty logger name or empty logger level")?;
                if !log.levels().iter().any(|(known, _)| *known == name) {
                    return Err("unknown logger name");
                }
                changes.push((name, level(value)?));
            }
            // All of them, or none.
            for (name, level) in changes {
                log.set(name, level);
            }
            Ok(())
        }
        [(name, value)] => match log.set(name, level(value)?) {
            true => Ok(()),
            false => Err("unknown logger name"),
        },
        _ => Err("invalid number of parameters"),
    }
}
