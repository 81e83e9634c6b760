//! The tables that typed rows are made for: read from files of rows, or from a server's information_schema.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use rowmill_core::batch::{Kind, shown_name};
use rowmill_core::binlog::CatalogColumn;

use super::super::test::case_files;
use crate::config::{Source, TablePatterns};
use crate::fixture::{Rows, enum_members, is_not_null, kind};
use crate::mysql::columns::{list_columns, list_not_null};
use crate::mysql::{ConnectError, Server};
use crate::run::runtime;

/// A table, as far as typed rows depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableType {
    pub schema: String,
    pub name: String,
    pub columns: Vec<ColumnType>,
}

/// A column of such a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnType {
    pub name: String,
    pub kind: Kind,
    /// MySQL's type in lower case, with sizes but without members: `decimal(10,2)`, `enum`.
    pub mysql_type: String,
    /// The members of an enum; empty if they are not known.
    pub members: Vec<String>,
    pub nullable: bool,
}

/// What a column is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Int,
    Uint,
    Float,
    Text,
    Bytes,
    /// A text that is one of the members.
    Member,
}

impl TableType {
    /// Returns the full name, as `tables` and `table.is` take it.
    pub fn full_name(&self) -> String {
        shown_name(&self.schema, &self.name)
    }
}

impl ColumnType {
    fn new(name: String, declared: &str, kind: Kind, nullable: bool) -> Self {
        let members = if kind == Kind::Enum { enum_members(declared) } else { Vec::new() };
        // Not every language has a text with this character.
        let members = if members.iter().any(|member| member.contains('\0')) { Vec::new() } else { members };
        let lower = declared.trim().to_ascii_lowercase();
        let base = lower.strip_suffix(" not null").unwrap_or(&lower).trim();
        let base = if matches!(kind, Kind::Enum | Kind::Set) { base.split('(').next().unwrap_or(base) } else { base };
        Self { name, kind, mysql_type: base.to_owned(), members, nullable }
    }

    /// Returns what the column is read as.
    pub fn reads(&self) -> Reads {
        match self.kind {
            Kind::Int => Reads::Int,
            Kind::Uint | Kind::Year | Kind::Bit => Reads::Uint,
            Kind::Float => Reads::Float,
            Kind::Bytes | Kind::Geometry | Kind::Vector => Reads::Bytes,
            Kind::Enum if !self.members.is_empty() => Reads::Member,
            _ => Reads::Text,
        }
    }

    /// Returns the first line of the documentation of the column's function: its name, type, and the form of its values.
    pub fn description(&self) -> String {
        let Self { name, kind, mysql_type, .. } = self;
        let form = match kind {
            Kind::Decimal => ", with all digits: \"-12.50\"",
            Kind::Date => ": \"2026-11-26\"",
            Kind::Time => ": \"-08:30:00\", with a fraction if the type has one",
            Kind::Datetime => ": \"2026-11-26 08:30:00\", with a fraction if the type has one",
            Kind::Timestamp => " in UTC: \"2026-11-26 08:30:00\", with a fraction if the type has one",
            Kind::Json => ": a document as MySQL shows it",
            Kind::Set => ": members with commas between them",
            Kind::Geometry => ": the SRID in 4 bytes (little-endian), then WKB",
            Kind::Vector => ": 32-bit floats, little-endian",
            _ => "",
        };
        super::comment(&format!("Column `{name}`, {mysql_type}{form}."))
    }
}

/// Where the tables are read from.
pub(super) enum Origin<'a> {
    /// The cases in this directory of the project.
    Cases(PathBuf),
    /// A file of rows.
    File(&'a str),
    /// The server of a URL, which may have a password.
    Server(&'a str),
}

impl<'a> Origin<'a> {
    pub fn of(project: &Path, from: Option<&'a str>) -> Self {
        match from {
            None => Self::Cases(project.join("tests")),
            Some(url) if url.contains("://") => Self::Server(url),
            Some(file) => Self::File(file),
        }
    }

    /// Returns what is said of the origin in the generated file.
    pub fn shown(&self) -> &'static str {
        match self {
            Self::Cases(_) => "tests/*.rows.jsonl",
            Self::File(_) => "a file of rows",
            Self::Server(_) => "a server's tables",
        }
    }

    /// Returns the argument of `--from` that names the origin again; never a password.
    pub fn argument(&self) -> Option<String> {
        match self {
            Self::Cases(_) => None,
            Self::File(file) => Some((*file).to_owned()),
            Self::Server(url) if has_password(url) => Some("mysql://USER@HOST:PORT".to_owned()),
            Self::Server(url) => Some((*url).to_owned()),
        }
    }

    /// Reads the selected tables, in the order of their names.
    ///
    /// # Errors
    /// If a file or the server cannot be read, or there is no such table.
    pub fn read(&self, selected: Option<&TablePatterns>) -> anyhow::Result<Vec<TableType>> {
        let mut tables = match self {
            Self::Cases(directory) => of_files(&case_files(directory)?)?,
            Self::File(file) => of_files(&[PathBuf::from(file)])?,
            Self::Server(url) => {
                let selected = selected.context(
                    "--from with a server needs --tables: the tables to make typed rows for, such as --tables 'shop.*'",
                )?;
                runtime()?.block_on(of_server(&source(url, selected.clone())?))?
            }
        };
        if let (Self::Cases(_) | Self::File(_), Some(selected)) = (self, selected) {
            tables.retain(|table| selected.matches(&table.schema, &table.name));
        }
        if tables.is_empty() {
            let fix = match self {
                Self::Server(_) => "check that --tables matches their names, and that the user has SELECT on them",
                _ => "add a line {\"table\": ..., \"columns\": [...]}, or check that --tables matches their names",
            };
            bail!("there is no table to make typed rows for; {fix}");
        }
        tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Ok(tables)
    }
}

/// Returns a source that has only a server.
fn source(url: &str, tables: TablePatterns) -> anyhow::Result<Source> {
    Source::of_url(url, tables).map_err(|error| anyhow!(error.replace("source.url", "--from")))
}

/// Whether user and password are in a URL.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// Reads the tables of files of rows. A table that several files declare has the columns of all.
fn of_files(files: &[PathBuf]) -> anyhow::Result<Vec<TableType>> {
    let mut tables: Vec<TableType> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let rows = Rows::parse(&text).map_err(|error| anyhow!("{}: {error}", file.display()))?;
        for (table, types) in rows.tables.iter().zip(&rows.declared_types) {
            let columns = table.columns.iter().zip(types).map(|(column, declared)| {
                let nullable = column.nullable && !is_not_null(declared);
                ColumnType::new(column.name.clone(), declared, column.kind, nullable)
            });
            let described =
                TableType { schema: table.schema.clone(), name: table.name.clone(), columns: columns.collect() };
            let known =
                tables.iter_mut().find(|known| known.schema == described.schema && known.name == described.name);
            match known {
                Some(known) => merge(known, described).with_context(|| file.display().to_string())?,
                None => tables.push(described),
            }
        }
    }
    Ok(tables)
}

/// Adds what another declaration of a table says.
fn merge(known: &mut TableType, other: TableType) -> anyhow::Result<()> {
    let full_name = known.full_name();
    for column in other.columns {
        let is_it = |known: &&mut ColumnType| known.name.to_lowercase() == column.name.to_lowercase();
        let Some(known) = known.columns.iter_mut().find(is_it) else {
            known.columns.push(column);
            continue;
        };
        if known.kind != column.kind {
            bail!(
                "column `{}` of {full_name} is {}, and {} in an earlier declaration; make them agree, or name one file by \
                 --from",
                column.name,
                column.mysql_type,
                known.mysql_type
            );
        }
        known.nullable |= column.nullable;
        // A recorded declaration does not have the members.
        for member in column.members {
            if !known.members.contains(&member) {
                known.members.push(member);
            }
        }
    }
    Ok(())
}

/// Reads the selected tables of a server.
async fn of_server(source: &Source) -> anyhow::Result<Vec<TableType>> {
    let mut server = match Server::connect(source).await {
        Ok(server) => server,
        Err(ConnectError::Transient(error) | ConnectError::Definite(error)) => return Err(error),
    };
    let mut tables = Vec::new();
    for (schema, name) in server.tables(&source.tables).await? {
        let failed = || format!("cannot read the columns of {}", shown_name(&schema, &name));
        let columns = list_columns(&mut server, &schema, &name).await.with_context(failed)?;
        let not_null = list_not_null(&mut server, &schema, &name).await.with_context(failed)?;
        let column = |CatalogColumn { name, column_type, .. }: CatalogColumn| {
            // The types of MariaDB that have no name here are logged as BINARY (docs/fidelity.md).
            let kind = kind(&column_type).map_or(Kind::Bytes, |(kind, _)| kind);
            let nullable = !not_null.contains(&name);
            ColumnType::new(name, &column_type, kind, nullable)
        };
        let columns = columns.into_iter().filter(|column| !column.is_hidden).map(column).collect();
        tables.push(TableType { schema, name, columns });
    }
    server.disconnect().await;
    Ok(tables)
}
