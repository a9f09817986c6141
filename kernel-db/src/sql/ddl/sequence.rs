//! CREATE SEQUENCE.

use sqlparser::ast::{self, ObjectName, SequenceOptions};

use super::Change;
use crate::error::{Error, Result};
use crate::sql::catalog::Sequence;

impl Change {
    pub(super) fn create_sequence(
        &mut self,
        name: &ObjectName,
        if_not_exists: bool,
        options: &[SequenceOptions],
    ) -> Result<()> {
        let name = Self::own_name(name)?;
        if if_not_exists && self.catalog.sequence(&name).is_some() {
            self.skip(format!("relation \"{name}\" already exists, skipping"));
            return Ok(());
        }
        self.check_free(&name)?;
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
                SequenceOptions::Cycle(_) => return Err(Error::unsupported("CYCLE")),
            }
        }
        if increment == 0 {
            return Err(Error::new("22023", "INCREMENT must not be zero"));
        }
        let up = increment > 0;
        let min = min.unwrap_or(if up { 1 } else { i64::MIN });
        let max = max.unwrap_or(if up { i64::MAX } else { -1 });
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
        });
        self.changed = true;
        Ok(())
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
