//! Expressions compiled for one table, and their values for a row.

use std::borrow::Cow;
use std::cmp::Ordering;

use rowmill_core::batch::{Batch, Cell, Column, ColumnIndex, Image, ImageKind, Operation, Row, Table};
use rowmill_core::envelope::{push_cell_text, push_columns};

use super::date::{self, Format, Moment};
use super::json_path::Path;
use super::number::{Number, Operator};
use super::scalar::{Class, Scalar};
use super::{ColumnName, Comparison, Expression, Function, Scope, View};
use crate::config::nearest;
use crate::transform::query::time_us;
use crate::transform::value;

/// An expression compiled for one table.
#[derive(Debug)]
pub(in crate::transform) struct Compiled {
    node: Node,
    class: Class,
}

/// The row for which an expression is evaluated.
#[derive(Clone, Copy)]
pub(in crate::transform) struct RowContext<'a> {
    pub table: &'a Table,
    pub batch: &'a Batch<'a>,
    pub row: Row<'a>,
    /// The item of a JSON array, and its number.
    pub item: Option<(&'a str, usize)>,
}

/// The value of an expression.
#[derive(Debug, Clone)]
pub(in crate::transform) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Float(f64),
    /// `2026-11-26 08:30:00.000000`
    Moment(String),
    Text(Cow<'a, str>),
    /// A value of a JSON document, or a row.
    Json(Cow<'a, str>),
    /// A column's value, which is neither NULL nor absent.
    Cell(&'a Column, Cell<'a>),
}

#[derive(Debug)]
enum Node {
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
enum Operand {
    /// A literal, parsed as a value of the other side's class.
    Scalar(Scalar<'static>),
    Node(Box<Node>),
}

impl Compiled {
    /// Compiles an expression for a table.
    ///
    /// # Errors
    /// If the table lacks a column, a column is outside the plugin's interest, or values of classes that cannot be compared are.
    pub fn new(expression: &Expression, table: &Table, scope: Scope<'_>) -> Result<Self, String> {
        let (node, class) = Compiler { table, scope }.typed(expression)?;
        Ok(Self { node, class })
    }

    /// Compiles a condition for a table.
    ///
    /// # Errors
    /// As [`Self::new`], or if the expression is none that is true or false.
    pub fn condition(expression: &Expression, table: &Table, scope: Scope<'_>) -> Result<Self, String> {
        let node = Compiler { table, scope }.truth(expression)?;
        Ok(Self { node, class: Class::Bool })
    }

    /// Returns the column, if the expression is only a column of the newest image.
    pub fn column(&self) -> Option<ColumnIndex> {
        if let Node::Column(View::Newest, index) = self.node { Some(index) } else { None }
    }

    /// Whether the expression is a row: an object of its columns.
    pub fn is_row(&self) -> bool {
        matches!(self.node, Node::Row(..))
    }

    /// Appends the members of a row without its braces. Nothing if the row does not have the image.
    pub fn push_members(&self, context: &RowContext<'_>, out: &mut Vec<u8>) {
        if let Node::Row(view, except) = &self.node
            && let Some(image) = context.image(*view)
        {
            push_columns(context.table, image, |column| !except.contains(&column), out);
        }
    }

    /// Returns the value for a row.
    ///
    /// # Errors
    /// If a column is absent from the row's image, or a value is not what the expression needs.
    pub fn value<'a>(&'a self, context: &RowContext<'a>) -> Result<Value<'a>, String> {
        self.node.value(context)
    }

    /// Returns whether the condition holds: not if it is NULL.
    ///
    /// # Errors
    /// As [`Self::value`].
    pub fn holds(&self, context: &RowContext<'_>) -> Result<bool, String> {
        self.node.truth(context).map(|truth| truth == Some(true))
    }

    /// Whether it is false whatever the row.
    pub fn is_never(&self) -> bool {
        matches!(self.node, Node::Bool(false) | Node::Null)
    }

    /// What an error calls the value.
    pub fn class_name(&self) -> &'static str {
        self.class.name()
    }
}

struct Compiler<'a> {
    table: &'a Table,
    scope: Scope<'a>,
}

impl Compiler<'_> {
    fn typed(&self, expression: &Expression) -> Result<(Node, Class), String> {
        Ok(match expression {
            Expression::Null => (Node::Null, Class::Null),
            Expression::Bool(bool) => (Node::Bool(*bool), Class::Bool),
            Expression::Number(text) => {
                let node = match (Scalar::number(text), Number::parse(text)) {
                    (Scalar::Float(number), _) => Node::Float(number),
                    (_, Some(number)) => Node::Number(number),
                    _ => return Err(format!("number of too many digits: {text}")),
                };
                (node, Class::Number)
            }
            Expression::Text(text) => (Node::Text(text.clone()), Class::Text),
            Expression::Column(name) => {
                let (index, column) = self.column(name)?;
                (Node::Column(name.view, index), Class::of(column.kind))
            }
            Expression::Call(function, arguments) => self.call(*function, arguments)?,
            Expression::Member { document, path, as_text } => {
                let (node, class) = self.typed(document)?;
                let is_document = match node {
                    Node::Column(_, index) => self.described(index).kind == rowmill_core::batch::Kind::Json,
                    _ => class == Class::Json,
                };
                if !is_document {
                    return Err(format!("{} is not JSON: `->` takes a value from JSON", self.shown(document, class)));
                }
                let class = if *as_text { Class::Text } else { Class::Json };
                (Node::Member { document: node.into(), path: path.clone(), as_text: *as_text }, class)
            }
            Expression::Negative(number) => (Node::Negative(self.number(number)?.into()), Class::Number),
            Expression::Arithmetic(operator, left, right) => {
                let (left, right) = (self.number(left)?, self.number(right)?);
                (Node::Arithmetic(*operator, left.into(), right.into()), Class::Number)
            }
            Expression::Compare(comparison, left, right) => (self.compare(*comparison, left, right)?, Class::Bool),
            Expression::In(value, list) => {
                let pairs = list.iter().map(|item| self.operands(value, item)).collect::<Result<Vec<_>, _>>()?;
                let (mut lefts, rights): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
                let left = lefts.swap_remove(0);
                (operation_in(&left, &rights).unwrap_or(Node::In(left, rights)), Class::Bool)
            }
            Expression::Like(value, pattern) => {
                (Node::Like(self.typed(value)?.0.into(), Pattern::new(pattern)), Class::Bool)
            }
            Expression::IsNull(value) => (Node::IsNull(self.typed(value)?.0.into()), Class::Bool),
            Expression::Not(_) | Expression::And(_) | Expression::Or(_) => (self.truth(expression)?, Class::Bool),
        })
    }

    /// Compiles a condition. A part that is false, or true, for all rows of the table decides over parts that make no sense for
    /// it: `schema() = 'shop' and status = 'paid'` is right for tables that have no `status`.
    fn truth(&self, expression: &Expression) -> Result<Node, String> {
        let (parts, deciding) = match expression {
            Expression::And(parts) => (parts, false),
            Expression::Or(parts) => (parts, true),
            Expression::Not(inner) => {
                return Ok(match self.truth(inner)? {
                    Node::Bool(bool) => Node::Bool(!bool),
                    node => Node::Not(node.into()),
                });
            }
            other => {
                let (node, class) = self.typed(other)?;
                return match class {
                    Class::Bool | Class::Number | Class::Json | Class::Null => Ok(node),
                    _ => Err(format!("{} is neither true nor false: compare it", self.shown(other, class))),
                };
            }
        };
        let mut nodes = Vec::with_capacity(parts.len());
        let mut first_error = None;
        for part in parts {
            match self.truth(part) {
                Ok(Node::Bool(bool)) if bool == deciding => return Ok(Node::Bool(deciding)),
                Ok(Node::Bool(_)) => {}
                Ok(node) => nodes.push(node),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        match (first_error, nodes.len()) {
            (Some(error), _) => Err(error),
            (None, 0) => Ok(Node::Bool(!deciding)),
            (None, 1) => Ok(nodes.swap_remove(0)),
            (None, _) => Ok(if deciding { Node::Or(nodes) } else { Node::And(nodes) }),
        }
    }

    fn described(&self, index: ColumnIndex) -> &Column {
        &self.table.columns[index.0 as usize]
    }

    fn column(&self, ColumnName { view, name }: &ColumnName) -> Result<(ColumnIndex, &Column), String> {
        let index = self.table.column(name).ok_or_else(|| {
            let hint = nearest(name, self.table.columns.iter().map(|column| &*column.name));
            format!("{}{hint}", self.table.no_column(name))
        })?;
        let image = if *view == View::Old { ImageKind::Before } else { ImageKind::After };
        self.scope.interests.check(self.table, index, image)?;
        Ok((index, self.described(index)))
    }

    /// Returns the column that is a function's argument.
    fn column_argument(&self, function: Function, argument: &Expression) -> Result<ColumnName, String> {
        match argument {
            Expression::Column(name) if name.view == View::Newest => Ok(name.clone()),
            _ => Err(format!("`{}` takes the name of a column", function.name())),
        }
    }

    fn number(&self, expression: &Expression) -> Result<Node, String> {
        match self.typed(expression)? {
            (node, Class::Number | Class::Json | Class::Null) => Ok(node),
            (_, class) => Err(format!("{} is not a number", self.shown(expression, class))),
        }
    }

    fn moment(&self, function: Function, expression: &Expression) -> Result<Box<Node>, String> {
        match self.typed(expression)? {
            (node, Class::Date | Class::Moment | Class::Null) => Ok(node.into()),
            (_, class) => Err(format!("`{}` takes a date, not {}", function.name(), self.shown(expression, class))),
        }
    }

    fn call(&self, function: Function, arguments: &[Expression]) -> Result<(Node, Class), String> {
        let typed = |expression: &Expression| self.typed(expression).map(|(node, _)| Box::new(node));
        let literal = |expression: &Expression| match expression {
            Expression::Text(text) => Ok(text.clone()),
            _ => Err(format!("`{}` takes a quoted text as its second argument", function.name())),
        };
        Ok(match function {
            Function::Op => (Node::Op, Class::Text),
            Function::Schema => (Node::Text(self.table.schema.clone()), Class::Text),
            Function::Table => (Node::Text(self.table.name.clone()), Class::Text),
            Function::CommitTime => (Node::CommitTime, Class::Moment),
            Function::Gtid => (Node::Gtid, Class::Text),
            Function::BinlogFile => (Node::BinlogFile, Class::Text),
            Function::BinlogPosition => (Node::BinlogPosition, Class::Number),
            Function::Row | Function::RowExcept | Function::OldRow | Function::OldRowExcept => {
                let (view, image) = match function {
                    Function::Row | Function::RowExcept => (View::Newest, ImageKind::After),
                    _ => (View::Old, ImageKind::Before),
                };
                let except = arguments.iter().map(|argument| {
                    let name = self.column_argument(function, argument)?;
                    let found = self.table.column(&name.name);
                    found.ok_or_else(|| self.table.no_column(&name.name))
                });
                let except = except.collect::<Result<Vec<_>, String>>()?;
                for index in (0..self.table.columns.len() as u32).map(ColumnIndex) {
                    if !except.contains(&index) {
                        self.scope.interests.check(self.table, index, image)?;
                    }
                }
                (Node::Row(view, except), Class::Json)
            }
            Function::Item | Function::ItemNumber if !self.scope.has_item => {
                return Err(format!("`{}` is known in a recipe with `for_each`", function.name()));
            }
            Function::Item => (Node::Item, Class::Json),
            Function::ItemNumber => (Node::ItemNumber, Class::Number),
            Function::Has => {
                let name = self.column_argument(function, &arguments[0])?;
                let node = self.column(&name).map_or(Node::Bool(false), |(index, _)| Node::Has(index));
                (node, Class::Bool)
            }
            Function::Changed | Function::ChangedTo => {
                let name = self.column_argument(function, &arguments[0])?;
                let (index, column) = self.column(&name)?;
                self.scope.interests.check(self.table, index, ImageKind::Before)?;
                let node = match arguments.get(1) {
                    None => Node::Changed(index),
                    Some(wanted) => match self.literal_of(column, wanted)? {
                        Some(wanted) => Node::ChangedTo(index, wanted),
                        None => return Err(format!("`{}` takes a column and a literal", function.name())),
                    },
                };
                (node, Class::Bool)
            }
            Function::Coalesce => {
                let (nodes, class) = self.alike(arguments)?;
                (Node::Coalesce(nodes), class)
            }
            Function::If => {
                let condition = self.truth(&arguments[0])?;
                let (nodes, class) = self.alike(&arguments[1..])?;
                let [then, otherwise] = <[Node; 2]>::try_from(nodes).map_err(|_| "`if` takes two values".to_owned())?;
                (Node::If(Box::new([condition, then, otherwise])), class)
            }
            Function::Concat => {
                let nodes = arguments.iter().map(|argument| self.typed(argument).map(|(node, _)| node));
                (Node::Concat(nodes.collect::<Result<_, _>>()?), Class::Text)
            }
            Function::Lower => (Node::Lower(typed(&arguments[0])?), Class::Text),
            Function::Upper => (Node::Upper(typed(&arguments[0])?), Class::Text),
            Function::Text => (Node::AsText(typed(&arguments[0])?), Class::Text),
            Function::Number => (Node::AsNumber(self.number(&arguments[0])?.into()), Class::Json),
            Function::Round => {
                let scale = match arguments.get(1) {
                    None => 0,
                    Some(Expression::Number(digits)) => digits
                        .parse()
                        .ok()
                        .filter(|&scale| scale <= 30)
                        .ok_or_else(|| "`round` takes a number of decimal places from 0 to 30".to_owned())?,
                    Some(_) => return Err("`round` takes a number of decimal places from 0 to 30".to_owned()),
                };
                (Node::Round(self.number(&arguments[0])?.into(), scale), Class::Number)
            }
            Function::DateFormat => {
                let format = Format::parse(&literal(&arguments[1])?)?;
                (Node::DateFormat(self.moment(function, &arguments[0])?, format), Class::Text)
            }
            Function::UnixTimestamp => (Node::UnixTimestamp(self.moment(function, &arguments[0])?), Class::Number),
            Function::UnixMillis => (Node::UnixMillis(self.moment(function, &arguments[0])?), Class::Number),
        })
    }

    /// Compiles values of one class.
    fn alike(&self, expressions: &[Expression]) -> Result<(Vec<Node>, Class), String> {
        let mut common = Class::Null;
        let mut nodes = Vec::with_capacity(expressions.len());
        for expression in expressions {
            let (node, class) = self.typed(expression)?;
            if !common.is_comparable(class) {
                return Err(format!("{} beside {}", self.shown(expression, class), common.name()));
            }
            common = if common == Class::Null { class } else { common };
            nodes.push(node);
        }
        Ok((nodes, common))
    }

    fn compare(&self, comparison: Comparison, left: &Expression, right: &Expression) -> Result<Node, String> {
        let (left, right) = self.operands(left, right)?;
        // What is the same for all rows of the table is decided here.
        if let (Some(a), Some(b)) = (left.constant(), right.constant()) {
            return Ok(match comparison.holds(Some(&a), Some(&b))? {
                Some(bool) => Node::Bool(bool),
                None => Node::Null,
            });
        }
        let of_operations = match comparison {
            Comparison::Equal | Comparison::SafeEqual => operation_in(&left, std::slice::from_ref(&right)),
            _ => None,
        };
        Ok(of_operations.unwrap_or(Node::Compare(comparison, left, right)))
    }

    /// Compiles the sides of a comparison. A literal is parsed as a value of the other side.
    fn operands(&self, left: &Expression, right: &Expression) -> Result<(Operand, Operand), String> {
        let ((left_node, left_class), (right_node, right_class)) = (self.typed(left)?, self.typed(right)?);
        let (left_shown, right_shown) = (|| self.shown(left, left_class), || self.shown(right, right_class));
        let (left_literal, right_literal) = (literal(left), literal(right));
        let operand = |node: Node, literal: Option<Literal>, other: &Expression, class: Class| match literal {
            Some(literal) => self.scalar(&literal, other, class).map(Operand::Scalar),
            None => Ok(Operand::Node(node.into())),
        };
        // Of two literals both are what they are.
        let (left_literal, right_literal) = match (left_literal, right_literal) {
            (Some(_), Some(_)) => (None, None),
            other => other,
        };
        if left_literal.is_none() && right_literal.is_none() && !left_class.is_comparable(right_class) {
            return Err(format!("{} cannot be compared with {}", left_shown(), right_shown()));
        }
        let left_operand = operand(left_node, left_literal, right, right_class)?;
        let right_operand = operand(right_node, right_literal, left, left_class)?;
        Ok((left_operand, right_operand))
    }

    /// Parses a literal that is compared with an expression.
    fn scalar(&self, literal: &Literal, other: &Expression, class: Class) -> Result<Scalar<'static>, String> {
        let column = if let Expression::Column(name) = other { Some(self.column(name)?.1) } else { None };
        match (literal, class) {
            (Literal::Text(text), _) => {
                let Some(scalar) = class.parse(text) else {
                    return Err(match column {
                        Some(column) => value::refusal(self.table, column, text),
                        None => format!("`{text}` is not {}", class.name()),
                    });
                };
                Ok(match column {
                    Some(column) => scalar.for_column(column),
                    None => scalar,
                })
            }
            (Literal::Number(text), Class::Number | Class::Json | Class::Null) => {
                let scalar = Scalar::number(text);
                Ok(column.map_or(scalar.clone(), |column| scalar.for_column(column)))
            }
            (Literal::Bool(bool), Class::Bool | Class::Json | Class::Null) => Ok(Scalar::Bool(*bool)),
            // As in MySQL.
            (Literal::Bool(bool), Class::Number) => Ok(Scalar::Integer((*bool).into())),
            (Literal::Number(text), _) => {
                Err(format!("{} is compared with the number {text}: write it in quotes", self.shown(other, class)))
            }
            (Literal::Bool(_), _) => Err(format!("{} is neither true nor false", self.shown(other, class))),
        }
    }

    /// Returns a literal as a value of a column. `None` if the expression is not a literal.
    fn literal_of(&self, column: &Column, expression: &Expression) -> Result<Option<Scalar<'static>>, String> {
        let Some(literal) = literal(expression) else { return Ok(None) };
        let name = ColumnName { view: View::Newest, name: column.name.clone() };
        self.scalar(&literal, &Expression::Column(name), Class::of(column.kind)).map(Some)
    }

    /// What an error calls an expression.
    fn shown(&self, expression: &Expression, class: Class) -> String {
        match expression {
            Expression::Column(name) => match self.column(name) {
                Ok((_, column)) => format!("column `{}` of {} ({})", column.name, self.table, column.mysql_type),
                Err(error) => error,
            },
            Expression::Text(text) => format!("`{text}`"),
            Expression::Number(text) => text.clone(),
            Expression::Call(function, _) => format!("`{}(...)`", function.name()),
            _ => class.name().to_owned(),
        }
    }
}

enum Literal {
    Text(String),
    Number(String),
    Bool(bool),
}

fn literal(expression: &Expression) -> Option<Literal> {
    match expression {
        Expression::Text(text) => Some(Literal::Text(text.clone())),
        Expression::Number(text) => Some(Literal::Number(text.clone())),
        Expression::Bool(bool) => Some(Literal::Bool(*bool)),
        Expression::Negative(inner) => match literal(inner)? {
            Literal::Number(text) => Some(Literal::Number(format!("-{text}"))),
            _ => None,
        },
        _ => None,
    }
}

impl Comparison {
    /// # Errors
    /// If the values cannot be compared, as of a JSON document.
    fn holds(self, left: Option<&Scalar<'_>>, right: Option<&Scalar<'_>>) -> Result<Option<bool>, String> {
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
    fn image(&self, view: View) -> Option<Image<'a>> {
        match view {
            View::Old => self.row.before(),
            View::New => self.row.after(),
            View::Newest => Some(self.row.newest()),
        }
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

/// Returns the test whether the row's operation is one of some letters, which is much faster than to compare texts. `None` if
/// the values are not `op()` and letters.
fn operation_in(value: &Operand, letters: &[Operand]) -> Option<Node> {
    if !matches!(value, Operand::Node(node) if matches!(**node, Node::Op)) {
        return None;
    }
    let text = |operand: &Operand| match operand {
        Operand::Scalar(Scalar::Text(text)) => Some(text.to_string()),
        _ => None,
    };
    let letters = letters.iter().map(text).collect::<Option<Vec<_>>>()?;
    let operations = [Operation::Insert, Operation::Update, Operation::Delete];
    let is_meant = |operation: &Operation| letters.iter().any(|wanted| wanted == letter(*operation));
    Some(Node::OpIn(operations.into_iter().filter(is_meant).collect()))
}

/// The letter of an operation in Debezium's envelope.
fn letter(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "c",
        Operation::Update => "u",
        Operation::Delete => "d",
    }
}

/// The error of a row whose image lacks a column.
pub(in crate::transform) fn absent(table: &Table, column: ColumnIndex) -> String {
    let name = &table.columns[column.0 as usize].name;
    format!("column `{name}` of {table} is absent from the row's image; ask `has` first")
}

impl Node {
    fn value<'a>(&'a self, context: &RowContext<'a>) -> Result<Value<'a>, String> {
        let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
        let transaction = || context.batch.transaction(context.row.transaction()).header();
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Number(number) => Value::Number(*number),
            Self::Float(number) => Value::Float(*number),
            Self::Text(constant) => text(constant),
            Self::Column(view, index) => context.cell(*view, *index)?,
            Self::Op => text(letter(context.row.operation())),
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
                    Some(found) if *as_text => unquoted(found),
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
    fn truth(&self, context: &RowContext<'_>) -> Result<Option<bool>, String> {
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
    fn constant(&self) -> Option<Scalar<'static>> {
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

impl<'a> Value<'a> {
    /// Returns the value for comparisons. `None` for NULL.
    #[inline]
    fn into_scalar(self) -> Result<Option<Scalar<'a>>, String> {
        Ok(Some(match self {
            Self::Null => return Ok(None),
            Self::Bool(bool) => Scalar::Bool(bool),
            Self::Number(number) => Scalar::Decimal(number.text().into()),
            Self::Float(number) => Scalar::Float(number),
            Self::Moment(text) => Class::Moment.parse(&text).unwrap_or(Scalar::Moment(text.into())),
            Self::Text(text) => Scalar::Text(text),
            Self::Json(json) => return Ok(json_scalar(json)),
            Self::Cell(column, cell) => {
                let bytes = cell.value().ok_or_else(|| only_changes(column))?;
                return Scalar::of(column, bytes)
                    .map(Some)
                    .ok_or_else(|| format!("column `{}` cannot be read", column.name));
            }
        }))
    }

    /// Returns a JSON text. `None` for NULL.
    ///
    /// # Errors
    /// If the value is not JSON.
    pub fn into_json(self) -> Result<Option<Cow<'a, str>>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Json(json) => Ok(Some(json)),
            Self::Cell(column, cell) => {
                let bytes = cell.value().ok_or_else(|| only_changes(column))?;
                let text = std::str::from_utf8(bytes).ok().filter(|_| column.kind == rowmill_core::batch::Kind::Json);
                text.map(|text| Some(Cow::Borrowed(text)))
                    .ok_or_else(|| format!("column `{}` is not JSON", column.name))
            }
            _ => Err("a value that is not JSON".to_owned()),
        }
    }

    /// Returns the value as text. `None` for NULL.
    pub fn into_text(self) -> Result<Option<Cow<'a, str>>, String> {
        Ok(Some(match self {
            Self::Null => return Ok(None),
            Self::Text(text) => text,
            Self::Moment(text) => text.into(),
            Self::Cell(column, Cell::Value(bytes)) if column.kind.is_text() => {
                std::str::from_utf8(bytes).map_err(|error| error.to_string())?.into()
            }
            Self::Json(Cow::Borrowed(json)) => unquoted_text(json),
            other => {
                let mut out = Vec::new();
                other.push_text(&mut out)?;
                String::from_utf8(out).map_err(|error| error.to_string())?.into()
            }
        }))
    }

    /// Appends the value as text: nothing for NULL.
    pub fn push_text(&self, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Null => {}
            Self::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
            Self::Number(number) => number.push(out),
            Self::Float(number) => out.extend_from_slice(float_text(*number)?.as_bytes()),
            Self::Moment(text) => out.extend_from_slice(text.as_bytes()),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Json(json) => out.extend_from_slice(unquoted_text(json).as_bytes()),
            Self::Cell(column, cell @ Cell::Value(_)) => push_cell_text(column, *cell, out),
            Self::Cell(column, _) => return Err(only_changes(column)),
        }
        Ok(())
    }
}

pub(super) fn float_text(number: f64) -> Result<String, String> {
    if number.is_finite() {
        Ok(serde_json::Number::from_f64(number).map_or_else(String::new, |number| number.to_string()))
    } else {
        Err("a result that is too large for a float".to_owned())
    }
}

fn owned_text<'a>(bytes: Vec<u8>) -> Result<Value<'a>, String> {
    String::from_utf8(bytes).map(|text| Value::Text(text.into())).map_err(|error| error.to_string())
}

fn only_changes(column: &Column) -> String {
    format!("of column `{}` only the changes are known (PARTIAL_JSON)", column.name)
}

/// Returns a value of a JSON document as text: a string without its quotes.
fn unquoted_text(json: &str) -> Cow<'_, str> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => text.into(),
        Some(_) => serde_json::from_str::<String>(json).map_or(json.into(), Cow::Owned),
        None => json.into(),
    }
}

fn unquoted(json: &str) -> Value<'_> {
    Value::Text(unquoted_text(json))
}

fn json_scalar(json: Cow<'_, str>) -> Option<Scalar<'_>> {
    Some(match json.as_bytes() {
        b"null" => return None,
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        [b'"', ..] => Scalar::Text(match json {
            Cow::Borrowed(json) => unquoted_text(json),
            Cow::Owned(json) => unquoted_text(&json).into_owned().into(),
        }),
        [b'-' | b'0'..=b'9', ..] if json.contains(['e', 'E']) => Scalar::Float(json.parse().ok()?),
        [b'-' | b'0'..=b'9', ..] => Scalar::Decimal(json),
        _ => Scalar::Text(json),
    })
}

/// A pattern of `LIKE`: `%` is any text, `_` any character, and a backslash takes the next character as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern(Vec<PatternPart>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternPart {
    AnyText,
    AnyChar,
    Char(char),
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut chars = text.chars();
        let mut parts = Vec::new();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' if parts.last() == Some(&PatternPart::AnyText) => continue,
                '%' => PatternPart::AnyText,
                '_' => PatternPart::AnyChar,
                '\\' => PatternPart::Char(chars.next().unwrap_or('\\')),
                c => PatternPart::Char(c),
            });
        }
        Self(parts)
    }

    fn matches(&self, text: &str) -> bool {
        let parts = &self.0;
        let (mut part, mut rest) = (0, text.chars());
        // Where to go on if what follows the last `%` does not match.
        let mut again: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            match parts.get(part) {
                Some(PatternPart::AnyText) if part + 1 == parts.len() => return true,
                Some(PatternPart::AnyText) => {
                    part += 1;
                    again = Some((part, rest.clone()));
                    continue;
                }
                None if rest.as_str().is_empty() => return true,
                Some(wanted) => match rest.next() {
                    Some(c) if *wanted == PatternPart::AnyChar || *wanted == PatternPart::Char(c) => {
                        part += 1;
                        continue;
                    }
                    Some(_) => {}
                    None => return false,
                },
                None => {}
            }
            let Some((from, after)) = &mut again else { return false };
            if after.next().is_none() {
                return false;
            }
            (part, rest) = (*from, after.clone());
        }
    }
}

#[cfg(test)]
mod tests;
