//! Parses the subset of IoT Events expressions that rules can express.

use std::fmt;

use gatehouse::Number;
use serde::Serialize;

use super::tokens::{Token, tokens};

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// A value.
    Literal(Literal),
    /// A field of a message.
    Field(Field),
    /// A variable of a detector.
    Variable(String),
    /// Whether a timer has elapsed.
    Timeout(String),
    /// Whether a field is missing.
    IsUndefined(Field),
    /// A negation.
    Not(Box<Self>),
    /// An operator with two operands.
    Binary(Box<Self>, Operator, Box<Self>),
}

/// A value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Literal {
    /// A number, with its digits as in the model.
    Number(Number),
    /// A string.
    Text(String),
    /// A boolean.
    Boolean(bool),
}

/// A field of an input's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The input.
    pub input: String,
    /// The field, as a JSON pointer.
    pub pointer: String,
}

/// An operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `||`
    Or,
    /// `&&`
    And,
    /// A comparison.
    Compare(Comparison),
    /// `+`
    Add,
    /// `-`
    Subtract,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Comparison {
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
}

impl Comparison {
    /// Returns the comparison that holds if and only if this one does not.
    pub fn negated(self) -> Self {
        match self {
            Self::Greater => Self::LessOrEqual,
            Self::GreaterOrEqual => Self::Less,
            Self::Less => Self::GreaterOrEqual,
            Self::LessOrEqual => Self::Greater,
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
        }
    }

    /// Returns the comparison with its operands exchanged.
    pub fn mirrored(self) -> Self {
        match self {
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Equal | Self::NotEqual => self,
        }
    }

    /// Returns whether the operands must be numbers, because only they have an order.
    pub fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        })
    }
}

/// Why an expression was not parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Rules have no counterpart of it.
    #[error("rules have no counterpart of `{0}`")]
    NoCounterpart(String),
    /// A token is not expected where it is.
    #[error("`{0}` is not expected")]
    Unexpected(String),
    /// It ends too early.
    #[error("the expression ends too early")]
    End,
}

impl Expression {
    /// Parses an expression.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let tokens = tokens(text)?;
        let mut parser = Parser { rest: &tokens };
        let expression = parser.expression(0)?;
        match parser.next() {
            Some(token) => Err(token.unexpected()),
            None => Ok(expression),
        }
    }
}

struct Parser<'a> {
    rest: &'a [Token],
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first.clone())
    }

    fn take(&mut self, symbol: &str) -> bool {
        let is_next = matches!(self.rest.first(), Some(Token::Symbol(next)) if *next == symbol);
        if is_next {
            self.next();
        }
        is_next
    }

    fn expect(&mut self, symbol: &str) -> Result<(), ExpressionError> {
        if self.take(symbol) {
            return Ok(());
        }
        Err(self.rest.first().map_or(ExpressionError::End, Token::unexpected))
    }

    /// Parses an expression whose operators have at least this precedence.
    fn expression(&mut self, strength: u8) -> Result<Expression, ExpressionError> {
        let mut left = self.operand()?;
        while let Some((operator, binds)) = self.operator()? {
            if binds < strength {
                break;
            }
            self.next();
            let right = self.expression(binds + 1)?;
            left = Expression::Binary(Box::new(left), operator, Box::new(right));
        }
        Ok(left)
    }

    /// Returns the next operator and its precedence.
    fn operator(&self) -> Result<Option<(Operator, u8)>, ExpressionError> {
        let Some(Token::Symbol(symbol)) = self.rest.first() else { return Ok(None) };
        Ok(Some(match *symbol {
            "||" => (Operator::Or, 0),
            "&&" => (Operator::And, 1),
            "==" => (Operator::Compare(Comparison::Equal), 2),
            "!=" => (Operator::Compare(Comparison::NotEqual), 2),
            "<" => (Operator::Compare(Comparison::Less), 3),
            "<=" => (Operator::Compare(Comparison::LessOrEqual), 3),
            ">" => (Operator::Compare(Comparison::Greater), 3),
            ">=" => (Operator::Compare(Comparison::GreaterOrEqual), 3),
            "+" => (Operator::Add, 4),
            "-" => (Operator::Subtract, 4),
            "*" | "/" | "|" | "&" | "^" => return Err(ExpressionError::NoCounterpart((*symbol).to_owned())),
            _ => return Ok(None),
        }))
    }

    fn operand(&mut self) -> Result<Expression, ExpressionError> {
        match self.next().ok_or(ExpressionError::End)? {
            Token::Symbol("!") => Ok(Expression::Not(Box::new(self.operand()?))),
            Token::Symbol("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("-") => match self.next() {
                Some(Token::Number(text)) => number(&format!("-{text}")),
                Some(token) => Err(token.unexpected()),
                None => Err(ExpressionError::End),
            },
            Token::Number(text) => number(&text),
            Token::Text(text) => Ok(Expression::Literal(Literal::Text(text))),
            Token::Name(name) if name == "true" => Ok(Expression::Literal(Literal::Boolean(true))),
            Token::Name(name) if name == "false" => Ok(Expression::Literal(Literal::Boolean(false))),
            Token::Name(name) => self.function(&name),
            Token::Reference(name) if name == "input" => Ok(Expression::Field(self.field()?)),
            Token::Reference(name) if name == "variable" => {
                self.expect(".")?;
                self.name().map(Expression::Variable)
            }
            Token::Reference(name) => Err(ExpressionError::NoCounterpart(format!("${name}"))),
            token @ Token::Symbol(_) => Err(token.unexpected()),
        }
    }

    fn function(&mut self, name: &str) -> Result<Expression, ExpressionError> {
        let no_counterpart = || Err(ExpressionError::NoCounterpart(name.to_owned()));
        if !self.take("(") {
            return no_counterpart();
        }
        let argument = match name {
            "timeout" | "isUndefined" => self.expression(0)?,
            _ => return no_counterpart(),
        };
        self.expect(")")?;
        match (name, argument) {
            ("timeout", Expression::Literal(Literal::Text(timer))) => Ok(Expression::Timeout(timer)),
            ("isUndefined", Expression::Field(field)) => Ok(Expression::IsUndefined(field)),
            _ => no_counterpart(),
        }
    }

    fn name(&mut self) -> Result<String, ExpressionError> {
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            Some(token) => Err(token.unexpected()),
            None => Err(ExpressionError::End),
        }
    }

    fn field(&mut self) -> Result<Field, ExpressionError> {
        self.expect(".")?;
        let input = self.name()?;
        let mut pointer = String::new();
        loop {
            let step = if self.take(".") {
                self.name()?
            } else if self.take("[") {
                let Some(Token::Number(index)) = self.next() else { return Err(ExpressionError::End) };
                self.expect("]")?;
                index
            } else {
                break;
            };
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        if pointer.is_empty() {
            return Err(ExpressionError::NoCounterpart(format!("$input.{input}")));
        }
        Ok(Field { input, pointer })
    }
}

fn number(text: &str) -> Result<Expression, ExpressionError> {
    let number = text.parse().map_err(|_| ExpressionError::Unexpected(text.to_owned()))?;
    Ok(Expression::Literal(Literal::Number(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(pointer: &str) -> Expression {
        Expression::Field(Field { input: "Boiler".to_owned(), pointer: pointer.to_owned() })
    }

    fn integer(number: u32) -> Expression {
        Expression::Literal(Literal::Number(Number::from(number)))
    }

    fn binary(left: Expression, operator: Operator, right: Expression) -> Expression {
        Expression::Binary(Box::new(left), operator, Box::new(right))
    }

    #[test]
    fn operators_bind_as_usual() {
        let parsed = Expression::parse("$input.Boiler.t > 30 && $variable.n - 1 <= 0 || !timeout('calm')");
        let above = binary(field("/t"), Operator::Compare(Comparison::Greater), integer(30));
        let less = binary(Expression::Variable("n".to_owned()), Operator::Subtract, integer(1));
        let counted = binary(less, Operator::Compare(Comparison::LessOrEqual), integer(0));
        let both = binary(above, Operator::And, counted);
        let calm = Expression::Not(Box::new(Expression::Timeout("calm".to_owned())));
        assert_eq!(parsed, Ok(binary(both, Operator::Or, calm)));
    }

    #[test]
    fn references_become_json_pointers() {
        for (text, pointer) in [
            ("$input.Boiler.air.t", "/air/t"),
            ("$input.Boiler.values[2].t", "/values/2/t"),
            ("$input.Boiler.`a/b`.`m~n`", "/a~1b/m~0n"),
        ] {
            assert_eq!(Expression::parse(text), Ok(field(pointer)), "{text}");
        }
    }

    #[test]
    fn literals_keep_their_digits() {
        let Ok(Expression::Literal(Literal::Number(number))) = Expression::parse("-22.50") else {
            panic!("it is a number")
        };
        assert_eq!(number.as_str(), "-22.50");
        assert_eq!(Expression::parse("'open'"), Ok(Expression::Literal(Literal::Text("open".to_owned()))));
        assert_eq!(Expression::parse("true"), Ok(Expression::Literal(Literal::Boolean(true))));
    }

    #[test]
    fn what_rules_cannot_express_is_named() {
        for (text, name) in [
            ("$input.Boiler.t * 2", "*"),
            ("convert(String, $input.Boiler.t)", "convert"),
            ("currentInput('Boiler')", "currentInput"),
            ("$sitewise.assetModel.`a`.`b`", "$sitewise"),
            ("$input.Boiler", "$input.Boiler"),
        ] {
            assert_eq!(Expression::parse(text), Err(ExpressionError::NoCounterpart(name.to_owned())), "{text}");
        }
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "(", "$input.Boiler.t >", "'open", "1 2", "$input", "1x", "?", "$input.Boiler.t > > 1", "- -"]
        {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
