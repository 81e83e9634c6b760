use rowmill_core::batch::RowIndex;

use super::super::{Scope, Template, parse, push_json};
use super::*;
use crate::fixture::Rows;
use crate::transform::interest::Interests;

const COLUMNS: &str = r#"["id bigint", "status varchar(20)", "total decimal(20,2)", "quantity int unsigned", "rate double",
    "weight float", "paid tinyint", "day date", "at datetime(3)", "clock time", "doc json", "raw varbinary(9)",
    "kind enum('a','b')", "Größe text", "a.b text"]"#;

const INSERT: &str = r#"{"op": "c", "table": "shop.orders", "after": {"id": 7, "status": "paid", "total": "12.50",
    "quantity": 3, "rate": 0.5, "weight": 0.1, "paid": 1, "day": "2026-11-27", "at": "2026-11-27 08:30:00.500",
    "clock": "-01:00:00", "doc": {"a": {"b": [1, "x", {"c": 1.5}]}, "t": true, "n": null, "s": "7"}, "raw": "AAH/",
    "kind": "a", "Größe": "XL", "a.b": "dot"}}"#;

const UPDATE: &str = r#"{"op": "u", "table": "shop.orders",
    "before": {"id": 7, "status": "new", "total": "12.50", "quantity": 3, "doc": {}, "day": "0000-00-00", "rate": null},
    "after": {"id": 7, "status": null, "total": "-0.10", "quantity": 4294967295, "doc": {}, "day": "0000-00-00", "rate": null}}"#;

const DELETE: &str = r#"{"op": "d", "table": "shop.orders", "before": {"id": 7, "status": "gone", "total": "99.00"}}"#;

const READ: &str = r#"{"op": "r", "table": "shop.orders", "after": {"id": 7, "status": "paid"}}"#;

fn with_row<T>(row: &str, use_it: impl FnOnce(&RowContext<'_>) -> T) -> T {
    let columns = COLUMNS.replace('\n', " ");
    let text = format!(
        "{{\"table\": \"shop.orders\", \"columns\": {columns}, \"key\": [\"id\"]}}\n{}",
        row.replace('\n', " ")
    );
    let rows = Rows::parse(&text).expect("rows");
    let batch = rows.packed.view();
    use_it(&RowContext { table: &rows.tables[0], batch: &batch, row: batch.row(RowIndex(0)), item: Some(("[1]", 4)) })
}

/// Returns an expression's value as JSON, or the error.
fn json(row: &str, text: &str) -> String {
    let expression = match parse(text) {
        Ok(expression) => expression,
        Err(error) => return error,
    };
    with_row(row, |context| {
        let scope = Scope { interests: &Interests::default(), has_item: true };
        let mut out = Vec::new();
        let compiled = Compiled::new(&expression, context.table, scope);
        let written = compiled.and_then(|compiled| push_json(&compiled, context, &mut out));
        written.map_or_else(|error| error, |()| String::from_utf8(out).expect("UTF-8"))
    })
}

fn assert_values(row: &str, expected: &[(&str, &str)]) {
    for (text, value) in expected {
        assert_eq!(json(row, text), *value, "{text}");
    }
}

#[test]
fn values_are_those_of_mysql() {
    assert_values(
        INSERT,
        &[
            // Columns, in the forms of Debezium's envelope.
            ("id", "7"),
            ("ID", "7"),
            ("`größe`", "\"XL\""),
            ("`a.b`", "\"dot\""),
            ("new.`a.b`", "\"dot\""),
            ("old.id", "null"),
            ("total", "\"12.50\""),
            ("at", "\"2026-11-27T08:30:00.500Z\""),
            ("raw", "\"AAH/\""),
            ("weight", "0.1"),
            // Arithmetic with MySQL's scale.
            ("total * quantity", "\"37.50\""),
            ("total * total", "\"156.2500\""),
            ("total + 1 - 0.001", "\"13.499\""),
            ("-(total - quantity * 2)", "\"-6.50\""),
            ("2 + 3 * 4", "14"),
            ("(2 + 3) * 4", "20"),
            ("quantity * rate", "1.5"),
            ("quantity * 1e3", "3000.0"),
            ("round(total * 0.333, 1)", "\"4.2\""),
            ("round(total)", "13"),
            ("round(rate)", "1.0"),
            ("number(total)", "12.50"),
            ("number(doc->'$.a.b[2].c')", "1.5"),
            ("quantity - 10", "-7"),
            ("null + 1", "null"),
            // JSON.
            ("doc->'$.a.b[1]'", "\"x\""),
            ("doc->'$.a.b[last].c'", "1.5"),
            ("doc->>'$.a.b[1]'", "\"x\""),
            ("doc->>'$.a.b'", "\"[1, \\\"x\\\", {\\\"c\\\": 1.5}]\""),
            ("doc->'$.none'", "null"),
            ("doc->'$.a'->'$.b[0]'", "1"),
            ("item()", "[1]"),
            ("item()->'$[0]' + item_number()", "5"),
            // Functions.
            ("op()", "\"c\""),
            ("concat(schema(), '.', table(), '#', id)", "\"shop.orders#7\""),
            ("concat('a', null)", "null"),
            ("coalesce(null, old.status, status)", "\"paid\""),
            ("if(total > 10, 'much', 'little')", "\"much\""),
            ("upper(status)", "\"PAID\""),
            ("lower(`größe`)", "\"xl\""),
            ("text(id)", "\"7\""),
            ("text(total)", "\"12.50\""),
            ("date_format(at, '%d.%m.%Y %H:%i:%s.%f')", "\"27.11.2026 08:30:00.500000\""),
            ("unix_millis(at)", "1795768200500"),
            ("unix_timestamp(at)", "\"1795768200.500\""),
            ("unix_timestamp(day)", "1795737600"),
            ("binlog_position() > 0", "true"),
            ("gtid()", "null"),
            ("commit_time()", "\"2023-11-14T22:13:20.000000Z\""),
            ("unix_millis(commit_time())", "1700000000000"),
            ("'it''s \"\\n\"'", "\"it's \\\"\\n\\\"\""),
        ],
    );
    assert_values(
        UPDATE,
        &[
            ("old.total - new.total", "\"12.60\""),
            ("unix_millis(day)", "null"),
            ("date_format(day, '%Y/%c/%e')", "\"0000/0/0\""),
            ("rate * 2", "null"),
            ("old_row_except(id, status, doc, day)", r#"{"total":"12.50","quantity":3,"rate":null}"#),
        ],
    );
    assert_values(
        DELETE,
        &[
            ("row()", r#"{"id":7,"status":"gone","total":"99.00"}"#),
            ("row_except(total)", r#"{"id":7,"status":"gone"}"#),
            ("new.status", "null"),
            ("op()", "\"d\""),
        ],
    );
    assert_eq!(json(INSERT, "old_row()"), "null");
}

/// A row that a snapshot reads has an after image, and is no change.
#[test]
fn a_read_row_has_not_changed() {
    assert_values(
        READ,
        &[
            ("op()", "\"r\""),
            ("row()", r#"{"id":7,"status":"paid"}"#),
            ("old_row()", "null"),
            ("old.status", "null"),
            ("status = 'paid'", "true"),
            ("op() in ('c', 'r')", "true"),
            ("op() in ('c', 'u', 'd')", "false"),
            ("changed(status)", "false"),
            ("changed_to(status, 'paid')", "false"),
        ],
    );
    assert_eq!(json(INSERT, "changed_to(status, 'paid')"), "true");
}

#[test]
fn conditions_are_those_of_mysql() {
    let (yes, no, unknown) = ("true", "false", "null");
    assert_values(
        INSERT,
        &[
            ("status = 'paid'", yes),
            ("status = 'PAID'", no),
            ("lower(status) = 'paid' and status <> 'new'", yes),
            ("status != 'paid'", no),
            ("total = 12.5", yes),
            ("total > '9.75'", yes),
            ("total > quantity", yes),
            ("total * 2 = 25", yes),
            ("id between 7 and 8", yes),
            ("id not between 7 and 8", no),
            ("id in (1, 7)", yes),
            ("id not in (1, null)", unknown),
            ("id in (7, null)", yes),
            ("quantity >= 3 and quantity <= 3 and not quantity < 3", yes),
            ("rate = 0.5 and rate < 1 and rate > quantity - 3", yes),
            ("weight = 0.1", yes),
            ("paid", "1"),
            ("if(paid, 1, 0) = 1 and paid", yes),
            ("rate > 1e-2 and rate < 1.5e300 and total < 1E3 and id = 7e0", yes),
            ("op() = 'c' and op() in ('c', 'u') and op() <> 'u' and op() not in ('d')", yes),
            ("not paid", no),
            ("paid = true", yes),
            ("day = '2026-11-27' and day < '2026-11-27 00:00:01'", yes),
            ("at > day", yes),
            ("at = '2026-11-27 08:30:00.5'", yes),
            ("at >= '2026-11-27'", yes),
            ("clock < '00:00:00'", yes),
            ("raw = 'AAH/'", yes),
            ("kind = 'a'", yes),
            ("status like 'p%d' and status like '_aid' and status not like 'P%'", yes),
            ("status like '%a%i%' and status not like '%a%a%'", yes),
            ("status like 'pai' or status like 'paid_'", no),
            ("'50%' like '50\\%' and '500' not like '50\\%'", yes),
            ("id like '7'", yes),
            ("doc->'$.t'", yes),
            ("doc->'$.t' = true and doc->'$.a.b[0]' = 1 and doc->'$.a.b[1]' = 'x'", yes),
            ("doc->>'$.s' = '7'", yes),
            ("doc->'$.n' is not null and doc->'$.none' is null", yes),
            ("doc->>'$.n' = 'null'", yes),
            ("old.status is null", yes),
            ("old.status <=> null and not (status <=> null)", yes),
            ("old.status = 'x'", unknown),
            ("old.status = 'x' or id = 7", yes),
            ("old.status = 'x' and id = 8", no),
            ("not changed(status) and changed_to(status, 'paid')", yes),
            ("has(status) and not has(no_such_column)", yes),
            ("has(no_such_column) and no_such_column = 1", no),
            ("table() = 'orders' or no_such_column = 1", yes),
            ("table() = 'other' and no_such_column = 1", no),
            ("no_such_column = 1 and schema() = 'other'", no),
        ],
    );
    assert_values(
        UPDATE,
        &[
            ("changed(status)", yes),
            ("changed(quantity)", yes),
            ("changed(id)", no),
            ("changed_to(status, 'paid')", no),
            ("changed_to(total, -0.1)", yes),
            ("changed_to(quantity, 4294967295)", yes),
            ("status is null and old.status is not null", yes),
            ("status = 'x'", unknown),
            ("new.total < old.total", yes),
            ("doc->'$.a' = 1", unknown),
            // The update did not change a column that its image lacks.
            ("changed(kind)", no),
            ("has(kind)", no),
        ],
    );
    assert_values(
        DELETE,
        &[
            ("status = 'gone' and old.status = 'gone'", yes),
            ("op() = 'd' and op() in ('d', 'u')", yes),
            ("op() = 'c'", no),
            ("op() <> 'd'", no),
            ("changed(status)", no),
            ("changed_to(status, 'gone')", no),
        ],
    );
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let absent = "column `kind` of shop.orders is absent from the row's image; ask `has` first";
    assert_values(
        UPDATE,
        &[("kind = 'a'", absent), ("coalesce(kind, 'x')", absent), ("has(kind) and kind = 'a'", "false")],
    );
    assert_values(
        INSERT,
        &[
            ("statuss = 'paid'", "shop.orders has no column `statuss`; did you mean `status`?"),
            (
                "status = 1",
                "column `status` of shop.orders (varchar) is compared with the number 1: write it in quotes",
            ),
            ("total = 'much'", "`much` is not a valid value of shop.orders.total (decimal); write it as -12.50"),
            ("day > 'soon'", "`soon` is not a valid value of shop.orders.day (date); write it as 2026-11-26"),
            (
                "status = id",
                "column `status` of shop.orders (varchar) cannot be compared with column `id` of shop.orders (bigint)",
            ),
            ("status + 1", "column `status` of shop.orders (varchar) is not a number"),
            ("status", "\"paid\""),
            ("not status", "column `status` of shop.orders (varchar) is neither true nor false: compare it"),
            ("status->'$.a'", "column `status` of shop.orders (varchar) is not JSON: `->` takes a value from JSON"),
            ("doc->'$.s' = 7", "a text cannot be compared with a number"),
            ("doc->'$.a' + 1", "a text is not a number"),
            ("date_format(id, '%Y')", "`date_format` takes a date, not column `id` of shop.orders (bigint)"),
            ("date_format(day, '%W')", "date format `%W`: `%W` is none of %Y %y %m %c %d %e %H %k %i %s %f %T %%"),
            ("changed(old.id)", "`changed` takes the name of a column"),
            ("changed_to(id, status)", "`changed_to` takes a column and a literal"),
            ("row_except(nothing)", "shop.orders has no column `nothing`"),
            ("coalesce(id, status)", "column `status` of shop.orders (varchar) beside a number"),
            ("round(total, 31)", "`round` takes a number of decimal places from 0 to 30"),
            ("total * 10000000000 * 10000000000 * 10000000000 * 1000000", "a result of more than 38 digits"),
            (
                "rate * 1e",
                "invalid expression `rate * 1e`: expected a number such as 12, 12.50 or 1e3 at character 8, before `1e`",
            ),
            ("id =", "invalid expression `id =`: expected a value at its end"),
            ("id == 1", "invalid expression `id == 1`: expected a value at character 5, before `= 1`"),
            (
                "id = 1 status",
                "invalid expression `id = 1 status`: expected an operator or the end at character 8, before `status`",
            ),
            ("'open", "invalid expression `'open`: a quote that is not closed at character 1, before `'open`"),
            (
                "concatt(id)",
                "invalid expression `concatt(id)`: there is no function `concatt`; did you mean `concat`? at character 1, before `concatt(id)`",
            ),
            (
                "lower()",
                "invalid expression `lower()`: `lower` takes 1 arguments, not 0, at character 1, before `lower()`",
            ),
            (
                "doc->'a'",
                "invalid expression `doc->'a'`: `a` is not a path such as '$.items[0].name', at character 6, before `'a'`",
            ),
            ("id in ()", "invalid expression `id in ()`: expected a value at character 8, before `)`"),
            ("id not 7", "invalid expression `id not 7`: expected IN, LIKE or BETWEEN at character 8, before `7`"),
            ("id # 7", "invalid expression `id # 7`: unexpected character at character 4, before `# 7`"),
        ],
    );
}

#[test]
fn an_expression_is_bounded() {
    for (text, error) in [
        ("(".repeat(100_000), "expression of 100000 bytes"),
        ("(".repeat(60_000), "nested more than 50 deep"),
        ("not ".repeat(10_000), "nested more than 50 deep"),
        ("-".repeat(10_000), "nested more than 50 deep"),
        (format!("doc{}", "->'$.a'".repeat(5_000)), "nested more than"),
        (format!("1{}", "+1".repeat(10_000)), "more than 50 arithmetic operators"),
        (format!("id in (1{})", ",1".repeat(20_000)), "more than 10000 values"),
        (format!("a{}", " or a".repeat(12_000)), "more than 10000 values"),
        (format!("a like '{}'", "%a".repeat(600)), "LIKE pattern of 1200 bytes"),
    ] {
        let parsed = parse(&text);
        // What is deep is not only built, but dropped, too.
        assert!(parsed.as_ref().is_err_and(|found| found.contains(error)) || parsed.is_ok(), "{error}: {parsed:.200?}");
        if error.contains("nested more than 50") || error.contains("values") || error.contains("LIKE") {
            assert!(parsed.is_err(), "{error}");
        }
    }
    assert!(parse(&format!("1{}", "+1".repeat(40))).is_ok());
    assert!(parse(&format!("a{}", " or a = 1".repeat(2_000))).is_ok());
}

#[test]
fn templates_are_text() {
    with_row(INSERT, |context| {
        let scope = Scope { interests: &Interests::default(), has_item: false };
        let text = |template: &str| {
            let mut out = Vec::new();
            let compiled = Template::parse(template)?.compile(context.table, scope)?;
            compiled.push(context, &mut out)?;
            Ok::<_, String>(String::from_utf8(out).expect("UTF-8"))
        };
        for (template, expected) in [
            ("customer-{id}", "customer-7"),
            ("{old.status}{total}{{{kind}}}", "12.50{a}"),
            ("{doc->'$.a.b[1]'}-{doc->'$.a.b[0]'}-{raw}", "x-1-AAH/"),
            ("{at} {commit_time()}", "2026-11-27 08:30:00.500 2023-11-14 22:13:20.000000"),
            ("{if(id = 7, 'seven', 'other')}", "seven"),
        ] {
            assert_eq!(text(template).as_deref(), Ok(expected), "{template}");
        }
        assert_eq!(text("{item()}"), Err("`item` is known in a recipe with `for_each`".to_owned()));
    });
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

        /// Whatever text a plugin passes, it is an expression or an error; what it makes is JSON.
        #[test]
        fn any_text_is_an_expression_or_an_error(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "id", "status", "total", "doc", "at", "day", "rate", "old.", "new.", "(", ")", ",", "=", "<", "<=>", "+",
                    "-", "*", "->", "->>", "'$.a'", "'x'", "12", "1.5", "null", "true", "and", "or", "not", "is", "in",
                    "like", "between", "row()", "item()", "if(", "coalesce(", "concat(", "round(", "number(", "text(",
                    "date_format(", "unix_millis(", "changed(", "has(", "'", "`", "{", "}", "ü", "#",
                ]),
                0..12,
            ),
        ) {
            let text = words.join(" ");
            for row in [INSERT, UPDATE, DELETE] {
                let Ok(expression) = parse(&text) else { return Ok(()) };
                with_row(row, |context| {
                    let scope = Scope { interests: &Interests::default(), has_item: true };
                    let mut out = Vec::new();
                    let compiled = Compiled::new(&expression, context.table, scope);
                    if compiled.and_then(|compiled| push_json(&compiled, context, &mut out)).is_ok() {
                        let json = String::from_utf8(out).expect("UTF-8");
                        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok(), "{}: {}", text, json);
                    }
                    Ok(())
                })?;
            }
        }

        /// Numbers are compared and calculated as integers of 128 bits are.
        #[test]
        fn arithmetic_is_exact(a in any::<i64>(), b in any::<i64>(), c in -1_000_000i64..1_000_000) {
            let value = |text: String| json(INSERT, &text);
            prop_assert_eq!(value(format!("({a}) * ({b}) - ({c})")), (i128::from(a) * i128::from(b) - i128::from(c)).to_string());
            prop_assert_eq!(value(format!("{a} < {b}")), (a < b).to_string());
        }
    }
}
