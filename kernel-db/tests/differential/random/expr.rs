//! Random expressions of a wanted type over the columns in sight.

use rand::Rng;
use rand::rngs::StdRng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int,
    Text,
    Bool,
    Float,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Type,
}

pub struct Scope<'a> {
    pub rng: &'a mut StdRng,
    pub columns: Vec<Column>,
}

const WORDS: [&str; 12] = [
    "", "a", "b", "ab", "abc", "Abc", "x y", "zz", "ba", "it''s", "10", "a_b",
];
const PATTERNS: [&str; 8] = ["a%", "%b", "%b%", "_", "a_c", "%", "", "a\\_b"];

impl Scope<'_> {
    fn range(&mut self, from: i32, to: i32) -> i32 {
        self.rng.random_range(from..to)
    }

    pub fn kind(&mut self) -> Type {
        [Type::Int, Type::Int, Type::Text, Type::Bool, Type::Float][self.rng.random_range(0..5)]
    }

    pub fn literal(&mut self, kind: Type) -> String {
        if self.range(0, 100) < 8 {
            return match kind {
                Type::Int => "NULL::int4",
                Type::Text => "NULL::text",
                Type::Bool => "NULL::bool",
                Type::Float => "NULL::float8",
            }
            .to_string();
        }
        match kind {
            Type::Int => format!("{}", self.range(-5, 20)),
            Type::Text => format!("'{}'", WORDS[self.rng.random_range(0..WORDS.len())]),
            Type::Bool => ["true", "false"][self.rng.random_range(0..2)].to_string(),
            // Quarters are exact, so sums do not depend on their order.
            Type::Float => format!("{}::float8", f64::from(self.range(-20, 60)) / 4.0),
        }
    }

    pub fn column_of(&mut self, kind: Type) -> Option<String> {
        let fitting: Vec<&Column> = self.columns.iter().filter(|c| c.kind == kind).collect();
        if fitting.is_empty() {
            return None;
        }
        Some(
            fitting[self.rng.random_range(0..fitting.len())]
                .name
                .clone(),
        )
    }

    fn leaf(&mut self, kind: Type) -> String {
        if self.range(0, 100) < 65
            && let Some(column) = self.column_of(kind)
        {
            return column;
        }
        self.literal(kind)
    }

    pub fn of(&mut self, kind: Type, depth: u32) -> String {
        if depth == 0 || self.range(0, 100) < 15 {
            return self.leaf(kind);
        }
        match self.range(0, 12) {
            0 => {
                let (when, then, other) = (
                    self.of(Type::Bool, depth - 1),
                    self.of(kind, depth - 1),
                    self.of(kind, depth - 1),
                );
                format!("CASE WHEN {when} THEN {then} ELSE {other} END")
            }
            1 => format!(
                "COALESCE({}, {})",
                self.of(kind, depth - 1),
                self.literal(kind)
            ),
            _ => match kind {
                Type::Int => self.int(depth - 1),
                Type::Text => self.text(depth - 1),
                Type::Bool => self.bool(depth - 1),
                Type::Float => self.float(depth - 1),
            },
        }
    }

    fn int(&mut self, depth: u32) -> String {
        let one = self.of(Type::Int, depth);
        match self.range(0, 12) {
            0..3 => format!("({one} + {})", self.of(Type::Int, depth)),
            3..5 => format!("({one} - {})", self.of(Type::Int, depth)),
            5 => format!("({one} * {})", self.range(-3, 4)),
            6 => format!("({one} % {})", self.range(1, 9)),
            7 => format!("({one} / {})", self.range(1, 9)),
            8 => format!("abs({one})"),
            9 => format!("length({})", self.of(Type::Text, depth)),
            10 => format!("GREATEST({one}, {})", self.of(Type::Int, depth)),
            _ => format!("NULLIF({one}, {})", self.range(0, 5)),
        }
    }

    fn text(&mut self, depth: u32) -> String {
        let one = self.of(Type::Text, depth);
        match self.range(0, 11) {
            0..2 => format!("({one} || {})", self.of(Type::Text, depth)),
            2 => format!("upper({one})"),
            3 => format!("lower({one})"),
            4 => format!(
                "substring({one}, {}, {})",
                self.range(-1, 4),
                self.range(0, 5)
            ),
            5 => format!("left({one}, {})", self.range(-2, 4)),
            6 => format!("right({one}, {})", self.range(-2, 4)),
            7 => format!("replace({one}, 'a', {})", self.literal(Type::Text)),
            8 => format!("reverse({one})"),
            9 => format!("({})::text", self.of(Type::Int, depth)),
            _ => format!("lpad({one}, {}, 'xy')", self.range(0, 6)),
        }
    }

    fn bool(&mut self, depth: u32) -> String {
        match self.range(0, 14) {
            0..4 => self.comparison(Type::Int, depth),
            4 => self.comparison(Type::Text, depth),
            5 => self.comparison(Type::Float, depth),
            6..8 => format!(
                "({} AND {})",
                self.of(Type::Bool, depth),
                self.of(Type::Bool, depth)
            ),
            8 => format!(
                "({} OR {})",
                self.of(Type::Bool, depth),
                self.of(Type::Bool, depth)
            ),
            9 => format!("NOT ({})", self.of(Type::Bool, depth)),
            10 => {
                let kind = self.kind();
                let not = if self.range(0, 2) == 0 { "" } else { "NOT " };
                format!("({} IS {not}NULL)", self.of(kind, depth))
            }
            11 => {
                let (value, from) = (self.of(Type::Int, depth), self.range(-3, 10));
                format!("({value} BETWEEN {from} AND {})", from + self.range(-1, 8))
            }
            12 => {
                let not = if self.range(0, 3) == 0 { "NOT " } else { "" };
                let list: Vec<String> = (0..self.range(1, 4))
                    .map(|_| self.literal(Type::Int))
                    .collect();
                format!(
                    "({} {not}IN ({}))",
                    self.of(Type::Int, depth),
                    list.join(", ")
                )
            }
            _ => {
                let pattern = PATTERNS[self.rng.random_range(0..PATTERNS.len())];
                let like = ["LIKE", "NOT LIKE", "ILIKE"][self.rng.random_range(0..3)];
                format!("({} {like} '{pattern}')", self.of(Type::Text, depth))
            }
        }
    }

    fn comparison(&mut self, kind: Type, depth: u32) -> String {
        let operator = [
            "=",
            "<>",
            "<",
            "<=",
            ">",
            ">=",
            "IS DISTINCT FROM",
            "IS NOT DISTINCT FROM",
        ][self.rng.random_range(0..8)];
        format!(
            "({} {operator} {})",
            self.of(kind, depth),
            self.of(kind, depth)
        )
    }

    fn float(&mut self, depth: u32) -> String {
        let one = self.of(Type::Float, depth);
        match self.range(0, 6) {
            0 => format!("({one} + {})", self.of(Type::Float, depth)),
            1 => format!("({one} - {})", self.of(Type::Float, depth)),
            2 => format!("({one} * 2)"),
            3 => format!("({})::float8", self.of(Type::Int, depth)),
            4 => format!("floor({one})"),
            _ => format!("abs({one})"),
        }
    }

    /// A condition that an index or the primary key may serve.
    pub fn access(&mut self) -> String {
        let Some(column) = self.column_of(Type::Int) else {
            return "true".to_string();
        };
        let rest = self.of(Type::Bool, 1);
        let value = self.range(0, 20);
        match self.range(0, 7) {
            0 => format!("{column} = {value}"),
            1 => format!("{column} = {value} AND {rest}"),
            2 => format!("{column} > {value} AND {column} <= {}", value + 9),
            3 => format!("{column} IN ({value}, {}, {value})", value + 3),
            4 => format!("{column} = {value} OR {column} = {}", value + 1),
            5 => {
                let other = self.column_of(Type::Int).unwrap_or_default();
                format!("{column} = {value} AND {other} >= {}", self.range(-5, 10))
            }
            _ => format!("{column} < {value} AND {rest}"),
        }
    }

    pub fn aggregate(&mut self) -> String {
        let (int, text) = (self.of(Type::Int, 1), self.of(Type::Text, 1));
        match self.range(0, 12) {
            0..2 => "count(*)".to_string(),
            2 => format!("count({text})"),
            3 => format!("count(DISTINCT {int})"),
            4..6 => format!("sum({int})"),
            6 => format!("min({text})"),
            7 => format!("max({int})"),
            8 => format!("avg({int})"),
            9 => format!("sum({})", self.of(Type::Float, 1)),
            10 => format!("bool_or({})", self.of(Type::Bool, 1)),
            _ => format!("string_agg({text}, ',' ORDER BY {text})"),
        }
    }
}
