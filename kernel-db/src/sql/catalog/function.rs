//! Functions of the user's and what they compile to.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::{Catalog, serial};
use crate::error::{Error, Result};
use crate::sql::exec::ExecCtx;
use crate::sql::plan::Expr;
use crate::sql::{DataType, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    Sql,
    Plpgsql,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArgMode {
    In,
    Out,
    InOut,
    /// A column of RETURNS TABLE.
    Table,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionArg {
    /// Lower case unless it was quoted; empty if it has none.
    pub name: String,
    #[serde(with = "serial::data_type")]
    pub data_type: DataType,
    pub mode: ArgMode,
    /// SQL text.
    pub default: Option<String>,
}

/// What a call gives back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returns {
    /// `Void`, a scalar type, or `Record` (columns then name its fields).
    #[serde(with = "serial::data_type")]
    pub data_type: DataType,
    /// SETOF or TABLE.
    pub set: bool,
    /// Columns of OUT parameters, TABLE, or SETOF a table's row type; empty for a scalar.
    pub columns: Vec<(String, ColumnType)>,
}

/// A type as the catalogue writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnType(#[serde(with = "serial::data_type")] pub DataType);

/// One overload of a function.
#[derive(Serialize, Deserialize)]
pub struct FunctionDef {
    pub id: u32,
    pub name: String,
    pub args: Vec<FunctionArg>,
    pub returns: Returns,
    pub language: Language,
    /// Text between the dollar quotes.
    pub body: String,
    pub strict: bool,
    /// Compiled on first use at this schema version; a body that does not compile says so at each call.
    #[serde(skip)]
    compiled: OnceLock<Result<Arc<dyn Procedure>>>,
}

/// A compiled body.
pub trait Procedure: Debug + Send + Sync {
    /// Runs with one value per input argument, already cast to the arguments' types.
    fn call(&self, ctx: &mut ExecCtx<'_>, args: &[Value]) -> Result<Returned>;
    /// Index among the *input* arguments of the one that every statement routes by.
    fn partition_param(&self) -> Option<usize>;
    /// True if no statement reads or writes a table.
    fn touches_no_table(&self) -> bool;
    /// True if a call may write.
    fn writes(&self) -> bool;
    /// The one expression over its parameters that it is, if it is no more than that, and the expression's type.
    fn expression(&self) -> Option<&(Expr, DataType)> {
        None
    }
}

/// Result of a call. A row has one value per column of `Returns::columns`, or one value for a scalar.
#[derive(Clone, Debug, PartialEq)]
pub enum Returned {
    /// A scalar, `Null` for void, a `Value::Record` for several OUT parameters.
    One(Value),
    /// SETOF and TABLE: one entry per row.
    Set(Vec<Vec<Value>>),
}

/// Expressions are compared by this text: it says which function, and not what is compiled, which may call it again.
impl Debug for FunctionDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}{:?}", self.name, self.id, self.arg_types())
    }
}

impl FunctionDef {
    pub fn new(
        id: u32,
        name: String,
        args: Vec<FunctionArg>,
        returns: Returns,
        language: Language,
        body: String,
        strict: bool,
    ) -> Self {
        Self {
            id,
            name,
            args,
            returns,
            language,
            body,
            strict,
            compiled: OnceLock::new(),
        }
    }

    /// Arguments a caller passes.
    pub fn inputs(&self) -> impl Iterator<Item = &FunctionArg> {
        self.args
            .iter()
            .filter(|a| matches!(a.mode, ArgMode::In | ArgMode::InOut))
    }

    /// Types of the input arguments: what tells overloads apart.
    pub fn arg_types(&self) -> Vec<DataType> {
        self.inputs().map(|a| a.data_type).collect()
    }

    /// A copy without the compiled body, for the next schema version.
    pub fn fresh(&self) -> Self {
        Self {
            id: self.id,
            name: self.name.clone(),
            args: self.args.clone(),
            returns: self.returns.clone(),
            language: self.language,
            body: self.body.clone(),
            strict: self.strict,
            compiled: OnceLock::new(),
        }
    }

    /// The compiled body, compiling it on first use. A call met while the same function is being compiled (recursion) must
    /// not ask for it: see [`FunctionDef::compiling`].
    pub fn compiled(&self, catalog: &Arc<Catalog>) -> Result<&Arc<dyn Procedure>> {
        let compiled = match self.compiled.get() {
            Some(compiled) => compiled,
            None => {
                let made = compiling::within(self.id, || match self.language {
                    Language::Plpgsql => crate::sql::plpgsql::compile(catalog, self),
                    Language::Sql => crate::sql::exec::compile_sql_function(catalog, self),
                })?;
                self.compiled.get_or_init(|| made)
            }
        };
        compiled.as_ref().map_err(Error::clone)
    }

    /// Compiles without keeping the result: CREATE FUNCTION checks the body this way.
    pub fn check(&self, catalog: &Arc<Catalog>) -> Result<()> {
        self.compiled(catalog).map(|_| ())
    }

    /// True while this thread compiles this function: a recursive call has no known partition yet.
    pub fn compiling(&self) -> bool {
        compiling::contains(self.id)
    }
}

mod compiling {
    use std::cell::{Cell, RefCell};

    use crate::error::{Error, Result};
    use crate::sql::exec::CALL_DEPTH_MAX;

    thread_local! {
        /// Functions that are being compiled, each because the one before it calls it.
        static STACK: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
        static TOO_DEEP: Cell<bool> = const { Cell::new(false) };
    }

    /// For one function: its expressions may nest as deep as any.
    const STACK_BYTES: usize = 4 << 20;

    struct Guard;

    impl Drop for Guard {
        fn drop(&mut self) {
            STACK.with_borrow_mut(|s| s.pop());
        }
    }

    /// What `compile` gives. 54001 if that many functions call each other, each the next: then none of them is compiled, as
    /// what a caller is depends on what it calls.
    pub fn within<T>(id: u32, compile: impl FnOnce() -> T) -> Result<T> {
        let depth = STACK.with_borrow(Vec::len);
        if depth == 0 {
            TOO_DEEP.set(false);
        }
        // Once is enough: a caller asks more than once, and so does its own.
        if depth >= CALL_DEPTH_MAX as usize || TOO_DEEP.get() {
            TOO_DEEP.set(true);
            return Err(too_deep());
        }
        STACK.with_borrow_mut(|s| s.push(id));
        let guard = Guard;
        let made = stacker::maybe_grow(STACK_BYTES, 2 * STACK_BYTES, compile);
        drop(guard);
        match TOO_DEEP.get() {
            true => Err(too_deep()),
            false => Ok(made),
        }
    }

    fn too_deep() -> Error {
        let message = format!("more than {CALL_DEPTH_MAX} functions call each other in a row");
        Error::new("54001", message).hint("put some of them together")
    }

    pub fn contains(id: u32) -> bool {
        STACK.with_borrow(|s| s.contains(&id))
    }
}
