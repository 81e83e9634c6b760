//! Random tables and random changes to them, reproducible by seed, which are compared with the results of `SELECT`.

use anyhow::{Context, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::delivered::{Compare, State};
use crate::mysql::Build;

/// A column's type.
#[derive(Debug, Clone)]
struct ColumnType {
    declared: String,
    compare: Compare,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Integer,
    Decimal,
    Float,
    Text,
    Unicode,
    Bytes,
    Date,
    Time,
    Datetime,
    Year,
    Bit,
    Enum,
    Set,
    Json,
    Geometry,
    Vector,
}

/// A generated table.
#[derive(Debug)]
pub struct Table {
    name: String,
    columns: Vec<(String, ColumnType)>,
    /// Generated columns and their expressions.
    computed: &'static [(&'static str, &'static str)],
    /// Keys of the table's rows.
    ids: Vec<i64>,
    next_id: i64,
    has_key: bool,
}

/// Generates tables and changes.
#[derive(Debug)]
pub struct Generator {
    random: SmallRng,
    build: Build,
    schema: String,
    tables: Vec<Table>,
    columns_made: usize,
}

/// Generated columns, as they are declared. MariaDB 11.8 leaves them out of the row images of updates.
const COMPUTED: &[(&str, &str)] = &[
    ("computed_virtual", "touched + id VIRTUAL"),
    ("computed_stored", "touched * 2 STORED"),
    ("computed_text", "CONCAT('é', touched) STORED"),
];

const WORDS: [&str; 10] =
    ["", "a", "paid", "O'Hara", "back\\slash", "tab\tnew\nline", "a\"b", "  padded", "x\u{1}y", "0"];
const UNICODE: [&str; 6] = ["é", "ÿ€", "日本語", "😀👍🏽", "\u{ffff}\u{fffe}", "Ελλάδα"];
const MEMBERS: &str = "'a','b,c','it''s','','é','back\\\\slash'";

impl Generator {
    /// Makes tables in a new schema.
    ///
    /// # Errors
    /// If the server rejects a statement.
    pub async fn create(conn: &mut Conn, build: Build, schema: &str, seed: u64) -> anyhow::Result<Self> {
        let mut this = Self {
            random: SmallRng::seed_from_u64(seed),
            build,
            schema: schema.to_owned(),
            tables: Vec::new(),
            columns_made: 0,
        };
        conn.query_drop(format!("CREATE DATABASE {schema}")).await?;
        for number in 0..6 {
            let has_key = number != 5;
            let count = if number == 0 { this.types().len() } else { this.random.random_range(1..12) };
            let mut columns = Vec::new();
            for index in 0..count {
                // The first table has every type.
                let column_type = if number == 0 { this.types()[index].clone() } else { this.any_type() };
                columns.push((this.column_name(), column_type));
            }
            let name = format!("t{number}");
            let key = if has_key { "PRIMARY KEY" } else { "NOT NULL" };
            let computed = if number % 2 == 1 { COMPUTED } else { &[] };
            let mut declared: Vec<String> =
                columns.iter().map(|(name, column_type)| format!("`{name}` {}", column_type.declared)).collect();
            for (name, expression) in computed {
                let column_type = if name.ends_with("text") { "VARCHAR(20) CHARACTER SET utf8mb4" } else { "BIGINT" };
                let (expression, kept) = expression.rsplit_once(' ').expect("an expression");
                declared.push(format!("{name} {column_type} AS ({expression}) {kept}"));
            }
            declared.extend(this.hidden(number).iter().map(|column| (*column).to_owned()));
            let statement = format!(
                "CREATE TABLE {schema}.{name} (id BIGINT {key}, touched INT NOT NULL DEFAULT 0, {})",
                declared.join(", ")
            );
            conn.query_drop(&statement).await.with_context(|| statement.clone())?;
            this.tables.push(Table { name, columns, computed, ids: Vec::new(), next_id: 1, has_key });
        }
        Ok(this)
    }

    /// Statement parts by which a table's rows have columns that `SELECT *` does not show.
    fn hidden(&self, number: usize) -> &'static [&'static str] {
        match (self.build, number) {
            (Build::MariaDb(_), 1 | 4) => {
                &["hashed TEXT NOT NULL DEFAULT 'x'", "UNIQUE (hashed, id)", "UNIQUE (id, touched) USING HASH"]
            }
            (Build::MySql, 1 | 4) => &["hidden INT INVISIBLE DEFAULT 5", "KEY ((touched + 1))"],
            _ => &[],
        }
    }

    fn column_name(&mut self) -> String {
        self.columns_made += 1;
        match self.columns_made % 7 {
            0 => format!("Größe {}", self.columns_made),
            1 => format!("select{}", self.columns_made),
            _ => format!("c{}", self.columns_made),
        }
    }

    fn any_type(&mut self) -> ColumnType {
        let types = self.types();
        types.choose(&mut self.random).expect("there are types").clone()
    }

    /// All column types of the server.
    fn types(&self) -> Vec<ColumnType> {
        use Compare as C;
        use Family as F;
        let mut types = Vec::new();
        let mut add = |declared: &str, compare, family| {
            types.push(ColumnType { declared: declared.to_owned(), compare, family });
        };
        for integer in ["TINYINT", "SMALLINT", "MEDIUMINT", "INT", "BIGINT"] {
            add(integer, C::Text, F::Integer);
            add(&format!("{integer} UNSIGNED"), C::Text, F::Integer);
        }
        add("INT(6) UNSIGNED ZEROFILL", C::Text, F::Integer);
        add("BOOL", C::Text, F::Integer);
        for decimal in [
            "DECIMAL(1,0)",
            "DECIMAL(12,2)",
            "DECIMAL(65,30)",
            "DECIMAL(30,30)",
            "DECIMAL(18,9) UNSIGNED",
            "DECIMAL(10)",
        ] {
            add(decimal, C::Text, F::Decimal);
        }
        add("FLOAT", C::Float, F::Float);
        add("DOUBLE", C::Double, F::Float);
        add("DOUBLE UNSIGNED", C::Double, F::Float);
        for bits in [1, 2, 8, 9, 33, 64] {
            add(&format!("BIT({bits})"), if bits == 1 { C::Bit1 } else { C::Bits(bits) }, F::Bit);
        }
        add("YEAR", C::Text, F::Year);
        add("DATE", C::Temporal, F::Date);
        for digits in 0..=6 {
            add(&format!("TIME({digits})"), C::Temporal, F::Time);
            add(&format!("DATETIME({digits})"), C::Datetime, F::Datetime);
            add(&format!("TIMESTAMP({digits}) NULL DEFAULT NULL"), C::Datetime, F::Datetime);
        }
        for text in
            ["CHAR(10)", "CHAR(255)", "VARCHAR(20)", "VARCHAR(300)", "TINYTEXT", "TEXT", "MEDIUMTEXT", "LONGTEXT"]
        {
            add(&format!("{text} CHARACTER SET utf8mb4"), C::Text, F::Unicode);
        }
        for charset in [
            "latin1", "ascii", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852",
            "cp866", "dec8", "greek", "hebrew", "hp8", "keybcs2", "koi8r", "koi8u", "macce", "macroman", "swe7",
            "tis620", "armscii8", "geostd8", "big5", "sjis", "cp932", "ujis", "eucjpms", "euckr", "gb2312", "gbk",
        ] {
            add(&format!("VARCHAR(40) CHARACTER SET {charset}"), C::Text, F::Text);
        }
        for charset in ["ucs2", "utf16", "utf16le", "utf32", "utf8mb3"] {
            add(&format!("VARCHAR(40) CHARACTER SET {charset}"), C::Text, F::Unicode);
            add(&format!("CHAR(40) CHARACTER SET {charset}"), C::Text, F::Unicode);
        }
        add("TEXT CHARACTER SET latin1", C::Text, F::Text);
        for bytes in
            ["BINARY(1)", "BINARY(16)", "VARBINARY(20)", "VARBINARY(300)", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB"]
        {
            add(bytes, C::Bytes, F::Bytes);
        }
        add(&format!("ENUM({MEMBERS})"), C::Text, F::Enum);
        add(&format!("ENUM({MEMBERS}) CHARACTER SET latin1"), C::Text, F::Enum);
        add(&format!("ENUM({MEMBERS}) CHARACTER SET binary"), C::Text, F::Enum);
        add(&format!("SET({})", MEMBERS.replace("'b,c',", "").replace("'',", "")), C::Text, F::Set);
        add("GEOMETRY", C::Geometry, F::Geometry);
        add("POINT", C::Geometry, F::Geometry);
        add("JSON", C::Text, F::Json);
        match self.build {
            Build::MySql => {
                add("VARCHAR(40) CHARACTER SET gb18030", C::Text, F::Unicode);
                add("VECTOR(3)", C::Vector, F::Vector);
            }
            Build::MariaDb(_) => {
                add("VARCHAR(300) COMPRESSED CHARACTER SET utf8mb4", C::Text, F::Unicode);
                add("BLOB COMPRESSED", C::Bytes, F::Bytes);
            }
        }
        types
    }

    /// Commits one transaction of random changes.
    ///
    /// # Errors
    /// If the server rejects a statement.
    pub async fn step(&mut self, conn: &mut Conn) -> anyhow::Result<()> {
        let statements: Vec<String> = (0..self.random.random_range(1..4)).map(|_| self.change()).collect();
        conn.query_drop("BEGIN").await?;
        for statement in statements {
            conn.query_drop(&statement).await.with_context(|| statement.clone())?;
        }
        conn.query_drop("COMMIT").await?;
        Ok(())
    }

    /// Changes a table's columns, and then changes each of its rows.
    ///
    /// # Errors
    /// If the server rejects a statement.
    pub async fn alter(&mut self, conn: &mut Conn) -> anyhow::Result<()> {
        let index = self.random.random_range(1..self.tables.len());
        let (name, new_type) = (self.column_name(), self.any_type());
        let table = &mut self.tables[index];
        let alteration = match self.random.random_range(0..4) {
            0 if table.columns.len() > 1 => {
                let (gone, _) = table.columns.remove(0);
                format!("DROP COLUMN `{gone}`")
            }
            1 => {
                table.columns.insert(0, (name.clone(), new_type.clone()));
                format!("ADD COLUMN `{name}` {} AFTER id", new_type.declared)
            }
            2 => {
                // The column is replaced by one of the same name and another type.
                let last = table.columns.len() - 1;
                let kept = table.columns[last].0.clone();
                table.columns[last].1 = new_type.clone();
                format!("DROP COLUMN `{kept}`, ADD COLUMN `{kept}` {}", new_type.declared)
            }
            _ => {
                let old = std::mem::replace(&mut table.columns[0].0, name.clone());
                format!("CHANGE COLUMN `{old}` `{name}` {} FIRST", table.columns[0].1.declared)
            }
        };
        let full_name = format!("{}.{}", self.schema, table.name);
        let statement = format!("ALTER TABLE {full_name} {alteration}");
        conn.query_drop(&statement).await.with_context(|| statement.clone())?;
        conn.query_drop(format!("UPDATE {full_name} SET touched = touched + 1")).await?;
        Ok(())
    }

    fn change(&mut self) -> String {
        let index = self.random.random_range(0..self.tables.len());
        let dice = self.random.random_range(0..100);
        let full_name = format!("{}.{}", self.schema, self.tables[index].name);
        if self.tables[index].ids.is_empty() || dice < 40 {
            let rows = if dice < 3 { self.random.random_range(20..80) } else { self.random.random_range(1..4) };
            let columns: Vec<String> = self.tables[index].columns.iter().map(|(name, _)| format!("`{name}`")).collect();
            let mut values = Vec::new();
            for _ in 0..rows {
                let table = &mut self.tables[index];
                let id = table.next_id;
                table.next_id += 1;
                table.ids.push(id);
                let types: Vec<ColumnType> = table.columns.iter().map(|(_, column_type)| column_type.clone()).collect();
                let row: Vec<String> = types.iter().map(|column_type| self.value(column_type)).collect();
                values.push(format!("({id}, 0, {})", row.join(", ")));
            }
            return format!(
                "INSERT INTO {full_name} (id, touched, {}) VALUES {}",
                columns.join(", "),
                values.join(", ")
            );
        }
        let nth = self.random.random_range(0..self.tables[index].ids.len());
        let id = self.tables[index].ids[nth];
        if dice < 50 {
            self.tables[index].ids.swap_remove(nth);
            return format!("DELETE FROM {full_name} WHERE id = {id}");
        }
        if dice < 55 && self.tables[index].has_key {
            let table = &mut self.tables[index];
            let new = table.next_id;
            table.next_id += 1;
            table.ids[nth] = new;
            return format!("UPDATE {full_name} SET id = {new} WHERE id = {id}");
        }
        let columns = self.tables[index].columns.clone();
        let mut assignments = Vec::new();
        for (name, column_type) in &columns {
            if self.random.random_range(0..3) == 0 {
                let value = match column_type.family {
                    Family::Json if self.random.random_range(0..4) > 0 => self.json_change(name),
                    _ => self.value(column_type),
                };
                assignments.push(format!("`{name}` = {value}"));
            }
        }
        assignments.push("touched = touched + 1".to_owned());
        format!("UPDATE {full_name} SET {} WHERE id = {id}", assignments.join(", "))
    }

    fn json_change(&mut self, name: &str) -> String {
        let key = ["$.a", "$.b", "$.b[0]", "$.b[1]", "$.\"long key\"", "$.n.deep.er", "$[0]"]
            .choose(&mut self.random)
            .expect("keys");
        let value = self.random.random_range(0..1000);
        match self.random.random_range(0..5) {
            0 => format!("JSON_SET(`{name}`, '{key}', {value})"),
            1 => format!("JSON_REPLACE(`{name}`, '{key}', JSON_ARRAY({value}, 'x'))"),
            2 if *key != "$[0]" => format!("JSON_REMOVE(`{name}`, '{key}')"),
            3 => format!("JSON_SET(`{name}`, '$.c', 'y', '{key}', JSON_OBJECT('k', {value}))"),
            _ => format!("JSON_SET(`{name}`, '{key}', 'text {value}')"),
        }
    }

    /// Returns a value as an SQL expression. The session's SQL mode must allow values that do not fit.
    fn value(&mut self, column_type: &ColumnType) -> String {
        let random = &mut self.random;
        if random.random_range(0..8) == 0 {
            return "NULL".to_owned();
        }
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let sign = if random.random_range(0..2) == 0 { "-" } else { "" };
        match column_type.family {
            Family::Integer => match random.random_range(0..6) {
                0 => "0".to_owned(),
                1 => format!("{sign}99999999999999999999"), // beyond every type: clipped
                2 => format!("{sign}{}", random.random_range(0..200)),
                3 => format!("{sign}{}", random.random_range(0..70_000)),
                _ => format!("{sign}{}", random.random::<u64>()),
            },
            Family::Decimal => {
                let digits = |random: &mut SmallRng, max: usize| -> String {
                    let count = random.random_range(1..=max);
                    (0..count).map(|_| char::from(b'0' + random.random_range(0..10))).collect()
                };
                let whole = digits(random, 40);
                let fraction = digits(random, 32);
                match random.random_range(0..4) {
                    0 => format!("{sign}0.{fraction}"),
                    1 => format!("{sign}{}", random.random_range(0..100)),
                    _ => format!("{sign}{whole}.{fraction}"),
                }
            }
            Family::Float => match random.random_range(0..5) {
                0 => "0".to_owned(),
                1 => "-0e0".to_owned(),
                2 => format!("{sign}{}e{}", random.random::<f32>(), random.random_range(-37..38)),
                3 => format!("{sign}{}e{}", random.random::<f64>(), random.random_range(-300..300)),
                _ => format!("{sign}{}", f64::from(random.random_range(0..100_000)) / 100.0),
            },
            Family::Text => {
                let words: Vec<&str> =
                    (0..random.random_range(0..4)).map(|_| *WORDS.choose(random).expect("words")).collect();
                quoted(&words.concat())
            }
            Family::Unicode => {
                let mut text = String::new();
                for _ in 0..random.random_range(0..5) {
                    text.push_str(
                        if random.random() { WORDS.choose(random) } else { UNICODE.choose(random) }.expect("words"),
                    );
                }
                if random.random_range(0..20) == 0 && column_type.declared.contains("TEXT") {
                    return format!("REPEAT({}, {})", quoted(&format!("x{text}")), random.random_range(1..2000));
                }
                quoted(&text)
            }
            Family::Bytes => {
                let hex: String =
                    (0..random.random_range(0..20)).map(|_| format!("{:02x}", random.random::<u8>())).collect();
                let zeros = ["", "00", "0000"].choose(random).expect("some");
                match random.random_range(0..20) {
                    0 => format!("REPEAT(x'ff00{hex}', {})", random.random_range(1..500)),
                    _ => format!("x'{hex}{zeros}'"),
                }
            }
            Family::Date => match random.random_range(0..4) {
                0 => "'0000-00-00'".to_owned(),
                1 => format!("'{:04}-00-00'", random.random_range(1..10_000)),
                2 => format!("'{:04}-{:02}-00'", random.random_range(1..10_000), random.random_range(1..13)),
                _ => format!(
                    "'{:04}-{:02}-{:02}'",
                    random.random_range(0..10_000),
                    random.random_range(1..13),
                    random.random_range(1..29)
                ),
            },
            Family::Time => format!(
                "'{sign}{}:{:02}:{:02}.{:06}'",
                random.random_range(0..839),
                random.random_range(0..60),
                random.random_range(0..60),
                random.random_range(0..1_000_000)
            ),
            Family::Datetime => {
                let is_timestamp = column_type.declared.starts_with("TIMESTAMP");
                let years = if is_timestamp { 1970..2038 } else { 0..10_000 };
                match random.random_range(0..7) {
                    0 => "'0000-00-00 00:00:00'".to_owned(),
                    // MariaDB has values in the first second of 1970; MySQL makes them the zero date.
                    1 if is_timestamp => format!("'1970-01-01 00:00:00.{:06}'", random.random_range(0..1_000_000)),
                    1 => format!("'{:04}-00-00 10:11:12'", random.random_range(1..10_000)),
                    _ => format!(
                        "'{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}'",
                        random.random_range(years),
                        random.random_range(1..13),
                        random.random_range(1..29),
                        random.random_range(0..24),
                        random.random_range(0..60),
                        random.random_range(0..60),
                        random.random_range(0..1_000_000)
                    ),
                }
            }
            Family::Year => {
                ["0", "1901", "2155", "2026", "'00'", "69"].choose(random).map(|&year| year.to_owned()).expect("years")
            }
            Family::Bit => format!("b'{:b}'", random.random::<u64>() >> random.random_range(0..64)),
            Family::Enum => match random.random_range(0..3) {
                0 => "'no such member'".to_owned(),
                _ => format!("{}", random.random_range(1..7)),
            },
            Family::Set => format!("{}", random.random_range(0..16)),
            Family::Json => self.json(),
            Family::Geometry => {
                let (x, y) = (random.random_range(-90..90), random.random_range(-90..90));
                match random.random_range(0..3) {
                    0 => format!("ST_GeomFromText('POINT({x}.5 {y})')"),
                    1 => format!("ST_GeomFromText('POINT({x} {y}.25)', 4326)"),
                    _ if column_type.declared == "POINT" => "NULL".to_owned(),
                    _ => format!("ST_GeomFromText('LINESTRING({x} {y}, 1 1, 2 2)')"),
                }
            }
            Family::Vector => {
                format!("TO_VECTOR('[{}, {}, {sign}1.5e-3]')", random.random::<f32>(), random.random_range(-1000..1000))
            }
        }
    }

    fn json(&mut self) -> String {
        let random = &mut self.random;
        let number = random.random_range(-70_000..70_000_i64);
        let large: String = (0..30).map(|index| format!("'key{index}', REPEAT('v', 3000), ")).collect();
        match random.random_range(0..9) {
            0 => "'null'".to_owned(),
            1 => format!("'{number}'"),
            2 => "JSON_OBJECT('a', 1.5, 'b', JSON_ARRAY(true, false, NULL, 18446744073709551615, -9223372036854775808), 'long key', 'é\"\\\\')".to_owned(),
            3 => format!("JSON_OBJECT('n', JSON_OBJECT('deep', JSON_OBJECT('er', {number})), 'a', 1e100, 'e', '')"),
            4 => format!("JSON_ARRAY({number}, 0.1, 1e-7, 123456789012345678.0, 1e22, JSON_ARRAY())"),
            5 if self.build == Build::MySql => {
                "JSON_OBJECT('d', CAST(-12.50 AS DECIMAL(10,2)), 't', TIME'-10:11:12.5', 'dt', TIMESTAMP'2026-11-24 10:11:12.000001', 'y', DATE'2026-02-28', 'x', CAST(x'00ff' AS BINARY))".to_owned()
            }
            6 => format!("JSON_OBJECT({large}'a', {number}, 'b', JSON_ARRAY(1, 2, 3))"),
            7 => "'[[[[[[[[[[[[[[[[[[[[{\"a\": [1]}]]]]]]]]]]]]]]]]]]]]'".to_owned(),
            _ => format!("JSON_OBJECT('a', {number}, 'b', JSON_ARRAY('x', {number}), '', 'empty')"),
        }
    }

    /// Returns the declared type of a table's column.
    pub fn declared(&self, table: &str, column: &str) -> Option<&str> {
        let table = self.tables.iter().find(|known| known.name == table)?;
        let (_, column_type) = table.columns.iter().find(|(name, _)| name == column)?;
        Some(&column_type.declared)
    }

    /// Compares the delivered rows with the server's rows, and returns the number of values compared.
    ///
    /// # Errors
    /// If a row is missing, superfluous or has another value; the error lists the first differences.
    pub async fn compare(&self, conn: &mut Conn, state: &State) -> anyhow::Result<usize> {
        let mut differences = Vec::new();
        let mut compared = 0;
        for table in &self.tables {
            let text = ColumnType { declared: String::new(), compare: Compare::Text, family: Family::Text };
            let computed = table.computed.iter().map(|(name, _)| ((*name).to_owned(), text.clone()));
            let columns: Vec<(String, ColumnType)> = table.columns.iter().cloned().chain(computed).collect();
            let expressions: Vec<String> =
                columns.iter().map(|(name, column_type)| column_type.compare.select(name)).collect();
            let select = format!("SELECT id, touched, {} FROM {}.{}", expressions.join(", "), self.schema, table.name);
            let rows: Vec<mysql_async::Row> = conn.query(&select).await.with_context(|| select.clone())?;
            let mut seen = 0;
            for row in rows {
                let id: i64 = row.get(0).context("an id")?;
                seen += 1;
                let Some(arrived) = state.0.get(&(table.name.clone(), id)) else {
                    differences.push(format!("{} {id} is missing", table.name));
                    continue;
                };
                if let Some(name) = arrived.columns.keys().find(|name| name.starts_with("DB_ROW_HASH_")) {
                    differences.push(format!("{} {id} has `{name}`, which nobody can select", table.name));
                }
                for (index, (name, column_type)) in columns.iter().enumerate() {
                    // Generated columns change without being in a row image.
                    if index >= table.columns.len() && !arrived.newest.contains(name) {
                        continue;
                    }
                    let expected: Option<Vec<u8>> = row.get(index + 2).context("a column")?;
                    let expected = expected.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                    let got = arrived.columns.get(name);
                    compared += 1;
                    if !got.is_some_and(|got| column_type.compare.is_same(got, expected.as_deref())) {
                        differences.push(format!(
                            "{} {id} `{name}` {}: the server says {expected:?}, and there arrived {got:?}",
                            table.name, column_type.declared
                        ));
                    }
                }
            }
            let arrived = state.0.keys().filter(|(name, _)| *name == table.name).count();
            if arrived != seen {
                differences.push(format!("{}: {arrived} rows arrived, and there are {seen}", table.name));
            }
        }
        let shown: Vec<String> = differences.iter().take(12).cloned().collect();
        ensure!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
        Ok(compared)
    }
}
