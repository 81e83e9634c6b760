//! Compiles expressions for a table, and refuses what makes no sense for its columns.

use rowmill_core::batch::{Column, ColumnIndex, ImageKind, Kind, Operation, Table};
use rowmill_core::envelope::push_columns;

use super::date::Format;
use super::like::Pattern;
use super::node::{Node, Operand, RowContext};
use super::number::Number;
use super::scalar::{Class, Scalar};
use super::value::Value;
use super::{ColumnName, Comparison, Expression, Function, Scope, View};
use crate::config::nearest;
use crate::transform::query::image_of;
use crate::transform::value as column_value;

/// An expression compiled for one table.
#[derive(Debug)]
pub(in crate::transform) struct Compiled {
    node: Node,
    class: Class,
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
                    Node::Column(_, index) => self.described(index).kind == Kind::Json,
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
        self.scope.interests.check(self.table, index, image_of(*view))?;
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
                let view = match function {
                    Function::Row | Function::RowExcept => View::Newest,
                    _ => View::Before,
                };
                let except = arguments.iter().map(|argument| {
                    let name = self.column_argument(function, argument)?;
                    let found = self.table.column(&name.name);
                    found.ok_or_else(|| self.table.no_column(&name.name))
                });
                let except = except.collect::<Result<Vec<_>, String>>()?;
                for index in (0..self.table.columns.len() as u32).map(ColumnIndex) {
                    if !except.contains(&index) {
                        self.scope.interests.check(self.table, index, image_of(view))?;
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
                        Some(column) => column_value::refusal(self.table, column, text),
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
    let is_meant = |operation: &Operation| letters.iter().any(|wanted| wanted == operation.letter());
    Some(Node::OpIn(Operation::ALL.into_iter().filter(is_meant).collect()))
}

#[cfg(test)]
mod tests;
