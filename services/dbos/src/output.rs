//! What people and scripts see: tables, JSON rows, a spinner for anything over a second.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use crate::exit::{Result, written};

/// Rows of text with their column names; `None` is NULL.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// As a table for people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| cell.as_deref().unwrap_or("NULL")));
        }
        table
    }

    /// One JSON object per row. Values are text as PostgreSQL prints them, or null.
    pub fn json(&self) -> Vec<Value> {
        let object = |row: &Vec<Option<String>>| {
            let cells = row
                .iter()
                .map(|cell| cell.clone().map_or(Value::Null, Value::String));
            Value::Object(
                self.columns
                    .iter()
                    .cloned()
                    .zip(cells)
                    .collect::<Map<_, _>>(),
            )
        };
        self.rows.iter().map(object).collect()
    }

    /// Prints as a table, or one JSON object per line.
    pub fn print(&self, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        written(match json {
            true => self
                .json()
                .iter()
                .try_for_each(|row| writeln!(out, "{row}")),
            false => writeln!(out, "{}", self.table()),
        })
    }
}

/// A spinner on standard error; silent where that is not a terminal.
pub fn spinner(text: impl Into<String>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or(ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_message(text.into());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
