//! Random statements from a seed, over three tables: mostly valid, with known outcomes whatever plan is chosen.
//!
//! What would make both sides right and yet different is avoided: errors that depend on which rows or operands are
//! looked at first (so divisors are constants and products stay small), LIMIT without a full order, sums of inexact
//! floats, and updates of many keys at once.

mod expr;

use expr::{Column, Scope, Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub struct Generator {
    rng: StdRng,
}

const A: [(&str, Type); 6] = [
    ("k", Type::Int),
    ("g", Type::Int),
    ("v", Type::Int),
    ("t", Type::Text),
    ("b", Type::Bool),
    ("f", Type::Float),
];
const P: [(&str, Type); 4] = [
    ("k1", Type::Int),
    ("k2", Type::Int),
    ("x", Type::Text),
    ("n", Type::Int),
];
const C: [(&str, Type); 2] = [("i", Type::Int), ("s", Type::Text)];

fn columns(table: &'static [(&'static str, Type)], alias: &str) -> Vec<Column> {
    let prefix = if alias.is_empty() {
        String::new()
    } else {
        format!("{alias}.")
    };
    table
        .iter()
        .map(|(name, kind)| Column {
            name: format!("{prefix}{name}"),
            kind: *kind,
        })
        .collect()
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub fn setup(&self) -> Vec<String> {
        [
            "CREATE TABLE a (k int4 PRIMARY KEY, g int4, v int8, t text, b bool, f float8)",
            "CREATE TABLE p (k1 int4, k2 int4, x text DEFAULT 'dflt', n int2 CHECK (n < 18), PRIMARY KEY (k1, k2))",
            "CREATE TABLE c (i int4 NOT NULL, s text)",
            "CREATE INDEX a_g ON a (g)",
            "CREATE INDEX a_gv ON a (g, v DESC)",
            "CREATE INDEX p_xn ON p (x, n)",
        ]
        .map(str::to_string)
        .to_vec()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.rng.random_range(0..list.len())]
    }

    pub fn statement(&mut self) -> String {
        match self.rng.random_range(0..100) {
            0..17 => self.insert(),
            17..27 => self.update(),
            27..32 => self.delete(),
            32..40 => self.constants(),
            40..62 => self.filter(),
            62..74 => self.grouped(),
            74..87 => self.joined(),
            87..96 => self.subquery(),
            _ => self.union(),
        }
    }

    fn scope(&mut self, columns: Vec<Column>) -> Scope<'_> {
        Scope {
            rng: &mut self.rng,
            columns,
        }
    }

    fn insert(&mut self) -> String {
        let rows = self.rng.random_range(1..4);
        match self.rng.random_range(0..10) {
            0..5 => {
                let values: Vec<String> = (0..rows).map(|_| self.row_of_a()).collect();
                let mut sql = format!(
                    "INSERT INTO a (k, g, v, t, b, f) VALUES {}",
                    values.join(", ")
                );
                match self.rng.random_range(0..5) {
                    0 => sql += " ON CONFLICT DO NOTHING",
                    1 => {
                        sql +=
                            " ON CONFLICT (k) DO UPDATE SET g = EXCLUDED.g, t = a.t || EXCLUDED.t"
                    }
                    2 => sql += " ON CONFLICT (k) DO UPDATE SET v = a.v + 1 WHERE a.g > EXCLUDED.g",
                    _ => {}
                }
                if self.chance(30) {
                    sql + " RETURNING k, g, t"
                } else {
                    sql
                }
            }
            5..8 => {
                let values: Vec<String> = (0..rows)
                    .map(|_| {
                        let (k1, k2, n) = (
                            self.rng.random_range(0..8),
                            self.rng.random_range(0..12),
                            self.rng.random_range(-3..20),
                        );
                        let x = self.scope(Vec::new()).literal(Type::Text);
                        format!("({k1}, {k2}, {x}, {n})")
                    })
                    .collect();
                format!("INSERT INTO p (k1, k2, x, n) VALUES {}", values.join(", "))
            }
            8 => {
                let mut scope = self.scope(Vec::new());
                let (i, s) = (scope.literal(Type::Int), scope.literal(Type::Text));
                format!("INSERT INTO c VALUES ({i}, {s})")
            }
            _ => {
                let from = self.rng.random_range(100..120);
                let condition = self.scope(columns(&A, "")).of(Type::Bool, 1);
                format!("INSERT INTO c SELECT k + {from}, t FROM a WHERE k % 5 = 0 AND {condition}")
            }
        }
    }

    fn row_of_a(&mut self) -> String {
        let k = self.rng.random_range(0..80);
        let mut scope = self.scope(Vec::new());
        let values =
            [Type::Int, Type::Int, Type::Text, Type::Bool, Type::Float].map(|t| scope.literal(t));
        format!("({k}, {})", values.join(", "))
    }

    fn update(&mut self) -> String {
        let key = self.rng.random_range(0..80);
        match self.rng.random_range(0..8) {
            0 => format!(
                "UPDATE a SET k = {} WHERE k = {key}",
                self.rng.random_range(0..80)
            ),
            1 => {
                let n = self.scope(columns(&P, "")).of(Type::Int, 1);
                format!("UPDATE p SET n = {n} WHERE k1 = {}", key % 8)
            }
            2 => format!(
                "UPDATE c SET s = s || i WHERE i = {}",
                self.rng.random_range(-5..20)
            ),
            _ => {
                let mut scope = self.scope(columns(&A, ""));
                let set = match scope.rng.random_range(0..5) {
                    0 => format!("g = {}", scope.of(Type::Int, 1)),
                    1 => format!("v = {}", scope.of(Type::Int, 1)),
                    2 => format!("t = left({}, 8)", scope.of(Type::Text, 1)),
                    3 => format!("b = {}, g = g + 1", scope.of(Type::Bool, 1)),
                    _ => format!("f = {}", scope.literal(Type::Float)),
                };
                let condition = scope.of(Type::Bool, 2);
                // Values must not grow from round to round.
                let bounded = "abs(g) < 1000 AND abs(v) < 1000";
                let returning = if self.chance(30) {
                    " RETURNING k, g, v"
                } else {
                    ""
                };
                format!("UPDATE a SET {set} WHERE {bounded} AND {condition}{returning}")
            }
        }
    }

    fn delete(&mut self) -> String {
        let rest = self.rng.random_range(0..9);
        match self.rng.random_range(0..6) {
            0 => format!("DELETE FROM p WHERE k1 = {} AND k2 > {rest}", rest % 8),
            1 => format!("DELETE FROM c WHERE i = {rest} OR i > 100"),
            2 => format!("DELETE FROM a WHERE k = {}", rest * 7),
            _ => {
                let condition = self.scope(columns(&A, "")).of(Type::Bool, 1);
                format!("DELETE FROM a WHERE k % 9 = {rest} AND {condition} RETURNING k")
            }
        }
    }

    /// No tables, so that errors may happen: what comes first is the same on both sides.
    fn constants(&mut self) -> String {
        let kind = *self.pick(&[Type::Int, Type::Text, Type::Bool, Type::Float]);
        let mut scope = self.scope(Vec::new());
        let expr = scope.of(kind, 3);
        match scope.rng.random_range(0..8) {
            0 => format!("SELECT ({})::text::int4", scope.of(Type::Text, 1)),
            1 => format!(
                "SELECT {} / ({})",
                scope.of(Type::Int, 1),
                scope.of(Type::Int, 1)
            ),
            2 => format!("SELECT ({})::int2, {expr}", scope.of(Type::Float, 2)),
            _ => format!("SELECT {expr}"),
        }
    }

    fn table(&mut self) -> (&'static str, Vec<Column>, &'static str) {
        match self.rng.random_range(0..10) {
            0..7 => ("a", columns(&A, ""), "k"),
            7..9 => ("p", columns(&P, ""), "k1, k2"),
            _ => ("c", columns(&C, ""), ""),
        }
    }

    fn filter(&mut self) -> String {
        let (table, columns, key) = self.table();
        let mut scope = self.scope(columns);
        let list: Vec<String> = (0..scope.rng.random_range(1..4))
            .map(|_| {
                let kind = scope.kind();
                scope.of(kind, 2)
            })
            .collect();
        let condition = if scope.rng.random_bool(0.7) {
            scope.access()
        } else {
            scope.of(Type::Bool, 2)
        };
        let mut sql = format!("SELECT {} FROM {table} WHERE {condition}", list.join(", "));
        if scope.rng.random_bool(0.15) {
            return sql.replacen("SELECT", "SELECT DISTINCT", 1);
        }
        if !key.is_empty() && scope.rng.random_bool(0.6) {
            let kind = scope.kind();
            let order = scope.column_of(kind).unwrap_or_else(|| key.to_string());
            let direction =
                ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"][scope.rng.random_range(0..4)];
            sql += &format!(" ORDER BY {order}{direction}, {key}");
            if scope.rng.random_bool(0.6) {
                sql += &format!(" LIMIT {}", scope.rng.random_range(0..8));
            }
            if scope.rng.random_bool(0.3) {
                sql += &format!(" OFFSET {}", scope.rng.random_range(0..5));
            }
        }
        sql
    }

    fn grouped(&mut self) -> String {
        let (table, columns, _) = self.table();
        let mut scope = self.scope(columns);
        let kind = scope.kind();
        let key = scope.of(kind, 1);
        let aggregates: Vec<String> = (0..scope.rng.random_range(1..4))
            .map(|_| scope.aggregate())
            .collect();
        let condition = scope.of(Type::Bool, 2);
        let list = aggregates.join(", ");
        if scope.rng.random_bool(0.3) {
            return format!("SELECT {list} FROM {table} WHERE {condition}");
        }
        let having = if scope.rng.random_bool(0.3) {
            " HAVING count(*) > 1"
        } else {
            ""
        };
        format!("SELECT {key} AS key, {list} FROM {table} WHERE {condition} GROUP BY key{having}")
    }

    fn joined(&mut self) -> String {
        let (left, right) = match self.rng.random_range(0..3) {
            0 => (("a", columns(&A, "x")), ("p", columns(&P, "y"))),
            1 => (("p", columns(&P, "x")), ("a", columns(&A, "y"))),
            _ => (("a", columns(&A, "x")), ("a", columns(&A, "y"))),
        };
        let join = *self.pick(&["JOIN", "LEFT JOIN", "JOIN", "LEFT JOIN", "CROSS JOIN"]);
        let on_left = self
            .scope(left.1.clone())
            .column_of(Type::Int)
            .unwrap_or_default();
        let on_right = self
            .scope(right.1.clone())
            .column_of(Type::Int)
            .unwrap_or_default();
        let mut scope = self.scope([left.1, right.1].concat());
        let on = match join {
            "CROSS JOIN" => String::new(),
            _ if scope.rng.random_bool(0.3) => {
                format!(" ON {on_left} = {on_right} AND {}", scope.of(Type::Bool, 1))
            }
            _ => format!(" ON {on_left} = {on_right}"),
        };
        let condition = scope.of(Type::Bool, 2);
        let from = format!("{} x {join} {} y{on} WHERE {condition}", left.0, right.0);
        match scope.rng.random_range(0..3) {
            0 => format!("SELECT {} FROM {from}", scope.aggregate()),
            1 => {
                let (key, aggregate) = (scope.of(Type::Int, 1), scope.aggregate());
                format!("SELECT {key}, {aggregate} FROM {from} GROUP BY 1")
            }
            _ => {
                let (one, two) = (scope.of(Type::Int, 1), scope.of(Type::Text, 1));
                format!("SELECT {one}, {two} FROM {from}")
            }
        }
    }

    fn subquery(&mut self) -> String {
        let inner = self.scope(columns(&P, "y")).of(Type::Bool, 1);
        let link = self
            .scope(columns(&P, "y"))
            .column_of(Type::Int)
            .unwrap_or_default();
        let outer = self
            .scope(columns(&A, "x"))
            .column_of(Type::Int)
            .unwrap_or_default();
        let mut scope = self.scope(columns(&A, "x"));
        let condition = scope.of(Type::Bool, 1);
        let aggregate =
            ["count(*)", "max(y.n)", "min(y.x)", "sum(y.k2)"][scope.rng.random_range(0..4)];
        match scope.rng.random_range(0..6) {
            0 => format!(
                "SELECT x.k FROM a x WHERE EXISTS (SELECT 1 FROM p y WHERE {link} = {outer} AND {inner})"
            ),
            1 => format!(
                "SELECT x.k FROM a x WHERE NOT EXISTS (SELECT 1 FROM p y WHERE {link} = {outer}) AND {condition}"
            ),
            2 => format!(
                "SELECT x.k FROM a x WHERE {outer} IN (SELECT {link} FROM p y WHERE {inner})"
            ),
            3 => format!(
                "SELECT x.k FROM a x WHERE {outer} NOT IN (SELECT {link} FROM p y WHERE {inner}) OR {condition}"
            ),
            4 => format!(
                "SELECT x.k, (SELECT {aggregate} FROM p y WHERE {link} = {outer}) AS s FROM a x WHERE {condition}"
            ),
            _ => {
                let sub = format!("SELECT k1, {aggregate} AS m FROM p y WHERE {inner} GROUP BY k1");
                format!(
                    "SELECT x.k, z.m FROM a x JOIN ({sub}) z ON z.k1 = {outer} WHERE {condition}"
                )
            }
        }
    }

    fn union(&mut self) -> String {
        let one = self.scope(columns(&A, "")).of(Type::Int, 1);
        let two = self.scope(columns(&P, "")).of(Type::Int, 1);
        let condition = self.scope(columns(&P, "")).access();
        format!(
            "SELECT {one} AS n FROM a WHERE k < 20 UNION ALL SELECT {two} FROM p WHERE {condition}"
        )
    }
}
