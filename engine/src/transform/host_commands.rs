//! Host commands: what a plugin tells the host to do with rows while it decides on a batch (`bulk` of the WIT world).

use rowmill_core::batch::{Cell, ImageKind, RowIndex, Table};

use super::decision::{Edit, NewValue};
use super::query::BatchQuery;
use super::recipe::{Group, OfTables};
use super::value;
use super::wasm::bindings::bulk::{Message, Rows};
use super::wasm::bindings::types;
use super::wasm::limits::{ATTRIBUTE_BYTES, EDIT_BYTES, FAIL_BYTES, MESSAGE_BYTES, REROUTE_BYTES, ROW_BYTES};

/// The host commands of one call. Their rows are checked to be in the batch; their sinks and recipes are not checked yet.
#[derive(Debug, Default)]
pub(super) struct HostCommands {
    pub kept: Vec<RowIndex>,
    pub reroutes: Vec<(RowIndex, Option<u32>, String)>,
    pub edits: Vec<Edit>,
    pub writes: Vec<Write>,
    pub emits: Vec<(RowIndex, Message)>,
    pub fails: Vec<(RowIndex, String)>,
    /// The memory that the commands take, and may take at most, in bytes.
    bytes: usize,
    bytes_max: usize,
}

/// A command to make messages by a recipe, one of each row.
#[derive(Debug)]
pub(super) struct Write {
    pub recipe: u32,
    pub sink: Option<u32>,
    pub rows: Vec<RowIndex>,
}

/// The images in which a column is edited.
#[derive(Debug, Clone, Copy)]
pub(super) enum EditTarget {
    /// The after image.
    Now,
    /// Both images, where the column is neither NULL nor absent.
    BothWherePresent,
}

impl EditTarget {
    /// Returns the older of the target's images.
    fn image(self) -> ImageKind {
        match self {
            Self::Now => ImageKind::After,
            Self::BothWherePresent => ImageKind::Before,
        }
    }
}

/// Each command fails if a row is not in the batch, or if the commands together take more memory than they may.
impl HostCommands {
    /// Creates an empty list of commands that may take `bytes_max` bytes.
    pub fn within(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Returns the memory that the commands take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.bytes_max {
            return Ok(());
        }
        Err(format!("host commands of more than {} bytes; raise `output` in its .toml", self.bytes_max))
    }

    pub fn keep(&mut self, asked: &BatchQuery<'_>, rows: Rows) -> Result<(), String> {
        let rows = asked.rows_of(rows)?;
        self.take(rows.len() * ROW_BYTES)?;
        self.kept.extend(rows);
        Ok(())
    }

    /// Adds a command to set the sink, the message group, or both, of rows.
    ///
    /// # Errors
    /// If a row's table does not have a column of the group, or the column is outside the plugin's interest.
    pub fn reroute(
        &mut self,
        asked: &BatchQuery<'_>,
        rows: Rows,
        sink: Option<u32>,
        group: Vec<types::GroupPart>,
    ) -> Result<(), String> {
        let mut groups = OfTables::default();
        for row in asked.rows_of(rows)? {
            let packed = asked.batch.row(row);
            let table = &*asked.tables[packed.table().0 as usize];
            let mut text = Vec::new();
            let group = groups.get(table, || Group::new(&group, table, asked.interests))?;
            if let Err(error) = group.write(table, &packed, self.bytes_max, &mut text) {
                self.fail(asked, row.0, error)?;
                continue;
            }
            self.take(REROUTE_BYTES + text.len())?;
            let text = String::from_utf8(text).map_err(|error| error.to_string())?;
            self.reroutes.push((row, sink, text));
        }
        Ok(())
    }

    /// Adds a command to set a column of rows to a value, or to NULL without one.
    ///
    /// # Errors
    /// If a row's table does not have the column, the column is outside the plugin's interest, or the value is not valid for
    /// the column's type.
    pub fn edit(
        &mut self,
        asked: &BatchQuery<'_>,
        rows: Rows,
        column: &str,
        value: Option<String>,
        place: EditTarget,
    ) -> Result<(), String> {
        let meant = |table: &Table| {
            let index = table.column(column).ok_or_else(|| table.no_column(column))?;
            asked.interests.check(table, index, place.image())?;
            let described = &table.columns[index.0 as usize];
            let Some(text) = &value else { return Ok((index, NewValue::Null)) };
            Ok((index, NewValue::Value(value::parse(table, described, text)?)))
        };
        let mut of_tables = OfTables::default();
        for row in asked.rows_of(rows)? {
            let packed = asked.batch.row(row);
            let table = &asked.tables[packed.table().0 as usize];
            let (column, value) = of_tables.get(table, || meant(table))?;
            for (image, cells) in [(ImageKind::Before, packed.before()), (ImageKind::After, packed.after())] {
                let Some(cells) = cells else { continue };
                let is_meant = match place {
                    EditTarget::Now => image == ImageKind::After,
                    EditTarget::BothWherePresent => matches!(cells.cell(*column), Cell::Value(_) | Cell::Changes(_)),
                };
                if is_meant {
                    let bytes = if let NewValue::Value(bytes) = value { bytes.len() } else { 0 };
                    self.take(EDIT_BYTES + bytes)?;
                    self.edits.push(Edit { row, image, column: *column, value: value.clone() });
                }
            }
        }
        Ok(())
    }

    pub fn write(&mut self, asked: &BatchQuery<'_>, rows: Rows, recipe: u32, sink: Option<u32>) -> Result<(), String> {
        let rows = asked.rows_of(rows)?;
        self.take(MESSAGE_BYTES + rows.len() * ROW_BYTES)?;
        self.writes.push(Write { recipe, sink, rows });
        Ok(())
    }

    pub fn emit(&mut self, asked: &BatchQuery<'_>, messages: Vec<Message>) -> Result<(), String> {
        for message in messages {
            let Message { group, deduplication_id, body, attributes, .. } = &message;
            let attributes = attributes.iter().map(|(name, value)| ATTRIBUTE_BYTES + name.len() + value.len());
            let texts = group.len() + deduplication_id.len() + body.len();
            self.take(MESSAGE_BYTES + texts + attributes.sum::<usize>())?;
            self.emits.push((asked.known(message.row)?, message));
        }
        Ok(())
    }

    pub fn fail(&mut self, asked: &BatchQuery<'_>, row: u32, message: String) -> Result<(), String> {
        self.take(FAIL_BYTES + message.len())?;
        self.fails.push((asked.known(row)?, message));
        Ok(())
    }
}

impl BatchQuery<'_> {
    fn rows_of(&self, rows: Rows) -> Result<Vec<RowIndex>, String> {
        match rows {
            Rows::ThatMatch(rule) => Ok(self.select(&rule)?.into_iter().map(RowIndex).collect()),
            Rows::These(rows) => rows.into_iter().map(|row| self.known(row)).collect(),
        }
    }

    fn known(&self, row: u32) -> Result<RowIndex, String> {
        let count = self.batch.len();
        if (row as usize) < count {
            Ok(RowIndex(row))
        } else {
            Err(format!("row {row} is not in the batch of {count} rows"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::interest::Interests;
    use super::super::wasm::bindings::query::{Condition, Rule};
    use super::*;
    use crate::fixture::sample_rows;

    fn rule(inserts: bool, all_of: Vec<Condition>) -> Rows {
        Rows::ThatMatch(Rule { tables: Vec::new(), inserts, updates: true, deletes: true, all_of })
    }

    #[test]
    fn orders_are_about_the_rows_that_are_meant() {
        let (bytes, tables) = sample_rows();
        let rows: Vec<u32> = (0..256).filter(|row| row % 2 == 0).collect();
        let asked = BatchQuery { batch: bytes.view(), tables: &tables, rows: &rows, interests: &Interests::default() };
        let mut orders = HostCommands::within(1 << 20);
        orders.keep(&asked, rule(true, Vec::new())).expect("kept");
        assert_eq!(orders.kept.len(), 128);
        orders.keep(&asked, rule(false, Vec::new())).expect("nothing"); // all of them are inserts
        orders.keep(&asked, Rows::These(vec![3])).expect("kept");
        assert_eq!(orders.kept.len(), 129);
        let group = vec![types::GroupPart::Text("c-".to_owned()), types::GroupPart::Column("customer".to_owned())];
        orders.reroute(&asked, Rows::These(vec![2]), Some(1), group).expect("rerouted");
        assert_eq!(orders.reroutes, [(RowIndex(2), Some(1), "c-14".to_owned())]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (bytes, tables) = sample_rows();
        let asked =
            BatchQuery { batch: bytes.view(), tables: &tables, rows: &[0, 1], interests: &Interests::default() };
        let mut orders = HostCommands::within(1 << 20);
        let mut set = |column: &str, value: Option<&str>, place| {
            orders.edit(&asked, Rows::These(vec![0]), column, value.map(str::to_owned), place)
        };
        assert_eq!(set("id", Some("12"), EditTarget::Now), Ok(()));
        assert_eq!(set("id", None, EditTarget::BothWherePresent), Ok(()));
        let error = set("id", Some("twelve"), EditTarget::Now).expect_err("refused");
        assert_eq!(error, "`twelve` is not a valid value of shop.orders.id (bigint)");
        let error = set("nonsense", Some(""), EditTarget::Now).expect_err("refused");
        assert_eq!(error, "shop.orders has no column `nonsense`");
        assert_eq!(orders.edits.len(), 2);
        let mut small = HostCommands::within(1000);
        assert_eq!(small.fail(&asked, 0, "x".repeat(900)), Ok(()));
        let error = small.fail(&asked, 1, "x".repeat(900)).expect_err("refused");
        assert!(error.contains("more than 1000 bytes; raise `output`"), "{error}");
        for error in [
            orders.keep(&asked, Rows::These(vec![256])),
            orders.fail(&asked, 256, String::new()),
            orders.write(&asked, Rows::These(vec![0, 256]), 0, None),
        ] {
            assert_eq!(error.expect_err("refused"), "row 256 is not in the batch of 256 rows");
        }
    }
}
