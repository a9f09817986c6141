//! For the services' own tests: every engine a service must work on, started for one test.

use crate::client::{Client, Options};
use crate::error::Result;
use crate::local_postgres::{LocalPostgres, Settings};
use crate::target::Target;

/// One running engine; dropping it stops it.
#[derive(Debug)]
pub struct Engine {
    pub name: &'static str,
    pub target: Target,
    _server: LocalPostgres,
}

impl Engine {
    /// A private PostgreSQL. A missing one is an error, never a skipped test.
    pub fn postgres() -> Result<Self> {
        let server = LocalPostgres::start(&Settings::test())?;
        Ok(Self {
            name: "PostgreSQL",
            target: Target::parse(&server.url())?,
            _server: server,
        })
    }

    /// A new client with connections of its own.
    pub async fn client(&self) -> Result<Client> {
        Client::connect_with(
            &self.target,
            Options {
                connections: 2,
                ..Options::default()
            },
        )
        .await
    }
}

/// All engines, one after another.
pub fn engines() -> impl Iterator<Item = Result<Engine>> {
    [Engine::postgres].into_iter().map(|start| start())
}
