//! Columns of tables whose maps in the binlog don't name them, from information_schema.

use mysql_async::params;
use mysql_async::prelude::Queryable;
use rowmill_core::binlog::CatalogColumn;

use super::preflight::{ConnectError, connect};
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

/// Asks for a table's columns. None at all: the table isn't there any more, or the user may not see it.
pub(super) async fn columns(
    config: &config::Source,
    schema: &str,
    table: &str,
) -> Result<Vec<CatalogColumn>, ConnectError> {
    let mut conn = connect(config).await?;
    let failed = |error: mysql_async::Error| {
        let is_refusal = matches!(error, mysql_async::Error::Server(_));
        let error = anyhow::Error::new(error).context(format!("the columns of {schema}.{table} can't be looked up"));
        if is_refusal { ConnectError::Refused(error) } else { ConnectError::Unreachable(error) }
    };
    let rows: Vec<CatalogRow> =
        conn.exec(COLUMNS, params! { "schema" => schema, "table" => table }).await.map_err(failed)?;
    conn.disconnect().await.map_err(failed)?;
    let column = |(name, column_type, charset, key_position): CatalogRow| CatalogColumn {
        name,
        column_type,
        charset,
        key_position,
    };
    Ok(rows.into_iter().map(column).collect())
}
