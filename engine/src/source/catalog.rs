//! Columns of tables whose maps in the binlog don't say all of them, from information_schema.
//!
//! It has the columns of now, and the rows are of then. A statement in between that changes the
//! count or the types of columns is found by comparing them with the table map; one that only
//! renames is not. So the binlog is looked through from the rows to its end, for statements that
//! name the table.

use anyhow::{Context, anyhow, bail};
use mysql_async::params;
use rowmill_core::binlog::{CatalogColumn, Decoder, Missing, Next, SchemaChange, Select, append_unlisted};
use rowmill_core::position::{BinlogPosition, Resume};
use tracing::debug;

use super::preflight::{ConnectError, Flavor, Server};
use super::wire::WireError;
use super::{Interruption, short_stream};
use crate::config;

/// A row of the query: name, type, character set, position in the primary key.
type CatalogRow = (String, String, Option<String>, Option<u32>);

const COLUMNS: &str = "\
    SELECT c.column_name, CAST(c.column_type AS CHAR), c.character_set_name, CAST(k.seq_in_index AS UNSIGNED) \
    FROM information_schema.columns c \
    LEFT JOIN information_schema.statistics k \
    ON k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name \
    AND k.index_name = 'PRIMARY' \
    WHERE c.table_schema = :schema AND c.table_name = :table ORDER BY c.ordinal_position";

/// What MariaDB keeps in rows besides: whether the table is system-versioned and doesn't declare the columns of that, and
/// how many unique indexes it has that may be by hash.
const UNLISTED: &str = "\
    SELECT CAST(COALESCE(t.table_type, '') = 'SYSTEM VERSIONED' AND NOT EXISTS ( \
    SELECT 1 FROM information_schema.columns c WHERE c.table_schema = :schema AND c.table_name = :table \
    AND c.generation_expression = 'ROW START') AS UNSIGNED), ( \
    SELECT COUNT(DISTINCT k.index_name) FROM information_schema.statistics k \
    WHERE k.table_schema = :schema AND k.table_name = :table \
    AND k.index_type = 'HASH' AND k.non_unique = 0 AND k.index_name <> 'PRIMARY') \
    FROM information_schema.tables t WHERE t.table_schema = :schema AND t.table_name = :table";

/// MySQL may be set to keep the primary key that it made itself from information_schema. Servers that don't know the setting
/// don't make keys.
const SHOW_GENERATED_KEYS: &str = "SET SESSION show_gipk_in_create_table_and_information_schema = ON";

/// Why the columns of a table aren't known.
pub(super) enum ColumnsError {
    /// They can't be: the table may have been changed since.
    Unknown(anyhow::Error),
    /// They couldn't be asked for.
    Interruption(Interruption),
}

impl<E: Into<Interruption>> From<E> for ColumnsError {
    fn from(error: E) -> Self {
        Self::Interruption(error.into())
    }
}

/// The columns of a table whose rows come at `rows`, behind `before`, a place between two transactions.
/// None at all: the table isn't there any more, or the user may not see it.
///
/// # Errors
/// If they can't be asked for, or if the table may have been changed since.
pub(super) async fn columns(
    config: &config::Source,
    (before, rows): (Resume, BinlogPosition),
    (schema, table): (&str, &str),
    missing: Missing,
) -> Result<Vec<CatalogColumn>, ColumnsError> {
    let mut server = Server::connect(config).await?;
    let columns = look_up(&mut server, schema, table).await.map_err(|error| {
        let is_refusal = matches!(error, mysql_async::Error::Server(_));
        let error = anyhow::Error::new(error).context(format!("the columns of {schema}.{table} can't be looked up"));
        if is_refusal { ConnectError::Refused(error) } else { ConnectError::Unreachable(error) }
    })?;
    // What the columns above can't know of yet is behind this.
    let end = server.end_of_binlog().await.map_err(Interruption::of)?.position;
    let flavor = server.flavor;
    server.disconnect().await;
    if rows.is_before(&end) {
        Ahead { schema, table, missing, rows, end }.is_unchanged(config, flavor, before).await?;
    }
    Ok(columns)
}

async fn look_up(server: &mut Server, schema: &str, table: &str) -> mysql_async::Result<Vec<CatalogColumn>> {
    let names = || params! { "schema" => schema, "table" => table };
    if server.flavor == Flavor::MySql
        && let Err(error) = server.conn.query_drop(SHOW_GENERATED_KEYS).await
        && !matches!(error, mysql_async::Error::Server(_))
    {
        return Err(error);
    }
    let columns: Vec<CatalogRow> = server.conn.exec(COLUMNS, names()).await?;
    let column = |(name, column_type, charset, key_position): CatalogRow| CatalogColumn {
        name,
        column_type,
        charset,
        key_position,
        is_hidden: false,
    };
    let mut columns: Vec<CatalogColumn> = columns.into_iter().map(column).collect();
    if server.flavor == Flavor::MariaDb
        && let Some((is_system_versioned, hash_indexes)) = server.conn.exec_first(UNLISTED, names()).await?
    {
        append_unlisted(&mut columns, is_system_versioned, hash_indexes);
    }
    Ok(columns)
}

/// What lies between the rows and the end of the binlog.
struct Ahead<'a> {
    schema: &'a str,
    table: &'a str,
    missing: Missing,
    rows: BinlogPosition,
    end: BinlogPosition,
}

/// No rows of any table: schema changes alone.
struct SchemaOnly(String);

impl Select for SchemaOnly {
    fn table(&self, _: &str, _: &str) -> bool {
        false
    }

    fn schema(&self, schema: &str) -> bool {
        schema == self.0
    }
}

impl Ahead<'_> {
    /// Reads it on a connection of its own.
    ///
    /// # Errors
    /// If a statement in it names the table.
    async fn is_unchanged(&self, config: &config::Source, flavor: Flavor, before: Resume) -> Result<(), ColumnsError> {
        let Self { schema, table, rows, end, .. } = self;
        debug!(table = %format_args!("{schema}.{table}"), from = %rows, to = %end, "looking ahead for changes");
        let resume = Resume { past: None, gtids: None, fingerprint: None, ..before };
        let from = resume.position.clone();
        let mut wire = short_stream(config, flavor, from).await.map_err(Interruption::Connection)?;
        // Changes of rows that are logged as statements don't matter here.
        let select = Box::new(SchemaOnly((*schema).to_owned()));
        let mut scan = Decoder::new(resume, select).with_schema_changes(true).with_skips(true);
        loop {
            let event = match wire.event().await {
                Err(WireError::End) => return Ok(()),
                event => event.map_err(Interruption::Connection)?,
            };
            loop {
                let next =
                    scan.next(event).with_context(|| format!("while looking ahead for changes of {schema}.{table}"));
                let batch = match next.map_err(Interruption::Fatal)? {
                    Next::Event => break,
                    Next::Columns { .. } => return Err(Interruption::Fatal(anyhow!("columns of no table")).into()),
                    Next::Batch(batch) => batch,
                };
                if let Some(change) = batch.schema_change {
                    self.check(&change).map_err(ColumnsError::Unknown)?;
                }
            }
            if !scan.position().is_before(end) {
                return Ok(());
            }
        }
    }

    /// # Errors
    /// If the change is behind the rows and may be one of the table's columns.
    fn check(&self, change: &SchemaChange) -> anyhow::Result<()> {
        let Self { schema, table, missing, rows, .. } = self;
        let position = BinlogPosition::new(change.file.clone(), change.event_position);
        if position.is_before(rows) || !change.may_change(schema, table) {
            return Ok(());
        }
        let statement: String = change.statement.chars().take(200).collect();
        bail!(
            "table {schema}.{table}: {missing}, and they may not be the same any more for the rows at {rows}: behind \
             them, at {position}, is `{statement}`; {fix}, or leave the table out by `source.tables`",
            fix = missing.fix()
        )
    }
}
