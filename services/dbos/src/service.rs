//! What the services' commands share: a client for the target, and errors as exit codes.

use dbos_client::{Class, Client, Error, Options};

use crate::args::TargetArgs;
use crate::db;
use crate::exit::{Failure, Result};

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
        (_, Some("58P01" | "P0002")) => 4,
        _ => 1,
    };
    let mut failure = Failure::with_code(code, &error);
    if error.get_hint().is_none() && error.sqlstate() == Some("42P01") {
        failure = failure.hint("the service's tables are missing: run its `install` command first");
    } else if error.get_hint().is_none() && error.sqlstate() == Some("42883") {
        failure =
            failure.hint("the service's procedures are missing: run its `install` command first");
    }
    failure
}
