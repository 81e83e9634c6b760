//! Random JSON documents and random changes to them, reproducible by seed, as SQL.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// Keys that paths must quote or escape, and some that need neither.
const KEYS: [&str; 24] = [
    "a",
    "b",
    "key",
    "_",
    "$",
    "last",
    "to",
    "",
    " ",
    "a.b",
    "a b",
    "[0]",
    "*",
    "**",
    "it's \"quoted\"",
    "\"",
    "back\\slash",
    "tab\tnew\nline\r\u{8}\u{c}",
    "\u{0}\u{1}\u{1f}\u{7f}",
    "é",
    "Łódź",
    "日本語",
    "😀.👍🏽",
    "ein Schlüssel, der länger ist als die anderen Schlüssel",
];

const TEXTS: [&str; 8] =
    ["", "x", "it's \"quoted\" \\ and\u{0}\u{1}\u{1f}\u{7f}", "tab\tnew\nline\r\u{8}\u{c}", "é", "日本語", "😀👍🏽", "/"];

/// Generates documents, values and changes.
#[derive(Debug)]
pub struct JsonGenerator {
    random: SmallRng,
}

impl JsonGenerator {
    /// Makes a generator; the same seed generates the same documents.
    pub fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed) }
    }

    /// Returns a double of any magnitude, often one near a change of its text's form.
    pub fn double(&mut self) -> f64 {
        let random = &mut self.random;
        let number = match random.random_range(0..12) {
            0 => 10f64.powi(random.random_range(-325..309)),
            1 => 2f64.powi(random.random_range(-1074..1024)),
            2 => f64::from_bits(random.random_range(0..1 << 52)), // subnormal
            3 => random.random_range(1e14..1e18f64),
            4 => random.random_range(1e14..1e18f64).round(),
            5 => random.random_range(0..1_000_000_000_000_000_000u64) as f64 / 10f64.powi(random.random_range(0..4)),
            6 => random.random_range(1.0..10f64) * 10f64.powi(random.random_range(-20..20)),
            7 => f64::from(random.random_range(0..1000)),
            8 => f64::from(random.random_range(1..100)) * 10f64.powi(random.random_range(-20..20)),
            9 => f64::from(random.random_range(0f32..1e10)),
            10 => *[0.0, f64::MAX, f64::MIN_POSITIVE, 1e15, 1e16, 1e17, 1e-15, 9007199254740992.0, 4503599627370495.5]
                .choose(random)
                .expect("some"),
            _ => f64::from_bits(random.random_range(0..0x7ff0_0000_0000_0000)),
        };
        let number = match random.random_range(0..6) {
            0 if number < f64::MAX => number.next_up(),
            1 if number > 0.0 => number.next_down(),
            _ => number,
        };
        if random.random_bool(0.5) { -number } else { number }
    }

    /// Returns the SQL of a value whose type JSON does not have.
    pub fn opaque(&mut self) -> String {
        let len = match self.random.random_range(0..8) {
            0 => *[0, 1, 2, 3, 56, 57, 58, 113, 114, 115, 171, 172].choose(&mut self.random).expect("some"),
            1 => self.random.random_range(0..2_000),
            2 => self.random.random_range(60_000..70_000),
            _ => self.random.random_range(0..300),
        };
        let byte = self.random.random_range(0..=255u8);
        let bytes = format!("REPEAT(x'{byte:02x}41', {}), {len})", len / 2 + 1);
        let micros = self.random.random_range(0..1_000_000);
        let digits = self.random.random_range(0..=6);
        let seconds = self.random.random_range(0..3_000_000);
        match self.random.random_range(0..12) {
            0 => format!("CAST(LEFT({bytes} AS BINARY)"),
            1 => format!("LEFT({bytes}"),
            2 => format!("CONCAT(LEFT({bytes}, x'00')"),
            3 => format!("(SELECT LEFT({bytes})"),
            4 => format!("CAST('ab' AS BINARY({}))", 2 + len % 256),
            5 => format!("b'{:b}'", self.random.random::<u64>()),
            6 => {
                let scale = self.random.random_range(0..=30);
                let precision = self.random.random_range(scale.max(1)..=65);
                let sign = if self.random.random_bool(0.5) { "-" } else { "" };
                let (integer, fraction) = (precision - scale, scale);
                let (integer, fraction) = (self.digits(integer), self.digits(fraction));
                format!("CAST('{sign}{integer}.{fraction}' AS DECIMAL({precision},{scale}))")
            }
            7 => format!("CAST('2026-{:02}-{:02}' AS DATE)", 1 + len % 12, 1 + len % 28),
            8 => format!(
                "CAST(SEC_TO_TIME({}{seconds}.{micros:06}) AS TIME({digits}))",
                if byte < 128 { "-" } else { "" }
            ),
            9 => format!(
                "CAST('{:04}-02-{:02} 23:59:{:02}.{micros:06}' AS DATETIME({digits}))",
                len % 9999,
                1 + len % 28,
                len % 60
            ),
            10 => "CAST('0000-00-00 00:00:00' AS DATETIME(6))".to_owned(),
            _ => format!("ST_GeomFromText('POINT({byte} {micros})')"),
        }
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.random.random_range(0..10u8))).collect()
    }

    /// Returns the SQL of any value.
    fn value(&mut self) -> String {
        match self.random.random_range(0..9) {
            0 => "NULL".to_owned(),
            1 => "true".to_owned(),
            2 => self.random.random::<i64>().to_string(),
            3 => self.random.random::<u64>().to_string(),
            4 => format!("{:e}", self.double()),
            5 | 6 => {
                let text = TEXTS.choose(&mut self.random).expect("some");
                quoted(&text.repeat(self.random.random_range(0..30)))
            }
            7 => self.opaque(),
            _ => format!("CAST({} AS JSON)", quoted(&self.document(3).to_string())),
        }
    }

    /// Returns a document with at most `levels` levels.
    pub fn document(&mut self, levels: usize) -> Value {
        let members = self.random.random_range(0..7);
        match self.random.random_range(0..10) {
            0..4 if levels > 0 => (0..members).map(|_| self.document(levels - 1)).collect(),
            4..8 if levels > 0 => {
                (0..members).map(|_| (self.key(), self.document(levels - 1))).collect::<serde_json::Map<_, _>>().into()
            }
            0 => Value::Null,
            1 => self.random.random::<i64>().into(),
            2 => self.random.random_range(-9..100).into(),
            3 => self.double().into(),
            4 => self.random.random_bool(0.5).into(),
            _ => {
                let text = TEXTS.choose(&mut self.random).expect("some");
                text.repeat(self.random.random_range(0..20)).into()
            }
        }
    }

    fn key(&mut self) -> String {
        (*KEYS.choose(&mut self.random).expect("some")).to_owned()
    }

    /// Returns the SQL of a change of the document in column `j`, which the server logs as a partial update where it can.
    pub fn change(&mut self, document: &Value) -> String {
        let mut sql = "j".to_owned();
        for _ in 0..self.random.random_range(1..3) {
            let function =
                *["JSON_SET", "JSON_SET", "JSON_REPLACE", "JSON_REMOVE"].choose(&mut self.random).expect("some");
            let mut arguments = String::new();
            for _ in 0..self.random.random_range(1..4) {
                let path = self.path(document);
                arguments += &format!(", {}", quoted(&path));
                if function != "JSON_REMOVE" {
                    arguments += &format!(", {}", self.value());
                }
            }
            sql = format!("{function}({sql}{arguments})");
        }
        sql
    }

    /// Returns a path into a document, to a member that exists or to one that does not.
    fn path(&mut self, document: &Value) -> String {
        let mut path = "$".to_owned();
        let mut at = document;
        loop {
            let (leg, next) = self.leg(at);
            let space = [" ", "", "", ""].choose(&mut self.random).expect("some");
            path = path + space + &leg;
            match next {
                Some(next) if self.random.random_bool(0.7) => at = next,
                _ => return path,
            }
        }
    }

    fn leg<'a>(&mut self, at: &'a Value) -> (String, Option<&'a Value>) {
        match at {
            Value::Object(members) => {
                let keys: Vec<&String> = members.keys().collect();
                let key = match keys.choose(&mut self.random) {
                    Some(known) if self.random.random_bool(0.8) => (*known).clone(),
                    _ => self.key(),
                };
                let is_plain = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                    && key.chars().all(|character| character.is_ascii_alphanumeric() || character == '_');
                let name =
                    if is_plain && self.random.random_bool(0.7) { key.clone() } else { Value::from(&*key).to_string() };
                (format!(".{name}"), members.get(&key))
            }
            Value::Array(members) => {
                let index = self.random.random_range(0..members.len() + 2);
                let from_end = members.len().checked_sub(index + 1);
                match self.random.random_range(0..4) {
                    0 => (format!("[{index}]"), members.get(index)),
                    1 => (format!("[ {index} ]"), members.get(index)),
                    2 if index == 0 => ("[last]".to_owned(), members.last()),
                    2 => (format!("[last-{index}]"), from_end.map(|index| &members[index])),
                    _ => (format!("[ last - {index} ]"), from_end.map(|index| &members[index])),
                }
            }
            // A scalar acts as an array of one cell.
            _ => {
                ((*["[0]", "[last]", "[1]", "[last-1]", ".a"].choose(&mut self.random).expect("some")).to_owned(), None)
            }
        }
    }
}

/// Quotes a text as SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\0', "\\0"))
}
