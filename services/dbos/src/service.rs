//! What the services' commands share: a client for the target, and errors as exit codes.

use dbos_client::{Class, Client, Error, Options};

use crate::args::TargetArgs;
use crate::db;
use crate::exit::{Failure, Result};

/// For a service whose tables or procedures are missing.
pub const NOT_INSTALLED: &str = "the service is not installed here: run `dbos task install`, `dbos msg install` or `dbos fs install` first";

/// A client of the command's target.
pub async fn client(target: &TargetArgs) -> Result<Client> {
    let urls = db::urls(target)?.join(",").parse().map_err(failure)?;
    let options = Options {
        application_name: "dbos".into(),
        ..Options::default()
    };
    Client::connect_with(&urls, options).await.map_err(failure)
}

/// Class, SQLSTATE and hint of a client error, as an exit code and a message.
pub fn failure(error: Error) -> Failure {
    let code = match (error.class(), error.sqlstate()) {
        (Class::Unknown, _) => 5,
        (Class::Retry, _) => 6,
        (_, Some("58P01" | "P0002")) => 4,
        _ => 1,
    };
    let mut text = error.message().to_owned();
    if error.is_unknown() {
        text = format!("outcome unknown: {text}");
    }
    if let Some(sqlstate) = error.sqlstate() {
        text = format!("{text} ({sqlstate})");
    }
    if let Some(detail) = error.get_detail() {
        text = format!("{text}; {detail}");
    }
    let failure = Failure::with_code(code, text);
    match (error.sqlstate(), error.get_hint()) {
        // Undefined table, undefined function: the server's own hint is about SQL that the user did not write.
        (Some("42P01" | "42883"), _) => failure.hint(NOT_INSTALLED),
        (_, Some(hint)) => failure.hint(hint),
        _ => failure,
    }
}
