//! The table of functions, and PostgreSQL's rules for choosing among those of one name.

use super::{Eval, Function, Volatility, bytes, datetime, format, math, misc, string};
use crate::error::{Error, Result};
use crate::sql::cast::{CastContext, can_cast, common_type};
use crate::sql::{Category, DataType};

use DataType::{Bytea, Float8, Int4, Int8, Interval, Numeric, Text, Timestamptz, Unknown, Uuid};
use Volatility::{Immutable, Stable, Volatile};

/// One function of a fixed number of arguments. All of them are strict.
struct Overload {
    name: &'static str,
    args: &'static [DataType],
    ret: DataType,
    volatility: Volatility,
    eval: Eval,
}

const fn f(name: &'static str, args: &'static [DataType], ret: DataType, eval: Eval) -> Overload {
    Overload {
        name,
        args,
        ret,
        volatility: Immutable,
        eval,
    }
}

const fn with(volatility: Volatility, overload: Overload) -> Overload {
    Overload {
        volatility,
        ..overload
    }
}

static OVERLOADS: &[Overload] = &[
    f("abs", &[DataType::Int2], DataType::Int2, math::abs),
    f("abs", &[Int4], Int4, math::abs),
    f("abs", &[Int8], Int8, math::abs),
    f("abs", &[Numeric], Numeric, math::abs),
    f("abs", &[Float8], Float8, math::abs),
    f("ceil", &[Numeric], Numeric, math::ceil),
    f("ceil", &[Float8], Float8, math::ceil),
    f("ceiling", &[Numeric], Numeric, math::ceil),
    f("ceiling", &[Float8], Float8, math::ceil),
    f("floor", &[Numeric], Numeric, math::floor),
    f("floor", &[Float8], Float8, math::floor),
    f("round", &[Numeric], Numeric, math::round),
    f("round", &[Float8], Float8, math::round),
    f("round", &[Numeric, Int4], Numeric, math::round),
    f("trunc", &[Numeric], Numeric, math::trunc),
    f("trunc", &[Float8], Float8, math::trunc),
    f("trunc", &[Numeric, Int4], Numeric, math::trunc),
    f("sign", &[Numeric], Numeric, math::sign),
    f("sign", &[Float8], Float8, math::sign),
    f("sqrt", &[Numeric], Numeric, math::sqrt),
    f("sqrt", &[Float8], Float8, math::sqrt),
    f("power", &[Float8, Float8], Float8, math::power),
    f("pow", &[Float8, Float8], Float8, math::power),
    f("exp", &[Float8], Float8, math::exp),
    f("ln", &[Float8], Float8, math::ln),
    f("log", &[Float8], Float8, math::log10),
    f("log10", &[Float8], Float8, math::log10),
    f("pi", &[], Float8, math::pi),
    f("div", &[Numeric, Numeric], Numeric, math::div),
    f(
        "mod",
        &[DataType::Int2, DataType::Int2],
        DataType::Int2,
        super::arithmetic::int2_modulo,
    ),
    f("mod", &[Int4, Int4], Int4, super::arithmetic::int4_modulo),
    f("mod", &[Int8, Int8], Int8, super::arithmetic::int8_modulo),
    f(
        "mod",
        &[Numeric, Numeric],
        Numeric,
        super::arithmetic::numeric_modulo,
    ),
    with(Volatile, f("random", &[], Float8, math::random)),
    f("length", &[Text], Int4, string::length),
    f("length", &[Bytea], Int4, string::length),
    f("char_length", &[Text], Int4, string::length),
    f("character_length", &[Text], Int4, string::length),
    f("octet_length", &[Text], Int4, string::octet_length),
    f("octet_length", &[Bytea], Int4, string::octet_length),
    f("lower", &[Text], Text, string::lower),
    f("upper", &[Text], Text, string::upper),
    f("initcap", &[Text], Text, string::initcap),
    f("substr", &[Text, Int4], Text, string::substr),
    f("substr", &[Text, Int4, Int4], Text, string::substr),
    f("substr", &[Bytea, Int4], Bytea, string::substr),
    f("substr", &[Bytea, Int4, Int4], Bytea, string::substr),
    f("substring", &[Text, Int4], Text, string::substr),
    f("substring", &[Text, Int4, Int4], Text, string::substr),
    f("substring", &[Bytea, Int4], Bytea, string::substr),
    f("substring", &[Bytea, Int4, Int4], Bytea, string::substr),
    f("btrim", &[Text], Text, string::btrim),
    f("btrim", &[Text, Text], Text, string::btrim),
    f("trim", &[Text], Text, string::btrim),
    f("trim", &[Text, Text], Text, string::btrim),
    f("ltrim", &[Text], Text, string::ltrim),
    f("ltrim", &[Text, Text], Text, string::ltrim),
    f("rtrim", &[Text], Text, string::rtrim),
    f("rtrim", &[Text, Text], Text, string::rtrim),
    f("replace", &[Text, Text, Text], Text, string::replace),
    f("translate", &[Text, Text, Text], Text, string::translate),
    f("position", &[Text, Text], Int4, string::strpos),
    f("strpos", &[Text, Text], Int4, string::strpos),
    f("left", &[Text, Int4], Text, string::left),
    f("right", &[Text, Int4], Text, string::right),
    f("repeat", &[Text, Int4], Text, string::repeat),
    f("reverse", &[Text], Text, string::reverse),
    f("lpad", &[Text, Int4], Text, string::lpad),
    f("lpad", &[Text, Int4, Text], Text, string::lpad),
    f("rpad", &[Text, Int4], Text, string::rpad),
    f("rpad", &[Text, Int4, Text], Text, string::rpad),
    f("split_part", &[Text, Text, Int4], Text, string::split_part),
    f(
        "starts_with",
        &[Text, Text],
        DataType::Bool,
        string::starts_with,
    ),
    f("ascii", &[Text], Int4, string::ascii),
    f("chr", &[Int4], Text, string::chr),
    f("md5", &[Text], Text, bytes::md5),
    f("md5", &[Bytea], Text, bytes::md5),
    f("to_hex", &[Int4], Text, bytes::to_hex),
    f("to_hex", &[Int8], Text, bytes::to_hex),
    f("encode", &[Bytea, Text], Text, bytes::encode),
    f("decode", &[Text, Text], Bytea, bytes::decode),
    f("get_byte", &[Bytea, Int4], Int4, bytes::get_byte),
    with(Stable, f("now", &[], Timestamptz, datetime::now)),
    with(
        Stable,
        f("current_timestamp", &[], Timestamptz, datetime::now),
    ),
    with(
        Stable,
        f("transaction_timestamp", &[], Timestamptz, datetime::now),
    ),
    with(
        Stable,
        f("statement_timestamp", &[], Timestamptz, datetime::now),
    ),
    with(
        Volatile,
        f("clock_timestamp", &[], Timestamptz, datetime::now),
    ),
    f(
        "to_timestamp",
        &[Float8],
        Timestamptz,
        datetime::to_timestamp,
    ),
    with(
        Stable,
        f("extract", &[Text, Timestamptz], Numeric, datetime::extract),
    ),
    f("extract", &[Text, Interval], Numeric, datetime::extract),
    with(
        Stable,
        f(
            "date_part",
            &[Text, Timestamptz],
            Float8,
            datetime::date_part,
        ),
    ),
    f("date_part", &[Text, Interval], Float8, datetime::date_part),
    with(
        Stable,
        f(
            "date_trunc",
            &[Text, Timestamptz],
            Timestamptz,
            datetime::date_trunc,
        ),
    ),
    with(
        Volatile,
        f("gen_random_uuid", &[], Uuid, misc::gen_random_uuid),
    ),
    with(
        Volatile,
        f(
            "wait_for_change",
            &[Float8],
            DataType::Bool,
            misc::wait_for_change,
        ),
    ),
    with(
        Volatile,
        f("lease_reads", &[Int8, Int4], Int8, misc::lease_reads),
    ),
    with(
        Volatile,
        f(
            "lease_recalls",
            &[Int8, Int8, Float8],
            Int8,
            misc::lease_recalls,
        ),
    ),
    with(Stable, f("version", &[], Text, misc::version)),
    with(Stable, f("current_schema", &[], Text, misc::current_schema)),
    with(Stable, f("current_user", &[], Text, misc::current_user)),
    with(Stable, f("session_user", &[], Text, misc::current_user)),
    with(Stable, f("user", &[], Text, misc::current_user)),
    with(
        Stable,
        f("current_database", &[], Text, misc::current_database),
    ),
    with(
        Stable,
        f("current_catalog", &[], Text, misc::current_database),
    ),
    f("quote_literal", &[Text], Text, format::quote_literal),
    f("quote_ident", &[Text], Text, format::quote_ident),
];

/// The functions that take any types.
const VARIADIC: [&str; 8] = [
    "greatest",
    "least",
    "concat",
    "concat_ws",
    "format",
    "pg_typeof",
    "num_nulls",
    "num_nonnulls",
];

/// Whether there is a function of exactly this signature.
pub fn is_built_in(name: &str, args: &[DataType]) -> bool {
    let same = |overload: &Overload| overload.name == name && overload.args == args;
    OVERLOADS.iter().any(same)
}

/// Whether a name is a scalar function's, whatever its arguments.
pub fn is_function(name: &str) -> bool {
    OVERLOADS.iter().any(|overload| overload.name == name)
        || VARIADIC.contains(&name)
        || name == "quote_nullable"
        || matches!(
            name,
            "array_length" | "array_upper" | "array_lower" | "cardinality" | "array_to_string"
        )
}

/// Chooses a function by its lower-case name (`pg_catalog.` may stand before it) and its arguments' types. 42883 if there
/// is none, 42725 if several fit equally well.
pub fn resolve_function(name: &str, args: &[DataType]) -> Result<Function> {
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    if let Some(function) = super::array::resolve(name, args) {
        return Ok(function);
    }
    if let Some(function) = resolve_special(name, args)? {
        return Ok(function);
    }
    let candidates: Vec<&Overload> = OVERLOADS
        .iter()
        .filter(|overload| overload.name == name && overload.args.len() == args.len())
        .collect();
    let chosen = choose(&candidates, args).ok_or_else(|| does_not_exist(name, args))?;
    let [overload] = chosen[..] else {
        let message = format!("function {} is not unique", signature(name, args));
        return Err(Error::new("42725", message).hint(
            "Could not choose a best candidate function. You might need to add explicit type casts.",
        ));
    };
    Ok(Function {
        name: overload.name,
        args: overload.args.to_vec(),
        ret: overload.ret,
        strict: true,
        volatility: overload.volatility,
        eval: overload.eval,
    })
}

/// 42883 for a call that fits no function, in PostgreSQL's words.
pub fn does_not_exist(name: &str, args: &[DataType]) -> Error {
    Error::new("42883", format!("function {} does not exist", signature(name, args))).hint(
        "No function matches the given name and argument types. You might need to add explicit type casts.",
    )
}

fn signature(name: &str, args: &[DataType]) -> String {
    let types: Vec<&str> = args.iter().map(|arg| arg.name()).collect();
    format!("{name}({})", types.join(", "))
}

/// Functions whose argument types follow from the call.
fn resolve_special(name: &str, args: &[DataType]) -> Result<Option<Function>> {
    // A literal of unknown type is text for a function that takes anything.
    let any: Vec<DataType> = args
        .iter()
        .map(|arg| if *arg == Unknown { Text } else { *arg })
        .collect();
    let (name, args, ret, volatility, eval): (_, _, _, _, Eval) = match (name, args.len()) {
        ("greatest", 1..) => {
            let common = common_type(args, "GREATEST")?;
            (
                "greatest",
                vec![common; args.len()],
                common,
                Immutable,
                misc::greatest,
            )
        }
        ("least", 1..) => {
            let common = common_type(args, "LEAST")?;
            (
                "least",
                vec![common; args.len()],
                common,
                Immutable,
                misc::least,
            )
        }
        ("concat", 1..) => ("concat", any, Text, Stable, string::concat),
        ("concat_ws", 2..) | ("format", 1..) => {
            if !can_cast(args[0], Text, CastContext::Implicit) {
                return Err(does_not_exist(name, args));
            }
            if name == "format" {
                ("format", any, Text, Stable, format::format)
            } else {
                ("concat_ws", any, Text, Stable, string::concat_ws)
            }
        }
        ("pg_typeof", 1) => ("pg_typeof", any, Text, Stable, misc::pg_typeof(args[0])),
        ("num_nulls", 1..) => ("num_nulls", any, Int4, Immutable, misc::num_nulls),
        ("num_nonnulls", 1..) => ("num_nonnulls", any, Int4, Immutable, misc::num_nonnulls),
        ("quote_nullable", 1) => (
            "quote_nullable",
            vec![Text],
            Text,
            Stable,
            format::quote_nullable,
        ),
        // quote_literal(anyelement) quotes the text of anything.
        ("quote_literal", 1) => (
            "quote_literal",
            vec![Text],
            Text,
            Stable,
            format::quote_literal,
        ),
        _ => return Ok(None),
    };
    let strict = name == "quote_literal";
    Ok(Some(Function {
        name,
        args,
        ret,
        strict,
        volatility,
        eval,
    }))
}

/// PostgreSQL's func_select_candidate: what remains after each rule, until one is left. `None` if nothing fits.
fn choose<'a>(candidates: &[&'a Overload], args: &[DataType]) -> Option<Vec<&'a Overload>> {
    if let Some(exact) = candidates.iter().find(|candidate| candidate.args == args) {
        return Some(vec![exact]);
    }
    let mut left: Vec<&Overload> = candidates
        .iter()
        .copied()
        .filter(|candidate| {
            let mut pairs = args.iter().zip(candidate.args);
            pairs.all(|(from, to)| can_cast(*from, *to, CastContext::Implicit))
        })
        .collect();
    if left.is_empty() {
        return None;
    }
    // Varchar counts as text: it is the same representation.
    let base: Vec<DataType> = args
        .iter()
        .map(|arg| {
            if *arg == DataType::Varchar {
                Text
            } else {
                *arg
            }
        })
        .collect();
    keep_most(&mut left, |candidate| {
        base.iter()
            .zip(candidate.args)
            .filter(|(from, to)| **from != Unknown && from == to)
            .count()
    });
    keep_most(&mut left, |candidate| {
        let exact_or_preferred = |(from, to): &(&DataType, &DataType)| {
            **from != Unknown
                && (from == to || to.is_preferred() && from.category() == to.category())
        };
        base.iter()
            .zip(candidate.args)
            .filter(exact_or_preferred)
            .count()
    });
    if left.len() > 1 {
        settle_unknowns(&mut left, &base);
    }
    Some(left)
}

fn keep_most(left: &mut Vec<&Overload>, score: impl Fn(&Overload) -> usize) {
    let best = left
        .iter()
        .map(|candidate| score(candidate))
        .max()
        .unwrap_or(0);
    left.retain(|candidate| score(candidate) == best);
}

/// For literals of unknown type: the category the candidates agree on, strings above all, and its preferred type; then
/// the type that all known arguments share.
fn settle_unknowns(left: &mut Vec<&Overload>, args: &[DataType]) {
    let unknown: Vec<usize> = (0..args.len()).filter(|at| args[*at] == Unknown).collect();
    let saved = left.clone();
    for &at in &unknown {
        let category_of = |candidate: &&Overload| candidate.args[at].category();
        let first = left.first().map(category_of);
        let category = if left.iter().any(|c| category_of(c) == Category::String) {
            Some(Category::String)
        } else if left.iter().all(|c| Some(category_of(c)) == first) {
            first
        } else {
            None
        };
        let Some(category) = category else {
            *left = saved;
            break;
        };
        left.retain(|candidate| category_of(candidate) == category);
        if left
            .iter()
            .any(|candidate| candidate.args[at].is_preferred())
        {
            left.retain(|candidate| candidate.args[at].is_preferred());
        }
    }
    if left.len() <= 1 || unknown.is_empty() {
        return;
    }
    let known: Vec<DataType> = args.iter().copied().filter(|arg| *arg != Unknown).collect();
    let Some(first) = known.first() else { return };
    if known.iter().all(|arg| arg == first) {
        let same: Vec<&Overload> = left
            .iter()
            .copied()
            .filter(|candidate| unknown.iter().all(|at| candidate.args[*at] == *first))
            .collect();
        if same.len() == 1 {
            *left = same;
        }
    }
}
