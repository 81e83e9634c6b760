//! The optional metadata of a table map, which `binlog_row_metadata` controls; missing parts are taken from
//! information_schema.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Table__map__event.html>

use rowmill_batch::{Column, ColumnIndex, Kind};

use super::bytes::Bytes;
use super::catalog::{self, CatalogColumn};
use super::charset::Charset;
use super::column_codec::{Members, column_codec, geometry_name};
use super::column_type::{ColumnType, code};
use super::columns::{Columns, Family};
use super::error::{DecodeErrorKind, Missing};
use super::value::Codec;

/// The optional metadata, by column.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    unsigned: Option<Vec<bool>>,
    /// `None` for a column whose character set the table map lacks.
    charsets: Vec<Option<Charset>>,
    pub names: Option<Vec<&'a str>>,
    members: Vec<Members<'a>>,
    /// The declared types of geometry columns, as numbers of well-known binary.
    geometries: Vec<u64>,
    /// The number of fractional digits of columns of an old temporal type.
    digits: Vec<u8>,
    key: Vec<ColumnIndex>,
    /// The number of hidden columns, which are the last ones, if known.
    hidden: Option<usize>,
}

impl<'a> Metadata<'a> {
    pub fn parse(mut bytes: Bytes<'a>, types: &[ColumnType], family: Family) -> Result<Self, DecodeErrorKind> {
        let mut metadata = Self {
            charsets: vec![None; types.len()],
            members: vec![Members::Encoded(Vec::new()); types.len()],
            geometries: vec![0; types.len()],
            digits: vec![0; types.len()],
            ..Self::default()
        };
        let has_charset = match family {
            Family::MySql => |column: ColumnType| column.is_character() || column.code == code::VECTOR,
            Family::MariaDb => |column: ColumnType| column.is_character() || column.code == code::GEOMETRY,
        };
        let columns_of = |is: fn(ColumnType) -> bool| {
            types.iter().enumerate().filter(move |(_, column)| is(**column)).map(|(index, _)| index)
        };
        while !bytes.is_empty() {
            let field = bytes.u8()?;
            let mut body = Bytes(bytes.lenenc_bytes()?);
            match field {
                1 => {
                    let mut unsigned = vec![false; types.len()];
                    for (bit, column) in columns_of(ColumnType::is_numeric).enumerate() {
                        let byte = body.0.get(bit / 8).ok_or(DecodeErrorKind::Truncated)?;
                        unsigned[column] = byte << (bit % 8) & 0x80 != 0;
                    }
                    metadata.unsigned = Some(unsigned);
                }
                2 => metadata.default_collations(columns_of(has_charset), body)?,
                10 => metadata.default_collations(columns_of(ColumnType::is_enum_or_set), body)?,
                3 | 11 => {
                    let is = if field == 3 { has_charset } else { ColumnType::is_enum_or_set };
                    for column in columns_of(is) {
                        metadata.charsets[column] = Some(Charset::by_collation(body.lenenc()?));
                    }
                }
                4 => {
                    let mut names = Vec::with_capacity(types.len());
                    for _ in types {
                        let name = std::str::from_utf8(body.lenenc_bytes()?);
                        names.push(name.map_err(|_| DecodeErrorKind::Malformed("a column's name"))?);
                    }
                    metadata.names = Some(names);
                }
                5 | 6 => {
                    let is: fn(ColumnType) -> bool =
                        if field == 5 { |column| column.code == code::SET } else { |column| column.code == code::ENUM };
                    for column in columns_of(is) {
                        let mut members = Vec::new();
                        for _ in 0..body.lenenc()? {
                            members.push(body.lenenc_bytes()?);
                        }
                        metadata.members[column] = Members::Encoded(members);
                    }
                }
                8 | 9 => {
                    while !body.is_empty() {
                        let column = body.lenenc_usize()?;
                        if field == 9 {
                            body.lenenc()?; // the length of the key's prefix
                        }
                        if column >= types.len() {
                            return Err(DecodeErrorKind::Malformed("a primary key's column"));
                        }
                        metadata.key.push(ColumnIndex(column as u32));
                    }
                }
                7 => {
                    for column in columns_of(|column| column.code == code::GEOMETRY) {
                        metadata.geometries[column] = body.lenenc()?;
                    }
                }
                // Visibility and vector dimensions: no value depends on them.
                _ => {}
            }
        }
        Ok(metadata)
    }

    /// Reads a default collation, then the index and collation of each column that has another one.
    fn default_collations(
        &mut self,
        columns: impl Iterator<Item = usize> + Clone,
        mut body: Bytes<'_>,
    ) -> Result<(), DecodeErrorKind> {
        let default = Charset::by_collation(body.lenenc()?);
        for column in columns.clone() {
            self.charsets[column] = Some(default.clone());
        }
        while !body.is_empty() {
            let nth = body.lenenc_usize()?;
            let column = columns.clone().nth(nth).ok_or(DecodeErrorKind::Malformed("a column's collation"))?;
            self.charsets[column] = Some(Charset::by_collation(body.lenenc()?));
        }
        Ok(())
    }

    /// Takes missing metadata from information_schema, if its columns match the table map.
    pub fn complete(
        self,
        catalog: &'a [CatalogColumn],
        types: &[ColumnType],
        missing: Missing,
    ) -> Result<Self, DecodeErrorKind> {
        let other_columns = |difference: String| DecodeErrorKind::OtherColumns { missing, difference };
        if catalog.is_empty() {
            return Err(other_columns(
                "no columns: the table no longer exists, or the user lacks SELECT on it".to_owned(),
            ));
        }
        // Not every index that could have a hidden column has one.
        let listed = catalog.iter().filter(|column| !column.is_hidden).count();
        let Some(catalog) = catalog.get(..types.len()).filter(|_| types.len() >= listed) else {
            return Err(other_columns(format!(
                "{listed} columns in information_schema, {} in the binlog",
                types.len()
            )));
        };
        let differs = |column: &CatalogColumn, what: &str| {
            other_columns(format!(
                "column `{}` is `{}` in information_schema, {what} in the binlog",
                column.name, column.column_type
            ))
        };
        for (column, column_type) in catalog.iter().zip(types) {
            if !column.fits(*column_type) {
                let ColumnType { code, meta } = *column_type;
                return Err(differs(column, &format!("of type {code} {meta:?}")));
            }
        }
        for (column, name) in catalog.iter().zip(self.names.iter().flatten()) {
            if !column.is_hidden && column.name != *name {
                return Err(differs(column, &format!("named `{name}`")));
            }
        }
        let from_catalog: Vec<bool> = catalog.iter().map(CatalogColumn::is_unsigned).collect();
        if let Some(unsigned) = &self.unsigned {
            let is_other = |index: &usize| types[*index].is_integer() && unsigned[*index] != from_catalog[*index];
            if let Some(index) = (0..types.len()).find(is_other) {
                return Err(differs(&catalog[index], if unsigned[index] { "unsigned" } else { "signed" }));
            }
        }
        for ((column, column_type), charset) in catalog.iter().zip(types).zip(&self.charsets) {
            if let Some(charset) = charset.as_ref().filter(|charset| **charset != column.charset())
                && column_type.is_character()
            {
                return Err(differs(column, &format!("in the character set {charset:?}")));
            }
        }
        let digits = catalog.iter().map(CatalogColumn::fraction_digits).collect();
        let hidden = Some(types.len() - listed);
        if self.names.is_some() {
            // The table map has everything else.
            return Ok(Self { digits, hidden, ..self });
        }
        let mut key: Vec<(u32, ColumnIndex)> = (0..)
            .map(ColumnIndex)
            .zip(catalog)
            .filter_map(|(index, column)| Some((column.key_position?, index)))
            .collect();
        key.sort_unstable_by_key(|(position, _)| *position);
        let charsets = self.charsets.into_iter().zip(catalog);
        Ok(Self {
            unsigned: self.unsigned.or(Some(from_catalog)),
            charsets: charsets.map(|(charset, column)| charset.or_else(|| Some(column.charset()))).collect(),
            names: Some(catalog.iter().map(|column| column.name.as_str()).collect()),
            members: catalog.iter().map(|column| column.members().map(Members::Text)).collect::<Result<_, _>>()?,
            geometries: self.geometries,
            digits,
            key: key.into_iter().map(|(_, index)| index).collect(),
            hidden,
        })
    }

    pub fn columns(self, types: &[ColumnType], nullable: &[u8], family: Family) -> Result<Columns, DecodeErrorKind> {
        let is_nullable = |index: usize| nullable[index / 8] >> (index % 8) & 1 != 0;
        let hidden = self.hidden.unwrap_or_else(|| match family {
            Family::MySql => 0,
            Family::MariaDb => self.row_hashes(types),
        });
        let visible = types.len() - hidden;
        let Self { unsigned, charsets, names, members, geometries, digits, key, hidden: _ } = self;
        let names = names.unwrap_or_default();
        let mut columns = Vec::with_capacity(types.len());
        let mut codecs = Vec::with_capacity(types.len());
        for (index, ((&column_type, charset), members)) in types.iter().zip(charsets).zip(members).enumerate() {
            let name = *names.get(index).ok_or(DecodeErrorKind::Malformed("a table map's names"))?;
            let charset = charset.unwrap_or(Charset::Binary);
            let unsigned = unsigned.as_ref().is_some_and(|unsigned| unsigned[index]);
            let (kind, mut mysql_type, codec) =
                column_codec(name, column_type, unsigned, charset, members, digits[index])?;
            if kind == Kind::Geometry {
                geometry_name(geometries[index]).clone_into(&mut mysql_type);
            }
            columns.push(Column {
                name: name.to_owned(),
                kind,
                mysql_type,
                nullable: is_nullable(index),
                key: key.contains(&ColumnIndex(index as u32)),
            });
            codecs.push(codec);
        }
        let widths = codecs.iter().map(Codec::width).collect::<Result<_, _>>()?;
        columns.truncate(visible);
        codecs.truncate(visible);
        let key = key.into_iter().filter(|ColumnIndex(index)| (*index as usize) < visible).collect();
        Ok(Columns { columns, codecs, widths, key })
    }

    /// Returns how many of the last columns are MariaDB's hidden hashes of unique keys that have no B-tree. They are
    /// recognized by their names, which MariaDB gives to nothing else.
    fn row_hashes(&self, types: &[ColumnType]) -> usize {
        let is_unsigned = |index: usize| self.unsigned.as_ref().is_some_and(|unsigned| unsigned[index]);
        let is_row_hash = |index: usize| {
            let name = self.names.as_ref().and_then(|names| names.get(index));
            let number = name.and_then(|name| name.strip_prefix(catalog::ROW_HASH_PREFIX));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
                && types[index].code == code::LONGLONG
                && is_unsigned(index)
        };
        // No table consists of row hashes only.
        (1..types.len()).rev().take_while(|index| is_row_hash(*index)).count()
    }
}
