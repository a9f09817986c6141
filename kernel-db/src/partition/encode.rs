//! Changes and replies as the log payload has them (`proto/log.proto`), written without an intermediate message.
//!
//! What holds: `LogPayload::decode` gives back what was written here.

use prost::encoding::{encode_varint, encoded_len_varint};

use crate::storage::Op;

/// Keys of fields that hold bytes: number, wire type 2.
const fn bytes_field(number: u8) -> u8 {
    number << 3 | 2
}

/// Keys of fields that hold numbers: number, wire type 0.
const fn number_field(number: u8) -> u8 {
    number << 3
}

const PAYLOAD_OP: u8 = bytes_field(3);
const PAYLOAD_SESSION: u8 = bytes_field(4);
const OP_PUT: u8 = bytes_field(1);
const OP_DELETE: u8 = bytes_field(2);
const OP_DELETE_RANGE: u8 = bytes_field(3);
const PUT_KEY: u8 = bytes_field(1);
const PUT_VALUE: u8 = bytes_field(2);
const PUT_FRESH: u8 = number_field(3);
const RANGE_FROM: u8 = bytes_field(1);
const RANGE_TO: u8 = bytes_field(2);
const SESSION_ID: u8 = bytes_field(1);
const SESSION_NUMBER: u8 = number_field(2);
const SESSION_REPLY: u8 = bytes_field(3);

/// Bytes of a field that holds `length` bytes.
fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_head(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_head(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(field);
    encode_varint(length as u64, out);
}

/// Bytes of an `Op` message and of the message in it.
fn op_lens(op: &Op) -> (usize, usize) {
    match op {
        Op::Put { key, value, fresh } => {
            let put = field_len(key.len()) + field_len(value.len()) + 2 * usize::from(*fresh);
            (field_len(put), put)
        }
        Op::Delete { key } => (field_len(key.len()), key.len()),
        Op::DeleteRange { from, to } => {
            let range = field_len(from.len()) + field_len(to.len());
            (field_len(range), range)
        }
    }
}

/// Bytes that `op` appends.
pub fn op_len(op: &Op) -> usize {
    field_len(op_lens(op).0)
}

/// Appends one of `LogPayload.ops`.
pub fn op(out: &mut Vec<u8>, op: &Op) {
    let (outer, inner) = op_lens(op);
    put_head(out, PAYLOAD_OP, outer);
    match op {
        Op::Put { key, value, fresh } => {
            put_head(out, OP_PUT, inner);
            put_field(out, PUT_KEY, key);
            put_field(out, PUT_VALUE, value);
            if *fresh {
                out.extend_from_slice(&[PUT_FRESH, 1]);
            }
        }
        Op::Delete { key } => put_field(out, OP_DELETE, key),
        Op::DeleteRange { from, to } => {
            put_head(out, OP_DELETE_RANGE, inner);
            put_field(out, RANGE_FROM, from);
            put_field(out, RANGE_TO, to);
        }
    }
}

/// Appends one of `LogPayload.sessions`, whose reply is `tag` and then `reply`.
pub fn session_reply(out: &mut Vec<u8>, session: u128, number: u64, tag: u8, reply: &[u8]) {
    let kept = reply.len() + 1;
    let length = field_len(16) + 1 + encoded_len_varint(number) + field_len(kept);
    out.reserve(field_len(length));
    put_head(out, PAYLOAD_SESSION, length);
    put_field(out, SESSION_ID, &session.to_be_bytes());
    out.push(SESSION_NUMBER);
    encode_varint(number, out);
    put_head(out, SESSION_REPLY, kept);
    out.push(tag);
    out.extend_from_slice(reply);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::super::apply::payload;
    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (bytes(), bytes(), any::<bool>()).prop_map(|(key, value, fresh)| Op::Put {
                key,
                value,
                fresh
            }),
            bytes().prop_map(|key| Op::Delete { key }),
            (bytes(), bytes()).prop_map(|(from, to)| Op::DeleteRange { from, to }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_decodes(
            ops in proptest::collection::vec(any_op(), 0..20),
            replies in proptest::collection::vec((any::<u128>(), any::<u64>(), any::<u8>(), bytes()), 0..20),
        ) {
            let mut data = Vec::new();
            for op in &ops {
                let before = data.len();
                super::op(&mut data, op);
                prop_assert_eq!(data.len() - before, op_len(op));
            }
            for (session, number, tag, reply) in &replies {
                session_reply(&mut data, *session, *number, *tag, reply);
            }
            let read = payload::LogPayload::decode(Bytes::from(data)).unwrap();
            let back: Vec<Op> = read.ops.into_iter().map(|op| super::super::apply::op(op).unwrap()).collect();
            prop_assert_eq!(back, ops);
            prop_assert_eq!(read.sessions.len(), replies.len());
            for (read, (session, number, tag, reply)) in read.sessions.iter().zip(&replies) {
                prop_assert_eq!(&read.session[..], &session.to_be_bytes()[..]);
                prop_assert_eq!(read.number, *number);
                prop_assert_eq!(&read.reply[..], &[&[*tag][..], &reply[..]].concat()[..]);
            }
        }
    }
}
