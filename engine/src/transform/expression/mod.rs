//! Expressions over the columns of a row, in a subset of MySQL's syntax (docs/expressions.md): the conditions of queries, and
//! the values of recipes.
//!
//! A text is parsed once ([`Expression`]), compiled for each table ([`Compiled`](compile::Compiled)), and evaluated for each row
//! ([`value`](compile::Compiled::value)). The compiler refuses what makes no sense for the table's columns, so that no
//! comparison is false in silence.

mod compile;
mod date;
mod json_path;
mod like;
mod node;
mod number;
mod parse;
mod scalar;
mod template;
mod value;

use super::interest::Interests;
use super::wasm::bindings::query::View;

pub(crate) use date::time_us;

pub(super) use compile::Compiled;
pub(super) use json_path::items;
pub(super) use node::{RowContext as Row, absent};
pub(super) use parse::parse;
pub(super) use template::{CompiledTemplate, Template, push_json};

/// A parsed expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Null,
    Bool(bool),
    /// Digits with an optional decimal point and exponent, without sign.
    Number(String),
    Text(String),
    Column(ColumnName),
    Call(Function, Vec<Expression>),
    /// `->` and `->>`, which returns text.
    Member {
        document: Box<Expression>,
        path: json_path::Path,
        as_text: bool,
    },
    Negative(Box<Expression>),
    Arithmetic(number::Operator, Box<Expression>, Box<Expression>),
    Compare(Comparison, Box<Expression>, Box<Expression>),
    In(Box<Expression>, Vec<Expression>),
    Like(Box<Expression>, String),
    IsNull(Box<Expression>),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

/// A column of one of a row's images: `old.column`, `new.column` or `column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnName {
    pub view: View,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    /// `<=>`: equal, and NULL equals NULL.
    SafeEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Declares the functions with their names and numbers of arguments.
macro_rules! functions {
    ($($function:ident $name:literal $arguments:expr,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function { $($function),* }

        impl Function {
            const ALL: &[Self] = &[$(Self::$function),*];

            fn name(self) -> &'static str {
                match self { $(Self::$function => $name),* }
            }

            /// The number of arguments that the function takes.
            fn arguments(self) -> std::ops::RangeInclusive<usize> {
                match self { $(Self::$function => $arguments),* }
            }
        }
    };
}

functions! {
    Op "op" 0..=0,
    Schema "schema" 0..=0,
    Table "table" 0..=0,
    CommitTime "commit_time" 0..=0,
    Gtid "gtid" 0..=0,
    BinlogFile "binlog_file" 0..=0,
    BinlogPosition "binlog_position" 0..=0,
    Row "row" 0..=0,
    RowExcept "row_except" 1..=1000,
    OldRow "old_row" 0..=0,
    OldRowExcept "old_row_except" 1..=1000,
    Item "item" 0..=0,
    ItemNumber "item_number" 0..=0,
    Has "has" 1..=1,
    Changed "changed" 1..=1,
    ChangedTo "changed_to" 2..=2,
    Coalesce "coalesce" 1..=100,
    If "if" 3..=3,
    Concat "concat" 1..=100,
    Lower "lower" 1..=1,
    Upper "upper" 1..=1,
    Text "text" 1..=1,
    Number "number" 1..=1,
    Round "round" 1..=2,
    DateFormat "date_format" 2..=2,
    UnixTimestamp "unix_timestamp" 1..=1,
    UnixMillis "unix_millis" 1..=1,
}

/// What an expression may use.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub interests: &'a Interests,
    /// Whether it is evaluated for each item of a JSON array.
    pub has_item: bool,
}
