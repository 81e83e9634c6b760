//! Queries of a plugin about all rows of its batch at once: the rows that meet conditions, and the values of a column.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use rowmill_core::batch::schema_and_table;
use rowmill_core::batch::{
    Batch, Cell, Column, ColumnIndex, Image, ImageKind, Kind, Operation, Row, RowIndex, Table, TableId,
};
use rowmill_core::envelope::{push_cell_text, push_image};

use super::interest::Interests;
use super::recipe::known;
use super::value;
use super::wasm::bindings::query::{Condition, Rule, Test, View};
use super::wasm::limits::CONDITIONS_MAX;

/// The scope of queries: the rows of a batch that the plugin decides on.
pub(super) struct BatchQuery<'a> {
    pub batch: Batch<'a>,
    pub tables: &'a [Arc<Table>],
    pub rows: &'a [u32],
    pub interests: &'a Interests,
}

impl<'a> BatchQuery<'a> {
    fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        self.rows.iter().map(|&row| self.batch.row(RowIndex(row)))
    }

    /// Returns the rows that match a rule.
    ///
    /// # Errors
    /// If a table of the rule's rows lacks the column of a condition, the column is outside the plugin's interest, a
    /// condition's value is not valid for it, or there are too many conditions.
    pub fn select(&self, Rule { tables, inserts, updates, deletes, all_of }: &Rule) -> Result<Vec<u32>, String> {
        let values = |condition: &Condition| if let Test::OneOf(texts) = &condition.test { texts.len() } else { 1 };
        if all_of.iter().map(values).sum::<usize>() + tables.len() > CONDITIONS_MAX {
            return Err(format!("query with more than {CONDITIONS_MAX} conditions and values"));
        }
        let full_name = |name: &'_ String| {
            let parts = schema_and_table(name).map(|(schema, table)| (schema.into_owned(), table.into_owned()));
            parts.ok_or_else(|| format!("`{name}` is not the full name of a table, such as `shop.orders`"))
        };
        let tables = tables.iter().map(full_name).collect::<Result<Vec<_>, String>>()?;
        let is_meant = |row: &Row<'a>| {
            let is_meant = match row.operation() {
                Operation::Insert => *inserts,
                Operation::Update => *updates,
                Operation::Delete => *deletes,
            };
            let table = self.table_of(row);
            let is_named = |(schema, name): &(String, String)| *schema == table.schema && *name == table.name;
            is_meant && (tables.is_empty() || tables.iter().any(is_named))
        };
        let mut left = self.rows.to_vec();
        if !(*inserts && *updates && *deletes && tables.is_empty()) {
            left.retain(|&row| is_meant(&self.batch.row(RowIndex(row))));
        }
        // Each condition must make sense for each table, whatever rows the conditions before it leave.
        let mut of_rows: Vec<&'a Table> = Vec::new();
        for &row in &left {
            let table = self.table_of(&self.batch.row(RowIndex(row)));
            if !of_rows.iter().rev().any(|known| known.id == table.id) {
                of_rows.push(table);
            }
        }
        for condition in all_of {
            of_rows.iter().try_for_each(|table| self.predicate(table, condition).map(drop))?;
        }
        for condition in all_of {
            let mut of_table = OfTable::new(|table: &'a Table| self.predicate(table, condition).map(Some));
            let mut rows = Vec::with_capacity(left.len());
            for index in left {
                let row = self.batch.row(RowIndex(index));
                let Some((column, described, probe)) = of_table.get(self.table_of(&row))? else { continue };
                if probe.reads() {
                    if_known(self.table_of(&row), &row, *column, condition.view)?;
                }
                if probe.holds(described, &row, *column, condition.view) != condition.negated {
                    rows.push(index);
                }
            }
            left = rows;
        }
        Ok(left)
    }

    /// Returns a condition's column and its compiled test.
    ///
    /// # Errors
    /// If the table lacks the column, it is outside the plugin's interest, or a value is not valid for it.
    fn predicate(
        &self,
        table: &'a Table,
        Condition { column: name, view, test, .. }: &Condition,
    ) -> Result<(ColumnIndex, &'a Column, CompiledPredicate), String> {
        let image = match test {
            Test::Changed | Test::ChangedTo(_) => ImageKind::Before,
            _ => image_of(*view),
        };
        let (index, column) = self.column_of(table, name, image)?.ok_or_else(|| table.no_column(name))?;
        Ok((index, column, CompiledPredicate::new(table, column, test)?))
    }

    fn table_of(&self, row: &Row<'_>) -> &'a Table {
        &self.tables[row.table().0 as usize]
    }

    /// Returns each row's operation, in order: 1 insert, 2 update, 3 delete.
    pub fn operations(&self) -> Vec<u8> {
        let number = |row: Row<'_>| match row.operation() {
            Operation::Insert => 1,
            Operation::Update => 2,
            Operation::Delete => 3,
        };
        self.rows().map(number).collect()
    }

    /// Returns each row's table ID, in order.
    pub fn tables(&self) -> Vec<u32> {
        self.rows().map(|row| row.table().0).collect()
    }

    /// Returns each row's commit time, in order, in microseconds since 1970.
    pub fn times(&self) -> impl Iterator<Item = i64> {
        self.rows().map(|row| time_us(&self.batch, &row))
    }

    /// Returns whether each row's image has a column that the plugin may use.
    pub fn has(&self, name: &str, view: View) -> Result<Vec<bool>, String> {
        let mut of_table = OfTable::new(|table: &'a Table| Ok(self.usable(table, name, view)));
        let has = |row: Row<'a>| {
            let column = of_table.get(self.table_of(&row))?;
            Ok(column.is_some_and(|(index, _)| seen(&row, *index, view) != Cell::Absent))
        };
        self.rows().map(has).collect()
    }

    /// Returns a column of each row, converted by `map` from the column's description and value; `None` where the plugin may not
    /// use the table's column, as it may ask for the rows of other tables.
    pub fn column<T>(
        &self,
        name: &str,
        view: View,
        map: impl Fn(&Column, &'a [u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, String> {
        let mut of_table = OfTable::new(|table: &'a Table| Ok(self.usable(table, name, view)));
        let value = |row: Row<'a>| {
            let Some((index, column)) = of_table.get(self.table_of(&row))? else { return Ok(None) };
            Ok(seen(&row, *index, view).value().and_then(|value| map(column, value)))
        };
        self.rows().map(value).collect()
    }

    /// Returns each row as a JSON object.
    ///
    /// # Errors
    /// If a column is outside the plugin's interest.
    pub fn json(&self, view: View) -> Result<Vec<Option<String>>, String> {
        let mut of_table =
            OfTable::new(|table: &'a Table| self.interests.check_all(table, image_of(view)).map(|()| Some(table)));
        let object = |row: Row<'a>| {
            let image = image(&row, view);
            let table = of_table.get(self.table_of(&row))?;
            let (Some(image), Some(table)) = (image, table) else { return Ok(None) };
            let mut out = Vec::new();
            push_image(table, image, &mut out);
            Ok(String::from_utf8(out).ok())
        };
        self.rows().map(object).collect()
    }

    /// Returns the column of this name, if the table has one and the plugin may use it.
    fn usable(&self, table: &'a Table, name: &str, view: View) -> Option<(ColumnIndex, &'a Column)> {
        self.column_of(table, name, image_of(view)).ok().flatten()
    }

    /// Returns the column of this name, if the table has one.
    ///
    /// # Errors
    /// If the column is outside the plugin's interest.
    fn column_of(
        &self,
        table: &'a Table,
        name: &str,
        image: ImageKind,
    ) -> Result<Option<(ColumnIndex, &'a Column)>, String> {
        let Some(index) = table.column(name) else { return Ok(None) };
        self.interests.check(table, index, image)?;
        Ok(Some((index, &table.columns[index.0 as usize])))
    }
}

/// Returns the older of the images that a view reads.
fn image_of(view: View) -> ImageKind {
    match view {
        View::Before => ImageKind::Before,
        View::After | View::Newest => ImageKind::After,
    }
}

/// Returns a row's commit time in microseconds since 1970; where the server does not log it, the time at which the row's
/// statement began.
pub(super) fn time_us(batch: &Batch<'_>, row: &Row<'_>) -> i64 {
    match batch.transaction(row.transaction()).header().commit_time_us {
        0 => row.header().time_us,
        time => time,
    }
}

/// Returns a value that is packed as text.
pub(super) fn text(column: &Column, value: &[u8]) -> Option<String> {
    column.kind.is_text().then(|| String::from_utf8(value.to_vec()).ok()).flatten()
}

/// Returns a value of an integer, year or bit column, if it fits.
pub(super) fn integer(column: &Column, value: &[u8]) -> Option<i64> {
    let cell = Cell::Value(value);
    match column.kind {
        Kind::Int => cell.int(),
        Kind::Uint | Kind::Year | Kind::Bit => cell.uint()?.try_into().ok(),
        _ => None,
    }
}

/// Returns a value of an integer, year or bit column, if it fits.
pub(super) fn unsigned(column: &Column, value: &[u8]) -> Option<u64> {
    let cell = Cell::Value(value);
    match column.kind {
        Kind::Int => cell.int()?.try_into().ok(),
        Kind::Uint | Kind::Year | Kind::Bit => cell.uint(),
        _ => None,
    }
}

/// Returns a value of a float column.
pub(super) fn float(column: &Column, value: &[u8]) -> Option<f64> {
    if column.kind == Kind::Float { Cell::Value(value).float() } else { None }
}

/// Returns a value that is packed as bytes that are not text.
pub(super) fn blob(column: &Column, value: &[u8]) -> Option<Vec<u8>> {
    matches!(column.kind, Kind::Bytes | Kind::Geometry | Kind::Vector).then(|| value.to_vec())
}

fn image<'a>(row: &Row<'a>, view: View) -> Option<Image<'a>> {
    match view {
        View::Before => row.before(),
        View::After => row.after(),
        View::Newest => Some(row.newest()),
    }
}

fn seen<'a>(row: &Row<'a>, column: ColumnIndex, view: View) -> Cell<'a> {
    image(row, view).map_or(Cell::Absent, |image| image.cell(column))
}

/// Checks that the row's image, if there is one, contains a column.
///
/// # Errors
/// If the column is absent: whether a test holds is then not known.
fn if_known(table: &Table, row: &Row<'_>, column: ColumnIndex, view: View) -> Result<(), String> {
    image(row, view).map_or(Ok(()), |image| known(table, column, image.cell(column)).map(drop))
}

/// A value that depends on the table only. The last one is kept, since consecutive rows are mostly of one table.
struct OfTable<T, F> {
    last: Option<(TableId, Option<T>)>,
    make: F,
}

impl<'a, T, F: Fn(&'a Table) -> Result<Option<T>, String>> OfTable<T, F> {
    fn new(make: F) -> Self {
        Self { last: None, make }
    }

    fn get(&mut self, table: &'a Table) -> Result<Option<&T>, String> {
        if self.last.as_ref().is_none_or(|(id, _)| *id != table.id) {
            self.last = Some((table.id, (self.make)(table)?));
        }
        Ok(self.last.as_ref().and_then(|(_, made)| made.as_ref()))
    }
}

/// A condition's test, compiled for columns of one kind.
enum CompiledPredicate {
    OneOf(Vec<Scalar<'static>>),
    Prefix(String),
    Between(Option<Scalar<'static>>, Option<Scalar<'static>>),
    Null,
    Changed,
    ChangedTo(Scalar<'static>),
}

impl CompiledPredicate {
    /// # Errors
    /// If a value is not valid for the column: it would equal no value, without a word.
    fn new(table: &Table, column: &Column, test: &Test) -> Result<Self, String> {
        let scalar = |text: &String| {
            let refused = || value::refusal(table, column, text);
            Scalar::parse(column.kind, text).ok_or_else(refused)
        };
        Ok(match test {
            Test::Equal(text) => Self::OneOf(vec![scalar(text)?]),
            Test::OneOf(texts) => Self::OneOf(texts.iter().map(scalar).collect::<Result<_, _>>()?),
            Test::Prefix(text) => Self::Prefix(text.clone()),
            Test::Between((low, high)) => {
                let bound = |text: &String| if text.is_empty() { Ok(None) } else { scalar(text).map(Some) };
                Self::Between(bound(low)?, bound(high)?)
            }
            Test::Null => Self::Null,
            Test::Changed => Self::Changed,
            Test::ChangedTo(text) => Self::ChangedTo(scalar(text)?),
        })
    }

    /// Whether the test needs the column's value in the condition's view. An update of which the image lacks the column did not
    /// change it.
    fn reads(&self) -> bool {
        !matches!(self, Self::Changed | Self::ChangedTo(_))
    }

    fn holds(&self, column: &Column, row: &Row<'_>, index: ColumnIndex, view: View) -> bool {
        let kind = column.kind;
        let cell = |view| seen(row, index, view);
        let scalar = |view| cell(view).value().and_then(|bytes| Scalar::of(kind, bytes));
        match self {
            Self::OneOf(wanted) => scalar(view).is_some_and(|value| wanted.contains(&value)),
            Self::Between(low, high) => scalar(view).is_some_and(|value| {
                let ordered =
                    |a: &Scalar<'_>, b: &Scalar<'_>| matches!(a.partial_cmp(b), Some(Ordering::Less | Ordering::Equal));
                low.as_ref().is_none_or(|low| ordered(low, &value))
                    && high.as_ref().is_none_or(|high| ordered(&value, high))
            }),
            Self::Prefix(prefix) => cell(view).value().is_some_and(|bytes| {
                if kind.is_text() {
                    return bytes.starts_with(prefix.as_bytes());
                }
                let mut text = Vec::new();
                push_cell_text(column, Cell::Value(bytes), &mut text);
                text.starts_with(prefix.as_bytes())
            }),
            Self::Null => cell(view) == Cell::Null,
            // A column that is absent after an update was not changed.
            Self::Changed => {
                let after = cell(View::After);
                row.operation() != Operation::Update || after != Cell::Absent && cell(View::Before) != after
            }
            Self::ChangedTo(wanted) => {
                let is = |view| scalar(view).is_some_and(|value| value == *wanted);
                is(View::After) && !is(View::Before)
            }
        }
    }
}

/// A value that can be compared with other values of its column.
#[derive(Debug, Clone)]
enum Scalar<'a> {
    Integer(i128),
    Float(f64),
    Decimal(Cow<'a, str>),
    /// In microseconds.
    Time(i64),
    Bytes(Cow<'a, [u8]>),
}

impl<'a> Scalar<'a> {
    /// Parses a value of a condition.
    fn parse(kind: Kind, text: &str) -> Option<Scalar<'static>> {
        match kind {
            Kind::Int | Kind::Uint | Kind::Year | Kind::Bit => text.parse().ok().map(Scalar::Integer),
            Kind::Float => text.parse().ok().map(Scalar::Float),
            Kind::Decimal => {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
                    && digits.bytes().filter(|&byte| byte == b'.').count() <= 1
                    && digits.bytes().any(|byte| byte.is_ascii_digit());
                is_decimal.then(|| Scalar::Decimal(text.to_owned().into()))
            }
            Kind::Time => time(text).map(Scalar::Time),
            Kind::Bytes | Kind::Geometry | Kind::Vector => {
                let bytes = base64_simd::STANDARD.decode_to_vec(text.as_bytes()).ok()?;
                Some(Scalar::Bytes(bytes.into()))
            }
            Kind::Text | Kind::Json | Kind::Date | Kind::Datetime | Kind::Timestamp | Kind::Enum | Kind::Set => {
                Some(Scalar::Bytes(text.as_bytes().to_vec().into()))
            }
        }
    }

    /// Reads a column's value.
    fn of(kind: Kind, bytes: &'a [u8]) -> Option<Self> {
        let cell = Cell::Value(bytes);
        match kind {
            Kind::Int => cell.int().map(|number| Self::Integer(number.into())),
            Kind::Uint | Kind::Year | Kind::Bit => cell.uint().map(|number| Self::Integer(number.into())),
            Kind::Float => cell.float().map(Self::Float),
            Kind::Decimal => cell.text().map(|text| Self::Decimal(text.into())),
            Kind::Time => cell.text().and_then(time).map(Self::Time),
            _ => Some(Self::Bytes(bytes.into())),
        }
    }
}

impl PartialOrd for Scalar<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Decimal(a), Self::Decimal(b)) => Some(compare_decimals(a, b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl PartialEq for Scalar<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

fn compare_decimals(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> (bool, &str, &str) {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        (negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    }
    let ((a_negative, a_whole, a_fraction), (b_negative, b_whole, b_fraction)) = (parts(a), parts(b));
    let size = || {
        let wholes = a_whole.len().cmp(&b_whole.len()).then_with(|| a_whole.cmp(b_whole));
        wholes.then_with(|| a_fraction.cmp(b_fraction))
    };
    match (a_negative, b_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => size(),
        (true, true) => size().reverse(),
    }
}

/// Parses a time, such as `-838:59:59.5`, to microseconds.
fn time(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (clock, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut parts = clock.split(':').map(str::parse::<u32>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let fraction: u32 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").get(..6)?.parse().ok()? };
    let seconds = (i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds); // of 32-bit numbers: it fits
    let size = seconds.checked_mul(1_000_000)?.checked_add(i64::from(fraction))?;
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use rowmill_core::batch::Builder;

    use super::*;

    #[test]
    fn values_are_compared_as_what_they_are() {
        let less = |kind, a: &str, b: &str| Scalar::parse(kind, a) < Scalar::parse(kind, b);
        assert!(less(Kind::Int, "-10", "9") && less(Kind::Uint, "9", "18446744073709551615"));
        assert!(
            less(Kind::Decimal, "-10.5", "-9.75")
                && less(Kind::Decimal, "9.75", "10")
                && less(Kind::Decimal, "-0.1", "0")
        );
        assert!(less(Kind::Time, "-01:00:00", "00:00:00.5") && less(Kind::Time, "99:00:00", "838:59:59"));
        assert!(less(Kind::Text, "10", "9") && less(Kind::Float, "9", "10"));
        assert_eq!(Scalar::parse(Kind::Decimal, "1.50"), Scalar::parse(Kind::Decimal, "01.5"));
        assert_eq!(Scalar::parse(Kind::Decimal, "-0.0"), Scalar::parse(Kind::Decimal, "0"));
        for (kind, text) in [(Kind::Int, "1.5"), (Kind::Decimal, "1.2.3"), (Kind::Time, "noon"), (Kind::Bytes, "?")] {
            assert!(Scalar::parse(kind, text).is_none(), "{text}");
        }
        // A plugin may pass any text.
        assert!(Scalar::parse(Kind::Time, "4294967295:4294967295:4294967295").is_none());
        assert!(Scalar::parse(Kind::Time, "2000000000:00:00").is_some());
        assert!(Scalar::parse(Kind::Time, "9223372036854775807:00:00").is_none());
    }

    #[test]
    fn a_question_has_a_bounded_number_of_conditions() {
        let bytes = Builder::with_capacity(0).finish();
        let batch = bytes.view();
        let interests = Interests::default();
        let asked = BatchQuery { batch, tables: &[], rows: &[], interests: &interests };
        let condition = |test| Condition { column: "id".to_owned(), view: View::After, test, negated: false };
        let of_nulls = |count: usize| (0..count).map(|_| condition(Test::Null)).collect::<Vec<_>>();
        let one_of = |count: usize| vec![condition(Test::OneOf(vec!["1".to_owned(); count]))];
        let select =
            |all_of| asked.select(&Rule { tables: Vec::new(), inserts: true, updates: true, deletes: true, all_of });
        for conditions in [of_nulls(CONDITIONS_MAX), one_of(CONDITIONS_MAX)] {
            assert_eq!(select(conditions), Ok(Vec::new()));
        }
        for conditions in [of_nulls(CONDITIONS_MAX + 1), one_of(CONDITIONS_MAX + 1)] {
            assert!(select(conditions).is_err_and(|error| error.contains("10000 conditions")));
        }
    }
}
