//! Aggregate functions. DISTINCT, FILTER and ORDER BY inside of an aggregate are the executor's: it decides which rows
//! arrive here, and in which order.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;

use super::compare::compare;
use super::functions::{check_size, does_not_exist};
use super::{DataType, Value, interval, numeric};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateKind {
    CountStar,
    Count,
    Sum,
    Avg,
    Min,
    Max,
    BoolAnd,
    BoolOr,
    StringAgg,
}

/// An aggregate chosen for its arguments' types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    pub kind: AggregateKind,
    /// What the caller casts the arguments to.
    pub args: Vec<DataType>,
    pub ret: DataType,
}

/// Whether a name is an aggregate's, whatever its arguments.
pub fn is_aggregate(name: &str) -> bool {
    kind_of(name).is_some()
}

fn kind_of(name: &str) -> Option<AggregateKind> {
    Some(match name {
        "count" => AggregateKind::Count,
        "sum" => AggregateKind::Sum,
        "avg" => AggregateKind::Avg,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        "bool_and" | "every" => AggregateKind::BoolAnd,
        "bool_or" => AggregateKind::BoolOr,
        "string_agg" => AggregateKind::StringAgg,
        _ => return None,
    })
}

/// count(*).
pub fn count_star() -> Aggregate {
    Aggregate {
        kind: AggregateKind::CountStar,
        args: Vec::new(),
        ret: DataType::Int8,
    }
}

/// Chooses an aggregate by its lower-case name; `None` if no aggregate has the name, 42883 if none takes these arguments.
pub fn resolve_aggregate(name: &str, args: &[DataType]) -> Result<Option<Aggregate>> {
    use DataType::*;
    let Some(kind) = kind_of(name) else {
        return Ok(None);
    };
    let missing = || does_not_exist(name, args);
    let one = match args {
        [] if kind == AggregateKind::Count => {
            let message = "count(*) must be used to call a parameterless aggregate function";
            return Err(Error::new("42809", message));
        }
        [one] if kind != AggregateKind::StringAgg => *one,
        [text, separator] if kind == AggregateKind::StringAgg => {
            let bytes = *text == Bytea;
            let arg = if bytes { Bytea } else { Text };
            let fits = |given: &DataType| {
                *given == Unknown
                    || if bytes {
                        *given == Bytea
                    } else {
                        given.is_string()
                    }
            };
            if !fits(text) || !fits(separator) {
                return Err(missing());
            }
            return Ok(Some(Aggregate {
                kind,
                args: vec![arg, arg],
                ret: arg,
            }));
        }
        _ => return Err(missing()),
    };
    let (arg, ret) = match (kind, one) {
        (AggregateKind::Count, _) => (if one == Unknown { Text } else { one }, Int8),
        (AggregateKind::Sum, Int2 | Int4) => (one, Int8),
        (AggregateKind::Sum | AggregateKind::Avg, Int8 | Numeric) => (one, Numeric),
        (AggregateKind::Avg, Int2 | Int4) => (one, Numeric),
        (AggregateKind::Sum | AggregateKind::Avg, Float8) => (Float8, Float8),
        (AggregateKind::Sum | AggregateKind::Avg, Interval) => (Interval, Interval),
        (AggregateKind::Sum | AggregateKind::Avg, Unknown) => {
            return Err(Error::new("42725", format!("function {name}(unknown) is not unique"))
                .hint("Could not choose a best candidate function. You might need to add explicit type casts."));
        }
        (AggregateKind::Min | AggregateKind::Max, Unknown | Varchar) => (Text, Text),
        (AggregateKind::Min | AggregateKind::Max, Bool | Uuid | Bytea | Void | Record) => {
            return Err(missing());
        }
        (AggregateKind::Min | AggregateKind::Max, other) => (other, other),
        (AggregateKind::BoolAnd | AggregateKind::BoolOr, Bool | Unknown) => (Bool, Bool),
        _ => return Err(missing()),
    };
    Ok(Some(Aggregate {
        kind,
        args: vec![arg],
        ret,
    }))
}

impl Aggregate {
    /// The state of one group before its first row.
    pub fn start(&self) -> State {
        match (self.kind, self.ret) {
            (AggregateKind::CountStar | AggregateKind::Count, _) => State::Count(0),
            (AggregateKind::Min, _) => State::Extreme(Ordering::Less, Value::Null),
            (AggregateKind::Max, _) => State::Extreme(Ordering::Greater, Value::Null),
            (AggregateKind::BoolAnd, _) => State::Bool(true, None),
            (AggregateKind::BoolOr, _) => State::Bool(false, None),
            (AggregateKind::StringAgg, DataType::Bytea) => State::Bytes(None),
            (AggregateKind::StringAgg, _) => State::Text(None),
            (_, DataType::Float8) => State::Float { sum: 0.0, count: 0 },
            (_, DataType::Interval) => State::Interval {
                sum: (0, 0, 0),
                count: 0,
            },
            (_, DataType::Int8) => State::Int { sum: 0, count: 0 },
            _ if self.args.first().is_some_and(|arg| arg.is_int()) => {
                State::Int { sum: 0, count: 0 }
            }
            _ => State::Numeric {
                sum: BigDecimal::from(0),
                count: 0,
            },
        }
    }

    /// Takes one row's arguments. NULLs are skipped, except that string_agg takes a NULL separator as none.
    #[inline]
    pub fn update(&self, state: &mut State, args: &[Value]) -> Result<()> {
        if self.kind == AggregateKind::CountStar {
            if let State::Count(count) = state {
                *count += 1;
            }
            return Ok(());
        }
        match args.first() {
            None | Some(Value::Null) => Ok(()),
            Some(value) => state.update(value, args.get(1)),
        }
    }

    /// The group's result.
    pub fn finish(&self, state: State) -> Result<Value> {
        let average = self.kind == AggregateKind::Avg;
        Ok(match state {
            State::Count(count) => Value::Int8(count),
            State::Extreme(_, value) => value,
            State::Bool(_, truth) => truth.into(),
            State::Text(text) => text.into(),
            State::Bytes(bytes) => bytes.into(),
            State::Int { count: 0, .. }
            | State::Float { count: 0, .. }
            | State::Interval { count: 0, .. }
            | State::Numeric { count: 0, .. } => Value::Null,
            State::Int { sum, .. } if self.ret == DataType::Int8 => {
                let sum =
                    i64::try_from(sum).map_err(|_| Error::new("22003", "bigint out of range"))?;
                Value::Int8(sum)
            }
            State::Int { sum, count } => average_of(BigDecimal::from(sum), count, average)?,
            State::Numeric { sum, count } => average_of(sum, count, average)?,
            State::Float { sum, count } if average => Value::Float8(sum / count as f64),
            State::Float { sum, .. } => Value::Float8(sum),
            State::Interval { sum, count } if average => interval::divide(sum, count as f64)?,
            State::Interval {
                sum: (months, days, micros),
                ..
            } => Value::Interval {
                months,
                days,
                micros,
            },
        })
    }
}

fn average_of(sum: BigDecimal, count: i64, average: bool) -> Result<Value> {
    if average {
        return Ok(Value::numeric(numeric::divide(
            &sum,
            &BigDecimal::from(count),
        )?));
    }
    Ok(Value::numeric(sum))
}

/// What a group has seen so far.
#[derive(Clone, Debug)]
pub enum State {
    Count(i64),
    /// Sums of integers: 2^64 rows of int8 fit.
    Int {
        sum: i128,
        count: i64,
    },
    Float {
        sum: f64,
        count: i64,
    },
    Numeric {
        sum: BigDecimal,
        count: i64,
    },
    Interval {
        sum: (i32, i32, i64),
        count: i64,
    },
    /// The value that compares so to all others.
    Extreme(Ordering, Value),
    /// The neutral element, and the result if any row came.
    Bool(bool, Option<bool>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl State {
    fn update(&mut self, value: &Value, separator: Option<&Value>) -> Result<()> {
        match (self, value) {
            (State::Count(count), _) => *count += 1,
            (State::Int { sum, count }, value) => {
                *sum += i128::from(value.as_int().ok_or_else(mismatch)?);
                *count += 1;
            }
            (State::Float { sum, count }, Value::Float8(number)) => {
                let finite = sum.is_finite() && number.is_finite();
                *sum += number;
                *count += 1;
                if finite && sum.is_infinite() {
                    return Err(Error::new("22003", "value out of range: overflow"));
                }
            }
            (State::Numeric { sum, count }, Value::Numeric(number)) => {
                *sum = numeric::add(sum, number)?;
                *count += 1;
            }
            (
                State::Interval { sum, count },
                Value::Interval {
                    months,
                    days,
                    micros,
                },
            ) => {
                if let Value::Interval {
                    months,
                    days,
                    micros,
                } = interval::add(*sum, (*months, *days, *micros))?
                {
                    *sum = (months, days, micros);
                }
                *count += 1;
            }
            (State::Extreme(wanted, best), value) => {
                if best.is_null() || compare(value, best) == *wanted {
                    *best = value.clone();
                }
            }
            (State::Bool(all, truth), Value::Bool(value)) => {
                let so_far = truth.unwrap_or(*all);
                *truth = Some(if *all {
                    so_far && *value
                } else {
                    so_far || *value
                });
            }
            (State::Text(text), Value::Text(value)) => {
                let separator = separator.and_then(Value::as_str).unwrap_or("");
                join_text(text, value, separator)?;
            }
            (State::Bytes(bytes), Value::Bytea(value)) => join_bytes(bytes, value, separator)?,
            _ => return Err(mismatch()),
        }
        Ok(())
    }
}

fn join_text(joined: &mut Option<String>, value: &str, separator: &str) -> Result<()> {
    match joined {
        None => *joined = Some(value.to_string()),
        Some(text) => {
            check_size(text.len() + separator.len() + value.len())?;
            text.push_str(separator);
            text.push_str(value);
        }
    }
    Ok(())
}

fn join_bytes(joined: &mut Option<Vec<u8>>, value: &[u8], separator: Option<&Value>) -> Result<()> {
    let separator: &[u8] = match separator {
        Some(Value::Bytea(separator)) => separator,
        _ => &[],
    };
    match joined {
        None => *joined = Some(value.to_vec()),
        Some(bytes) => {
            check_size(bytes.len() + separator.len() + value.len())?;
            bytes.extend_from_slice(separator);
            bytes.extend_from_slice(value);
        }
    }
    Ok(())
}

fn mismatch() -> Error {
    Error::internal("an aggregate was given a value of another type")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::text::to_text;

    fn run(name: &str, data_type: DataType, values: &[Value]) -> Option<String> {
        let aggregate = resolve_aggregate(name, &[data_type]).unwrap().unwrap();
        let mut state = aggregate.start();
        for value in values {
            aggregate
                .update(&mut state, std::slice::from_ref(value))
                .unwrap();
        }
        let result = aggregate.finish(state).unwrap();
        assert!(result.is_null() || result.data_type() == aggregate.ret);
        to_text(&result)
    }

    #[test]
    fn sums_and_averages_have_postgresql_types() {
        let ints: Vec<Value> = vec![1_i32.into(), 2_i32.into(), Value::Null, 2_i32.into()];
        assert_eq!(run("sum", DataType::Int4, &ints).unwrap(), "5");
        assert_eq!(
            run("avg", DataType::Int4, &ints).unwrap(),
            "1.6666666666666667"
        );
        assert_eq!(run("count", DataType::Int4, &ints).unwrap(), "3");
        let big: Vec<Value> = vec![i64::MAX.into(), i64::MAX.into()];
        assert_eq!(
            run("sum", DataType::Int8, &big).unwrap(),
            "18446744073709551614"
        );
        let floats: Vec<Value> = vec![1.0.into(), 2.0.into()];
        assert_eq!(run("avg", DataType::Float8, &floats).unwrap(), "1.5");
        assert_eq!(run("sum", DataType::Int4, &[]), None);
        assert_eq!(run("count", DataType::Int4, &[]).unwrap(), "0");
    }

    #[test]
    fn extremes_and_truths() {
        let texts: Vec<Value> = vec!["b".into(), Value::Null, "a".into()];
        assert_eq!(run("min", DataType::Text, &texts).unwrap(), "a");
        assert_eq!(run("max", DataType::Text, &texts).unwrap(), "b");
        let truths: Vec<Value> = vec![true.into(), Value::Null, false.into()];
        assert_eq!(run("every", DataType::Bool, &truths).unwrap(), "f");
        assert_eq!(run("bool_or", DataType::Bool, &truths).unwrap(), "t");
        assert_eq!(run("bool_or", DataType::Bool, &[]), None);
    }

    #[test]
    fn strings_are_joined() {
        let aggregate = resolve_aggregate("string_agg", &[DataType::Text, DataType::Unknown])
            .unwrap()
            .unwrap();
        let mut state = aggregate.start();
        for text in [Value::from("a"), Value::Null, Value::from("b")] {
            aggregate.update(&mut state, &[text, ", ".into()]).unwrap();
        }
        assert_eq!(aggregate.finish(state).unwrap(), "a, b".into());
    }

    #[test]
    fn byte_strings_are_joined() {
        let aggregate = resolve_aggregate("string_agg", &[DataType::Bytea, DataType::Unknown])
            .unwrap()
            .unwrap();
        let mut state = aggregate.start();
        for byte in [1_u8, 2] {
            aggregate
                .update(&mut state, &[vec![byte].into(), vec![0_u8].into()])
                .unwrap();
        }
        assert_eq!(aggregate.finish(state).unwrap(), vec![1_u8, 0, 2].into());
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let code = |name, args: &[DataType]| {
            resolve_aggregate(name, args)
                .unwrap_err()
                .sqlstate()
                .to_string()
        };
        assert_eq!(code("sum", &[DataType::Text]), "42883");
        assert_eq!(code("min", &[DataType::Bool]), "42883");
        assert_eq!(code("count", &[]), "42809");
        assert!(
            resolve_aggregate("lower", &[DataType::Text])
                .unwrap()
                .is_none()
        );
    }
}
