//! From syntax tree to program: variables become slots, SQL is prepared, routes are collected.

mod block;
mod control;
mod fragment;
mod record;
mod results;

use std::sync::Arc;

use super::ast::{Block, Statement, StatementKind};
use super::code::{Code, Program, ResultShape, Target};
use super::scope::Scopes;
use crate::error::{Error, Result};
use crate::sql::catalog::{ArgMode, Catalog, FunctionDef};
use crate::sql::plan::Routing;
use crate::sql::{DataType, Value};

/// Compiles a parsed body.
pub fn compile(catalog: &Arc<Catalog>, def: &FunctionDef, block: &Block) -> Result<Program> {
    let mut compiler = Compiler::new(catalog, def);
    compiler.declare_arguments()?;
    let body = match compiler.block(block) {
        Err(error) if compiler.deferred => Code::Fail(error),
        body => body?,
    };
    Ok(compiler.finish(vec![body]))
}

/// Which slots all table accesses so far route by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sites {
    /// No table was touched.
    None,
    /// All by this slot.
    Slot(usize),
    /// By different ones, or unknown.
    Many,
}

/// A loop or block that can be left.
struct Enclosing {
    label: Option<String>,
    target: Target,
    is_loop: bool,
}

struct Compiler<'a> {
    catalog: &'a Arc<Catalog>,
    def: &'a FunctionDef,
    scopes: Scopes,
    inputs: usize,
    found: usize,
    /// Slots of OUT parameters or TABLE columns.
    outs: Vec<usize>,
    shape: ResultShape,
    enclosing: Vec<Enclosing>,
    targets: Target,
    /// Depth of exception handlers around the statement being compiled.
    handling: usize,
    sites: Sites,
    writes: bool,
    /// The error under way is one that PostgreSQL finds only when it runs the statement.
    deferred: bool,
}

impl<'a> Compiler<'a> {
    fn new(catalog: &'a Arc<Catalog>, def: &'a FunctionDef) -> Self {
        Self {
            catalog,
            def,
            scopes: Scopes::default(),
            inputs: 0,
            found: 0,
            outs: Vec::new(),
            shape: ResultShape::Void,
            enclosing: Vec::new(),
            targets: 0,
            handling: 0,
            sites: Sites::None,
            writes: false,
            deferred: false,
        }
    }

    /// Arguments take the first slots, in order; then OUT parameters and FOUND.
    fn declare_arguments(&mut self) -> Result<()> {
        let def = self.def;
        self.scopes.push(Some(
            def.name.rsplit('.').next().unwrap_or(&def.name).to_string(),
        ));
        for arg in def.inputs() {
            let slot = self.argument(&arg.name, arg.data_type)?;
            self.scopes.positional.push(slot);
            if arg.mode == ArgMode::InOut {
                self.scopes.slots[slot].assigned = true;
                self.outs.push(slot);
            }
        }
        self.inputs = self.scopes.slots.len();
        for arg in def
            .args
            .iter()
            .filter(|a| matches!(a.mode, ArgMode::Out | ArgMode::Table))
        {
            let slot = self.argument(&arg.name, arg.data_type)?;
            self.outs.push(slot);
        }
        self.found = self.scopes.declare("found", DataType::Bool, false)?;
        self.shape = match (&def.returns, self.outs.is_empty()) {
            (returns, _) if returns.set => ResultShape::Set,
            (_, false) => ResultShape::Out(self.outs.clone()),
            (returns, true) => match returns.data_type {
                DataType::Void => ResultShape::Void,
                DataType::Record => {
                    return Err(Error::unsupported("RETURNS record")
                        .hint("use OUT parameters or RETURNS TABLE"));
                }
                scalar => ResultShape::Scalar(scalar),
            },
        };
        Ok(())
    }

    fn argument(&mut self, name: &str, data_type: DataType) -> Result<usize> {
        if name.is_empty() {
            self.scopes.slot(data_type)
        } else {
            self.scopes.declare(name, data_type, false)
        }
    }

    fn finish(self, body: Vec<Code>) -> Program {
        let mut frame = vec![Value::Null; self.scopes.slots.len()];
        frame[self.found] = Value::Bool(false);
        let partition_param = match self.sites {
            Sites::Slot(slot) if slot < self.inputs && !self.scopes.slots[slot].assigned => {
                Some(slot)
            }
            _ => None,
        };
        Program {
            name: self.def.name.clone(),
            frame,
            inputs: self.inputs,
            found: self.found,
            result: self.shape,
            body,
            partition_param,
            touches_tables: self.sites != Sites::None,
            writes: self.writes,
        }
    }

    /// Takes note of what a piece of SQL touches.
    fn note(&mut self, routing: &Routing, writes: bool) {
        self.writes |= writes;
        let site = match (routing, routing.single_param()) {
            (Routing::Nothing, _) => return,
            (_, Some(slot)) => Sites::Slot(slot),
            (_, None) => Sites::Many,
        };
        self.sites = match self.sites {
            Sites::None => site,
            same if same == site => same,
            _ => Sites::Many,
        };
    }

    fn new_target(&mut self) -> Target {
        self.targets += 1;
        self.targets
    }

    fn statements(&mut self, statements: &[Statement]) -> Result<Vec<Code>> {
        let mut codes = Vec::with_capacity(statements.len());
        for statement in statements {
            if let Some(code) = self.statement(statement)? {
                codes.push(code);
            }
        }
        Ok(codes)
    }

    /// A statement; one whose SQL does not fit the schema becomes an error raised when it is reached, as in PostgreSQL.
    fn statement(&mut self, statement: &Statement) -> Result<Option<Code>> {
        let mark = (self.scopes.depth(), self.enclosing.len(), self.handling);
        match self.compile_statement(statement) {
            Err(error) if self.deferred => {
                self.deferred = false;
                self.scopes.truncate(mark.0);
                self.enclosing.truncate(mark.1);
                self.handling = mark.2;
                Ok(Some(Code::Fail(error)))
            }
            other => other,
        }
    }

    fn compile_statement(&mut self, statement: &Statement) -> Result<Option<Code>> {
        let code = match &statement.kind {
            StatementKind::Null => return Ok(None),
            StatementKind::Block(block) => self.block(block)?,
            StatementKind::Assign { target, value } => self.assign(target, value)?,
            StatementKind::If { arms, otherwise } => Code::If {
                arms: self.arms(arms)?,
                otherwise: self.statements(otherwise)?,
            },
            StatementKind::Case {
                operand,
                arms,
                otherwise,
            } => self.case(operand, arms, otherwise)?,
            StatementKind::Loop { label, body } => self.plain_loop(label, None, body)?,
            StatementKind::While {
                label,
                condition,
                body,
            } => self.plain_loop(label, Some(condition), body)?,
            StatementKind::ForRange(range) => self.for_range(range)?,
            StatementKind::ForQuery {
                label,
                targets,
                query,
                body,
            } => self.for_query(label, targets, query, body)?,
            StatementKind::Leave { again, label, when } => {
                self.leave(*again, label.as_deref(), when.as_ref())?
            }
            StatementKind::Return(value) => self.return_value(value.as_ref())?,
            StatementKind::ReturnNext(value) => self.return_next(value.as_ref())?,
            StatementKind::ReturnQuery(query) => self.return_query(query)?,
            StatementKind::Raise(raise) => self.raise(raise)?,
            StatementKind::Assert { condition, message } => {
                self.assert(condition, message.as_ref())?
            }
            StatementKind::Sql { text, into } => self.sql(text, into.as_ref())?,
            StatementKind::Perform(query) => Code::Sql {
                statement: self.prepare(query)?,
                into: None,
            },
            StatementKind::Diagnostics { stacked, items } => self.diagnostics(*stacked, items)?,
        };
        Ok(Some(code))
    }
}
