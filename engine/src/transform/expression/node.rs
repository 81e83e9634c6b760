//! Evaluates compiled expressions for a row.

use std::borrow::Cow;
use std::cmp::Ordering;

use rowmill_core::batch::{Batch, Cell, ColumnIndex, Image, Operation, Row, Table};
use rowmill_core::envelope::push_columns;

use super::date::{self, Format, Moment};
use super::json_path::Path;
use super::like::Pattern;
use super::number::{Number, Operator};
use super::scalar::Scalar;
use super::value::{Value, float_text, owned_text, unquoted_text};
use super::{Comparison, View};
use crate::transform::query::{self, time_us};

/// The row for which an expression is evaluated.
#[derive(Clone, Copy)]
pub(in crate::transform) struct RowContext<'a> {
    pub table: &'a Table,
    pub batch: &'a Batch<'a>,
    pub row: Row<'a>,
    /// The item of a JSON array, and its number.
    pub item: Option<(&'a str, usize)>,
}

#[derive(Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Float(f64),
    Text(String),
    Column(View, ColumnIndex),
    Op,
    /// The row's operation is one of these.
    OpIn(Vec<Operation>),
    CommitTime,
    Gtid,
    BinlogFile,
    BinlogPosition,
    /// All columns of an image but these.
    Row(View, Vec<ColumnIndex>),
    Item,
    ItemNumber,
    Has(ColumnIndex),
    Changed(ColumnIndex),
    ChangedTo(ColumnIndex, Scalar<'static>),
    Coalesce(Vec<Node>),
    If(Box<[Node; 3]>),
    Concat(Vec<Node>),
    Lower(Box<Node>),
    Upper(Box<Node>),
    AsText(Box<Node>),
    AsNumber(Box<Node>),
    Round(Box<Node>, u32),
    DateFormat(Box<Node>, Format),
    UnixTimestamp(Box<Node>),
    UnixMillis(Box<Node>),
    Member {
        document: Box<Node>,
        path: Path,
        as_text: bool,
    },
    Negative(Box<Node>),
    Arithmetic(Operator, Box<Node>, Box<Node>),
    Compare(Comparison, Operand, Operand),
    In(Operand, Vec<Operand>),
    Like(Box<Node>, Pattern),
    IsNull(Box<Node>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
}

/// One side of a comparison.
#[derive(Debug)]
pub(super) enum Operand {
    /// A literal, parsed as a value of the other side's class.
    Scalar(Scalar<'static>),
    Node(Box<Node>),
}

impl Comparison {
    /// # Errors
    /// If the values cannot be compared, as of a JSON document.
    pub(super) fn holds(self, left: Option<&Scalar<'_>>, right: Option<&Scalar<'_>>) -> Result<Option<bool>, String> {
        let (left, right) = match (left, right) {
            (Some(left), Some(right)) => (left, right),
            _ if self == Self::SafeEqual => return Ok(Some(left.is_none() && right.is_none())),
            _ => return Ok(None),
        };
        let Some(order) = left.compare(right) else {
            if matches!((left, right), (Scalar::Float(_), _) | (_, Scalar::Float(_))) {
                return Ok(None); // not a number
            }
            return Err(format!("{} cannot be compared with {}", left.class().name(), right.class().name()));
        };
        Ok(Some(match self {
            Self::Equal | Self::SafeEqual => order == Ordering::Equal,
            Self::NotEqual => order != Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
        }))
    }
}

impl<'a> RowContext<'a> {
    pub(super) fn image(&self, view: View) -> Option<Image<'a>> {
        query::image(&self.row, view)
    }

    /// Returns a column's value. NULL if the row does not have the image.
    #[inline]
    fn cell(&self, view: View, index: ColumnIndex) -> Result<Value<'a>, String> {
        let Some(image) = self.image(view) else { return Ok(Value::Null) };
        match image.cell(index) {
            Cell::Null => Ok(Value::Null),
            Cell::Absent => Err(absent(self.table, index)),
            cell => Ok(Value::Cell(&self.table.columns[index.0 as usize], cell)),
        }
    }
}

/// The error of a row whose image lacks a column.
pub(in crate::transform) fn absent(table: &Table, column: ColumnIndex) -> String {
    let name = &table.columns[column.0 as usize].name;
    format!("column `{name}` of {table} is absent from the row's image; ask `has` first")
}

impl Node {
    pub fn value<'a>(&'a self, context: &RowContext<'a>) -> Result<Value<'a>, String> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        let transaction = || context.batch.transaction(context.row.transaction()).header();
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(number) => Value::Number(*number),
            Self::Float(number) => Value::Float(*number),
            Self::Text(constant) => text(constant),
            Self::Column(view, index) => context.cell(*view, *index)?,
            Self::Op => text(context.row.operation().letter()),
            Self::CommitTime => Value::Moment(date::text(time_us(context.batch, &context.row))),
            Self::Gtid => match transaction().gtid {
                "" => Value::Null,
                gtid => text(gtid),
            },
            Self::BinlogFile => text(transaction().file),
            Self::BinlogPosition => Value::Number(context.row.event_position().into()),
            Self::Row(view, except) => match context.image(*view) {
                Some(image) => {
                    let mut out = vec![b'{'];
                    push_columns(context.table, image, |column| !except.contains(&column), &mut out);
                    out.push(b'}');
                    Value::Json(String::from_utf8(out).map_err(|error| error.to_string())?.into())
                }
                None => Value::Null,
            },
            Self::Item => context.item.map_or(Value::Null, |(item, _)| Value::Json(item.into())),
            Self::ItemNumber => context.item.map_or(Value::Null, |(_, number)| Value::Number((number as u64).into())),
            Self::Coalesce(nodes) => {
                for node in nodes {
                    match node.value(context)? {
                        Value::Null => {}
                        value => return Ok(value),
                    }
                }
                Value::Null
            }
            Self::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if condition.truth(context)? == Some(true) { then.value(context)? } else { otherwise.value(context)? }
            }
            Self::Concat(nodes) => {
                let mut out = Vec::new();
                for node in nodes {
                    match node.value(context)? {
                        Value::Null => return Ok(Value::Null),
                        value => value.push_text(&mut out)?,
                    }
                }
                owned_text(out)?
            }
            Self::Lower(node) => {
                node.text(context)?.map_or(Value::Null, |text| Value::Text(text.to_lowercase().into()))
            }
            Self::Upper(node) => {
                node.text(context)?.map_or(Value::Null, |text| Value::Text(text.to_uppercase().into()))
            }
            Self::AsText(node) => node.text(context)?.map_or(Value::Null, Value::Text),
            Self::AsNumber(node) => {
                let mut out = Vec::new();
                match node.arithmetic_value(context)? {
                    None => return Ok(Value::Null),
                    Some(Arithmetic::Exact(number)) => number.push(&mut out),
                    Some(Arithmetic::Float(number)) => out.extend_from_slice(float_text(number)?.as_bytes()),
                }
                Value::Json(String::from_utf8(out).map_err(|error| error.to_string())?.into())
            }
            Self::Round(node, scale) => match node.arithmetic_value(context)? {
                None => Value::Null,
                Some(Arithmetic::Exact(number)) => Value::Number(number.round(*scale)),
                Some(Arithmetic::Float(number)) => {
                    let unit = 10f64.powi(*scale as i32);
                    let rounded = (number * unit).round() / unit;
                    Value::Float(if rounded.is_finite() { rounded } else { number })
                }
            },
            Self::DateFormat(node, format) => {
                node.with_moment(context, |moment| Some(Value::Text(format.format(moment).into())))?
            }
            Self::UnixTimestamp(node) => {
                node.with_moment(context, |moment| moment.unix_timestamp().map(Value::Number))?
            }
            Self::UnixMillis(node) => node.with_moment(context, |moment| moment.unix_millis().map(Value::Number))?,
            Self::Member { document, path, as_text } => match document.value(context)?.into_json()? {
                None => Value::Null,
                Some(Cow::Borrowed(document)) => match path.find(document) {
                    Some(found) if *as_text => Value::Text(unquoted_text(found)),
                    Some(found) => Value::Json(found.into()),
                    None => Value::Null,
                },
                Some(Cow::Owned(document)) => match path.find(&document) {
                    Some(found) if *as_text => Value::Text(unquoted_text(found).into_owned().into()),
                    Some(found) => Value::Json(found.to_owned().into()),
                    None => Value::Null,
                },
            },
            Self::Negative(node) => match node.arithmetic_value(context)? {
                None => Value::Null,
                Some(Arithmetic::Exact(number)) => Value::Number(number.negative()),
                Some(Arithmetic::Float(number)) => Value::Float(-number),
            },
            Self::Arithmetic(operator, left, right) => {
                match (left.arithmetic_value(context)?, right.arithmetic_value(context)?) {
                    (Some(Arithmetic::Exact(a)), Some(Arithmetic::Exact(b))) => {
                        Value::Number(a.calculate(*operator, b)?)
                    }
                    (Some(a), Some(b)) => {
                        let (a, b) = (a.float(), b.float());
                        Value::Float(match operator {
                            Operator::Add => a + b,
                            Operator::Subtract => a - b,
                            Operator::Multiply => a * b,
                        })
                    }
                    _ => Value::Null,
                }
            }
            _ => self.truth(context)?.map_or(Value::Null, Value::Bool),
        })
    }

    /// Returns whether a condition holds; `None` for NULL.
    pub fn truth(&self, context: &RowContext<'_>) -> Result<Option<bool>, String> {
        Ok(match self {
            Self::Bool(bool) => Some(*bool),
            Self::OpIn(operations) => Some(operations.contains(&context.row.operation())),
            Self::Has(index) => Some(context.row.newest().cell(*index) != Cell::Absent),
            // A column that is absent after an update was not changed.
            Self::Changed(index) => Some(match (context.row.before(), context.row.after()) {
                (Some(before), Some(after)) => {
                    let cell = after.cell(*index);
                    cell != Cell::Absent && before.cell(*index) != cell
                }
                _ => false,
            }),
            // A row that a snapshot reads has not changed.
            Self::ChangedTo(..) if context.row.operation() == Operation::Read => Some(false),
            Self::ChangedTo(index, wanted) => {
                let column = &context.table.columns[index.0 as usize];
                let is = |image: Option<Image<'_>>| {
                    let value = image.and_then(|image| image.cell(*index).value());
                    let scalar = value.and_then(|bytes| Scalar::of(column, bytes));
                    scalar.is_some_and(|scalar| scalar.compare(wanted) == Some(Ordering::Equal))
                };
                Some(is(context.row.after()) && !is(context.row.before()))
            }
            Self::Compare(comparison, left, right) => {
                let (left, right) = (left.scalar(context)?, right.scalar(context)?);
                comparison.holds(left.as_deref(), right.as_deref())?
            }
            Self::In(value, list) => {
                let value = value.scalar(context)?;
                let mut found = Some(false);
                for item in list {
                    match Comparison::Equal.holds(value.as_deref(), item.scalar(context)?.as_deref())? {
                        Some(true) => return Ok(Some(true)),
                        None => found = None,
                        Some(false) => {}
                    }
                }
                found
            }
            Self::Like(node, pattern) => node.text(context)?.map(|text| pattern.matches(&text)),
            Self::IsNull(node) => Some(matches!(node.value(context)?, Value::Null)),
            Self::Not(node) => node.truth(context)?.map(|truth| !truth),
            Self::And(nodes) => {
                let mut all = Some(true);
                for node in nodes {
                    match node.truth(context)? {
                        Some(false) => return Ok(Some(false)),
                        None => all = None,
                        Some(true) => {}
                    }
                }
                all
            }
            Self::Or(nodes) => {
                let mut any = Some(false);
                for node in nodes {
                    match node.truth(context)? {
                        Some(true) => return Ok(Some(true)),
                        None => any = None,
                        Some(false) => {}
                    }
                }
                any
            }
            _ => match self.value(context)?.into_scalar()? {
                None => None,
                Some(Scalar::Bool(bool)) => Some(bool),
                Some(Scalar::Integer(number)) => Some(number != 0),
                Some(Scalar::Float(number)) => Some(number != 0.0),
                Some(Scalar::Decimal(text)) => Some(text.bytes().any(|byte| matches!(byte, b'1'..=b'9'))),
                Some(other) => return Err(format!("{} is neither true nor false", other.class().name())),
            },
        })
    }

    fn text<'a>(&'a self, context: &RowContext<'a>) -> Result<Option<Cow<'a, str>>, String> {
        self.value(context)?.into_text()
    }

    fn arithmetic_value(&self, context: &RowContext<'_>) -> Result<Option<Arithmetic>, String> {
        let number = |text: &str| Number::parse(text).map(Arithmetic::Exact);
        Ok(match self.value(context)? {
            Value::Number(number) => Some(Arithmetic::Exact(number)),
            other => match other.into_scalar()? {
                None => None,
                Some(Scalar::Integer(integer)) => number(&integer.to_string()),
                Some(Scalar::Decimal(text)) => {
                    Some(number(&text).ok_or_else(|| format!("`{text}` has too many digits to calculate with"))?)
                }
                Some(Scalar::Float(float)) => Some(Arithmetic::Float(float)),
                Some(Scalar::Bool(bool)) => number(if bool { "1" } else { "0" }),
                Some(other) => return Err(format!("{} is not a number", other.class().name())),
            },
        })
    }

    /// Calls a function with a date. NULL if there is none.
    fn with_moment<'a>(
        &self,
        context: &RowContext<'_>,
        make: impl FnOnce(Moment<'_>) -> Option<Value<'a>>,
    ) -> Result<Value<'a>, String> {
        let Some(text) = self.text(context)? else { return Ok(Value::Null) };
        let moment = Moment::parse(&text).ok_or_else(|| format!("`{text}` is not a date"))?;
        Ok(make(moment).unwrap_or(Value::Null))
    }
}

enum Arithmetic {
    Exact(Number),
    Float(f64),
}

impl Arithmetic {
    fn float(&self) -> f64 {
        match self {
            Self::Exact(number) => number.text().parse().unwrap_or(f64::NAN),
            Self::Float(number) => *number,
        }
    }
}

impl Operand {
    /// Returns the value that is the same for all rows.
    pub fn constant(&self) -> Option<Scalar<'static>> {
        match self {
            Self::Scalar(scalar) => Some(scalar.clone()),
            Self::Node(node) => match &**node {
                Node::Text(text) => Some(Scalar::Text(text.clone().into())),
                Node::Number(number) => Some(Scalar::Decimal(number.text().into())),
                Node::Float(number) => Some(Scalar::Float(*number)),
                Node::Bool(bool) => Some(Scalar::Bool(*bool)),
                _ => None,
            },
        }
    }

    #[inline]
    fn scalar<'a>(&'a self, context: &RowContext<'a>) -> Result<Option<ScalarRef<'a>>, String> {
        match self {
            Self::Scalar(scalar) => Ok(Some(ScalarRef::Borrowed(scalar))),
            Self::Node(node) => Ok(node.value(context)?.into_scalar()?.map(ScalarRef::Owned)),
        }
    }
}

/// A scalar, or a reference to one.
enum ScalarRef<'a> {
    Borrowed(&'a Scalar<'static>),
    Owned(Scalar<'a>),
}

impl<'a> std::ops::Deref for ScalarRef<'a> {
    type Target = Scalar<'a>;

    fn deref(&self) -> &Scalar<'a> {
        match self {
            Self::Borrowed(scalar) => scalar,
            Self::Owned(scalar) => scalar,
        }
    }
}
