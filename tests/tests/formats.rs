//! Rows in the formats of other systems, from a real server.

use mysql_async::prelude::Queryable;
use rowmill_tests::{Build, Engine, Rig};
use serde_json::{Value, json};

/// Returns the messages of statements in a format.
async fn messages(name: &str, build: Build, format: &str, statements: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut rig = Rig::start(name, build, &[], "tables = [\"formats.*\"]").await?;
    rig.config.text = rig.config.text.replace("type = \"file\"", &format!("type = \"file\"\nformat = \"{format}\""));
    rig.mysql.run("CREATE DATABASE formats").await?;
    let engine = Engine::start_and_wait(&rig.config).await?;
    let mut conn = rig.mysql.connect().await?;
    conn.query_drop("SET sql_mode = ''").await?;
    for statement in statements {
        conn.query_drop(*statement).await?;
    }
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    rig.arrived()
}

#[tokio::test]
async fn columns_may_be_called_as_the_words_of_a_row() -> anyhow::Result<()> {
    let statements = [
        "CREATE TABLE formats.t (id INT PRIMARY KEY, `__op` CHAR(5), `__Deleted` INT, `___deleted` INT, `__db` INT)",
        "INSERT INTO formats.t VALUES (1, 'mine', 2, 3, 4)",
        "UPDATE formats.t SET `__op` = 'other'",
        "DELETE FROM formats.t",
    ];
    let mut rows = messages("words_of_a_row", Build::MySql, "row", &statements).await?;
    for row in &mut rows {
        let row = row.as_object_mut().expect("an object");
        row.remove("__source_ts_ms");
    }
    let row = |op: &str, deleted: &str, mine: &str| {
        json!({
            "id": 1, "__op": mine, "__Deleted": 2, "___deleted": 3, "__db": 4,
            "___op": op, "____deleted": deleted, "___db": "formats", "__table": "t"
        })
    };
    assert_eq!(rows, [row("c", "false", "mine"), row("u", "false", "other"), row("d", "true", "other")]);
    Ok(())
}

#[tokio::test]
async fn rows_as_maxwell_has_them() -> anyhow::Result<()> {
    let statements = [
        "CREATE TABLE formats.t (id INT PRIMARY KEY, b BINARY(4), v VARBINARY(4), g GEOMETRY, n INT, t TEXT)",
        "INSERT INTO formats.t VALUES (1, x'6100', x'6100', POINT(1.5, -2), 1, 'a')",
        "INSERT INTO formats.t (id, g) VALUES (2, ST_GeomFromText(
           'GEOMETRYCOLLECTION(MULTIPOINT(0 0, 1 1), POLYGON((0 0, 0 1, 1 1, 0 0)), LINESTRING(0 1, 1 2))'))",
        "SET SESSION binlog_row_image = 'MINIMAL'",
        "UPDATE formats.t SET n = 2, t = NULL WHERE id = 1",
        "SET SESSION binlog_row_image = 'FULL'",
        "UPDATE formats.t SET n = 3, b = x'00000000' WHERE id = 1",
    ];
    for (name, build) in [("maxwell_of_mysql", Build::MySql), ("maxwell_of_mariadb", Build::MariaDb("11.8"))] {
        let rows = messages(name, build, "maxwell", &statements).await?;
        let of = |row: &Value| (row["type"].clone(), row["data"].clone(), row.get("old").cloned());
        let collection =
            "GEOMETRYCOLLECTION (MULTIPOINT ((0 0), (1 1)), POLYGON ((0 0, 0 1, 1 1, 0 0)), LINESTRING (0 1, 1 2))";
        let expected = [
            (
                json!("insert"),
                json!({"id": 1, "b": "YQ==", "v": "YQA=", "g": "POINT (1.5 -2)", "n": 1, "t": "a"}),
                None,
            ),
            (json!("insert"), json!({"id": 2, "b": null, "v": null, "g": collection, "n": null, "t": null}), None),
            (json!("update"), json!({"id": 1, "n": 2, "t": null}), None),
            (
                json!("update"),
                json!({"id": 1, "b": "", "v": "YQA=", "g": "POINT (1.5 -2)", "n": 3, "t": null}),
                Some(json!({"n": 2, "b": "YQ=="})),
            ),
        ];
        assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected, "{name}");
    }
    Ok(())
}
