//! Changes of the catalogue: CREATE, DROP and TRUNCATE.
//!
//! A change takes one catalogue and makes the next; several statements make one version. What a partition has to do about
//! it (drop keys, fill indexes) follows from the new catalogue. ALTER is not built.

mod function;
mod index;
mod sequence;
mod table;

use std::sync::Arc;

use sqlparser::ast::{ObjectName, ObjectType, Statement};

use super::bind::{object_name, parse};
use super::catalog::{Catalog, Dropped, IndexState, Table};
use super::exec::Outcome;
use crate::error::{Error, Notice, Result};
use sequence::largest_value;

/// True for statements that change the catalogue.
pub fn is_ddl(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::CreateTable(_)
            | Statement::CreateIndex(_)
            | Statement::CreateSequence { .. }
            | Statement::CreateFunction(_)
            | Statement::Drop { .. }
            | Statement::DropFunction(_)
            | Statement::Truncate(_)
            | Statement::AlterTable(_)
    )
}

/// A catalogue being changed.
pub struct Change {
    catalog: Catalog,
    changed: bool,
    /// What the statements so far are answered.
    done: Vec<Outcome>,
    /// Of the statement under way.
    notices: Vec<Notice>,
    /// Tables made by this change: they are empty, so their indexes need no filling.
    fresh: Vec<u32>,
}

impl Change {
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            changed: false,
            done: Vec::new(),
            notices: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// The new catalogue (the old version if nothing changed), and what each statement is answered.
    pub fn finish(mut self) -> Result<(Catalog, Vec<Outcome>)> {
        if self.changed {
            self.catalog.bump();
        }
        Ok((self.catalog, self.done))
    }

    /// The body of a DO, as a function. What of it PostgreSQL would only find when it runs is found there too.
    pub fn block(&mut self, create: &sqlparser::ast::CreateFunction) -> Result<()> {
        self.create_function(create)
    }

    /// The catalogue as it is now, under the version it had.
    pub fn into_catalog(self) -> Catalog {
        self.catalog
    }

    /// What the statements applied so far are answered.
    pub fn done(&self) -> &[Outcome] {
        &self.done
    }

    pub fn apply(&mut self, text: &str) -> Result<()> {
        for (statement, _) in parse::parse_many(text)? {
            let tag = self.statement(&statement);
            let notices = std::mem::take(&mut self.notices);
            let tag = match tag {
                Ok(tag) => tag.to_string(),
                Err(error) => return Err(error.said(notices)),
            };
            self.done.push(Outcome {
                tag,
                notices,
                ..Outcome::default()
            });
        }
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Result<&'static str> {
        match statement {
            Statement::CreateTable(create) => self.create_table(create).map(|()| "CREATE TABLE"),
            Statement::CreateIndex(create) => self.create_index(create).map(|()| "CREATE INDEX"),
            Statement::CreateSequence {
                temporary,
                if_not_exists,
                name,
                sequence_options,
                data_type,
                owned_by,
            } => {
                if *temporary {
                    return Err(Error::unsupported("a temporary sequence"));
                }
                let owner = self.sequence_owner(owned_by.as_ref())?;
                let largest = largest_value(data_type.as_ref())?;
                self.create_sequence(name, *if_not_exists, sequence_options, largest, owner)
                    .map(|()| "CREATE SEQUENCE")
            }
            Statement::CreateFunction(create) => {
                self.create_function(create).map(|()| "CREATE FUNCTION")
            }
            Statement::DropFunction(drop) => self.drop_function(drop).map(|()| "DROP FUNCTION"),
            Statement::Drop {
                object_type,
                if_exists,
                names,
                ..
            } => self.drop(*object_type, *if_exists, names),
            Statement::Truncate(truncate) => {
                for target in &truncate.table_names {
                    self.truncate(&target.name)?;
                }
                Ok("TRUNCATE TABLE")
            }
            Statement::AlterTable(_) => Err(Error::unsupported("ALTER TABLE")
                .hint("create a new table and INSERT INTO ... SELECT")),
            other => Err(Error::new(
                "42601",
                format!("{other} does not change the catalogue"),
            )),
        }
    }

    /// The version that this change makes.
    fn next_version(&self) -> u64 {
        self.catalog.version + 1
    }

    /// The catalogue as it is so far, for binding expressions and bodies.
    fn shared(&self) -> Arc<Catalog> {
        Arc::new(self.catalog.clone())
    }

    /// A statement that had nothing to do.
    fn skip(&mut self, sqlstate: &str, message: String) {
        self.notices.push(Notice {
            severity: "NOTICE".to_string(),
            sqlstate: sqlstate.to_string(),
            message,
            detail: None,
            hint: None,
        });
    }

    /// IF NOT EXISTS, and it does.
    fn skip_existing(&mut self, name: &str) {
        self.skip(
            "42P07",
            format!("relation \"{name}\" already exists, skipping"),
        );
    }

    /// Schema `public` and the name; other schemas cannot be written to.
    fn own_name(name: &ObjectName) -> Result<String> {
        let (schema, name) = object_name(name)?;
        match schema.as_deref() {
            None | Some("public") => Ok(name),
            Some("dbos" | "information_schema" | "pg_catalog") => Err(Error::new(
                "42501",
                "permission denied: the system's schemas cannot be changed",
            )),
            Some(other) => Err(
                Error::new("3F000", format!("schema \"{other}\" does not exist"))
                    .hint("use schema public"),
            ),
        }
    }

    /// 42P07 if a table, index or sequence has the name.
    fn check_free(&self, name: &str) -> Result<()> {
        let taken = self.catalog.table(Some("public"), name).is_some()
            || self.catalog.sequence(name).is_some()
            || self.catalog.index(name).is_some();
        if taken {
            Err(Error::new(
                "42P07",
                format!("relation \"{name}\" already exists"),
            ))
        } else {
            Ok(())
        }
    }

    fn drop(
        &mut self,
        object_type: ObjectType,
        if_exists: bool,
        names: &[ObjectName],
    ) -> Result<&'static str> {
        for name in names {
            let name = Self::own_name(name)?;
            let (what, dropped) = match object_type {
                ObjectType::Table => {
                    let dropped = self.drop_table(&name);
                    if dropped {
                        self.catalog.remove_sequences_of(&name);
                    }
                    ("table", dropped)
                }
                ObjectType::Index => ("index", self.drop_index(&name)?),
                ObjectType::Sequence => ("sequence", self.catalog.remove_sequence(&name).is_some()),
                other => return Err(Error::unsupported(format!("DROP {other}"))),
            };
            match (dropped, if_exists) {
                (true, _) => self.changed = true,
                (false, true) => self.skip(
                    "00000",
                    format!("{what} \"{name}\" does not exist, skipping"),
                ),
                (false, false) => {
                    let code = if object_type == ObjectType::Index {
                        "42704"
                    } else {
                        "42P01"
                    };
                    return Err(Error::new(
                        code,
                        format!("{what} \"{name}\" does not exist"),
                    ));
                }
            }
        }
        Ok(match object_type {
            ObjectType::Index => "DROP INDEX",
            ObjectType::Sequence => "DROP SEQUENCE",
            _ => "DROP TABLE",
        })
    }

    fn drop_table(&mut self, name: &str) -> bool {
        let Some(table) = self.catalog.remove_table("public", name) else {
            return false;
        };
        let version = self.next_version();
        self.catalog.dropped.push(Dropped {
            table: table.id,
            index: None,
            version,
        });
        true
    }

    /// A new table of the same shape takes the name.
    fn truncate(&mut self, name: &ObjectName) -> Result<()> {
        let name = Self::own_name(name)?;
        let Some(old) = self.catalog.table(Some("public"), &name).cloned() else {
            return Err(Error::new(
                "42P01",
                format!("relation \"{name}\" does not exist"),
            ));
        };
        let mut table = Table::clone(&old);
        self.drop_table(&name);
        table.id = self.catalog.take_id();
        for index in &mut table.indexes {
            index.state = IndexState::Ready;
        }
        self.fresh.push(table.id);
        self.catalog.put_table(table);
        self.changed = true;
        Ok(())
    }

    fn edit_table(&mut self, id: u32, edit: impl FnOnce(&mut Table)) {
        let found = self.catalog.tables().find(|t| t.id == id).cloned();
        if let Some(table) = found {
            let mut table = Table::clone(&table);
            edit(&mut table);
            self.catalog.put_table(table);
            self.changed = true;
        }
    }

    /// Every partition has filled the index.
    pub fn index_ready(&mut self, table: u32, index: u16) {
        self.edit_table(table, |t| {
            for i in t.indexes.iter_mut().filter(|i| i.id == index) {
                i.state = IndexState::Ready;
            }
        });
    }

    /// Filling the index failed: it goes away.
    pub fn index_failed(&mut self, table: u32, index: u16) {
        self.edit_table(table, |t| t.indexes.retain(|i| i.id != index));
        let version = self.next_version();
        self.catalog.dropped.push(Dropped {
            table,
            index: Some(index),
            version,
        });
    }
}
