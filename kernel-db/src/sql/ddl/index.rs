//! CREATE INDEX and DROP INDEX.

use sqlparser::ast;

use super::Change;
use crate::error::{Error, Result};
use crate::sql::bind::{ident, object_name};
use crate::sql::catalog::{Dropped, Index, IndexColumn, IndexState, Table};

/// Columns of one index.
const COLUMNS_MAX: usize = 32;

impl Change {
    pub(super) fn create_index(&mut self, create: &ast::CreateIndex) -> Result<()> {
        let table_name = Self::own_name(&create.table_name)?;
        let Some(table) = self.catalog.table(Some("public"), &table_name).cloned() else {
            return Err(Error::new(
                "42P01",
                format!("relation \"{table_name}\" does not exist"),
            ));
        };
        check_form(create)?;
        let columns = columns(&table, &create.columns)?;
        let name = match &create.name {
            Some(name) => object_name(name)?.1,
            None => {
                let parts: Vec<&str> = columns
                    .iter()
                    .map(|c| table.columns[c.column].name.as_str())
                    .collect();
                self.free_name(&format!("{}_{}_idx", table.name, parts.join("_")))
            }
        };
        if create.if_not_exists && self.check_free(&name).is_err() {
            self.skip_existing(&name);
            return Ok(());
        }
        self.check_free(&name)?;
        // A table made by the same change is empty: nothing to fill.
        let state = if self.fresh.contains(&table.id) {
            IndexState::Ready
        } else {
            IndexState::WriteOnly
        };
        let mut table = Table::clone(&table);
        let id = table.next_index_id;
        table.next_index_id = id
            .checked_add(1)
            .ok_or_else(|| Error::new("54000", "too many indexes"))?;
        let index = Index {
            id,
            name,
            columns,
            unique: create.unique,
            state,
        };
        if table.is_global(&index) && state != IndexState::Ready {
            return Err(Error::unsupported(
                "a unique index without the partition key on a table that is there already",
            )
            .hint("say UNIQUE in CREATE TABLE, or add the table's partition key to the index"));
        }
        table.indexes.push(index);
        self.catalog.put_table(table);
        self.changed = true;
        Ok(())
    }

    fn free_name(&self, base: &str) -> String {
        let mut name = base.to_string();
        let mut n = 0;
        while self.check_free(&name).is_err() {
            n += 1;
            name = format!("{base}{n}");
        }
        name
    }

    pub(super) fn drop_index(&mut self, name: &str) -> Result<bool> {
        let Some((table, index)) = self.catalog.index(name).map(|(t, i)| (t.id, i.id)) else {
            return Ok(false);
        };
        self.edit_table(table, |t| t.indexes.retain(|i| i.id != index));
        let version = self.next_version();
        self.catalog.dropped.push(Dropped {
            table,
            index: Some(index),
            version,
        });
        Ok(true)
    }
}

fn check_form(create: &ast::CreateIndex) -> Result<()> {
    if create.predicate.is_some() {
        return Err(Error::unsupported("a partial index"));
    }
    if !create.include.is_empty() {
        return Err(Error::unsupported("INCLUDE").hint("add the columns to the index"));
    }
    if create.nulls_distinct == Some(false) {
        return Err(Error::unsupported("NULLS NOT DISTINCT"));
    }
    match &create.using {
        None | Some(ast::IndexType::BTree) => Ok(()),
        Some(other) => Err(Error::unsupported(format!("USING {other}")).hint("indexes are btree")),
    }
}

fn columns(table: &Table, list: &[ast::IndexColumn]) -> Result<Vec<IndexColumn>> {
    if list.len() > COLUMNS_MAX {
        return Err(Error::new(
            "54011",
            format!("cannot use more than {COLUMNS_MAX} columns in an index"),
        ));
    }
    let mut columns = Vec::with_capacity(list.len());
    for item in list {
        let ast::Expr::Identifier(id) = &item.column.expr else {
            return Err(Error::unsupported("an index over an expression"));
        };
        let name = ident(id);
        let column = table
            .column(&name)
            .ok_or_else(|| Error::new("42703", format!("column \"{name}\" does not exist")))?;
        let desc = item.column.options.asc == Some(false);
        if item
            .column
            .options
            .nulls_first
            .is_some_and(|first| first != desc)
        {
            return Err(Error::unsupported("an index with nulls at the other end"));
        }
        if item.operator_class.is_some() {
            return Err(Error::unsupported("an operator class"));
        }
        columns.push(IndexColumn { column, desc });
    }
    Ok(columns)
}
