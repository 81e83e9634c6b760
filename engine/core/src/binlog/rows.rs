//! Row events: the before and after images of a table's rows.

use rowmill_batch::{Builder, Operation};

use super::bytes::Bytes;
use super::columns::Columns;
use super::error::DecodeErrorKind;
use super::event_kind::EventKind;
use super::json;
use super::projection_plan::{ImagePlan, RowPlan};
use super::value::Codec;

/// The table number of a row event that belongs to no table and only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

/// The properties of a row event that follow from its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RowsKind {
    event: EventKind,
    operation: Operation,
    version: Version,
    /// Whether the rows are compressed as MariaDB does.
    compressed: bool,
    /// Whether after images may have partial updates of JSON columns instead of values.
    partial: bool,
}

impl RowsKind {
    pub fn of(kind: EventKind) -> Option<Self> {
        use Operation::{Delete, Insert, Update};
        use Version::{V1, V2};
        let (operation, version, compressed, partial) = match kind {
            EventKind::WRITE_ROWS => (Insert, V2, false, false),
            EventKind::UPDATE_ROWS => (Update, V2, false, false),
            EventKind::DELETE_ROWS => (Delete, V2, false, false),
            EventKind::PARTIAL_UPDATE_ROWS => (Update, V2, false, true),
            EventKind::WRITE_ROWS_V1 => (Insert, V1, false, false),
            EventKind::UPDATE_ROWS_V1 => (Update, V1, false, false),
            EventKind::DELETE_ROWS_V1 => (Delete, V1, false, false),
            EventKind::MARIADB_WRITE_ROWS_COMPRESSED_V1 => (Insert, V1, true, false),
            EventKind::MARIADB_UPDATE_ROWS_COMPRESSED_V1 => (Update, V1, true, false),
            EventKind::MARIADB_DELETE_ROWS_COMPRESSED_V1 => (Delete, V1, true, false),
            EventKind::MARIADB_WRITE_ROWS_COMPRESSED => (Insert, V2, true, false),
            EventKind::MARIADB_UPDATE_ROWS_COMPRESSED => (Update, V2, true, false),
            EventKind::MARIADB_DELETE_ROWS_COMPRESSED => (Delete, V2, true, false),
            _ => return None,
        };
        Some(Self { event: kind, operation, version, compressed, partial })
    }

    /// Returns the event's type.
    pub fn event_kind(self) -> EventKind {
        self.event
    }
}

/// A row event's version: 2 (MySQL 5.6 and later) has extra data after the flags; MariaDB writes version 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Version {
    V1,
    V2,
}

/// A row event and the images that were not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsEvent<'a> {
    kind: RowsKind,
    pub table_number: u64,
    columns: usize,
    before_present: Present<'a>,
    after_present: Present<'a>,
    rows: Bytes<'a>,
    /// Whether a row without any column was not read yet.
    blank_row: bool,
}

/// The columns that are present in an event's images.
#[derive(Debug, Clone, Copy)]
struct Present<'a> {
    /// A bit for each of the table's columns.
    bits: &'a [u8],
    /// The number of set bits, counted once for all images.
    count: usize,
}

impl<'a> RowsEvent<'a> {
    /// Returns the table number of an event, or `None` if the event belongs to no table.
    pub fn table_number(body: &[u8]) -> Result<Option<u64>, DecodeErrorKind> {
        let number = Bytes(body).uint(6)?;
        Ok((number != NO_TABLE).then_some(number))
    }

    /// Parses the part before the rows, of an event that belongs to a table.
    #[inline]
    pub fn parse(kind: RowsKind, body: &'a [u8]) -> Result<Self, DecodeErrorKind> {
        let mut bytes = Bytes(body);
        let table_number = bytes.uint(6)?;
        bytes.u16()?; // flags
        if kind.version == Version::V2 {
            // The length counts its own two bytes.
            let extra = usize::from(bytes.u16()?)
                .checked_sub(2)
                .ok_or(DecodeErrorKind::Malformed("a row event's extra data"))?;
            bytes.take(extra)?;
        }
        let columns = bytes.lenenc_usize()?;
        let mut present = |is_there: bool| -> Result<Present<'a>, DecodeErrorKind> {
            Ok(Present::new(if is_there { bytes.take(columns.div_ceil(8))? } else { &[] }, columns))
        };
        let before_present = present(kind.operation.has_before())?;
        let after_present = present(kind.operation.has_after())?;
        // `INSERT INTO t () VALUES ()` with a minimal row image is a row of no bytes.
        let blank_row = before_present.count + after_present.count == 0;
        if blank_row && !bytes.is_empty() && !kind.compressed {
            return Err(DecodeErrorKind::Malformed("rows without columns"));
        }
        Ok(Self { kind, table_number, columns, before_present, after_present, rows: bytes, blank_row })
    }

    /// Creates an event from decompressed rows of an earlier event, to read them again. `before` and `after` are the bits of
    /// the columns present.
    pub fn from_parts(kind: RowsKind, table: &Columns, (before, after): (&'a [u8], &'a [u8]), rows: &'a [u8]) -> Self {
        let columns = table.widths.len();
        let (before_present, after_present) = (Present::new(before, columns), Present::new(after, columns));
        let rows = Bytes(rows);
        Self { kind, table_number: NO_TABLE, columns, before_present, after_present, rows, blank_row: false }
    }

    /// Returns the properties of the event's type.
    pub fn kind(&self) -> RowsKind {
        self.kind
    }

    /// Returns the columns present in the before and after images, one bit each.
    pub fn present(&self) -> (&'a [u8], &'a [u8]) {
        (self.before_present.bits, self.after_present.bits)
    }

    /// Returns the images of the rows that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rows.0
    }

    /// Goes back to an earlier row, given the [`RowsEvent::rest`] before it.
    pub fn rewind(&mut self, rest: &'a [u8]) {
        self.rows = Bytes(rest);
    }

    /// Skips all rows that were not read yet.
    pub fn finish(&mut self) {
        (self.rows, self.blank_row) = (Bytes(&[]), false);
    }

    /// Returns the rows' operation.
    pub fn operation(&self) -> Operation {
        self.kind.operation
    }

    /// Returns the number of the table's columns, according to the event.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the compressed rows, which must be decompressed first; `None` if they are not compressed.
    pub fn packed(&self) -> Option<&'a [u8]> {
        self.kind.compressed.then_some(self.rows.0)
    }

    /// Sets the decompressed rows.
    pub fn unpacked(&mut self, rows: &'a [u8]) {
        self.rows = Bytes(rows);
    }

    /// Whether all rows were read.
    pub fn is_done(&self) -> bool {
        self.rows.is_empty() && !self.blank_row
    }

    /// Reads the next row's images into the row that was begun in `builder`. Columns outside the plan's projection are
    /// skipped, and written as absent. Without a plan all columns are read.
    pub fn next_row(
        &mut self,
        table: &Columns,
        plan: Option<&RowPlan>,
        builder: &mut Builder,
    ) -> Result<(), DecodeErrorKind> {
        if self.blank_row && !self.rows.is_empty() {
            return Err(DecodeErrorKind::Malformed("rows without columns"));
        }
        self.blank_row = false;
        let Self { kind, before_present, after_present, rows, .. } = self;
        let (before, after) = (plan.map(|plan| &plan.before), plan.map(|plan| &plan.after));
        let documents = *rows;
        if kind.operation.has_before() {
            image(rows, table, *before_present, before, builder)?;
        }
        let partial = if kind.partial { PartialJson::of_row(rows, table, documents, *before_present)? } else { None };
        match partial {
            Some(partial) => partial.image(rows, table, *after_present, after, builder),
            None if kind.operation.has_after() => image(rows, table, *after_present, after, builder),
            None => Ok(()),
        }
    }
}

#[inline]
fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] >> (index % 8) & 1 != 0
}

impl<'a> Present<'a> {
    /// Creates the columns present in a table of `columns` columns. The bits after the last column are ignored, since some
    /// writers set them.
    #[inline]
    fn new(bits: &'a [u8], columns: usize) -> Self {
        let set: usize = bits.iter().map(|byte| byte.count_ones() as usize).sum();
        let count = match (columns % 8, bits.last()) {
            (used @ 1.., Some(last)) => set - (last >> used).count_ones() as usize,
            _ => set,
        };
        Self { bits, count }
    }
}

/// The state of a column in an image.
enum Stored {
    /// The row image does not include the column.
    Absent,
    Null,
    /// The column has a value, which is next in the image.
    Value,
}

/// Reads an image: calls `column` for each of the table's columns that is not hidden, to read its value if there is one.
#[inline]
fn walk<'a>(
    rows: &mut Bytes<'a>,
    table: &Columns,
    present: Present<'_>,
    mut column: impl FnMut(usize, Stored, &mut Bytes<'a>) -> Result<(), DecodeErrorKind>,
) -> Result<(), DecodeErrorKind> {
    let nulls = rows.take(present.count.div_ceil(8))?;
    let mut nth_present = 0;
    for index in 0..table.columns.len() {
        if !bit(present.bits, index) {
            column(index, Stored::Absent, rows)?;
            continue;
        }
        let stored = if bit(nulls, nth_present) { Stored::Null } else { Stored::Value };
        nth_present += 1;
        column(index, stored, rows)?;
    }
    for index in table.columns.len()..table.widths.len() {
        if bit(present.bits, index) {
            if !bit(nulls, nth_present) {
                table.widths[index].skip(rows)?;
            }
            nth_present += 1;
        }
    }
    Ok(())
}

/// The form in which a column was written to the batch.
enum Decoded {
    Value,
    /// The changes of a partial update, not the value.
    Changes,
}

/// Reads an image that has values: by the plan's fast path if that applies, or else column by column.
#[inline]
fn image(
    rows: &mut Bytes<'_>,
    table: &Columns,
    present: Present<'_>,
    plan: Option<&ImagePlan>,
    builder: &mut Builder,
) -> Result<(), DecodeErrorKind> {
    if let Some(plan) = plan
        && plan.image(rows, table, present.bits, builder)?
    {
        return Ok(());
    }
    image_by(rows, table, present, plan, builder, |index, rows, builder| {
        table.decode_value(index, rows, builder).map(|()| Decoded::Value)
    })
}

/// Reads an image column by column. `decode` reads the value of a column.
#[inline]
fn image_by<'a>(
    rows: &mut Bytes<'a>,
    table: &Columns,
    present: Present<'_>,
    plan: Option<&ImagePlan>,
    builder: &mut Builder,
    mut decode: impl FnMut(usize, &mut Bytes<'a>, &mut Builder) -> Result<Decoded, DecodeErrorKind>,
) -> Result<(), DecodeErrorKind> {
    builder.begin_image(table.columns.len());
    walk(rows, table, present, |index, stored, rows| {
        if plan.is_some_and(|plan| !plan.contains(index)) {
            builder.absent();
            return if let Stored::Value = stored { table.widths[index].skip(rows) } else { Ok(()) };
        }
        match stored {
            Stored::Absent => builder.absent(),
            Stored::Null => builder.null(),
            Stored::Value => match decode(index, rows, builder)? {
                Decoded::Value => builder.end_value(),
                Decoded::Changes => builder.end_changes(),
            },
        }
        Ok(())
    })?;
    builder.end_image();
    Ok(())
}

/// The partial update of a row's JSON columns: the after image has changes of documents instead of documents. Where the
/// before image has the old document, the changes are applied to it.
struct PartialJson<'a> {
    /// A bit for each JSON column, present in the image or not: set if the column has changes.
    columns: &'a [u8],
    /// The JSON documents of the before image, by column.
    documents: Vec<Option<&'a [u8]>>,
}

impl<'a> PartialJson<'a> {
    /// Reads the part between a row's two images; `before` begins at the before image. Returns `None` if the after
    /// image has values only.
    fn of_row(
        rows: &mut Bytes<'a>,
        table: &Columns,
        mut before: Bytes<'a>,
        before_present: Present<'_>,
    ) -> Result<Option<Self>, DecodeErrorKind> {
        const PARTIAL_JSON: u64 = 1;
        let options = rows.lenenc()?;
        if options & !PARTIAL_JSON != 0 {
            return Err(DecodeErrorKind::Malformed("unknown row value options"));
        }
        if options & PARTIAL_JSON == 0 {
            return Ok(None);
        }
        let columns = rows.take(table.codecs.iter().filter(|codec| codec.is_json()).count().div_ceil(8))?;
        let mut documents = vec![None; table.columns.len()];
        walk(&mut before, table, before_present, |index, stored, rows| {
            match (stored, &table.codecs[index]) {
                (Stored::Value, Codec::Json { len_bytes }) => documents[index] = Some(document(rows, *len_bytes)?),
                (Stored::Value, _) => table.widths[index].skip(rows)?,
                (Stored::Absent | Stored::Null, _) => {}
            }
            Ok(())
        })?;
        Ok(Some(Self { columns, documents }))
    }

    /// Reads the after image.
    fn image(
        &self,
        rows: &mut Bytes<'a>,
        table: &Columns,
        present: Present<'_>,
        plan: Option<&ImagePlan>,
        builder: &mut Builder,
    ) -> Result<(), DecodeErrorKind> {
        image_by(rows, table, present, plan, builder, |index, rows, builder| {
            let nth_json = || table.codecs[..index].iter().filter(|codec| codec.is_json()).count();
            let len_bytes = match &table.codecs[index] {
                Codec::Json { len_bytes } if bit(self.columns, nth_json()) => *len_bytes,
                _ => return table.decode_value(index, rows, builder).map(|()| Decoded::Value),
            };
            let diffs = document(rows, len_bytes)?;
            match self.documents[index] {
                Some(document) => {
                    json::apply(document, diffs, builder.value())?;
                    Ok(Decoded::Value)
                }
                None => {
                    json::describe(diffs, builder.value())?;
                    Ok(Decoded::Changes)
                }
            }
        })
    }
}

/// Reads a JSON document, or a document's changes, after its length.
fn document<'a>(rows: &mut Bytes<'a>, len_bytes: usize) -> Result<&'a [u8], DecodeErrorKind> {
    let len = rows.uint(len_bytes)? as usize;
    rows.take(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::columns::Family;
    use crate::binlog::projection::ColumnSet;
    use crate::binlog::projection::RowProjection;
    use crate::binlog::table_map::TableName;
    use rowmill_batch::{Cell, ColumnIndex, RowHeader, TableId, TransactionHeader};

    /// A table of `columns` columns `TINYINT NULL`, and `hashes` of MariaDB's hidden row hashes after them.
    fn table(columns: usize, hashes: usize) -> Columns {
        let all = columns + hashes;
        let mut body = b"\x01\0\0\0\0\0\x01\0\x04shop\0\x01t\0".to_vec();
        body.push(all as u8);
        body.extend((0..all).map(|index| if index < columns { 1 } else { 8 }));
        body.push(0);
        body.extend(vec![0xff; all.div_ceil(8)]);
        body.extend([1, all.div_ceil(8) as u8]);
        body.extend(vec![0xff; all.div_ceil(8)]);
        let mut names = Vec::new();
        for index in 0..all {
            let name =
                if index < columns { format!("c{index}") } else { format!("DB_ROW_HASH_{}", index - columns + 1) };
            names.push(name.len() as u8);
            names.extend(name.bytes());
        }
        body.extend([4, 0xfc]);
        body.extend((names.len() as u16).to_le_bytes());
        body.extend(names);
        TableName::parse(&body).expect("a map").columns(Family::MariaDb, None).expect("columns")
    }

    fn cells(
        table: &Columns,
        kind: EventKind,
        body: &[u8],
        plan: Option<&[u32]>,
    ) -> Result<Vec<Vec<Option<u64>>>, DecodeErrorKind> {
        let plan = plan.map(|columns| {
            let set: ColumnSet = columns.iter().map(|&column| ColumnIndex(column)).collect();
            RowPlan::new(RowProjection { before: set.clone(), after: set }, table)
        });
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TransactionHeader {
            file: "",
            position: 0,
            gtid: "",
            commit_time_us: 0,
            server_id: 0,
            thread_id: 0,
        });
        let mut rows = RowsEvent::parse(RowsKind::of(kind).expect("rows"), body)?;
        let mut count = 0;
        while !rows.is_done() {
            builder.begin_row(&RowHeader {
                table: TableId(0),
                operation: rows.operation(),
                columns: table.columns.len() as u16,
                index_in_transaction: 0,
                index_in_event: 0,
                event_position: 0,
                time_us: 0,
            });
            rows.next_row(table, plan.as_ref(), &mut builder)?;
            builder.end_row();
            count += 1;
        }
        let bytes = builder.finish();
        let batch = bytes.view();
        assert_eq!(batch.rows().count(), count);
        let number = |cell: Cell<'_>| match cell {
            Cell::Absent => None,
            cell => Some(cell.uint().unwrap_or(u64::MAX)),
        };
        let images = batch.rows().flat_map(|row| [row.before(), row.after()].into_iter().flatten().collect::<Vec<_>>());
        Ok(images.map(|image| image.cells().map(number).collect()).collect())
    }

    /// The part before the columns' bitmaps, in version 1.
    const START: &[u8] = b"\x01\0\0\0\0\0\x01\0";

    /// The bits of a bitmap after the last column are ignored. MariaDB 10.5 sets them.
    #[test]
    fn padding_of_the_bitmap_counts_for_nothing() {
        let table = table(26, 0);
        let insert = |bitmap: &[u8], row: &[u8]| [START, &[26], bitmap, row].concat();
        let row = [0xf8, 7, 8, 9];
        for bitmap in [[1, 1, 0x10, 0xfc], [1, 1, 0x10, 0]] {
            for plan in [None, Some(&[0, 8][..])] {
                let images = cells(&table, EventKind::WRITE_ROWS_V1, &insert(&bitmap, &row), plan).expect("a row");
                let set: Vec<(usize, u64)> =
                    images[0].iter().enumerate().filter_map(|(index, cell)| Some((index, (*cell)?))).collect();
                let expected: &[_] = if plan.is_none() { &[(0, 7), (8, 8), (20, 9)] } else { &[(0, 7), (8, 8)] };
                assert_eq!(set, expected);
            }
        }
        // Eight columns are present: one byte of NULL bits, not two.
        let row = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        let images = cells(&table, EventKind::WRITE_ROWS_V1, &insert(&[0xff, 0, 0, 0xfc], &row), None).expect("a row");
        assert_eq!(images[0][..8], [1, 2, 3, 4, 5, 6, 7, 8].map(Some));
        // A row of no bytes is one row, whatever the padding is.
        for bitmap in [[0, 0, 0, 0], [0, 0, 0, 0xfc]] {
            let images = cells(&table, EventKind::WRITE_ROWS_V1, &insert(&bitmap, &[]), None).expect("a row");
            assert_eq!(images, [vec![None; 26]]);
        }
        // The padding is ignored in both images of an update.
        let update = [START, &[26], &[1, 0, 0, 0xfc], &[1, 1, 0, 0xfc], &[0xfe, 1], &[0xfc, 2, 3]].concat();
        let images = cells(&table, EventKind::UPDATE_ROWS_V1, &update, None).expect("a row");
        assert_eq!((images[0][0], images[1][0], images[1][8]), (Some(1), Some(2), Some(3)));
        for columns in 1..=70 {
            let bytes = usize::div_ceil(columns, 8);
            assert_eq!(Present::new(&vec![0xff; bytes], columns).count, columns);
            assert_eq!(Present::new(&vec![0; bytes], columns).count, 0);
        }
        assert_eq!(Present::new(&[], 26).count, 0, "an image that does not exist");
    }

    /// Hidden columns are skipped, whether images have them or not.
    #[test]
    fn hidden_columns_are_passed_over() {
        for columns in [3, 70] {
            let table = table(columns, 2);
            let all = columns + 2;
            let mut values = vec![0; all.div_ceil(8)]; // NULLs
            values.extend((0..columns).map(|index| index as u8));
            let mut full = vec![0xff; all.div_ceil(8)];
            let (mut hidden, mut null) = (values.clone(), values.clone());
            hidden.extend([0xaa; 16]);
            null[columns / 8] |= 1 << (columns % 8);
            null.extend([0xaa; 8]);
            let mut insert = [START, &[all as u8], &full, &hidden, &null].concat();
            for plan in [None, Some(&[1][..])] {
                let images = cells(&table, EventKind::WRITE_ROWS_V1, &insert, plan).expect("rows");
                assert_eq!(images.len(), 2);
                for image in images {
                    assert_eq!((image.len(), image[1]), (columns, Some(1)));
                }
            }
            // MariaDB 11.8 leaves them out of updates.
            full[columns / 8] &= !(1 << (columns % 8));
            full[(columns + 1) / 8] &= !(1 << ((columns + 1) % 8));
            values[0] = 0;
            values.drain(..all.div_ceil(8) - columns.div_ceil(8));
            insert = [START, &[all as u8], &full, &values].concat();
            for plan in [None, Some(&[1][..])] {
                let images = cells(&table, EventKind::WRITE_ROWS_V1, &insert, plan).expect("rows");
                assert_eq!((images.len(), images[0].len(), images[0][1]), (1, columns, Some(1)));
            }
        }
    }
}
