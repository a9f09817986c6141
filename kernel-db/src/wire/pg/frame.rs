//! Cuts the client's byte stream into messages.
//!
//! The codec's decoders trust their input: they index past the end of a short body and read on into the next message. So
//! a message is cut out first, its structure is checked against its length, and only then it is decoded. What cannot be
//! resynchronised (unknown type, impossible length, broken structure) is a fatal 08P01; a text that is not UTF-8 is an
//! ordinary 22021. Left out: COPY data, which is ignored outside COPY as PostgreSQL does, and FunctionCall (0A000).

use bytes::{Buf, BytesMut};
use pgwire::messages::extendedquery::{Bind, Close, Describe, Execute, Parse};
use pgwire::messages::simplequery::Query;
use pgwire::messages::{DecodeContext, Message};

use crate::error::{Error, Result};

/// Type byte and length.
const HEADER: usize = 5;

/// A message of the client after startup.
#[derive(Debug)]
pub enum Frontend {
    Query(String),
    Parse(Parse),
    Bind(Bind),
    Describe(Describe),
    Execute(Execute),
    Close(Close),
    Flush,
    Sync,
    Terminate,
    /// COPY data outside of COPY.
    Ignored,
    /// Well-formed, but not acceptable; the connection goes on. `extended`: errors last until Sync.
    Refused {
        error: Error,
        extended: bool,
    },
}

/// The next whole message and its size on the wire, or `None` if more bytes are needed. An error is fatal.
pub fn next(input: &mut BytesMut, max_bytes: usize) -> Result<Option<(Frontend, usize)>> {
    if input.is_empty() {
        return Ok(None);
    }
    let kind = input[0];
    if !b"QPBDECHSXFdcf".contains(&kind) {
        return Err(protocol(format!("invalid frontend message type {kind}")));
    }
    if input.len() < HEADER {
        return Ok(None);
    }
    let length = i32::from_be_bytes([input[1], input[2], input[3], input[4]]);
    let Some(body) = usize::try_from(length).ok().and_then(|n| n.checked_sub(4)) else {
        return Err(protocol("invalid message length"));
    };
    if body > max_bytes {
        return Err(Error::new(
            "54000",
            format!("message of {body} bytes is longer than the bound of {max_bytes} bytes"),
        )
        .hint("split the work into smaller statements"));
    }
    let total = HEADER + body;
    if input.len() < total {
        // One allocation for a large message instead of one for each read.
        input.reserve(total - input.len());
        return Ok(None);
    }
    let mut frame = input.split_to(total);
    frame.advance(HEADER);
    decode(kind, frame).map(|message| Some((message, total)))
}

fn decode(kind: u8, mut body: BytesMut) -> Result<Frontend> {
    if let Err(error) = check(kind, &body)? {
        return Ok(Frontend::Refused {
            error,
            extended: kind != b'Q',
        });
    }
    let body = &mut body;
    Ok(match kind {
        b'Q' => Frontend::Query(decoded::<Query>(body)?.query),
        b'P' => Frontend::Parse(decoded(body)?),
        b'B' => Frontend::Bind(decoded(body)?),
        b'D' => Frontend::Describe(decoded(body)?),
        b'E' => Frontend::Execute(decoded(body)?),
        b'C' => Frontend::Close(decoded(body)?),
        b'H' => Frontend::Flush,
        b'S' => Frontend::Sync,
        b'X' => Frontend::Terminate,
        b'F' => Frontend::Refused {
            error: Error::unsupported("the FunctionCall message"),
            extended: false,
        },
        _ => Frontend::Ignored,
    })
}

fn decoded<M: Message>(body: &mut BytesMut) -> Result<M> {
    let length = body.len() + 4;
    M::decode_body(body, length, &DecodeContext::default())
        .map_err(|error| protocol(error.to_string()))
}

/// Checks that the body has exactly the fields of its type. The outer error is fatal, the inner one is not.
fn check(kind: u8, body: &[u8]) -> Result<Result<()>> {
    let mut fields = Fields {
        body,
        at: 0,
        utf8: true,
    };
    let whole = match kind {
        b'Q' => fields.text(),
        b'P' => fields.text() && fields.text() && fields.array(4),
        b'B' => {
            fields.text() && fields.text() && fields.array(2) && fields.values() && fields.array(2)
        }
        b'D' | b'C' => fields.target() && fields.text(),
        b'E' => fields.text() && fields.skip(4),
        b'H' | b'S' | b'X' => true,
        _ => return Ok(Ok(())),
    };
    if !whole || fields.at != body.len() {
        return Err(protocol(format!(
            "invalid message format: message type \"{}\"",
            char::from(kind)
        )));
    }
    if !fields.utf8 {
        return Ok(Err(Error::new(
            "22021",
            "invalid byte sequence for encoding \"UTF8\"",
        )));
    }
    Ok(Ok(()))
}

/// A walk over a body that never leaves it.
struct Fields<'a> {
    body: &'a [u8],
    at: usize,
    utf8: bool,
}

impl Fields<'_> {
    fn skip(&mut self, n: usize) -> bool {
        match self.at.checked_add(n) {
            Some(end) if end <= self.body.len() => {
                self.at = end;
                true
            }
            _ => false,
        }
    }

    fn text(&mut self) -> bool {
        let rest = &self.body[self.at..];
        let Some(end) = rest.iter().position(|&b| b == 0) else {
            return false;
        };
        self.utf8 &= std::str::from_utf8(&rest[..end]).is_ok();
        self.at += end + 1;
        true
    }

    fn target(&mut self) -> bool {
        matches!(self.body.get(self.at), Some(b'S' | b'P')) && self.skip(1)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes = self.body.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn array(&mut self, width: usize) -> bool {
        self.count().is_some_and(|n| self.skip(n * width))
    }

    fn values(&mut self) -> bool {
        let Some(n) = self.count() else {
            return false;
        };
        (0..n).all(|_| {
            let Some(bytes) = self.body.get(self.at..self.at + 4) else {
                return false;
            };
            let length = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            self.at += 4;
            // -1 is NULL; other negative lengths mean nothing.
            length == -1 || usize::try_from(length).is_ok_and(|n| self.skip(n))
        })
    }
}

/// The client does not speak the protocol.
pub fn protocol(message: impl Into<String>) -> Error {
    Error::new("08P01", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&[kind]);
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn every_prefix_of_a_bind_waits_and_every_shortened_body_is_refused() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\x01";
        let whole = message(b'B', body);
        for n in 0..whole.len() {
            assert!(
                next(&mut BytesMut::from(&whole[..n]), 1000)
                    .unwrap()
                    .is_none()
            );
        }
        let (bind, size) = next(&mut whole.clone(), 1000).unwrap().unwrap();
        assert_eq!(size, whole.len());
        let Frontend::Bind(bind) = bind else {
            panic!("{bind:?}")
        };
        assert_eq!(bind.parameters[0].as_deref(), Some(&b"ab"[..]));
        assert_eq!(bind.parameters[1], None);
        for n in 0..body.len() {
            let error = next(&mut message(b'B', &body[..n]), 1000).unwrap_err();
            assert_eq!(error.sqlstate(), "08P01", "cut at {n}");
        }
    }

    #[test]
    fn a_broken_message_does_not_eat_the_next_one() {
        let mut bytes = message(b'E', b"portal-without-end");
        bytes.extend_from_slice(&message(b'S', b""));
        assert_eq!(next(&mut bytes, 1000).unwrap_err().sqlstate(), "08P01");
        assert!(matches!(
            next(&mut bytes, 1000).unwrap(),
            Some((Frontend::Sync, 5))
        ));
    }

    #[test]
    fn bounds_and_encodings_are_named() {
        let long = next(&mut message(b'Q', &[b'x'; 101]), 100).unwrap_err();
        assert_eq!(long.sqlstate(), "54000");
        let mut negative = BytesMut::from(&b"Q\xff\xff\xff\xff"[..]);
        assert_eq!(next(&mut negative, 100).unwrap_err().sqlstate(), "08P01");
        let (latin, _) = next(&mut message(b'Q', b"select '\xe9'\0"), 100)
            .unwrap()
            .unwrap();
        let Frontend::Refused { error, extended } = latin else {
            panic!("{latin:?}")
        };
        assert_eq!((error.sqlstate(), extended), ("22021", false));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next(&mut input, 150) {}
        }

        #[test]
        fn random_bodies_never_panic(kind in 0usize..13, bytes in proptest::collection::vec(0u8..4, 0..60)) {
            let mut input = message(b"QPBDECHSXFdcf"[kind], &bytes);
            let _ = next(&mut input, 150);
        }
    }
}
