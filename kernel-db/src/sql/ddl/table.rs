//! CREATE TABLE.

use sqlparser::ast::{self, ColumnOption, GeneratedAs, TableConstraint};

use super::Change;
use crate::error::{Error, Result};
use crate::sql::DataType;
use crate::sql::bind::{bind_check, bind_default, ident};
use crate::sql::catalog::{CheckDef, ColumnDef, Index, IndexColumn, IndexState, Table};
use crate::sql::functions::quoted_identifier;

/// Columns of one table.
const COLUMNS_MAX: usize = 1_600;

/// A UNIQUE constraint: its name, if given, and its columns.
type Unique = (Option<String>, Vec<String>);

#[derive(Default)]
struct Constraints {
    primary: Option<Unique>,
    unique: Vec<Unique>,
    checks: Vec<CheckDef>,
}

impl Change {
    pub(super) fn create_table(&mut self, create: &ast::CreateTable) -> Result<()> {
        let name = Self::own_name(&create.name)?;
        if create.temporary
            || create.query.is_some()
            || create.like.is_some()
            || create.inherits.is_some()
        {
            return Err(Error::unsupported("this form of CREATE TABLE")
                .hint("name the columns and their types"));
        }
        if create.partition_by.is_some() || create.partition_of.is_some() {
            return Err(Error::unsupported("PARTITION BY")
                .hint("the first column of the primary key is the partition key"));
        }
        if create.if_not_exists && self.catalog.table(Some("public"), &name).is_some() {
            self.skip_existing(&name);
            return Ok(());
        }
        self.check_free(&name)?;
        let mut constraints = Constraints::default();
        let columns = self.columns(&name, &create.columns, &mut constraints)?;
        for constraint in &create.constraints {
            table_constraint(&name, constraint, &mut constraints)?;
        }
        check_columns(&columns)?;
        let mut table = Table {
            id: 0,
            schema: "public".to_string(),
            name,
            columns,
            primary_key: Vec::new(),
            primary_key_name: String::new(),
            hidden_row_id: false,
            indexes: Vec::new(),
            checks: constraints.checks,
            next_index_id: 1,
            is_system: false,
        };
        set_primary_key(&mut table, constraints.primary)?;
        for (name, columns) in constraints.unique {
            add_unique(&mut table, name, &columns)?;
        }
        let catalog = self.shared();
        for column in &table.columns {
            if let Some(default) = &column.default {
                bind_default(&catalog, default, column.data_type, column.max_len)?;
            }
        }
        for check in &table.checks {
            bind_check(&catalog, &table, &check.expr)?;
        }
        table.id = self.catalog.take_id();
        self.fresh.push(table.id);
        self.catalog.put_table(table);
        self.changed = true;
        Ok(())
    }

    fn columns(
        &mut self,
        name: &str,
        defs: &[ast::ColumnDef],
        constraints: &mut Constraints,
    ) -> Result<Vec<ColumnDef>> {
        let mut columns = Vec::with_capacity(defs.len());
        for column in defs {
            let mut def = column_def(name, column, constraints)?;
            if let Some((options, largest)) = counted(column)? {
                if def.default.is_some() {
                    let message = format!(
                        "multiple default values specified for column \"{}\" of table \"{name}\"",
                        def.name
                    );
                    return Err(Error::new("42601", message));
                }
                let sequence = self.column_sequence(name, &def.name, options, largest)?;
                def.not_null = true;
                def.default = Some(format!("nextval('{}')", quoted_identifier(&sequence)));
            }
            columns.push(def);
        }
        Ok(columns)
    }
}

fn check_columns(columns: &[ColumnDef]) -> Result<()> {
    if columns.is_empty() {
        return Err(Error::unsupported("a table without columns"));
    }
    if columns.len() > COLUMNS_MAX {
        return Err(Error::new(
            "54011",
            format!("tables can have at most {COLUMNS_MAX} columns"),
        ));
    }
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(Error::new(
                "42701",
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
    }
    Ok(())
}

fn column_def(
    table: &str,
    column: &ast::ColumnDef,
    constraints: &mut Constraints,
) -> Result<ColumnDef> {
    let name = ident(&column.name);
    let (data_type, max_len) = match serial(&column.data_type) {
        Some(data_type) => (data_type, None),
        None => DataType::from_sql(&column.data_type)?,
    };
    if !data_type.is_storable() {
        return Err(Error::unsupported(format!("a column of type {}", data_type.name()))
            .hint("columns can be smallint, integer, bigint, double precision, boolean, text, varchar, bytea, timestamptz or uuid"));
    }
    let mut def = ColumnDef {
        name: name.clone(),
        data_type,
        max_len,
        not_null: false,
        default: None,
    };
    for option in &column.options {
        let constraint = option.name.as_ref().map(ident);
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => def.not_null = true,
            ColumnOption::Default(e) => def.default = Some(e.to_string()),
            ColumnOption::PrimaryKey(_) => set_primary(
                table,
                &mut constraints.primary,
                constraint,
                vec![name.clone()],
            )?,
            ColumnOption::Unique(_) => constraints.unique.push((constraint, vec![name.clone()])),
            ColumnOption::Check(check) => {
                let base = constraint.unwrap_or_else(|| format!("{table}_{name}_check"));
                add_check(constraints, base, check.expr.to_string());
            }
            ColumnOption::ForeignKey(_) => return Err(no_foreign_key()),
            ColumnOption::Generated {
                generated_as: GeneratedAs::ByDefault,
                generation_expr: None,
                ..
            } => {}
            ColumnOption::Generated {
                generated_as: GeneratedAs::Always,
                generation_expr: None,
                ..
            } => {
                return Err(Error::unsupported("GENERATED ALWAYS AS IDENTITY")
                    .hint("write GENERATED BY DEFAULT AS IDENTITY"));
            }
            other => return Err(Error::unsupported(format!("column option {other}"))),
        }
    }
    Ok(def)
}

/// The integer type that a serial type stands for.
fn serial(data_type: &ast::DataType) -> Option<DataType> {
    match data_type.to_string().to_lowercase().as_str() {
        "smallserial" | "serial2" => Some(DataType::Int2),
        "serial" | "serial4" => Some(DataType::Int4),
        "bigserial" | "serial8" => Some(DataType::Int8),
        _ => None,
    }
}

/// Options of the sequence behind a serial or identity column, and its type's greatest value.
fn counted(column: &ast::ColumnDef) -> Result<Option<(&[ast::SequenceOptions], i64)>> {
    let identity = column.options.iter().find_map(|o| match &o.option {
        ColumnOption::Generated {
            sequence_options, ..
        } => Some(sequence_options.as_deref().unwrap_or_default()),
        _ => None,
    });
    let (options, data_type) = match (serial(&column.data_type), identity) {
        (Some(data_type), None) => (&[][..], data_type),
        (None, Some(options)) => (options, DataType::from_sql(&column.data_type)?.0),
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Error::new(
                "22023",
                "identity column type must be smallint, integer, or bigint",
            ));
        }
    };
    let largest = match data_type {
        DataType::Int2 => i16::MAX.into(),
        DataType::Int4 => i32::MAX.into(),
        DataType::Int8 => i64::MAX,
        _ => {
            return Err(Error::new(
                "22023",
                "identity column type must be smallint, integer, or bigint",
            ));
        }
    };
    Ok(Some((options, largest)))
}

fn no_foreign_key() -> Error {
    Error::unsupported("REFERENCES").hint("check the other table in the same transaction")
}

fn add_check(constraints: &mut Constraints, base: String, expr: String) {
    let mut name = base.clone();
    let mut n = 0;
    while constraints.checks.iter().any(|c| c.name == name) {
        n += 1;
        name = format!("{base}{n}");
    }
    constraints.checks.push(CheckDef { name, expr });
}

fn set_primary(
    table: &str,
    primary: &mut Option<Unique>,
    name: Option<String>,
    columns: Vec<String>,
) -> Result<()> {
    if primary.is_some() {
        return Err(Error::new(
            "42P16",
            format!("multiple primary keys for table \"{table}\" are not allowed"),
        ));
    }
    *primary = Some((name, columns));
    Ok(())
}

fn table_constraint(
    table: &str,
    constraint: &TableConstraint,
    constraints: &mut Constraints,
) -> Result<()> {
    match constraint {
        TableConstraint::PrimaryKey(key) => {
            let columns = constraint_columns(&key.columns)?;
            set_primary(
                table,
                &mut constraints.primary,
                key.name.as_ref().map(ident),
                columns,
            )
        }
        TableConstraint::Unique(key) => {
            constraints.unique.push((
                key.name.as_ref().map(ident),
                constraint_columns(&key.columns)?,
            ));
            Ok(())
        }
        TableConstraint::Check(check) => {
            let base = check
                .name
                .as_ref()
                .map_or_else(|| format!("{table}_check"), ident);
            add_check(constraints, base, check.expr.to_string());
            Ok(())
        }
        TableConstraint::ForeignKey(_) => Err(no_foreign_key()),
        other => Err(Error::unsupported(format!("constraint {other}"))),
    }
}

fn constraint_columns(columns: &[ast::IndexColumn]) -> Result<Vec<String>> {
    columns
        .iter()
        .map(|c| match &c.column.expr {
            ast::Expr::Identifier(id) => Ok(ident(id)),
            other => Err(Error::new(
                "42601",
                format!("a constraint takes columns, not {other}"),
            )),
        })
        .collect()
}

fn places(table: &Table, names: &[String]) -> Result<Vec<usize>> {
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        let place = table.column(name).ok_or_else(|| {
            Error::new(
                "42703",
                format!("column \"{name}\" named in key does not exist"),
            )
        })?;
        if places.contains(&place) {
            return Err(Error::new(
                "42701",
                format!("column \"{name}\" appears twice in primary key constraint"),
            ));
        }
        places.push(place);
    }
    Ok(places)
}

fn set_primary_key(table: &mut Table, primary: Option<Unique>) -> Result<()> {
    match primary {
        Some((name, columns)) => {
            table.primary_key = places(table, &columns)?;
            for place in table.primary_key.clone() {
                table.columns[place].not_null = true;
            }
            table.primary_key_name = name.unwrap_or_else(|| format!("{}_pkey", table.name));
        }
        None => {
            table.primary_key = vec![table.columns.len()];
            table.primary_key_name = format!("{}_rowid", table.name);
            table.hidden_row_id = true;
            table.columns.push(ColumnDef {
                name: "*rowid*".to_string(),
                data_type: DataType::Int8,
                max_len: None,
                not_null: true,
                default: None,
            });
        }
    }
    Ok(())
}

fn add_unique(table: &mut Table, name: Option<String>, columns: &[String]) -> Result<()> {
    let places = places(table, columns)?;
    let name = name.unwrap_or_else(|| format!("{}_{}_key", table.name, columns.join("_")));
    table.indexes.push(Index {
        id: table.next_index_id,
        name,
        columns: places
            .into_iter()
            .map(|column| IndexColumn {
                column,
                desc: false,
            })
            .collect(),
        unique: true,
        state: IndexState::Ready,
    });
    table.next_index_id += 1;
    Ok(())
}
