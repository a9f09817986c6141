//! How the rows of one table are found.

use super::expr::Expr;
use crate::sql::DataType;

#[derive(Clone, Debug)]
pub enum Access {
    /// The whole primary key is known.
    Point {
        key: Vec<KeyPart>,
    },
    Range(RangeAccess),
    /// A condition can never hold.
    Nothing,
}

/// One column of a key: an expression over the prefix, and the column's type. A value that does not fit the type (or is
/// null) matches nothing.
#[derive(Clone, Debug)]
pub struct KeyPart {
    pub expr: Expr,
    pub to: DataType,
    pub desc: bool,
}

#[derive(Clone, Debug)]
pub struct RangeAccess {
    /// Position in `Table::indexes`; none for the primary key.
    pub index: Option<usize>,
    /// Equality on the key's first columns.
    pub equal: Vec<KeyPart>,
    /// Bounds of the next column.
    pub lower: Option<Bound>,
    pub upper: Option<Bound>,
    pub reverse: bool,
    /// Which of `equal` is the partition key.
    pub slot_from: Option<usize>,
    /// The number of rows wanted is small (LIMIT): fetch in growing chunks.
    pub stops_early: bool,
}

#[derive(Clone, Debug)]
pub struct Bound {
    pub part: KeyPart,
    pub inclusive: bool,
}

impl Access {
    /// Everything, in primary key order.
    pub fn full() -> Self {
        Self::Range(RangeAccess::full())
    }

    pub fn expressions(&self, f: &mut dyn FnMut(&Expr)) {
        match self {
            Self::Point { key } => key.iter().for_each(|k| f(&k.expr)),
            Self::Range(range) => {
                range.equal.iter().for_each(|k| f(&k.expr));
                range.lower.iter().for_each(|b| f(&b.part.expr));
                range.upper.iter().for_each(|b| f(&b.part.expr));
            }
            Self::Nothing => {}
        }
    }

    pub fn expressions_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        match self {
            Self::Point { key } => key.iter_mut().for_each(|k| f(&mut k.expr)),
            Self::Range(range) => {
                range.equal.iter_mut().for_each(|k| f(&mut k.expr));
                range.lower.iter_mut().for_each(|b| f(&mut b.part.expr));
                range.upper.iter_mut().for_each(|b| f(&mut b.part.expr));
            }
            Self::Nothing => {}
        }
    }
}

impl RangeAccess {
    pub fn full() -> Self {
        Self {
            index: None,
            equal: Vec::new(),
            lower: None,
            upper: None,
            reverse: false,
            slot_from: None,
            stops_early: false,
        }
    }
}
