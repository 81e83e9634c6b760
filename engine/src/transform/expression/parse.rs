//! Parses expressions by precedence, as MySQL does.
//! <https://dev.mysql.com/doc/refman/9.7/en/operator-precedence.html>

use super::number::Operator;
use super::{ColumnName, Comparison, Expression, Function, View, json_path};
use crate::config::nearest;

/// Bytes of an expression.
const LENGTH_MAX: usize = 64 << 10;
/// Values, columns and operators of an expression.
const NODES_MAX: usize = 10_000;
/// Depth of nested parentheses, functions and operators.
const DEPTH_MAX: usize = 50;
/// Bytes of the pattern of a `LIKE`, which bounds the time that it takes.
const PATTERN_MAX: usize = 1_000;

/// Parses an expression.
///
/// # Errors
/// If it is not one: the error shows where.
pub(in crate::transform) fn parse(text: &str) -> Result<Expression, String> {
    let (expression, rest) = parse_until(text, false)?;
    debug_assert!(rest.is_empty());
    Ok(expression)
}

/// Parses an expression up to the `}` that closes a placeholder. Returns the text after it, too.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_placeholder(text: &str) -> Result<(Expression, &str), String> {
    parse_until(text, true)
}

fn parse_until(text: &str, in_placeholder: bool) -> Result<(Expression, &str), String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("expression of {} bytes: the limit is {LENGTH_MAX}", text.len()));
    }
    let mut parser = Parser { text, at: 0, next: Token::End, next_at: 0, nodes: 0, depth: 0 };
    parser.advance()?;
    let expression = parser.expression()?;
    match (&parser.next, in_placeholder) {
        (Token::End, false) => Ok((expression, "")),
        (Token::Close, true) => Ok((expression, &text[parser.at..])),
        (Token::End, true) => Err(parser.error("expected `}`")),
        _ => Err(parser.error("expected an operator or the end")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    End,
    /// A name without quotes: a column, a function or a keyword.
    Word(String),
    /// A name within backticks.
    Quoted(String),
    Number(String),
    Text(String),
    Symbol(&'static str),
    /// `}`
    Close,
}

/// Symbols, the longer ones first.
const SYMBOLS: [&str; 17] =
    ["<=>", "->>", "->", "<=", ">=", "<>", "!=", "(", ")", ",", "=", "<", ">", "+", "-", "*", "."];

struct Parser<'a> {
    text: &'a str,
    /// The end of the next token.
    at: usize,
    next: Token,
    /// The start of the next token.
    next_at: usize,
    nodes: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, what: &str) -> String {
        let (before, after) = self.text.split_at(self.next_at);
        let shown = |text: &str, count| text.chars().take(count).collect::<String>();
        let place = match before.chars().count() {
            _ if after.is_empty() => "at its end".to_owned(),
            at => format!("at character {}, before `{}`", at + 1, shown(after, 20)),
        };
        format!("invalid expression `{}`: {what} {place}", shown(self.text, 200))
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), String> {
        let rest = self.text[self.at..].trim_start();
        self.next_at = self.text.len() - rest.len();
        let mut chars = rest.chars();
        let (token, len) = match chars.next() {
            None => (Token::End, 0),
            Some('}') => (Token::Close, 1),
            Some(quote @ ('\'' | '"' | '`')) => {
                let (text, len) = quoted(rest, quote).ok_or_else(|| self.error("a quote that is not closed"))?;
                (if quote == '`' { Token::Quoted(text) } else { Token::Text(text) }, len)
            }
            Some('0'..='9') => {
                let len = number_len(rest);
                let is_number = len.is_some_and(|len| !rest[len..].starts_with(|c| is_of_word(c) || c == '.'));
                let Some(len) = len.filter(|_| is_number) else {
                    return Err(self.error("expected a number such as 12, 12.50 or 1e3"));
                };
                (Token::Number(rest[..len].to_owned()), len)
            }
            Some(first) if is_of_word(first) => {
                let len = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                (Token::Word(rest[..len].to_owned()), len)
            }
            Some(_) => match SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => return Err(self.error("unexpected character")),
            },
        };
        self.at = self.next_at + len;
        self.next = token;
        Ok(())
    }

    /// Takes the next token if it is this symbol.
    fn symbol(&mut self, symbol: &str) -> Result<bool, String> {
        let is_next = matches!(&self.next, Token::Symbol(next) if *next == symbol);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.symbol(symbol)? { Ok(()) } else { Err(self.error(&format!("expected `{symbol}`"))) }
    }

    /// Takes the next token if it is this keyword.
    fn keyword(&mut self, keyword: &str) -> Result<bool, String> {
        let is_next = matches!(&self.next, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn node(&mut self, expression: Expression) -> Result<Expression, String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(format!("expression of more than {NODES_MAX} values, columns and operators"));
        }
        Ok(expression)
    }

    /// Parses a nested expression, whose depth is limited.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("expression nested more than {DEPTH_MAX} deep"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&mut self) -> Result<Expression, String> {
        self.nested(|parser| {
            let first = parser.conjunction()?;
            let mut parts = vec![first];
            while parser.keyword("or")? {
                parts.push(parser.conjunction()?);
            }
            parser.joined(parts, Expression::Or)
        })
    }

    fn conjunction(&mut self) -> Result<Expression, String> {
        let first = self.negation()?;
        let mut parts = vec![first];
        while self.keyword("and")? {
            parts.push(self.negation()?);
        }
        self.joined(parts, Expression::And)
    }

    fn joined(
        &mut self,
        mut parts: Vec<Expression>,
        join: fn(Vec<Expression>) -> Expression,
    ) -> Result<Expression, String> {
        match parts.len() {
            1 => Ok(parts.remove(0)),
            _ => self.node(join(parts)),
        }
    }

    fn negation(&mut self) -> Result<Expression, String> {
        if self.keyword("not")? {
            let negated = self.nested(Self::negation)?;
            return self.node(Expression::Not(negated.into()));
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Result<Expression, String> {
        let left = self.sum()?;
        for (symbol, comparison) in [
            ("<=>", Comparison::SafeEqual),
            ("=", Comparison::Equal),
            ("<>", Comparison::NotEqual),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ] {
            if self.symbol(symbol)? {
                let right = self.sum()?;
                return self.node(Expression::Compare(comparison, left.into(), right.into()));
            }
        }
        if self.keyword("is")? {
            let is_negated = self.keyword("not")?;
            if !self.keyword("null")? {
                return Err(self.error("expected NULL"));
            }
            let test = self.node(Expression::IsNull(left.into()))?;
            return self.negated_if(is_negated, test);
        }
        let is_negated = self.keyword("not")?;
        let test = if self.keyword("in")? {
            self.expect("(")?;
            let values = self.list()?;
            Expression::In(left.into(), values)
        } else if self.keyword("like")? {
            let Token::Text(pattern) = self.next.clone() else { return Err(self.error("expected a quoted pattern")) };
            if pattern.len() > PATTERN_MAX {
                return Err(format!("LIKE pattern of {} bytes: the limit is {PATTERN_MAX}", pattern.len()));
            }
            self.advance()?;
            Expression::Like(left.into(), pattern)
        } else if self.keyword("between")? {
            let low = self.sum()?;
            if !self.keyword("and")? {
                return Err(self.error("expected AND and the upper bound"));
            }
            let high = self.sum()?;
            let compare =
                |comparison, bound: Expression| Expression::Compare(comparison, left.clone().into(), bound.into());
            let bounds = vec![compare(Comparison::GreaterOrEqual, low), compare(Comparison::LessOrEqual, high)];
            Expression::And(bounds)
        } else if is_negated {
            return Err(self.error("expected IN, LIKE or BETWEEN"));
        } else {
            return Ok(left);
        };
        let test = self.node(test)?;
        self.negated_if(is_negated, test)
    }

    fn negated_if(&mut self, is_negated: bool, test: Expression) -> Result<Expression, String> {
        if is_negated { self.node(Expression::Not(test.into())) } else { Ok(test) }
    }

    fn sum(&mut self) -> Result<Expression, String> {
        let mut left = self.product()?;
        loop {
            let operator = if self.symbol("+")? {
                Operator::Add
            } else if self.symbol("-")? {
                Operator::Subtract
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = self.arithmetic(operator, left, right)?;
        }
    }

    fn product(&mut self) -> Result<Expression, String> {
        let mut left = self.unary()?;
        while self.symbol("*")? {
            let right = self.unary()?;
            left = self.arithmetic(Operator::Multiply, left, right)?;
        }
        Ok(left)
    }

    /// A long chain of operators is a deep tree.
    fn arithmetic(&mut self, operator: Operator, left: Expression, right: Expression) -> Result<Expression, String> {
        let mut depth = 0;
        let mut inner = &left;
        while let Expression::Arithmetic(_, next, _) = inner {
            depth += 1;
            inner = next;
        }
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} arithmetic operators in a chain"));
        }
        self.node(Expression::Arithmetic(operator, left.into(), right.into()))
    }

    fn unary(&mut self) -> Result<Expression, String> {
        if self.symbol("-")? {
            let number = self.nested(Self::unary)?;
            return self.node(Expression::Negative(number.into()));
        }
        let mut value = self.primary()?;
        loop {
            let as_text = if self.symbol("->>")? {
                true
            } else if self.symbol("->")? {
                false
            } else {
                return Ok(value);
            };
            let Token::Text(path) = &self.next else { return Err(self.error("expected a path such as '$.name'")) };
            let path = json_path::Path::parse(path).map_err(|error| self.error(&error))?;
            self.advance()?;
            value = self.nested(|parser| parser.node(Expression::Member { document: value.into(), path, as_text }))?;
        }
    }

    fn primary(&mut self) -> Result<Expression, String> {
        let token = std::mem::replace(&mut self.next, Token::End);
        let start = self.next_at;
        match token {
            Token::Number(digits) => {
                self.advance()?;
                self.node(Expression::Number(digits))
            }
            Token::Text(text) => {
                self.advance()?;
                self.node(Expression::Text(text))
            }
            Token::Quoted(name) => {
                self.advance()?;
                self.node(Expression::Column(ColumnName { view: View::Newest, name }))
            }
            Token::Word(word) => {
                self.advance()?;
                self.word(word, start)
            }
            Token::Symbol("(") => {
                self.advance()?;
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            other => {
                self.next = other;
                Err(self.error("expected a value"))
            }
        }
    }

    /// Parses what begins with a word without quotes.
    fn word(&mut self, word: String, start: usize) -> Result<Expression, String> {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        if self.symbol("(")? {
            return self.call(&word, start);
        }
        for (name, view) in [("old", View::Before), ("new", View::After)] {
            if is(name) && self.symbol(".")? {
                let (Token::Word(name) | Token::Quoted(name)) = self.next.clone() else {
                    return Err(self.error("expected a column's name"));
                };
                self.advance()?;
                return self.node(Expression::Column(ColumnName { view, name }));
            }
        }
        self.node(match () {
            () if is("null") => Expression::Null,
            () if is("true") => Expression::Bool(true),
            () if is("false") => Expression::Bool(false),
            () if ["and", "or", "not", "is", "in", "like", "between"].into_iter().any(is) => {
                self.next_at = start;
                return Err(self.error("expected a value"));
            }
            () => Expression::Column(ColumnName { view: View::Newest, name: word }),
        })
    }

    fn call(&mut self, name: &str, start: usize) -> Result<Expression, String> {
        let function = Function::ALL.iter().copied().find(|function| function.name().eq_ignore_ascii_case(name));
        let Some(function) = function else {
            self.next_at = start;
            let hint = nearest(&name.to_lowercase(), Function::ALL.iter().map(|function| function.name()));
            return Err(self.error(&format!("there is no function `{name}`{hint}")));
        };
        let arguments = if self.symbol(")")? { Vec::new() } else { self.list()? };
        if !function.arguments().contains(&arguments.len()) {
            self.next_at = start;
            let (least, most) = function.arguments().into_inner();
            let count = if least == most { least.to_string() } else { format!("{least} to {most}") };
            return Err(self.error(&format!("`{name}` takes {count} arguments, not {},", arguments.len())));
        }
        self.node(Expression::Call(function, arguments))
    }

    /// Parses expressions up to a closing parenthesis.
    fn list(&mut self) -> Result<Vec<Expression>, String> {
        let mut items = vec![self.expression()?];
        while self.symbol(",")? {
            items.push(self.expression()?);
        }
        self.expect(")")?;
        Ok(items)
    }
}

/// Returns the length of the number at the start of a text: digits, a fraction and an exponent.
fn number_len(text: &str) -> Option<usize> {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut len = digits(0);
    if text[len..].starts_with('.') {
        len += 1 + Some(digits(len + 1)).filter(|&count| count > 0)?;
    }
    if text[len..].starts_with(['e', 'E']) {
        let sign = usize::from(text[len + 1..].starts_with(['-', '+']));
        len += 1 + sign + Some(digits(len + 1 + sign)).filter(|&count| count > 0)?;
    }
    Some(len)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Reads a text in quotes. A quote within it is doubled, or, as all characters can be, after a backslash; not so within
/// backticks. Returns the text and the length with its quotes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => {
                if chars.peek().is_none_or(|&(_, next)| next != quote) {
                    return Some((out, at + 1));
                }
                chars.next();
                out.push(quote);
            }
            '\\' if quote != '`' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                // Left to LIKE.
                wildcard @ ('%' | '_') => out.extend(['\\', wildcard]),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}
