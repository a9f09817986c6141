//! A client that says exactly what a test wants it to say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A reply: type byte and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub kind: char,
    pub body: Vec<u8>,
}

impl Reply {
    /// A field of an error or notice.
    pub fn field(&self, code: char) -> Option<String> {
        let mut fields = self.body.split(|b| *b == 0);
        let found = fields.find(|f| f.first() == Some(&(code as u8)))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The body as text without its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.strip_suffix(&[0]).unwrap_or(&self.body)).into_owned()
    }
}

pub struct Client {
    pub socket: TcpStream,
    /// Messages to be sent together.
    pub out: Vec<u8>,
    pub pid: i32,
    pub secret: Vec<u8>,
    pub parameters: Vec<(String, String)>,
}

pub fn startup(version: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in pairs {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend_from_slice(&body);
    packet
}

impl Client {
    /// Connected, nothing sent.
    pub fn open(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            out: Vec::new(),
            pid: 0,
            secret: Vec::new(),
            parameters: Vec::new(),
        }
    }

    pub fn connect(port: u16) -> Self {
        Self::connect_with(port, &[("user", "tester")])
    }

    pub fn connect_with(port: u16, pairs: &[(&str, &str)]) -> Self {
        let mut client = Self::open(port);
        client.socket.write_all(&startup(3 << 16, pairs)).unwrap();
        for reply in client.until_ready() {
            match reply.kind {
                'K' => {
                    client.pid = i32::from_be_bytes(reply.body[..4].try_into().unwrap());
                    client.secret = reply.body[4..].to_vec();
                }
                'S' => {
                    let text = reply.text();
                    let (name, value) = text.split_once('\0').unwrap();
                    client.parameters.push((name.into(), value.into()));
                }
                'R' | 'Z' | 'N' => {}
                other => panic!("unexpected {other} in the greeting: {reply:?}"),
            }
        }
        client
    }

    pub fn message(&mut self, kind: char, body: &[u8]) -> &mut Self {
        self.out.push(kind as u8);
        self.out
            .extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        self.out.extend_from_slice(body);
        self
    }

    pub fn query(&mut self, sql: &str) -> &mut Self {
        self.message('Q', format!("{sql}\0").as_bytes())
    }

    pub fn parse(&mut self, name: &str, sql: &str) -> &mut Self {
        self.message('P', format!("{name}\0{sql}\0\0\0").as_bytes())
    }

    /// One format for all parameters, one for all results.
    pub fn bind(
        &mut self,
        portal: &str,
        name: &str,
        formats: (u8, u8),
        params: &[Option<&[u8]>],
    ) -> &mut Self {
        let mut body = format!("{portal}\0{name}\0").into_bytes();
        body.extend_from_slice(&[0, 1, 0, formats.0]);
        body.extend_from_slice(&(params.len() as u16).to_be_bytes());
        for param in params {
            body.extend_from_slice(&param.map_or(-1, |p| p.len() as i32).to_be_bytes());
            body.extend_from_slice(param.unwrap_or(&[]));
        }
        body.extend_from_slice(&[0, 1, 0, formats.1]);
        self.message('B', &body)
    }

    pub fn execute(&mut self, portal: &str, max_rows: u32) -> &mut Self {
        let mut body = format!("{portal}\0").into_bytes();
        body.extend_from_slice(&max_rows.to_be_bytes());
        self.message('E', &body)
    }

    pub fn describe(&mut self, target: char, name: &str) -> &mut Self {
        self.message('D', format!("{target}{name}\0").as_bytes())
    }

    /// Parse, Bind and Execute of an unnamed statement.
    pub fn run(&mut self, sql: &str) -> &mut Self {
        self.parse("", sql).bind("", "", (0, 0), &[]).execute("", 0)
    }

    pub fn sync(&mut self) -> &mut Self {
        self.message('S', b"")
    }

    pub fn flush(&mut self) -> &mut Self {
        self.message('H', b"")
    }

    pub fn send(&mut self) {
        let out = std::mem::take(&mut self.out);
        self.socket.write_all(&out).unwrap();
    }

    /// The next reply; `None` when the server closed the connection.
    pub fn reply(&mut self) -> Option<Reply> {
        let mut header = [0; 5];
        match self.socket.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("no reply within the time")
            }
            Err(_) => return None,
        }
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        self.socket.read_exact(&mut body).unwrap();
        Some(Reply {
            kind: header[0] as char,
            body,
        })
    }

    pub fn replies(&mut self, count: usize) -> Vec<Reply> {
        (0..count)
            .map(|n| {
                self.reply()
                    .unwrap_or_else(|| panic!("closed before reply {n}"))
            })
            .collect()
    }

    /// Replies up to and with ReadyForQuery.
    pub fn until_ready(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        loop {
            let reply = self
                .reply()
                .unwrap_or_else(|| panic!("closed after {replies:?}"));
            let ready = reply.kind == 'Z';
            replies.push(reply);
            if ready {
                return replies;
            }
        }
    }

    /// Sends what was collected and returns the replies up to ReadyForQuery.
    pub fn ask(&mut self) -> Vec<Reply> {
        self.send();
        self.until_ready()
    }

    /// All that comes until the server closes.
    pub fn until_closed(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.reply()).collect()
    }
}

/// The types of replies in order.
pub fn kinds(replies: &[Reply]) -> String {
    replies.iter().map(|reply| reply.kind).collect()
}

/// SQLSTATE of the only error.
pub fn sqlstate(replies: &[Reply]) -> String {
    let errors: Vec<_> = replies.iter().filter(|reply| reply.kind == 'E').collect();
    assert_eq!(errors.len(), 1, "{replies:?}");
    errors[0].field('C').unwrap()
}

/// Values of the rows, as bytes.
pub fn rows(replies: &[Reply]) -> Vec<Vec<Option<Vec<u8>>>> {
    replies
        .iter()
        .filter(|reply| reply.kind == 'D')
        .map(|reply| row(&reply.body))
        .collect()
}

fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let (count, mut rest) = body.split_at(2);
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(count.try_into().unwrap()) {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        values.push(usize::try_from(length).ok().map(|n| {
            let (value, after) = rest.split_at(n);
            rest = after;
            value.to_vec()
        }));
    }
    assert!(rest.is_empty(), "bytes after the last value");
    values
}
