//! Framing: a length (u32, big endian), then one `Frame`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::proto::{Frame, frame};
use crate::error::{Error, Result};

/// Bytes of one frame at most: a log entry's bound with room to spare; anything longer is a broken peer.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Room made for every read.
const READ_BYTES: usize = 64 << 10;

pub fn encode_frame(body: frame::Body) -> Bytes {
    let frame = Frame { body: Some(body) };
    let length = frame.encoded_len();
    let mut out = BytesMut::with_capacity(4 + length);
    out.put_u32(length as u32);
    frame.encode_raw(&mut out);
    out.freeze()
}

/// Reads frames off a stream, many for each read(2).
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(READ_BYTES),
        }
    }

    /// The next frame; `None` when the other side closed. Payloads share the read buffer, without a copy.
    pub async fn next(&mut self) -> Result<Option<frame::Body>> {
        loop {
            if let Some(body) = self.take()? {
                return Ok(Some(body));
            }
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) => return Err(broken(e)),
            }
        }
    }

    fn take(&mut self) -> Result<Option<frame::Body>> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(broken(format!("frame of {length} bytes")));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let bytes = self.buffer.split_to(length).freeze();
        let frame = Frame::decode(bytes).map_err(broken)?;
        // A kind of frame that this version does not know decodes to none: the peer is newer than the protocol it named.
        frame
            .body
            .map(Some)
            .ok_or_else(|| broken("frame of unknown kind"))
    }
}

fn broken(what: impl std::fmt::Display) -> Error {
    Error::retry("08P01", format!("connection between nodes: {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::proto::{Call, SnapshotTs, call};
    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<frame::Body>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut reader = FrameReader::new(bytes);
            let mut out = Vec::new();
            while let Some(body) = reader.next().await? {
                out.push(body);
            }
            Ok(out)
        })
    }

    fn call(id: u64) -> frame::Body {
        frame::Body::Call(Call {
            id,
            seen: id,
            body: Some(call::Body::SnapshotTs(SnapshotTs { group: 7 })),
        })
    }

    #[test]
    fn frames_come_back_in_order() {
        let mut bytes = Vec::new();
        for id in 0..100 {
            bytes.extend_from_slice(&encode_frame(call(id)));
        }
        assert_eq!(
            read_all(&bytes).unwrap(),
            (0..100).map(call).collect::<Vec<_>>()
        );
        // A frame that is cut off is never delivered.
        assert_eq!(read_all(&bytes[..bytes.len() - 1]).unwrap().len(), 99);
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(read_all(&[0xff; 16]).is_err());
        assert!(read_all(&[0, 0, 0, 2, 0xff, 0xff]).is_err());
    }
}
