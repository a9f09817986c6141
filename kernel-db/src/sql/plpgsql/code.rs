//! What a procedure compiles to: a tree of statements over the slots of one frame.

use super::ast::{Condition, Level};
use crate::error::Error;
use crate::sql::prepare::{Prepared, PreparedExpr};
use crate::sql::{DataType, Value};

/// Number of a loop or labelled block that EXIT and CONTINUE can name.
pub type Target = usize;

/// A compiled procedure.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    /// Frame at the start, without arguments: these take the first slots.
    pub frame: Vec<Value>,
    pub inputs: usize,
    pub found: usize,
    pub result: ResultShape,
    pub body: Vec<Code>,
    pub partition_param: Option<usize>,
    pub touches_tables: bool,
    pub writes: bool,
}

/// How a procedure's result is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultShape {
    Void,
    Scalar(DataType),
    /// OUT parameters.
    Out(Vec<usize>),
    Set,
}

/// An expression whose value is converted to a slot's type where SQL has no cast for it, through its text.
#[derive(Debug)]
pub struct Value1 {
    pub expr: PreparedExpr,
    pub convert: Option<DataType>,
}

/// A slot that is assigned to.
#[derive(Clone, Debug)]
pub struct Place {
    pub slot: usize,
    pub convert: Option<DataType>,
    /// varchar(n).
    pub max_len: Option<u32>,
    /// Name of a variable that refuses NULL.
    pub not_null: Option<String>,
}

#[derive(Debug)]
pub enum Code {
    Block(Box<BlockCode>),
    Assign(Place, Value1),
    /// The first row of the query to the fields of a record; NULLs if there is no row, or no query.
    AssignRow {
        query: Option<Prepared>,
        into: Vec<Place>,
    },
    If {
        arms: Vec<(PreparedExpr, Vec<Code>)>,
        otherwise: Vec<Code>,
    },
    Case {
        operand: Option<(usize, PreparedExpr)>,
        arms: Vec<(PreparedExpr, Vec<Code>)>,
        otherwise: Option<Vec<Code>>,
    },
    Loop {
        target: Target,
        condition: Option<PreparedExpr>,
        body: Vec<Code>,
    },
    ForRange(Box<ForRangeCode>),
    ForQuery {
        target: Target,
        query: Prepared,
        into: Vec<Place>,
        body: Vec<Code>,
    },
    Leave {
        again: bool,
        target: Target,
        when: Option<PreparedExpr>,
    },
    Return(Option<Value1>),
    ReturnNext(NextRow),
    ReturnQuery(Prepared),
    Raise(Box<RaiseCode>),
    Assert {
        condition: PreparedExpr,
        message: Option<PreparedExpr>,
    },
    Sql {
        statement: Prepared,
        into: Option<IntoCode>,
    },
    Diagnostics(Vec<(Place, Item)>),
    /// A statement that does not fit the schema.
    Fail(Error),
}

/// One row of the result.
#[derive(Debug)]
pub enum NextRow {
    Value(Value1),
    Slots(Vec<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    RowCount,
    State,
    Message,
    Detail,
    Hint,
}

#[derive(Debug)]
pub struct IntoCode {
    pub strict: bool,
    /// More than one row is an error even without STRICT: INSERT, UPDATE, DELETE.
    pub single: bool,
    pub places: Vec<Place>,
}

#[derive(Debug)]
pub struct BlockCode {
    pub target: Target,
    /// Declared variables in order: initial value, NULL without one.
    pub variables: Vec<(Place, Option<Value1>)>,
    pub body: Vec<Code>,
    pub handlers: Vec<HandlerCode>,
    /// Slots of SQLSTATE and SQLERRM in the handlers.
    pub state: usize,
    pub message: usize,
}

#[derive(Debug)]
pub struct HandlerCode {
    pub conditions: Vec<Condition>,
    pub body: Vec<Code>,
}

#[derive(Debug)]
pub struct ForRangeCode {
    pub target: Target,
    pub slot: usize,
    pub reverse: bool,
    pub from: Value1,
    pub to: Value1,
    pub by: Option<Value1>,
    pub body: Vec<Code>,
}

#[derive(Debug)]
pub struct RaiseCode {
    pub level: Level,
    pub format: Option<String>,
    pub arguments: Vec<PreparedExpr>,
    pub state: Option<String>,
    pub name: Option<String>,
    pub using: Vec<(UsingOption, PreparedExpr)>,
    pub again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsingOption {
    Message,
    Detail,
    Hint,
    Errcode,
    /// COLUMN, CONSTRAINT, DATATYPE, TABLE, SCHEMA: fields the kernel's errors do not carry.
    Other,
}
