//! Which keys the state store may hold beside those in the tip: a Bloom filter over the keys evicted from one table.
//!
//! A table that was whole knew all its keys. What the state store holds without a slot in the tip was evicted since, so a
//! key that has no slot and is not in the filter is absent: inserting into a table that outgrew its memory need not ask
//! the state store whether the key is new. A false positive costs that read.
//!
//! What holds: a key that was added is found. Bound: 5.6 million keys in 11 MiB; past it the filter says maybe to all.

use xxhash_rust::xxh3::xxh3_64;

/// Keys of the first layer; each further one has four times as many.
const FIRST_KEYS: usize = 1 << 14;
const GROWTH: usize = 4;
const LAYERS_MAX: usize = 5;
const BITS_PER_KEY: usize = 16;
/// Bits set per key, all in one block: one cache line is looked at per layer.
const PROBES: u32 = 6;
const BLOCK_BITS: usize = 512;

type Block = [u64; BLOCK_BITS / 64];

#[derive(Debug)]
struct Layer {
    blocks: Vec<Block>,
    room: usize,
}

#[derive(Debug, Default)]
pub(super) struct Filter {
    layers: Vec<Layer>,
    full: bool,
}

impl Layer {
    fn new(keys: usize) -> Self {
        Self {
            blocks: vec![Block::default(); keys * BITS_PER_KEY / BLOCK_BITS],
            room: keys,
        }
    }

    fn place(&self, hash: u64) -> usize {
        // Mixed once more: the probes take 54 of the hash's bits as they are.
        let mixed = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 32) as usize * self.blocks.len()) >> 32
    }
}

/// Word and bit of each probe.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |n| {
        let bit = (hash >> (9 * n)) as usize % BLOCK_BITS;
        (bit / 64, 1 << (bit % 64))
    })
}

impl Filter {
    pub(super) fn add(&mut self, key: &[u8]) {
        if self.full {
            return;
        }
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            if self.layers.len() == LAYERS_MAX {
                *self = Self {
                    layers: Vec::new(),
                    full: true,
                };
                return;
            }
            let growth = GROWTH.pow(self.layers.len() as u32);
            self.layers.push(Layer::new(FIRST_KEYS * growth));
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.room -= 1;
            let hash = xxh3_64(key);
            let place = layer.place(hash);
            for (word, bit) in probes(hash) {
                layer.blocks[place][word] |= bit;
            }
        }
    }

    /// False: the key was never added.
    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        if self.full || self.layers.is_empty() {
            return self.full;
        }
        let hash = xxh3_64(key);
        self.layers.iter().any(|layer| {
            let block = &layer.blocks[layer.place(hash)];
            probes(hash).all(|(word, bit)| block[word] & bit != 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let mut filter = Filter::default();
        assert!(!filter.may_have(b"key"));
        let keys = 200_000_u64;
        for number in 0..keys {
            filter.add(&number.to_be_bytes());
        }
        assert!((0..keys).all(|number| filter.may_have(&number.to_be_bytes())));
        let others = keys..2 * keys;
        let wrong = others.filter(|number| filter.may_have(&number.to_be_bytes()));
        let wrong = wrong.count();
        assert!(wrong < keys as usize / 50, "{wrong} false positives");
    }

    #[test]
    fn a_full_filter_says_maybe() {
        let mut filter = Filter {
            layers: (0..LAYERS_MAX).map(|_| Layer::new(64)).collect(),
            ..Filter::default()
        };
        for layer in &mut filter.layers {
            layer.room = 0;
        }
        filter.add(b"one too many");
        assert!(filter.may_have(b"anything"));
    }
}
