//! Decoding plans for row images: each run of columns between two projected ones is skipped in one step.

use rowmill_batch::{Builder, ColumnIndex, ImageHead};

use super::bytes::Bytes;
use super::columns::Columns;
use super::error::DecodeErrorKind;
use super::projection::{ColumnSet, RowProjection};
use super::value::Width;

/// A row's projection, and the plan for reading its images.
#[derive(Debug)]
pub(super) struct RowPlan {
    /// The plan for the before image.
    pub before: ImagePlan,
    /// The plan for the after image.
    pub after: ImagePlan,
}

/// An image's projection, and the plan for reading it.
#[derive(Debug)]
pub(super) struct ImagePlan {
    projected: ColumnSet,
    /// The plan for images with all of the table's columns; `None` for tables of more than 64 columns.
    full: Option<FullImagePlan>,
}

/// The plan for an image that has all of the table's columns.
#[derive(Debug)]
struct FullImagePlan {
    /// The number of columns of the binlog's image, with the hidden ones.
    columns: usize,
    /// The number of columns of the batch's image.
    visible: usize,
    /// A mask of all columns; as in all masks here, bit `n` is column `n`.
    all: u64,
    /// A mask of the projected columns.
    projected: u64,
    /// The beginning of an image in which no projected column is NULL.
    head: ImageHead,
    /// The projected columns in order, each with the run of skipped columns before it.
    reads: Vec<(SkipRun, usize)>,
    /// The run after the last projected column.
    end: SkipRun,
}

/// A run of consecutive columns outside the projection.
#[derive(Debug, Default)]
struct SkipRun {
    from: usize,
    to: usize,
    mask: u64,
    /// The steps to take if no column is NULL.
    skips: Vec<VarLenSkip>,
    /// The bytes after the last step.
    rest: usize,
}

/// A step of a [`SkipRun`]: `bytes` bytes, a length of `len_bytes` bytes, and as many bytes as the length says.
#[derive(Debug)]
struct VarLenSkip {
    bytes: usize,
    len_bytes: usize,
    /// The mask of the length in a little-endian `u32`.
    mask: u32,
}

impl RowPlan {
    pub fn new(RowProjection { before, after }: RowProjection, table: &Columns) -> Self {
        Self { before: ImagePlan::new(before, table), after: ImagePlan::new(after, table) }
    }
}

impl ImagePlan {
    fn new(projected: ColumnSet, table: &Columns) -> Self {
        let full = (table.widths.len() <= 64).then(|| FullImagePlan::new(&projected, table));
        Self { projected, full }
    }

    /// Whether a column is projected.
    #[inline]
    pub fn contains(&self, column: usize) -> bool {
        self.projected.contains(ColumnIndex(column as u32))
    }

    /// Reads an image with the columns `present` by the fast plan. Returns false and reads nothing if the plan does not
    /// apply.
    pub fn image(
        &self,
        rows: &mut Bytes<'_>,
        table: &Columns,
        present: &[u8],
        builder: &mut Builder,
    ) -> Result<bool, DecodeErrorKind> {
        let Some(full) = &self.full else { return Ok(false) };
        if Bytes(present).uint(present.len())? & full.all != full.all {
            return Ok(false);
        }
        full.go(rows, table, builder).map(|()| true)
    }
}

impl FullImagePlan {
    fn new(projected: &ColumnSet, table: &Columns) -> Self {
        let (columns, mut gap, mut reads) = (table.widths.len(), SkipRun::default(), Vec::new());
        for (column, width) in table.widths.iter().enumerate() {
            if projected.contains(ColumnIndex(column as u32)) {
                reads.push((std::mem::replace(&mut gap, SkipRun::after(column)), column));
            } else {
                gap.add(column, *width);
            }
        }
        let all = u64::MAX.checked_shr(64 - columns as u32).unwrap_or(0);
        let visible = table.columns.len();
        let is_projected = |column| projected.contains(ColumnIndex(column as u32));
        let head = ImageHead::new(visible, is_projected);
        let projected = (0..columns).filter(|&column| is_projected(column)).fold(0, |mask, column| mask | 1 << column);
        Self { columns, visible, all, projected, head, reads, end: gap }
    }

    /// Reads an image.
    fn go(&self, rows: &mut Bytes<'_>, table: &Columns, builder: &mut Builder) -> Result<(), DecodeErrorKind> {
        let nulls = rows.uint(self.columns.div_ceil(8))? & self.all;
        if nulls & self.projected == 0 {
            builder.begin_known_image(&self.head);
            for (gap, column) in &self.reads {
                gap.pass(rows, table, nulls)?;
                builder.absent_before(*column);
                table.decode_value(*column, rows, builder)?;
                builder.end_known_value();
            }
            return self.end(rows, table, nulls, builder);
        }
        builder.begin_image(self.visible);
        for (gap, column) in &self.reads {
            gap.pass(rows, table, nulls)?;
            builder.absent_before(*column);
            if nulls >> column & 1 != 0 {
                builder.null();
            } else {
                table.decode_value(*column, rows, builder)?;
                builder.end_value();
            }
        }
        self.end(rows, table, nulls, builder)
    }

    /// Reads what follows the last projected column.
    #[inline]
    fn end(
        &self,
        rows: &mut Bytes<'_>,
        table: &Columns,
        nulls: u64,
        builder: &mut Builder,
    ) -> Result<(), DecodeErrorKind> {
        self.end.pass(rows, table, nulls)?;
        builder.absent_before(self.visible);
        builder.end_image();
        Ok(())
    }
}

impl SkipRun {
    fn after(column: usize) -> Self {
        Self { from: column + 1, to: column + 1, ..Self::default() }
    }

    fn add(&mut self, column: usize, width: Width) {
        self.to = column + 1;
        self.mask |= 1 << column;
        match width {
            Width::Fixed(len) => self.rest += len,
            Width::Prefixed(len_bytes) => {
                let bytes = std::mem::take(&mut self.rest);
                self.skips.push(VarLenSkip { bytes, len_bytes, mask: u32::MAX >> (32 - 8 * len_bytes) });
            }
        }
    }

    /// Skips the run's columns. `nulls` has the image's NULL columns.
    #[inline]
    fn pass(&self, rows: &mut Bytes<'_>, table: &Columns, nulls: u64) -> Result<(), DecodeErrorKind> {
        if nulls & self.mask == 0
            && let Some(rest) = self.rest_after(rows.0)
        {
            rows.0 = rest;
            return Ok(());
        }
        self.pass_each(rows, table, nulls)
    }

    /// Returns what follows the run's columns if none of them is NULL; `None` if there are too few bytes.
    #[inline]
    fn rest_after<'a>(&self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        for VarLenSkip { bytes: fixed, len_bytes, mask } in &self.skips {
            let prefixed = bytes.get(*fixed..)?;
            let len = match prefixed.first_chunk() {
                Some(four) => u32::from_le_bytes(*four) & mask,
                None => Bytes(prefixed).uint(*len_bytes).ok()? as u32,
            };
            bytes = prefixed.get(len_bytes + len as usize..)?;
        }
        bytes.get(self.rest..)
    }

    /// Skips the run's columns one by one.
    fn pass_each(&self, rows: &mut Bytes<'_>, table: &Columns, nulls: u64) -> Result<(), DecodeErrorKind> {
        for (column, width) in (self.from..).zip(&table.widths[self.from..self.to]) {
            if nulls >> column & 1 == 0 {
                width.skip(rows)?;
            }
        }
        Ok(())
    }
}
