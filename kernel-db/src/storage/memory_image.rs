//! The twin's whole state as bytes: what stands for the files of a checkpoint in simulation.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::memory::Image;
use super::state::{StateMeta, Versioned};
use crate::error::{Error, Result};

impl Image {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        for number in [
            self.meta.applied_index,
            self.meta.applied_term,
            self.meta.last_ts,
            self.meta.ceiling,
            self.watermark,
        ] {
            out.put_u64(number);
        }
        put_bytes(&mut out, &self.meta.members);
        out.put_u64(self.current.len() as u64);
        for (key, row) in &self.current {
            put_bytes(&mut out, key);
            put_row(&mut out, row);
        }
        out.put_u64(self.history.len() as u64);
        for ((key, end), row) in &self.history {
            out.put_u64(*end);
            put_bytes(&mut out, key);
            put_row(&mut out, row);
        }
        out.put_u64(self.sessions.len() as u64);
        for ((session, place), (number, reply)) in &self.sessions {
            out.put_u128(*session);
            out.put_u64(*place);
            out.put_u64(*number);
            put_bytes(&mut out, reply);
        }
        out.put_u64(self.evicted.len() as u64);
        self.evicted
            .keys()
            .for_each(|session| out.put_u128(*session));
        out.freeze()
    }

    pub(super) fn decode(mut from: Bytes) -> Result<Self> {
        let from = &mut from;
        let mut image = Self {
            meta: StateMeta {
                applied_index: number(from)?,
                applied_term: number(from)?,
                last_ts: number(from)?,
                ceiling: number(from)?,
                members: Bytes::new(),
            },
            watermark: number(from)?,
            ..Self::default()
        };
        image.meta.members = bytes(from)?;
        for _ in 0..number(from)? {
            let key = bytes(from)?;
            image.current.insert(key, row(from)?);
        }
        for _ in 0..number(from)? {
            let end = number(from)?;
            image.history.insert((bytes(from)?, end), row(from)?);
        }
        for _ in 0..number(from)? {
            let place = (session(from)?, number(from)?);
            image.sessions.insert(place, (number(from)?, bytes(from)?));
        }
        for _ in 0..number(from)? {
            image.evicted.insert(session(from)?, ());
        }
        Ok(image)
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u64(bytes.len() as u64);
    out.put_slice(bytes);
}

fn put_row(out: &mut BytesMut, row: &Versioned) {
    out.put_u64(row.ts);
    put_bytes(out, &row.value);
}

fn number(from: &mut Bytes) -> Result<u64> {
    from.try_get_u64().map_err(|_| cut_off())
}

fn session(from: &mut Bytes) -> Result<u128> {
    from.try_get_u128().map_err(|_| cut_off())
}

fn bytes(from: &mut Bytes) -> Result<Bytes> {
    let length = number(from)? as usize;
    if length > from.len() {
        return Err(cut_off());
    }
    Ok(from.split_to(length))
}

fn row(from: &mut Bytes) -> Result<Versioned> {
    Ok(Versioned {
        ts: number(from)?,
        value: bytes(from)?,
    })
}

fn cut_off() -> Error {
    Error::internal("an image of the state is cut off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_comes_back_as_it_was() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let row = |ts, value| Versioned {
            ts,
            value: bytes(value),
        };
        let mut image = Image {
            watermark: 3,
            ..Image::default()
        };
        image.meta.applied_index = 9;
        image.meta.members = bytes("members");
        image.current.insert(bytes("k"), row(8, "v"));
        image.history.insert((bytes("k"), 8), row(4, "old"));
        image.sessions.insert((7, 1), (1025, bytes("reply")));
        image.evicted.insert(6, ());
        let encoded = image.encode();
        assert_eq!(Image::decode(encoded.clone()).unwrap(), image);
        for end in 0..encoded.len() {
            assert!(Image::decode(encoded.slice(..end)).is_err());
        }
    }
}
