//! Window functions: values that a row gets from the rows of its partition.

use super::expr::Expr;
use crate::sql::DataType;
use crate::sql::aggregate::Aggregate;

/// One call with its OVER. Its expressions see the row of FROM, or the group's.
#[derive(Clone, Debug)]
pub struct WindowCall {
    pub function: WindowFunction,
    pub args: Vec<Expr>,
    pub filter: Option<Expr>,
    pub partition: Vec<Expr>,
    /// (key, descending, nulls first).
    pub order: Vec<(Expr, bool, bool)>,
    pub frame: WindowFrame,
    pub data_type: DataType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowFunction {
    RowNumber,
    Rank,
    DenseRank,
    PercentRank,
    CumeDist,
    Ntile,
    Lag,
    Lead,
    FirstValue,
    LastValue,
    NthValue,
    /// Over the rows of the frame.
    Aggregate(Aggregate),
}

/// Rows of the partition that an aggregate, first_value and the like look at.
#[derive(Clone, Debug)]
pub struct WindowFrame {
    /// ROWS: CURRENT ROW is the row alone. RANGE: it is the row with its peers.
    pub rows: bool,
    pub start: FrameBound,
    pub end: FrameBound,
}

#[derive(Clone, Debug)]
pub enum FrameBound {
    /// UNBOUNDED PRECEDING as a start, UNBOUNDED FOLLOWING as an end.
    Unbounded,
    /// So many rows before; a bigint.
    Preceding(Expr),
    CurrentRow,
    Following(Expr),
}

impl WindowCall {
    pub fn expressions(&self, f: &mut dyn FnMut(&Expr)) {
        self.args.iter().for_each(&mut *f);
        self.filter.iter().for_each(&mut *f);
        self.partition.iter().for_each(&mut *f);
        self.order.iter().for_each(|(e, ..)| f(e));
        for bound in [&self.frame.start, &self.frame.end] {
            if let FrameBound::Preceding(e) | FrameBound::Following(e) = bound {
                f(e);
            }
        }
    }

    pub fn expressions_mut(&mut self, f: &mut dyn FnMut(&mut Expr)) {
        self.row_expressions(f);
        for bound in [&mut self.frame.start, &mut self.frame.end] {
            if let FrameBound::Preceding(e) | FrameBound::Following(e) = bound {
                f(e);
            }
        }
    }

    /// Those evaluated for each row.
    pub fn row_expressions<'e>(&'e mut self, f: &mut dyn FnMut(&'e mut Expr)) {
        let Self {
            args,
            filter,
            partition,
            order,
            ..
        } = self;
        args.iter_mut().for_each(&mut *f);
        filter.iter_mut().for_each(&mut *f);
        partition.iter_mut().for_each(&mut *f);
        order.iter_mut().for_each(|(e, ..)| f(e));
    }
}
