//! CREATE SEQUENCE.

use sqlparser::ast::{self, ObjectName, SequenceOptions};

use super::Change;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::object_name;
use crate::sql::catalog::Sequence;

impl Change {
    pub(super) fn create_sequence(
        &mut self,
        name: &ObjectName,
        if_not_exists: bool,
        options: &[SequenceOptions],
        largest: i64,
        owner: Option<String>,
    ) -> Result<()> {
        let name = Self::own_name(name)?;
        if if_not_exists && self.catalog.sequence(&name).is_some() {
            self.skip_existing(&name);
            return Ok(());
        }
        self.check_free(&name)?;
        self.add_sequence(name, options, largest, owner)
    }

    /// The table named in OWNED BY: the sequence goes when the table does.
    pub(super) fn sequence_owner(&self, owned_by: Option<&ObjectName>) -> Result<Option<String>> {
        let Some(owned_by) = owned_by.filter(|o| !o.to_string().eq_ignore_ascii_case("none"))
        else {
            return Ok(None);
        };
        let (Some(table), column) = object_name(owned_by)? else {
            return Err(Error::new("42601", "invalid OWNED BY option")
                .hint("Specify OWNED BY table.column or OWNED BY NONE."));
        };
        let Some(found) = self.catalog.table(Some("public"), &table) else {
            return Err(Error::new(
                "42P01",
                format!("relation \"{table}\" does not exist"),
            ));
        };
        if found.column(&column).is_none() {
            let message = format!("column \"{column}\" of relation \"{table}\" does not exist");
            return Err(Error::new("42703", message));
        }
        Ok(Some(table))
    }

    /// The sequence of a serial or identity column; its name.
    pub(super) fn column_sequence(
        &mut self,
        table: &str,
        column: &str,
        options: &[SequenceOptions],
        largest: i64,
    ) -> Result<String> {
        let base = format!("{table}_{column}_seq");
        let mut name = base.clone();
        let mut n = 0;
        while self.check_free(&name).is_err() {
            n += 1;
            name = format!("{base}{n}");
        }
        self.add_sequence(name.clone(), options, largest, Some(table.to_string()))?;
        Ok(name)
    }

    fn add_sequence(
        &mut self,
        name: String,
        options: &[SequenceOptions],
        largest: i64,
        owner: Option<String>,
    ) -> Result<()> {
        let (mut start, mut increment, mut min, mut max) = (None, 1, None, None);
        for option in options {
            match option {
                SequenceOptions::IncrementBy(e, _) => increment = integer(e)?,
                SequenceOptions::StartWith(e, _) => start = Some(integer(e)?),
                SequenceOptions::MinValue(Some(e)) => min = Some(integer(e)?),
                SequenceOptions::MaxValue(Some(e)) => max = Some(integer(e)?),
                SequenceOptions::MinValue(None)
                | SequenceOptions::MaxValue(None)
                | SequenceOptions::Cache(_) => {}
                // sqlparser says true for NO CYCLE.
                SequenceOptions::Cycle(no) if *no => {}
                SequenceOptions::Cycle(_) => {
                    return Err(Error::unsupported("CYCLE").hint("a sequence ends at its MAXVALUE"));
                }
            }
        }
        if increment == 0 {
            return Err(Error::new("22023", "INCREMENT must not be zero"));
        }
        let up = increment > 0;
        let min = min.unwrap_or(if up { 1 } else { -largest - 1 });
        let max = max.unwrap_or(if up { largest } else { -1 });
        let start = start.unwrap_or(if up { min } else { max });
        if min > max || !(min..=max).contains(&start) {
            return Err(Error::new(
                "22023",
                format!("START value ({start}) must be between {min} and {max}"),
            ));
        }
        let id = self.catalog.take_id();
        self.catalog.put_sequence(Sequence {
            id,
            name,
            start,
            increment,
            min,
            max,
            owner,
        });
        self.changed = true;
        Ok(())
    }
}

/// The greatest value of a sequence's type: bigint unless it says another.
pub(super) fn largest_value(data_type: Option<&ast::DataType>) -> Result<i64> {
    let Some(data_type) = data_type else {
        return Ok(i64::MAX);
    };
    match DataType::from_sql(data_type)?.0 {
        DataType::Int2 => Ok(i16::MAX.into()),
        DataType::Int4 => Ok(i32::MAX.into()),
        DataType::Int8 => Ok(i64::MAX),
        _ => Err(Error::new(
            "22023",
            "sequence type must be smallint, integer, or bigint",
        )),
    }
}

fn integer(e: &ast::Expr) -> Result<i64> {
    let text = e.to_string().replace(' ', "");
    text.parse().map_err(|_| {
        Error::new(
            "42601",
            format!("a sequence option takes a whole number, not {text}"),
        )
    })
}
