//! The packed row batch: the format in which row changes pass from the decoder to the transforms and all later
//! stages.
//!
//! The binlog decoder writes row changes into a [`Builder`]; the transforms, the router and the envelope read the same
//! bytes in place through a [`Batch`]. A transform reads any column of any row in O(1) and copies none.
//! `wit/packed-batch.md` specifies the layout.
//!
//! This crate knows neither MySQL's encodings nor WebAssembly. It has no dependencies, so that the plugins' SDK can
//! share it with the engine.

mod builder;
pub mod json;
mod layout;
mod packed;
mod reader;
mod schema;

pub use builder::{Builder, ImageHead};
pub use layout::{MAGIC, RowHeader, TransactionHeader};
pub use packed::PackedBatch;
pub use reader::{Batch, Cell, FormatError, Image, Row, Transaction};
pub use schema::{
    Column, ColumnIndex, ImageKind, Kind, Operation, RowIndex, Table, TableId, quoted, schema_and_table, shown_name,
    split_name,
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRANSACTION: TransactionHeader<'static> = TransactionHeader {
        file: "binlog.000001",
        position: 157,
        gtid: "",
        commit_time_us: 0,
        server_id: 1,
        thread_id: 9,
    };

    fn header(table: u32, operation: Operation, columns: usize, index: u32) -> RowHeader {
        RowHeader {
            table: TableId(table),
            operation,
            columns: columns as u16,
            index_in_transaction: index,
            index_in_event: index + 1,
            event_position: 236,
            time_us: 1_000_000,
        }
    }

    /// Writes the example at the end of the format's specification.
    #[test]
    fn the_specifications_example() {
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TRANSACTION);
        builder.begin_row(&header(0, Operation::Insert, 2, 0));
        builder.begin_image(2);
        builder.cell(Cell::Value(&7i64.to_le_bytes()));
        builder.null();
        builder.end_image();
        builder.end_row();
        builder.mark_last_in_transaction();
        let bytes = builder.finish();
        let written: Vec<String> = (0..)
            .step_by(16)
            .zip(bytes.as_bytes().chunks(16))
            .map(|(at, line)| {
                let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{at:3}  {}\n", bytes.join(" "))
            })
            .collect();
        let specification = include_str!("../../../wit/packed-batch.md");
        let example = specification.rsplit("```text\n").next().and_then(|rest| rest.split("```").next());
        assert_eq!(example, Some(written.concat().as_str()), "\n{}", written.concat());
    }

    type Value = Option<Option<Vec<u8>>>;

    fn cell(value: &Value) -> Cell<'_> {
        match value {
            None => Cell::Absent,
            Some(None) => Cell::Null,
            Some(Some(bytes)) => Cell::Value(bytes),
        }
    }

    /// Writes an image without NULL by its head.
    fn write_known_image(builder: &mut Builder, image: &[Value]) {
        builder.begin_known_image(&ImageHead::new(image.len(), |column| image[column].is_some()));
        for (column, value) in image.iter().enumerate() {
            if let Some(Some(bytes)) = value {
                builder.absent_before(column);
                builder.value().extend_from_slice(bytes);
                builder.end_known_value();
            }
        }
        builder.absent_before(image.len());
        builder.end_image();
    }

    fn row() -> impl Strategy<Value = (u8, Vec<Value>, Vec<Value>)> {
        let value =
            || proptest::option::of(proptest::option::weighted(0.9, proptest::collection::vec(any::<u8>(), 0..20)));
        (0usize..40).prop_flat_map(move |columns| {
            (1u8..=4, proptest::collection::vec(value(), columns), proptest::collection::vec(value(), columns))
        })
    }

    proptest! {
        /// The reader returns what the builder wrote; copies are equal, and edited copies differ in the edited column
        /// only.
        #[test]
        fn what_is_written_is_read(rows in proptest::collection::vec(row(), 0..20)) {
            let mut builder = Builder::with_capacity(0);
            for (index, (code, before, after)) in rows.iter().enumerate() {
                if index % 3 == 0 {
                    builder.transaction(&TRANSACTION);
                }
                let operation = Operation::from_code(*code).expect("1 to 4");
                builder.begin_row(&header(index as u32, operation, before.len(), index as u32));
                for (has, image) in [(operation.has_before(), before), (operation.has_after(), after)] {
                    if has && !image.contains(&Some(None)) {
                        write_known_image(&mut builder, image);
                    } else if has {
                        builder.begin_image(image.len());
                        image.iter().for_each(|value| builder.cell(cell(value)));
                        builder.end_image();
                    }
                }
                builder.end_row();
            }
            let bytes = builder.finish();
            let batch = bytes.view();

            let mut copy = Builder::with_capacity(0);
            let mut edited = Builder::with_capacity(0);
            prop_assert_eq!(batch.len(), rows.len());
            for ((index, (code, before, after)), row) in rows.iter().enumerate().zip(batch.rows()) {
                let operation = Operation::from_code(*code).expect("1 to 4");
                prop_assert_eq!(row.header(), header(index as u32, operation, before.len(), index as u32));
                prop_assert_eq!(batch.transaction(row.transaction()).header(), TRANSACTION);
                for (has, image, values) in
                    [(operation.has_before(), row.before(), before), (operation.has_after(), row.after(), after)]
                {
                    prop_assert_eq!(image.is_some(), has);
                    if let Some(image) = image {
                        let expected: Vec<Cell<'_>> = values.iter().map(cell).collect();
                        prop_assert_eq!(image.cells().collect::<Vec<_>>(), expected);
                    }
                }
                copy.copy_row(&batch, RowIndex(index as u32));
                edited.copy_row_edited(&batch, RowIndex(index as u32), |_, column, builder| {
                    let edit = column.0 == 0;
                    if edit {
                        builder.cell(Cell::Value(b"edited"));
                    }
                    edit
                });
            }
            let (copy, edited) = (copy.finish(), edited.finish());
            let (copy, edited) = (copy.view(), edited.view());
            for ((original, copy), edited) in batch.rows().zip(copy.rows()).zip(edited.rows()) {
                prop_assert_eq!(original.newest().cells().collect::<Vec<_>>(), copy.newest().cells().collect::<Vec<_>>());
                for (nth, (original, edited)) in original.newest().cells().zip(edited.newest().cells()).enumerate() {
                    prop_assert_eq!(edited, if nth == 0 { Cell::Value(b"edited") } else { original });
                }
            }
        }

        #[test]
        fn other_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Batch::parse(&bytes);
        }
    }
}
