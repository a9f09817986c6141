//! The protocol between nodes: length-prefixed prost frames over TCP (`proto/peer.proto`).
//!
//! Here are the messages, their framing and the translation of errors and values; sockets are `node`'s.

mod error;
mod framing;
mod value;

#[allow(missing_docs)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/dbos.peer.rs"));
}

pub use error::{from_failure, to_failure};
pub use framing::{FrameReader, encode_frame};
pub use proto::*;
pub use value::{decode_values, encode_values};

/// Version of this protocol; both sides must agree.
pub const PROTOCOL: u32 = 6;

/// Number of the answer to a `Hello` that is refused; no call has it.
pub const REFUSAL_ID: u64 = u64::MAX;
