//! The current columns of a table, from information_schema.

use mysql_async::params;
use rowmill_core::binlog::{CatalogColumn, append_unlisted};

use super::server::{Flavor, Server};

/// A row of the query: name, type, character set, position in the primary key.
type CatalogRow = (String, String, Option<String>, Option<u32>);

const COLUMNS: &str = "\
    SELECT c.column_name, CAST(c.column_type AS CHAR), c.character_set_name, CAST(k.seq_in_index AS UNSIGNED) \
    FROM information_schema.columns c \
    LEFT JOIN information_schema.statistics k \
    ON k.table_schema = c.table_schema AND k.table_name = c.table_name AND k.column_name = c.column_name \
    AND k.index_name = 'PRIMARY' \
    WHERE c.table_schema = :schema AND c.table_name = :table ORDER BY c.ordinal_position";

/// Asks for the causes of columns that MariaDB stores and does not list: whether the table is system-versioned without
/// declared row start and end columns, and the number of unique indexes that may be hash indexes.
const UNLISTED: &str = "\
    SELECT CAST(COALESCE(t.table_type, '') = 'SYSTEM VERSIONED' AND NOT EXISTS ( \
    SELECT 1 FROM information_schema.columns c WHERE c.table_schema = :schema AND c.table_name = :table \
    AND c.generation_expression = 'ROW START') AS UNSIGNED), ( \
    SELECT COUNT(DISTINCT k.index_name) FROM information_schema.statistics k \
    WHERE k.table_schema = :schema AND k.table_name = :table \
    AND k.index_type = 'HASH' AND k.non_unique = 0 AND k.index_name <> 'PRIMARY') \
    FROM information_schema.tables t WHERE t.table_schema = :schema AND t.table_name = :table";

const NOT_NULL: &str = "\
    SELECT c.column_name FROM information_schema.columns c \
    WHERE c.table_schema = :schema AND c.table_name = :table AND c.is_nullable = 'NO'";

/// MySQL may be set to hide generated primary keys from information_schema. Servers that do not know the setting do not
/// generate keys.
const SHOW_GENERATED_KEYS: &str = "SET SESSION show_gipk_in_create_table_and_information_schema = ON";

/// Returns the columns of a table; an empty list if the table does not exist.
///
/// # Errors
/// The driver's errors.
pub(crate) async fn list_columns(
    server: &mut Server,
    schema: &str,
    table: &str,
) -> mysql_async::Result<Vec<CatalogColumn>> {
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

/// Returns the names of the columns of a table that are never NULL.
///
/// # Errors
/// The driver's errors.
pub(crate) async fn list_not_null(server: &mut Server, schema: &str, table: &str) -> mysql_async::Result<Vec<String>> {
    server.conn.exec(NOT_NULL, params! { "schema" => schema, "table" => table }).await
}
