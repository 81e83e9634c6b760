//! Table maps: the names of a table's columns, and the encoding of their values.
//!
//! With `binlog_row_metadata=FULL` a table map has all that is needed. Otherwise the missing parts come from
//! information_schema, whose columns are first compared with the table map.
//!
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>

use super::bytes::Bytes;
use super::catalog::CatalogColumn;
use super::column_type::column_types;
use super::columns::{Columns, Family};
use super::error::{DecodeErrorKind, Missing};
use super::optional_metadata::Metadata;

/// The head of a table map: enough to decide whether the table is selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableName<'a> {
    pub schema: &'a str,
    pub table: &'a str,
    rest: Bytes<'a>,
}

/// Returns the server's table number, by which row events refer to the table.
pub(super) fn table_number(body: &[u8]) -> Result<u64, DecodeErrorKind> {
    Bytes(body).uint(6)
}

impl<'a> TableName<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, DecodeErrorKind> {
        let mut bytes = Bytes(body);
        bytes.take(6 + 2)?; // table number, flags
        let mut name = || {
            let len = usize::from(bytes.u8()?);
            let name =
                std::str::from_utf8(bytes.take(len)?).map_err(|_| DecodeErrorKind::Malformed("a table's name"))?;
            bytes.take(1)?; // a zero byte
            Ok::<_, DecodeErrorKind>(name)
        };
        let (schema, table) = (name()?, name()?);
        Ok(Self { schema, table, rest: bytes })
    }

    /// Returns the columns; what the table map lacks is taken from `catalog`.
    pub fn columns(mut self, family: Family, catalog: Option<&[CatalogColumn]>) -> Result<Columns, ColumnsError> {
        let count = self.rest.lenenc_usize()?;
        if count > COLUMNS_MAX {
            return Err(DecodeErrorKind::Malformed("a table map's number of columns").into());
        }
        let types = self.rest.take(count)?;
        let type_metadata = Bytes(self.rest.lenenc_bytes()?);
        let nullable = self.rest.take(count.div_ceil(8))?;
        let types = column_types(types, type_metadata)?;
        let metadata = Metadata::parse(self.rest, &types, family)?;
        let lacks_digits = family == Family::MariaDb && types.iter().any(|column| column.is_old_temporal());
        let missing = match &metadata.names {
            None => Missing::Names,
            Some(_) if lacks_digits => Missing::FractionDigits,
            Some(_) => return Ok(metadata.columns(&types, nullable, family)?),
        };
        let Some(catalog) = catalog else { return Err(ColumnsError::Missing(missing)) };
        Ok(metadata.complete(catalog, &types, missing)?.columns(&types, nullable, family)?)
    }
}

/// The most columns of a table: a batch counts them in 16 bits, and no server allows more than 4,096.
const COLUMNS_MAX: usize = u16::MAX as usize;

/// The reason why the columns of a table map are unknown.
#[derive(Debug)]
pub(super) enum ColumnsError {
    /// The table map lacks metadata, and no catalog was given.
    Missing(Missing),
    Decode(DecodeErrorKind),
}

impl From<DecodeErrorKind> for ColumnsError {
    fn from(cause: DecodeErrorKind) -> Self {
        Self::Decode(cause)
    }
}

#[cfg(test)]
mod tests {
    use rowmill_batch::{ColumnIndex, Kind};

    use super::*;
    use crate::binlog::catalog::append_unlisted;
    use crate::binlog::value::Codec;

    /// Returns a table map's body.
    fn map(types: &[(u8, &[u8])], nullable: &[u8], metadata: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = b"\x01\0\0\0\0\0\x01\0\x04shop\0\x01t\0".to_vec();
        body.push(types.len() as u8);
        body.extend(types.iter().map(|(code, _)| *code));
        let meta: Vec<u8> = types.iter().flat_map(|(_, meta)| *meta).copied().collect();
        body.push(meta.len() as u8);
        body.extend(meta);
        body.extend_from_slice(nullable);
        for (field, value) in metadata {
            body.extend([*field, value.len() as u8]);
            body.extend_from_slice(value);
        }
        body
    }

    fn columns(body: &[u8], family: Family, catalog: Option<&[CatalogColumn]>) -> Result<Columns, ColumnsError> {
        TableName::parse(body).expect("a table map").columns(family, catalog)
    }

    fn listed(columns: &[(&str, &str, Option<u32>)]) -> Vec<CatalogColumn> {
        let column = |&(name, column_type, key_position): &(&str, &str, Option<u32>)| CatalogColumn {
            name: name.to_owned(),
            column_type: column_type.to_owned(),
            charset: column_type.contains("text").then(|| "latin1".to_owned()),
            key_position,
            is_hidden: false,
        };
        columns.iter().map(column).collect()
    }

    fn names(columns: &Columns) -> Vec<&str> {
        columns.columns.iter().map(|column| column.name.as_str()).collect()
    }

    /// `CREATE TABLE t (id INT PRIMARY KEY, doc TEXT, n INT, UNIQUE (doc))` on MariaDB 10.5 to 11.8.
    const HASHED: [(u8, &[u8]); 4] = [(3, &[]), (252, &[2]), (3, &[]), (8, &[])];

    #[test]
    fn a_row_hash_is_no_column() {
        let names_of = |last: &[u8]| [b"\x02id\x03doc\x01n".as_slice(), last].concat();
        let hash = names_of(b"\x0dDB_ROW_HASH_1");
        let key: &[u8] = &[0];
        let body = map(&HASHED, &[0x0e], &[(1, &[0x20]), (2, &[8]), (4, &hash), (8, key)]);
        let table = columns(&body, Family::MariaDb, None).expect("columns");
        assert_eq!(names(&table), ["id", "doc", "n"]);
        assert_eq!((table.codecs.len(), table.widths.len()), (3, 4), "row images contain the hash");
        // The hash of a NOT NULL key isn't nullable either.
        let not_null = map(&HASHED, &[0x00], &[(1, &[0x20]), (2, &[8]), (4, &hash), (8, key)]);
        assert_eq!(names(&columns(&not_null, Family::MariaDb, None).expect("columns")), ["id", "doc", "n"]);
        assert_eq!(names(&columns(&body, Family::MySql, None).expect("columns")).len(), 4, "MySQL has no row hashes");
        // Similar columns that are no row hashes.
        for (last, unsigned) in
            [(b"\x0dDB_ROW_HASH_1".as_slice(), 0x00), (b"\x0cDB_ROW_HASH_", 0x20), (b"\x0eDB_ROW_HASH_1b", 0x20)]
        {
            let body = map(&HASHED, &[0x0e], &[(1, &[unsigned]), (2, &[8]), (4, &names_of(last)), (8, key)]);
            assert_eq!(names(&columns(&body, Family::MariaDb, None).expect("columns")).len(), 4);
        }
    }

    #[test]
    fn unlisted_columns_are_matched() {
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("doc", "text", None), ("n", "int(11)", None)]);
        append_unlisted(&mut catalog, false, 1);
        for metadata in [&[][..], &[(1, &[0x20][..]), (2, &[8])]] {
            let body = map(&HASHED, &[0x0e], metadata);
            let table = columns(&body, Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!((names(&table), table.widths.len()), (vec!["id", "doc", "n"], 4));
            assert_eq!(table.key, [ColumnIndex(0)]);
            // Hash indexes of MEMORY tables have no hidden column.
            let body = map(&HASHED[..3], &[6], &metadata[..metadata.len().min(1)]);
            let table = columns(&body, Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!((names(&table), table.widths.len()), (vec!["id", "doc", "n"], 3));
        }
        let others: [&[(u8, &[u8])]; 3] = [
            &HASHED[..2],
            &[HASHED[0], HASHED[1], HASHED[2], HASHED[2]],
            &[HASHED[0], HASHED[1], HASHED[2], HASHED[3], HASHED[3]],
        ];
        for types in others {
            let cause = columns(&map(types, &[0x0e], &[]), Family::MariaDb, Some(&catalog));
            assert!(matches!(cause, Err(ColumnsError::Decode(DecodeErrorKind::OtherColumns { .. }))), "{cause:?}");
        }
        // `WITH SYSTEM VERSIONING`, and a unique index as well.
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("doc", "text", None)]);
        append_unlisted(&mut catalog, true, 1);
        let types: [(u8, &[u8]); 5] = [(3, &[]), (252, &[2]), (17, &[6]), (17, &[6]), (8, &[])];
        for types in [&types[..], &types[..4]] {
            let table = columns(&map(types, &[0x12], &[]), Family::MariaDb, Some(&catalog)).expect("columns");
            assert_eq!(names(&table), ["id", "doc", "row_start", "row_end"]);
            assert_eq!(table.key, [ColumnIndex(0), ColumnIndex(3)], "the same key as with FULL metadata");
        }
        let mut catalog = listed(&[("id", "int(11)", None)]);
        append_unlisted(&mut catalog, true, 0);
        assert!(catalog.iter().all(|column| column.key_position.is_none()), "a table without a key");
        let mut none = Vec::new();
        append_unlisted(&mut none, true, 1);
        assert!(none.is_empty(), "a table that doesn't exist");
    }

    /// `mysql56_temporal_format=OFF`: no metadata has the number of fractional digits.
    #[test]
    fn digits_of_a_second_are_asked_for() {
        let types: [(u8, &[u8]); 4] = [(3, &[]), (7, &[]), (11, &[]), (12, &[])];
        let full = map(&types, &[0x0e], &[(1, &[0]), (4, b"\x02id\x01a\x01b\x01c"), (8, &[0])]);
        let minimal = map(&types, &[0x0e], &[(1, &[0])]);
        for (body, expected) in [(&full, Missing::FractionDigits), (&minimal, Missing::Names)] {
            match columns(body, Family::MariaDb, None) {
                Err(ColumnsError::Missing(missing)) => assert_eq!(missing, expected),
                other => panic!("{other:?}"),
            }
            let catalog = listed(&[
                ("id", "int(11)", Some(1)),
                ("a", "timestamp(6) /* mariadb-5.3 */", None),
                ("b", "time /* mariadb-5.3 */", None),
                ("c", "datetime(3) /* mariadb-5.3 */", None),
            ]);
            let table = columns(body, Family::MariaDb, Some(&catalog)).expect("columns");
            let codecs = [Codec::TimestampHires { digits: 6 }, Codec::TimeOld, Codec::DatetimeHires { digits: 3 }];
            assert_eq!(table.codecs[1..], codecs);
            assert_eq!((names(&table), &*table.key), (vec!["id", "a", "b", "c"], &[ColumnIndex(0)][..]));
            // The columns were converted since.
            let catalog = listed(&[
                ("id", "int(11)", Some(1)),
                ("a", "timestamp(6)", None),
                ("b", "time", None),
                ("c", "datetime(3)", None),
            ]);
            let cause = columns(body, Family::MariaDb, Some(&catalog)).expect_err("other columns");
            let ColumnsError::Decode(cause) = cause else { panic!("{cause:?}") };
            assert!(cause.to_string().contains("column `a` is `timestamp(6)` in information_schema"), "{cause}");
        }
        // A column has another name.
        let mut catalog = listed(&[("id", "int(11)", Some(1)), ("a", "timestamp /* mariadb-5.3 */", None)]);
        catalog.extend(listed(&[("x", "time", None), ("c", "datetime", None)]));
        assert!(columns(&full, Family::MariaDb, Some(&catalog)).is_err());
        // In MySQL these types have no fraction.
        let table = columns(&full, Family::MySql, None).expect("columns");
        assert_eq!(table.codecs[1..], [Codec::TimestampOld, Codec::TimeOld, Codec::DatetimeOld]);
    }

    /// `ENUM(x'ff01','b') CHARACTER SET binary`, and likewise a SET.
    #[test]
    fn members_may_be_bytes() {
        let types: [(u8, &[u8]); 3] = [(254, &[247, 1]), (254, &[248, 1]), (254, &[247, 1])];
        let members: [(u8, &[u8]); 2] =
            [(6, b"\x02\x02\xff\x01\x01b\x02\x02\xc3\xa9\x01b"), (5, b"\x02\x02\xff\x01\x01b")];
        let names: (u8, &[u8]) = (4, b"\x01e\x01s\x01u");
        let body = map(&types, &[0], &[names, (10, &[63]), members[0], members[1]]);
        let table = columns(&body, Family::MariaDb, None).expect("columns");
        let kinds: Vec<Kind> = table.columns.iter().map(|column| column.kind).collect();
        assert_eq!(kinds, [Kind::Bytes, Kind::Bytes, Kind::Enum], "text if all members are text");
        let value = |codec: &Codec, byte: u8| {
            let mut out = Vec::new();
            codec.decode(&mut Bytes(&[byte]), &mut out).expect("a value");
            out
        };
        assert_eq!((value(&table.codecs[0], 1), value(&table.codecs[0], 2)), (vec![0xff, 1], b"b".to_vec()));
        assert_eq!(value(&table.codecs[1], 3), b"\xff\x01,b");
        assert_eq!(value(&table.codecs[2], 1), "é".as_bytes());
        // In another character set the members must be valid text.
        let body = map(&types, &[0], &[names, (10, &[45]), members[0], members[1]]);
        assert!(columns(&body, Family::MariaDb, None).is_err());
    }
}
