//! Row images of which only some columns are needed: what lies between those is passed over at once.

use rowmill_batch::{Builder, ColumnIndex};

use super::bytes::Bytes;
use super::error::Fault;
use super::late::{ColumnSet, Needed};
use super::rows::decode_value;
use super::table_map::Columns;
use super::value::Width;

/// What is needed of a row, and how its images are gone through.
#[derive(Debug)]
pub(super) struct SparseRow {
    /// Of the row as it was.
    pub before: SparseImage,
    /// Of the row as it is now.
    pub after: SparseImage,
}

/// What is needed of an image.
#[derive(Debug)]
pub(super) struct SparseImage {
    needed: ColumnSet,
    /// The way through images that have all of the table's columns; of tables of more than 64 there is none.
    way: Option<Way>,
}

#[derive(Debug)]
struct Way {
    /// In the binlog's image, and in the batch's: hidden ones are in the former alone.
    columns: usize,
    visible: usize,
    /// A bit for each column, as all of these masks.
    all: u64,
    /// What is needed, in its order, and what is before it.
    stops: Vec<(Gap, usize)>,
    /// Behind the last of them.
    end: Gap,
}

/// Columns that nobody needs, one behind the other.
#[derive(Debug, Default)]
struct Gap {
    from: usize,
    to: usize,
    mask: u64,
    /// Where no column is NULL.
    jumps: Vec<Jump>,
    /// And so many bytes behind them.
    rest: usize,
}

/// So many bytes, a length of so many bytes, and what that says.
#[derive(Debug)]
struct Jump {
    bytes: usize,
    len_bytes: usize,
    /// Of four bytes, those of the length.
    mask: u32,
}

impl SparseRow {
    pub fn new(Needed { before, after }: Needed, table: &Columns) -> Self {
        Self { before: SparseImage::new(before, table), after: SparseImage::new(after, table) }
    }
}

impl SparseImage {
    fn new(needed: ColumnSet, table: &Columns) -> Self {
        let way = (table.widths.len() <= 64).then(|| Way::new(&needed, table));
        Self { needed, way }
    }

    /// Whether a column is needed.
    #[inline]
    pub fn contains(&self, column: usize) -> bool {
        self.needed.contains(ColumnIndex(column as u32))
    }

    /// Reads an image of the columns that are `present`, if there is a fast way to. False, and nothing is read, if there is
    /// none.
    pub fn image(
        &self,
        rows: &mut Bytes<'_>,
        table: &Columns,
        present: &[u8],
        builder: &mut Builder,
    ) -> Result<bool, Fault> {
        let Some(way) = &self.way else { return Ok(false) };
        if Bytes(present).uint(present.len())? & way.all != way.all {
            return Ok(false);
        }
        way.go(rows, table, builder).map(|()| true)
    }
}

impl Way {
    fn new(needed: &ColumnSet, table: &Columns) -> Self {
        let (columns, mut gap, mut stops) = (table.widths.len(), Gap::default(), Vec::new());
        for (column, width) in table.widths.iter().enumerate() {
            if needed.contains(ColumnIndex(column as u32)) {
                stops.push((std::mem::replace(&mut gap, Gap::behind(column)), column));
            } else {
                gap.add(column, *width);
            }
        }
        let all = u64::MAX.checked_shr(64 - columns as u32).unwrap_or(0);
        Self { columns, visible: table.columns.len(), all, stops, end: gap }
    }

    fn go(&self, rows: &mut Bytes<'_>, table: &Columns, builder: &mut Builder) -> Result<(), Fault> {
        let nulls = rows.uint(self.columns.div_ceil(8))? & self.all;
        builder.begin_image(self.visible);
        for (gap, column) in &self.stops {
            gap.pass(rows, table, nulls)?;
            builder.absent_before(*column);
            if nulls >> column & 1 != 0 {
                builder.null();
            } else {
                decode_value(*column, table, rows, builder)?;
                builder.end_value();
            }
        }
        self.end.pass(rows, table, nulls)?;
        builder.absent_before(self.visible);
        builder.end_image();
        Ok(())
    }
}

impl Gap {
    fn behind(column: usize) -> Self {
        Self { from: column + 1, to: column + 1, ..Self::default() }
    }

    fn add(&mut self, column: usize, width: Width) {
        self.to = column + 1;
        self.mask |= 1 << column;
        match width {
            Width::Fixed(len) => self.rest += len,
            Width::Prefixed(len_bytes) => {
                let bytes = std::mem::take(&mut self.rest);
                self.jumps.push(Jump { bytes, len_bytes, mask: u32::MAX >> (32 - 8 * len_bytes) });
            }
        }
    }

    #[inline]
    fn pass(&self, rows: &mut Bytes<'_>, table: &Columns, nulls: u64) -> Result<(), Fault> {
        if nulls & self.mask != 0 {
            for (column, width) in (self.from..).zip(&table.widths[self.from..self.to]) {
                if nulls >> column & 1 == 0 {
                    width.skip(rows)?;
                }
            }
            return Ok(());
        }
        let mut at = 0;
        for Jump { bytes, len_bytes, mask } in &self.jumps {
            at += bytes;
            let mut rest = Bytes(rows.0.get(at..).unwrap_or_default());
            let len = match rest.0.first_chunk() {
                Some(four) => u32::from_le_bytes(*four) & mask,
                None => rest.uint(*len_bytes)? as u32,
            };
            at += len_bytes + len as usize;
        }
        rows.take(at + self.rest).map(|_| ())
    }
}
