//! Whether cost grows linearly with the work, and whether memory stays constant.

use rowmill_tests::{MySql, scratch};

use crate::report::Report;
use crate::{Case, Run, To, Workload, engine, median, rest};

const TABLE_ROWS: u32 = 200_000;
const CELLS: u32 = 2_000_000;
const BACKLOG_GB: u64 = 10;

/// Measures rows of a growing number of tables, of columns and of transforms.
pub async fn scaling(mysql: &MySql, workload: &Workload, report: &mut Report) -> anyhow::Result<()> {
    report.line("### What it grows with\n\n| what | rows/s | columns/s |\n| --- | --- | --- |");
    let mut line = |name: &str, columns: f64, run: &Run| {
        let rows = run.rows_a_second();
        report.line(&format!("| {name} | {rows:.0} | {:.0} |", rows * columns));
    };
    let envelope: Case = ("", &[], To::Null);
    for tables in [10, 1_000] {
        let workload = rows_of_tables(mysql, tables).await?;
        let run = median(async || engine(mysql, &workload, &envelope).await).await?;
        line(&format!("{tables} tables of 4 columns, in turn, in the envelope"), 4.0, &run);
    }
    for columns in [4, 400] {
        let workload = wide_rows(mysql, columns).await?;
        let run = median(async || engine(mysql, &workload, &envelope).await).await?;
        line(&format!("rows of {columns} columns in the envelope"), f64::from(columns), &run);
    }
    for transforms in [&["plugins/mask-email.wasm"; 1][..], &["plugins/mask-email.wasm"; 8]] {
        let case: Case = ("", transforms, To::Null);
        // One run instead of a median: eight transforms take minutes.
        let run = engine(mysql, workload, &case).await?;
        let name = format!("the first workload, each order's address hashed by {} transform(s)", transforms.len());
        line(&name, 7.0, &run);
    }
    report.line("");
    Ok(())
}

/// Makes a new binlog file with a hundred rows per transaction, each of another table than the previous one.
async fn rows_of_tables(mysql: &MySql, tables: u32) -> anyhow::Result<Workload> {
    let table = |nth: u32| format!("scale.t{nth}");
    mysql.run("DROP SCHEMA IF EXISTS scale; CREATE SCHEMA scale").await?;
    for nth in 0..tables {
        let columns = "id INT AUTO_INCREMENT PRIMARY KEY, a INT, b VARCHAR(40), c DATETIME";
        mysql.run(&format!("CREATE TABLE {} ({columns})", table(nth))).await?;
    }
    mysql.run("FLUSH BINARY LOGS").await?;
    let transactions: Vec<String> = (0..TABLE_ROWS / 100)
        .map(|nth| {
            let table = table(nth % tables);
            format!("INSERT INTO {table} (a, b, c) SELECT n, CONCAT('text ', n), NOW() FROM bench.seq WHERE n <= 100")
        })
        .collect();
    mysql.run(&transactions.join("; ")).await?;
    file(mysql, TABLE_ROWS).await
}

/// Makes a new binlog file with a constant number of values, in rows of `columns` columns.
async fn wide_rows(mysql: &MySql, columns: u32) -> anyhow::Result<Workload> {
    let names: Vec<String> = (1..columns).map(|nth| format!("c{nth}")).collect();
    let define: Vec<String> = names.iter().map(|name| format!("{name} INT")).collect();
    let define = define.join(", ");
    mysql.run("DROP SCHEMA IF EXISTS scale; CREATE SCHEMA scale").await?;
    mysql.run(&format!("CREATE TABLE scale.wide (id INT AUTO_INCREMENT PRIMARY KEY, {define})")).await?;
    mysql.run("FLUSH BINARY LOGS").await?;
    let values: Vec<String> = (1..columns).map(|nth| format!("n * {nth}")).collect();
    let (names, values) = (names.join(", "), values.join(", "));
    let rows = CELLS / columns;
    let insert = format!("INSERT INTO scale.wide ({names}) SELECT {values} FROM bench.seq");
    for _ in 0..rows / 1_000 {
        mysql.run(&insert).await?;
    }
    file(mysql, rows / 1_000 * 1_000).await
}

/// Returns the binlog file up to now.
async fn file(mysql: &MySql, rows: u32) -> anyhow::Result<Workload> {
    let (file, _) = mysql.binlog_end().await?;
    mysql.run("FLUSH BINARY LOGS").await?;
    rest(mysql).await?;
    Workload::new("", mysql, &file, f64::from(rows))
}

/// Measures the memory used while ten gigabytes of binlog are read: in all cases, or in those whose names contain `words`.
pub async fn backlog(words: Option<&str>, report: &mut Report) -> anyhow::Result<()> {
    let options = ["--sync-binlog=0", "--max-binlog-size=1G", "--innodb-flush-log-at-trx-commit=0"];
    let mysql = MySql::start(&scratch("bench-backlog"), &options).await?;
    let first = mysql.binlog_end().await?.0;
    // The BLACKHOLE engine stores nothing: its rows are in the binlog alone.
    let columns = "id INT, note VARCHAR(2000), at DATETIME(6), amount DECIMAL(12,2)";
    mysql.run(&format!("CREATE SCHEMA bench; CREATE TABLE bench.fat ({columns}) ENGINE = BLACKHOLE")).await?;
    let seq = "CREATE TABLE bench.seq AS WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000) SELECT n FROM s";
    mysql.run(seq).await?;
    let insert = "INSERT INTO bench.fat SELECT a.n, REPEAT('words ', 50), NOW(6), b.n FROM bench.seq a, bench.seq b WHERE b.n <= 100";
    let mut bytes = 0;
    let mut rows = 0;
    while bytes < BACKLOG_GB * 1_000_000_000 {
        mysql.run(insert).await?;
        rows += 100_000;
        bytes = binlog_bytes(&mysql)?;
    }
    let last = mysql.binlog_end().await?;
    rest(&mysql).await?;
    report.line(&format!("### {} GB at a time\n\n{rows} row changes, once each.\n", bytes / 1_000_000_000));
    report.line("| what | rows/s | CPU s | peak MB |\n| --- | --- | --- | --- |");
    let workload = Workload { name: "", file: first, rows: f64::from(rows), size: u64::MAX };
    let wanted = |(name, ..): &&Case| words.is_none_or(|words| name.contains(words));
    for case in crate::CASES.iter().filter(wanted) {
        let (name, run) = (case.0, crate::engine_until(&mysql, &workload, &last, case).await?);
        let Run { cpu, peak_mb, .. } = &run;
        report.line(&format!(
            "| {name} | {:.0} | {:.1} | {} |",
            run.rows_a_second(),
            cpu.unwrap_or_default(),
            peak_mb.unwrap_or_default()
        ));
    }
    report.line("");
    Ok(())
}

fn binlog_bytes(mysql: &MySql) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(mysql.data())? {
        let entry = entry?;
        let is_binlog = entry.file_name().to_string_lossy().starts_with("binlog.0");
        bytes += if is_binlog { entry.metadata()?.len() } else { 0 };
    }
    Ok(bytes)
}
