//! Axes: values to places, and where the marks are.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, KeyPointWeight};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Ranged;

use crate::experiments::number;

/// The least value on an axis of powers of ten.
const LOG_MIN: f64 = 1e-6;
/// Marks of an axis, about.
const MARKS: f64 = 7.0;
/// Marks nearer to each other than this share of the axis would have labels on top of each other.
const APART: f64 = 0.06;

/// Powers of ten are drawn on a linear axis of exponents, so one kind of chart serves all.
pub struct Axis {
    pub log: bool,
}

impl Axis {
    /// Where on the axis a value is.
    pub fn to(&self, value: f64) -> f64 {
        match self.log {
            true => value.max(LOG_MIN).log10(),
            false => value,
        }
    }

    pub fn label(&self, at: f64) -> String {
        match self.log {
            true => number(10f64.powf(at)),
            false => number(at),
        }
    }

    /// Places of round values between two places.
    pub fn marks(&self, low: f64, high: f64) -> Vec<f64> {
        match self.log {
            true => powers(low, high),
            false => multiples(low, high),
        }
    }

    /// Places of these values, but for those too near to the one before.
    pub fn marks_at(&self, values: impl Iterator<Item = f64>, low: f64, high: f64) -> Vec<f64> {
        let mut places: Vec<f64> = values.map(|value| self.to(value)).collect();
        places.sort_by(f64::total_cmp);
        let mut marks: Vec<f64> = Vec::new();
        for place in places {
            if marks
                .last()
                .is_none_or(|last| place - last > (high - low) * APART)
            {
                marks.push(place);
            }
        }
        marks
    }
}

/// A part of an axis with its marks.
pub struct Marked {
    range: RangedCoordf64,
    marks: Vec<f64>,
}

impl Marked {
    pub fn new((low, high): (f64, f64), marks: Vec<f64>) -> Self {
        Self {
            range: (low..high).into(),
            marks,
        }
    }
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight() {
            KeyPointWeight::Bold => self.marks.clone(),
            KeyPointWeight::Any => Vec::new(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

/// Powers of ten; where they are few, twice and five times as much too.
fn powers(low: f64, high: f64) -> Vec<f64> {
    let times: &[f64] = if high - low < 3.0 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let decades = low.floor() as i32..=high.ceil() as i32;
    let places = decades.flat_map(|power| times.iter().map(move |t| f64::from(power) + t.log10()));
    places
        .filter(|place| (low..=high).contains(place))
        .collect()
}

/// Multiples of one, two or five times a power of ten.
fn multiples(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / MARKS;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let places = (first..).map(|n| n as f64 * step);
    places.take_while(|place| *place <= high).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(log: bool, low: f64, high: f64) -> Vec<String> {
        let axis = Axis { log };
        let marks = axis.marks(axis.to(low), axis.to(high));
        marks.into_iter().map(|at| axis.label(at)).collect()
    }

    #[test]
    fn marks_are_at_round_values() {
        assert_eq!(labels(false, 0.0, 6.3), ["0", "1", "2", "3", "4", "5", "6"]);
        assert_eq!(
            labels(true, 90.0, 1.1e6),
            ["100", "1,000", "10,000", "100,000", "1,000,000"]
        );
        assert_eq!(labels(true, 900.0, 6000.0), ["1,000", "2,000", "5,000"]);
        assert_eq!(multiples(3.0, 3.0), [3.0]);
    }

    #[test]
    fn marks_at_values_are_apart() {
        let axis = Axis { log: false };
        let marks = axis.marks_at([40.0, 1.0, 2.0, 20.0, 100.0].into_iter(), 0.0, 100.0);
        assert_eq!(marks, [1.0, 20.0, 40.0, 100.0]);
    }
}
