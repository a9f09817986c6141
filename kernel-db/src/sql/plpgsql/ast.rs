//! Syntax tree of a procedure. SQL inside it is kept as text.

/// A piece of SQL: an expression or a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub text: String,
    /// Byte offset in the body.
    pub at: usize,
}

/// A possibly qualified name, each part in lower case unless it was quoted.
pub type Name = Vec<String>;

#[derive(Clone, Debug)]
pub struct Block {
    pub label: Option<String>,
    pub declarations: Vec<Declaration>,
    pub body: Vec<Statement>,
    pub handlers: Vec<Handler>,
}

#[derive(Clone, Debug)]
pub struct Declaration {
    pub name: String,
    pub kind: DeclarationKind,
}

#[derive(Clone, Debug)]
pub enum DeclarationKind {
    Variable {
        of: TypeName,
        constant: bool,
        not_null: bool,
        default: Option<Fragment>,
    },
    /// `name ALIAS FOR other`.
    Alias(Name),
}

#[derive(Clone, Debug)]
pub enum TypeName {
    /// SQL's name of a type.
    Sql(Fragment),
    Record,
    /// `variable%TYPE` or `table.column%TYPE`.
    SameAs(Name),
    /// `table%ROWTYPE`.
    RowOf(Name),
}

/// `WHEN conditions THEN statements` of an exception clause.
#[derive(Clone, Debug)]
pub struct Handler {
    pub conditions: Vec<Condition>,
    pub body: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Others,
    /// A SQLSTATE, or the first two characters of a class and "000".
    State(String),
}

#[derive(Clone, Debug)]
pub struct Statement {
    pub kind: StatementKind,
}

/// Where result rows go.
#[derive(Clone, Debug)]
pub struct Into {
    pub strict: bool,
    pub targets: Vec<Name>,
}

#[derive(Clone, Debug)]
pub enum StatementKind {
    Block(Block),
    Assign {
        target: Name,
        value: Fragment,
    },
    If {
        arms: Vec<(Fragment, Vec<Statement>)>,
        otherwise: Vec<Statement>,
    },
    /// With an operand each arm is a list of values, without one a condition.
    Case {
        operand: Option<Fragment>,
        arms: Vec<(Fragment, Vec<Statement>)>,
        otherwise: Option<Vec<Statement>>,
    },
    Loop {
        label: Option<String>,
        body: Vec<Statement>,
    },
    While {
        label: Option<String>,
        condition: Fragment,
        body: Vec<Statement>,
    },
    ForRange(Box<ForRange>),
    ForQuery {
        label: Option<String>,
        targets: Vec<Name>,
        query: Fragment,
        body: Vec<Statement>,
    },
    Leave {
        again: bool,
        label: Option<String>,
        when: Option<Fragment>,
    },
    Return(Option<Fragment>),
    ReturnNext(Option<Fragment>),
    ReturnQuery(Fragment),
    Raise(Box<Raise>),
    Assert {
        condition: Fragment,
        message: Option<Fragment>,
    },
    Sql {
        text: Fragment,
        into: Option<Into>,
    },
    Perform(Fragment),
    Diagnostics {
        stacked: bool,
        items: Vec<(Name, String)>,
    },
    Null,
}

#[derive(Clone, Debug)]
pub struct ForRange {
    pub label: Option<String>,
    pub variable: String,
    pub reverse: bool,
    pub from: Fragment,
    pub to: Fragment,
    pub by: Option<Fragment>,
    pub body: Vec<Statement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// DEBUG and LOG: not sent to clients by default, so dropped.
    Quiet,
    Info,
    Notice,
    Warning,
    Exception,
}

/// RAISE.
#[derive(Clone, Debug)]
pub struct Raise {
    pub level: Level,
    /// Format string; none for RAISE condition and for a bare RAISE.
    pub format: Option<String>,
    pub arguments: Vec<Fragment>,
    /// From RAISE condition_name or RAISE SQLSTATE '...'.
    pub state: Option<String>,
    /// The condition as it was named: the message if there is no other.
    pub name: Option<String>,
    /// USING option = expression.
    pub using: Vec<(String, Fragment)>,
    /// A bare RAISE in a handler: raise again what it handles.
    pub again: bool,
}
