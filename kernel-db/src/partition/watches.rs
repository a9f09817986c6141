//! Which of those who wait for a change a written key wakes.
//!
//! The key space is cut where watched spans begin and end; each segment between two cuts knows who watches it. So a write
//! asks for its own segment only, however many wait elsewhere. Segments nobody watches are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::txn::messages::Span;

#[derive(Default)]
pub struct Watches {
    /// Who watches from this key up to the next one; nobody before the first.
    segments: BTreeMap<Bytes, Vec<u64>>,
}

impl Watches {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub fn watch(&mut self, watcher: u64, span: &Span) {
        let (from, to) = ends(span);
        if from >= to {
            return;
        }
        self.cut(&from);
        self.cut(&to);
        for (_, watchers) in self.segments.range_mut(from..to) {
            watchers.push(watcher);
        }
    }

    /// As if `watch` had not been called.
    pub fn forget(&mut self, watcher: u64, span: &Span) {
        let (from, to) = ends(span);
        if from >= to {
            return;
        }
        for (_, watchers) in self.segments.range_mut(from.clone()..to.clone()) {
            watchers.retain(|other| *other != watcher);
        }
        let cuts: Vec<Bytes> = self
            .segments
            .range(from..=to)
            .map(|(cut, _)| cut.clone())
            .collect();
        for cut in cuts {
            let before = self
                .segments
                .range::<Bytes, _>(..&cut)
                .next_back()
                .map(|(_, w)| w);
            let same = match (before, self.segments.get(&cut)) {
                (Some(before), Some(here)) => before == here,
                (None, Some(here)) => here.is_empty(),
                _ => false,
            };
            if same {
                self.segments.remove(&cut);
            }
        }
    }

    /// Adds those who watch anything in `span`.
    pub fn met(&self, span: &Span, watchers: &mut BTreeSet<u64>) {
        let (from, to) = ends(span);
        if let Some((_, here)) = self.segments.range::<Bytes, _>(..=&from).next_back() {
            watchers.extend(here);
        }
        if span.is_key() || from >= to {
            return;
        }
        let within = (Bound::Excluded(from), Bound::Excluded(to));
        for (_, here) in self.segments.range(within) {
            watchers.extend(here);
        }
    }

    /// Makes a segment begin at `at`.
    fn cut(&mut self, at: &Bytes) {
        if !self.segments.contains_key(at) {
            let before = self.segments.range::<Bytes, _>(..at).next_back();
            let watchers = before.map_or(Vec::new(), |(_, watchers)| watchers.clone());
            self.segments.insert(at.clone(), watchers);
        }
    }
}

/// Inclusive and exclusive.
fn ends(span: &Span) -> (Bytes, Bytes) {
    if span.is_key() {
        (span.from.clone(), [&span.from[..], &[0]].concat().into())
    } else {
        (span.from.clone(), span.to.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    fn met(watches: &Watches, span: &Span) -> Vec<u64> {
        let mut watchers = BTreeSet::new();
        watches.met(span, &mut watchers);
        watchers.into_iter().collect()
    }

    #[test]
    fn a_write_meets_exactly_those_whose_spans_hold_its_key() {
        // All spans of keys and ranges over five keys, each watched by one.
        let mut spans: Vec<Span> = (0..5).map(|n| Span::key(key(n))).collect();
        for from in 0..5 {
            spans.extend((from..=5).map(|to| Span::range(key(from), key(to))));
        }
        let mut watches = Watches::default();
        for (watcher, span) in spans.iter().enumerate() {
            watches.watch(watcher as u64, span);
        }
        for forgotten in 0..=spans.len() {
            for written in &spans {
                let expected: Vec<u64> = (forgotten..spans.len())
                    .filter(|at| {
                        let empty = |span: &Span| !span.is_key() && span.from >= span.to;
                        !empty(&spans[*at]) && !empty(written) && spans[*at].overlaps(written)
                    })
                    .map(|at| at as u64)
                    .collect();
                if written.is_key() || written.from < written.to {
                    assert_eq!(met(&watches, written), expected, "{written:?}");
                }
            }
            if let Some(span) = spans.get(forgotten) {
                watches.forget(forgotten as u64, span);
            }
        }
        assert!(watches.is_empty(), "nothing is left of forgotten spans");
    }
}
