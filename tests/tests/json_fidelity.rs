//! JSON documents are delivered as the server's `SELECT` shows them, with any content and after any change.
//!
//! `ROWMILL_TEST_SEED` repeats a run, `ROWMILL_TEST_STEPS` makes longer ones.

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row};
use rowmill_tests::{Build, Engine, JsonGenerator, Rig};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A table of documents, and the server's text of each document after each change.
struct Documents {
    conn: Conn,
    expected: Vec<(i64, String)>,
}

impl Documents {
    async fn create(rig: &Rig) -> anyhow::Result<Self> {
        rig.mysql
            .run("CREATE DATABASE docs; CREATE TABLE docs.d (id INT AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL DEFAULT 0, j JSON)")
            .await?;
        let mut conn = rig.mysql.connect().await?;
        conn.query_drop("SET sql_mode = ''").await?;
        Ok(Self { conn, expected: Vec::new() })
    }

    async fn insert(&mut self, document: &str, parameters: impl Into<Params> + Send) -> anyhow::Result<i64> {
        let statement = format!("INSERT INTO docs.d (j) VALUES ({document})");
        self.conn.exec_drop(&statement, parameters.into()).await.with_context(|| statement.clone())?;
        let id: Option<i64> = self.conn.query_first("SELECT LAST_INSERT_ID()").await?;
        let id = id.context("an id")?;
        self.look(id).await?;
        Ok(id)
    }

    /// Changes a document, and `n` as well, so that the row always changes.
    async fn update(&mut self, id: i64, document: &str) -> anyhow::Result<()> {
        let statement = format!("UPDATE docs.d SET n = n + 1, j = {document} WHERE id = {id}");
        self.conn.query_drop(&statement).await.with_context(|| statement.clone())?;
        self.look(id).await
    }

    async fn look(&mut self, id: i64) -> anyhow::Result<()> {
        let text = self.text(id).await?;
        self.expected.push((id, text));
        Ok(())
    }

    async fn text(&mut self, id: i64) -> anyhow::Result<String> {
        let row: Option<Row> = self.conn.query_first(format!("SELECT j FROM docs.d WHERE id = {id}")).await?;
        let bytes: Vec<u8> = row.and_then(|mut row| row.take(0)).context("a document")?;
        Ok(String::from_utf8(bytes)?)
    }

    async fn compare(&self, rig: &Rig, engine: Engine) -> anyhow::Result<()> {
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
        let arrived = rig.arrived()?;
        for (nth, ((id, expected), message)) in self.expected.iter().zip(&arrived).enumerate() {
            ensure!(message["after"]["id"] == *id, "change {nth}: {message}");
            let text = message["after"]["j"].as_str().context("a document")?;
            if text != expected {
                let same = text.chars().zip(expected.chars()).take_while(|(one, other)| one == other).count();
                let around = |text: &str| text.chars().skip(same.saturating_sub(60)).take(160).collect::<String>();
                anyhow::bail!(
                    "change {nth}, row {id}, character {same}:\n{}\nshould be\n{}",
                    around(text),
                    around(expected)
                );
            }
        }
        ensure!(arrived.len() == self.expected.len(), "{} changes arrived of {}", arrived.len(), self.expected.len());
        println!("{} documents compared", arrived.len());
        Ok(())
    }
}

async fn start(name: &str) -> anyhow::Result<(Rig, Engine, Documents, JsonGenerator)> {
    let seed = setting("ROWMILL_TEST_SEED").unwrap_or_else(rand::random);
    println!("{name}: ROWMILL_TEST_SEED={seed}");
    let rig = Rig::start(name, Build::MySql, &[], "tables = [\"docs.*\"]").await?;
    let documents = Documents::create(&rig).await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    Ok((rig, engine, documents, JsonGenerator::new(seed)))
}

#[tokio::test]
async fn every_double() -> anyhow::Result<()> {
    const A_DOCUMENT: usize = 500;
    let (rig, engine, mut documents, mut generator) = start("json_every_double").await?;
    for _ in 0..setting("ROWMILL_TEST_STEPS").unwrap_or(100) {
        let doubles: Vec<f64> = (0..A_DOCUMENT).map(|_| generator.double()).collect();
        let places = vec!["?"; A_DOCUMENT].join(",");
        let id = documents.insert(&format!("JSON_ARRAY({places})"), doubles.clone()).await?;
        // The server returns the numbers that it was given.
        let shown: Vec<f64> = serde_json::from_str(&documents.text(id).await?)?;
        for (given, shown) in doubles.iter().zip(&shown) {
            ensure!(given.to_bits() == shown.to_bits(), "{given:e} became {shown:e}");
        }
        // As JSON text, and integers with a decimal point.
        let texts: Vec<String> = doubles.iter().map(|double| format!("{double:?}")).collect();
        documents.insert(&format!("CAST('[{}]' AS JSON)", texts.join(",")), ()).await?;
    }
    documents.compare(&rig, engine).await
}

#[tokio::test]
async fn every_opaque_value() -> anyhow::Result<()> {
    let (rig, engine, mut documents, mut generator) = start("json_every_opaque_value").await?;
    for len in (0..240).chain([65_535, 65_536, 1_000_000]) {
        documents.insert(&format!("JSON_OBJECT('b', CAST(REPEAT('x', {len}) AS BINARY))"), ()).await?;
        documents.insert(&format!("CAST(CAST(REPEAT('x', {len}) AS BINARY) AS JSON)"), ()).await?;
    }
    for _ in 0..setting("ROWMILL_TEST_STEPS").unwrap_or(300) {
        let values: Vec<String> = (0..5).map(|_| generator.opaque()).collect();
        documents.insert(&format!("JSON_ARRAY({})", values.join(", ")), ()).await?;
    }
    // A value of each column type.
    let types = [
        "BIT(1)",
        "BIT(64)",
        "BINARY(255)",
        "VARBINARY(300)",
        "TINYBLOB",
        "BLOB",
        "MEDIUMBLOB",
        "LONGBLOB",
        "DECIMAL(65,30)",
        "DECIMAL(30,30)",
        "DECIMAL(1,0)",
        "DATE",
        "TIME",
        "TIME(6)",
        "DATETIME(3)",
        "TIMESTAMP(6)",
        "YEAR",
        "FLOAT",
        "DOUBLE",
        "ENUM('1','é')",
        "SET('1','é')",
        "CHAR(9) CHARACTER SET latin1",
        "TEXT",
        "VARCHAR(9) CHARACTER SET binary",
        "GEOMETRY",
        "JSON",
        "BIGINT UNSIGNED",
    ];
    let columns: Vec<String> = types.iter().enumerate().map(|(nth, declared)| format!("c{nth} {declared}")).collect();
    documents.conn.query_drop(format!("CREATE TEMPORARY TABLE docs.types ({})", columns.join(", "))).await?;
    for (nth, declared) in types.iter().enumerate() {
        let value = match *declared {
            "GEOMETRY" => "POINT(1, 2)",
            "DATE" | "DATETIME(3)" | "TIMESTAMP(6)" => "'2026-11-24 10:11:12.123456'",
            "TIME" | "TIME(6)" => "'-838:59:59'",
            "JSON" => "'{\"a\": 1}'",
            _ => "1",
        };
        documents.conn.query_drop("DELETE FROM docs.types").await?;
        documents.conn.query_drop(format!("INSERT INTO docs.types (c{nth}) VALUES ({value})")).await?;
        for of in [
            "JSON_ARRAY(c)",
            "JSON_ARRAYAGG(c)",
            "JSON_OBJECTAGG('k', c)",
            "JSON_ARRAY(MAX(c))",
            "JSON_ARRAY((SELECT c))",
        ] {
            // The server has no such aggregates of geometries.
            if *declared == "GEOMETRY" && (of.contains("AGG") || of.contains("MAX")) {
                continue;
            }
            let of = of.replace("c)", &format!("c{nth})"));
            documents
                .insert(&format!("(SELECT {of} FROM docs.types)"), ())
                .await
                .with_context(|| declared.to_string())?;
        }
    }
    documents.compare(&rig, engine).await
}

#[tokio::test]
async fn every_change() -> anyhow::Result<()> {
    let (rig, engine, mut documents, mut generator) = start("json_every_change").await?;
    // A constant text makes changes smaller than documents, so that the server logs partial updates.
    let padding = "p".repeat(20_000);
    let mut ids = Vec::new();
    for _ in 0..20 {
        let members: Vec<String> = (0..4).map(|_| generator.document(5).to_string()).collect();
        let document =
            format!("{{\"pad\": \"{padding}\", \"a\": [{}], \"o\": {{\"a.b\": {}}}}}", members.join(","), members[0]);
        ids.push(documents.insert("CAST(? AS JSON)", (document,)).await?);
    }
    // The maximum depth that the server allows.
    let deep = format!("JSON_ARRAY('{padding}', CAST('{}{}' AS JSON))", "[".repeat(98), "]".repeat(98));
    let id = documents.insert(&deep, ()).await?;
    documents.conn.query_drop("SET SESSION binlog_row_value_options = 'PARTIAL_JSON'").await?;
    documents.update(id, &format!("JSON_SET(j, '$[1]{}', 7)", "[0]".repeat(98))).await?;
    documents.update(id, &format!("JSON_SET(j, '$[last]{}', JSON_ARRAY(8))", "[last]".repeat(97))).await?;
    for step in 0..setting("ROWMILL_TEST_STEPS").unwrap_or(600) {
        // Documents that were changed in place are also logged whole.
        let options = if step % 5 == 4 { "" } else { "PARTIAL_JSON" };
        documents.conn.query_drop(format!("SET SESSION binlog_row_value_options = '{options}'")).await?;
        let compression = if step % 7 == 0 { "ON" } else { "OFF" };
        documents.conn.query_drop(format!("SET SESSION binlog_transaction_compression = {compression}")).await?;
        let id = ids[step as usize % ids.len()];
        let document = serde_json::from_str(&documents.text(id).await?)?;
        let change = generator.change(&document);
        documents.update(id, &change).await?;
    }
    let (file, _) = rig.mysql.binlog_end().await?;
    let events: Vec<Row> = documents.conn.query(format!("SHOW BINLOG EVENTS IN '{file}'")).await?;
    let partial = events
        .iter()
        .filter_map(|event| event.get::<String, _>(2))
        .filter(|kind| kind.starts_with("Update_rows_partial"));
    let (partial, changes) = (partial.count(), documents.expected.len());
    ensure!(partial > changes / 4, "{partial} of {changes} changes were logged in part");
    documents.compare(&rig, engine).await
}
