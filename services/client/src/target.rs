//! Where to connect.
//!
//! A target is one or more `postgres://` URLs separated by commas: nodes of one cluster, or one PostgreSQL. User, database
//! and application name come from the first URL; the others are further ways in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::error::{Error, Result};

/// Parsed connection strings.
#[derive(Clone, Debug)]
pub struct Target {
    text: String,
    seeds: Vec<Config>,
}

/// One server's address, and how to log in there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub node_id: Option<i32>,
    pub config: Config,
}

impl Target {
    pub fn parse(text: &str) -> Result<Self> {
        let mut seeds = Vec::new();
        for url in text.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let config = Config::from_str(url).map_err(|error| bad(text, &error.to_string()))?;
            if config.get_hosts().len() != 1 {
                return Err(bad(text, "each URL must name exactly one host"));
            }
            seeds.push(config);
        }
        if seeds.is_empty() {
            return Err(bad(text, "no URL"));
        }
        Ok(Self {
            text: text.to_owned(),
            seeds,
        })
    }

    pub(crate) fn endpoints(
        &self,
        application_name: &str,
        connect_timeout: Duration,
    ) -> Vec<Endpoint> {
        let with_defaults = |seed: &Config| {
            let mut config = seed.clone();
            if config.get_application_name().is_none() {
                config.application_name(application_name);
            }
            if config.get_user().is_none() {
                config.user("dbos");
            }
            config.connect_timeout(connect_timeout);
            Endpoint {
                node_id: None,
                config,
            }
        };
        self.seeds.iter().map(with_defaults).collect()
    }
}

impl Endpoint {
    /// The same log-in on another address, as a cluster's own table of nodes names it (`host:port`).
    pub fn at(&self, node_id: i32, address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let old = &self.config;
        let mut config = Config::new();
        config
            .host(host.trim_matches(['[', ']']))
            .port(port.parse().ok()?);
        if let Some(user) = old.get_user() {
            config.user(user);
        }
        if let Some(database) = old.get_dbname() {
            config.dbname(database);
        }
        if let Some(password) = old.get_password() {
            config.password(password);
        }
        if let Some(name) = old.get_application_name() {
            config.application_name(name);
        }
        if let Some(timeout) = old.get_connect_timeout() {
            config.connect_timeout(*timeout);
        }
        Some(Self {
            node_id: Some(node_id),
            config,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => write!(f, "{host}:{port}"),
            Some(Host::Unix(path)) => write!(f, "{}:{port}", path.display()),
            None => f.write_str("no host"),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::environment(format!("cannot understand the target {text:?}: {why}")).hint(
        "a target is postgres://user@host:port/database, or several of these separated by commas",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(text: &str) -> Vec<Endpoint> {
        Target::parse(text)
            .unwrap()
            .endpoints("test", Duration::from_secs(1))
    }

    #[test]
    fn several_urls_are_several_ways_in() {
        let found = endpoints("postgres://127.0.0.1:5001/dbos, postgres://127.0.0.1:5002/dbos");
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:5001", "127.0.0.1:5002"]
        );
    }

    #[test]
    fn another_node_is_reached_with_the_same_log_in() {
        let seed = &endpoints("postgres://ann:pw@127.0.0.1:5001/work")[0];
        let other = seed.at(7, "127.0.0.1:5009").unwrap();
        assert_eq!(other.to_string(), "127.0.0.1:5009");
        assert_eq!(other.config.get_user(), Some("ann"));
        assert_eq!(other.config.get_dbname(), Some("work"));
        assert!(seed.at(7, "no port").is_none());
    }

    #[test]
    fn nonsense_is_an_error_with_a_hint() {
        for text in ["", " , ", "postgres://a:99999999/x", "what is this"] {
            assert!(
                Target::parse(text).unwrap_err().get_hint().is_some(),
                "{text}"
            );
        }
    }
}
