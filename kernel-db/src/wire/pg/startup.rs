//! The start of a connection: encryption requests, cancel requests, the startup message and its parameters.
//!
//! Encryption is refused ('N') and every user is trusted: listeners are on loopback until authentication exists. Protocol
//! 3.0 and 3.2 are spoken; other minor versions and unknown `_pq_.` options are negotiated down.

use std::collections::BTreeMap;

use bytes::{Buf, BytesMut};
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::startup::{NegotiateProtocolVersion, Startup};
use pgwire::messages::{DecodeContext, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::Notice;
use super::commands::parse_request;
use super::frame::protocol;
use super::reply;
use super::session::{REQUEST, SESSION};
use super::settings::Settings;
use crate::error::{Error, Result};

/// PostgreSQL's own bound.
const STARTUP_BYTES_MAX: usize = 10_000;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// What a client that starts asks for.
#[derive(Default)]
pub struct Hello {
    pub user: String,
    pub database: String,
    pub session: Option<u128>,
    pub next_request: u64,
    pub settings: Settings,
    /// Settings that were refused but do not keep the client out.
    pub warnings: Vec<Notice>,
    /// Speaks 3.2: cancel keys may be longer than four bytes.
    pub long_keys: bool,
    /// Sent before anything else: negotiation of version and options.
    pub negotiate: Option<NegotiateProtocolVersion>,
}

/// How the first messages ended.
pub enum Opened {
    Hello(Box<Hello>),
    Cancel {
        pid: i32,
        secret: Vec<u8>,
    },
    /// The client went away or only asked for encryption.
    Gone,
}

/// Reads up to and including the startup message. `input` keeps what the client sent after it. Errors are fatal.
pub async fn open(socket: &mut TcpStream, input: &mut BytesMut) -> Result<Opened> {
    // Each kind of encryption may be asked for once.
    let (mut ssl, mut gss) = (false, false);
    loop {
        let Some(mut packet) = packet(socket, input).await? else {
            return Ok(Opened::Gone);
        };
        let code = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let mut answer = BytesMut::new();
        match code {
            SSL_REQUEST if !ssl => {
                ssl = true;
                reply::put(&mut answer, &SslResponse::Refuse)?;
            }
            GSS_REQUEST if !gss => {
                gss = true;
                reply::put(&mut answer, &GssEncResponse::Refuse)?;
            }
            CANCEL_REQUEST => {
                let request = CancelRequest::decode(&mut packet, &DecodeContext::default());
                let request = request
                    .ok()
                    .flatten()
                    .ok_or_else(|| protocol("invalid cancel request"))?;
                return Ok(Opened::Cancel {
                    pid: request.pid,
                    secret: request.secret_key.to_bytes().to_vec(),
                });
            }
            SSL_REQUEST | GSS_REQUEST => return Err(protocol("encryption was already refused")),
            version => return hello(version, packet).map(|hello| Opened::Hello(Box::new(hello))),
        }
        // Bytes sent before the answer would have been meant for the encrypted stream.
        if !input.is_empty() {
            return Err(protocol(
                "received unencrypted data after encryption request",
            ));
        }
        if socket.write_all(&answer).await.is_err() {
            return Ok(Opened::Gone);
        }
    }
}

/// One length-prefixed packet without a type byte.
async fn packet(socket: &mut TcpStream, input: &mut BytesMut) -> Result<Option<BytesMut>> {
    loop {
        if input.len() >= 4 {
            let length = u32::from_be_bytes([input[0], input[1], input[2], input[3]]) as usize;
            if !(8..=STARTUP_BYTES_MAX).contains(&length) {
                return Err(protocol("invalid length of startup packet"));
            }
            if input.len() >= length {
                return Ok(Some(input.split_to(length)));
            }
        }
        match socket.read_buf(input).await {
            Ok(n) if n > 0 => {}
            _ => return Ok(None),
        }
    }
}

fn hello(version: u32, mut packet: BytesMut) -> Result<Hello> {
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 3 {
        let message =
            format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
        return Err(Error::new("0A000", message));
    }
    let body = &packet[8..];
    if body.last() != Some(&0) || std::str::from_utf8(body).is_err() {
        return Err(protocol(
            "invalid startup packet layout: expected terminator as last byte",
        ));
    }
    let length = packet.len();
    packet.advance(4);
    let startup = Startup::decode_body(&mut packet, length, &DecodeContext::default());
    let startup = startup.map_err(|error| protocol(error.to_string()))?;
    if !packet.is_empty() {
        return Err(protocol(
            "invalid startup packet layout: bytes after the last parameter",
        ));
    }
    let mut hello = Hello {
        next_request: 1,
        long_keys: minor >= 2,
        ..Hello::default()
    };
    parameters(&mut hello, &startup.parameters)?;
    let unknown: Vec<String> = startup
        .parameters
        .keys()
        .filter(|name| name.starts_with("_pq_."))
        .cloned()
        .collect();
    if !matches!(minor, 0 | 2) || !unknown.is_empty() {
        let newest = if minor >= 2 { 2 } else { 0 };
        hello.negotiate = Some(NegotiateProtocolVersion::new(3 << 16 | newest, unknown));
    }
    Ok(hello)
}

fn parameters(hello: &mut Hello, given: &BTreeMap<String, String>) -> Result<()> {
    if let Some(options) = given.get("options") {
        for (name, value) in parse_options(options)? {
            option(hello, &name, &value)?;
        }
    }
    for (name, value) in given {
        match name.as_str() {
            "user" => hello.user.clone_from(value),
            "database" => hello.database.clone_from(value),
            "replication" if !matches!(value.as_str(), "false" | "off" | "no" | "0") => {
                return Err(Error::unsupported("replication connections"));
            }
            "options" | "replication" => {}
            name if name.starts_with("_pq_.") => {}
            name => option(hello, name, value)?,
        }
    }
    if hello.user.is_empty() {
        return Err(Error::new(
            "28000",
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if hello.database.is_empty() {
        hello.database.clone_from(&hello.user);
    }
    Ok(())
}

fn option(hello: &mut Hello, name: &str, value: &str) -> Result<()> {
    match name {
        SESSION => hello.session = Some(parse_session(value)?),
        REQUEST => hello.next_request = parse_request(value)?,
        name => {
            if let Err(error) = hello.settings.start(name, value) {
                // Clients send their locale's encoding and time zone unasked; they are told what holds instead.
                if error.sqlstate() != "0A000" {
                    return Err(error);
                }
                hello.warnings.push(warning(&error));
            }
        }
    }
    Ok(())
}

fn warning(error: &Error) -> Notice {
    Notice {
        severity: "WARNING".to_owned(),
        sqlstate: error.sqlstate().to_owned(),
        message: error.message().to_owned(),
        detail: None,
        hint: error.get_hint().map(str::to_owned),
    }
}

fn parse_session(value: &str) -> Result<u128> {
    let hex = value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    let parsed = hex.then(|| u128::from_str_radix(value, 16).ok()).flatten();
    parsed.ok_or_else(|| {
        Error::new(
            "22023",
            format!("invalid value for parameter \"{SESSION}\": \"{value}\""),
        )
        .hint("use 32 hex digits")
    })
}

/// The startup parameter `options`: command line arguments `-c name=value` and `--name=value`.
fn parse_options(text: &str) -> Result<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let pair = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(pair), _) => pair.replacen(
                '-',
                "_",
                pair.split('=').next().unwrap_or("").matches('-').count(),
            ),
            (_, Some("")) => words.next().unwrap_or_default(),
            (_, Some(pair)) => pair.to_owned(),
            _ => return Err(bad_option(&word)),
        };
        let (name, value) = pair.split_once('=').ok_or_else(|| bad_option(&pair))?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    Ok(settings)
}

fn bad_option(word: &str) -> Error {
    Error::new(
        "42601",
        format!("invalid command-line argument for server process: {word}"),
    )
    .hint("use -c name=value in the startup parameter \"options\"")
}

/// Separated by white space; a backslash keeps the next character.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            words.extend(word.take());
        } else {
            let kept = if c == '\\' { chars.next() } else { Some(c) };
            word.get_or_insert_default().extend(kept);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(minor: u32, pairs: &[(&str, &str)]) -> BytesMut {
        let mut body = BytesMut::from(&(3 << 16 | minor).to_be_bytes()[..]);
        for (name, value) in pairs {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.extend_from_slice(b"\0");
        let mut packet = BytesMut::from(&(body.len() as u32 + 4).to_be_bytes()[..]);
        packet.extend_from_slice(&body);
        packet
    }

    fn greet(minor: u32, pairs: &[(&str, &str)]) -> Result<Hello> {
        hello(3 << 16 | minor, packet(minor, pairs))
    }

    #[test]
    fn session_and_settings_come_from_the_options() {
        let options = "-c dbos.session=000000000000000000000000000000ff -c dbos.request=7 --statement-timeout=5s -capplication_name=a\\ b";
        let hello = greet(0, &[("user", "u"), ("options", options)])
            .ok()
            .unwrap();
        assert_eq!(
            (hello.session, hello.next_request, hello.database.as_str()),
            (Some(255), 7, "u")
        );
        assert_eq!(hello.settings.get("statement_timeout").unwrap(), "5000");
        assert_eq!(hello.settings.get("application_name").unwrap(), "a b");
        assert!(hello.negotiate.is_none());
    }

    #[test]
    fn a_locale_the_server_does_not_have_is_only_a_warning() {
        let pairs = [
            ("user", "u"),
            ("client_encoding", "SQL_ASCII"),
            ("TimeZone", "Europe/Berlin"),
        ];
        let hello = greet(0, &pairs).ok().unwrap();
        assert_eq!(hello.warnings.len(), 2);
        assert_eq!(hello.settings.get("TimeZone").unwrap(), "UTC");
    }

    #[test]
    fn newer_minor_versions_are_negotiated_and_nonsense_is_refused() {
        let newer = greet(9999, &[("user", "u"), ("_pq_.x", "1")])
            .ok()
            .unwrap()
            .negotiate
            .unwrap();
        assert_eq!(
            (newer.newest_minor_protocol, newer.unsupported_options.len()),
            (3 << 16 | 2, 1)
        );
        assert!(greet(2, &[("user", "u")]).ok().unwrap().negotiate.is_none());
        for (pairs, state) in [
            (vec![("database", "d")], "28000"),
            (
                vec![("user", "u"), ("options", "-c dbos.session=xyz")],
                "22023",
            ),
            (
                vec![("user", "u"), ("options", "-c dbos.request=0")],
                "22023",
            ),
            (vec![("user", "u"), ("options", "-z")], "42601"),
            (vec![("user", "u"), ("no_such", "1")], "42704"),
            (vec![("user", "u"), ("replication", "database")], "0A000"),
        ] {
            assert_eq!(
                greet(0, &pairs).err().unwrap().sqlstate(),
                state,
                "{pairs:?}"
            );
        }
        assert_eq!(
            hello(2 << 16, packet(0, &[])).err().unwrap().sqlstate(),
            "0A000"
        );
    }

    proptest::proptest! {
        #[test]
        fn random_startup_packets_never_panic(body in proptest::collection::vec(0u8..4, 0..40)) {
            let mut bytes = BytesMut::from(&(body.len() as u32 + 8).to_be_bytes()[..]);
            bytes.extend_from_slice(&(3u32 << 16).to_be_bytes());
            bytes.extend_from_slice(&body);
            let _ = hello(3 << 16, bytes);
        }
    }
}
