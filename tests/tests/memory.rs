//! Memory of an engine that runs for long. `ROWMILL_TEST_MINUTES` sets the duration.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mysql_async::prelude::Queryable;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rowmill_tests::{Build, Drain, Engine, Rig, Shop, top};

const MINUTE: Duration = Duration::from_secs(60);

/// Memory does not grow under mixed load: small and large transactions, short and long rows, many keys, altered tables, pauses.
#[tokio::test]
async fn mixed_load_for_long() -> anyhow::Result<()> {
    let minutes: u32 = std::env::var("ROWMILL_TEST_MINUTES").map_or(Ok(1), |minutes| minutes.parse())?;
    let mut rig =
        Rig::start("mixed_load_for_long", Build::MySql, &[], "tables = [\"shop.*\"]\nname = \"shop\"").await?;
    let drain = Drain::start(|_| ())?;
    let sink = |name: &str, queue: &str| {
        format!(
            "[sink.{name}]\ntype = \"sqs\"\nqueue_url = \"http://127.0.0.1:{}/000000000000/{queue}\"\n\
             endpoint_url = \"http://127.0.0.1:{}\"\n",
            drain.port, drain.port
        )
    };
    let (before, _) = rig.config.text.split_once("[sink.out]").unwrap_or((&rig.config.text, ""));
    rig.config.text = format!(
        "{before}{}{}[[route]]\ntables = [\"shop.orders\", \"shop.blobs\"]\nsink = \"ordered\"\n[[route]]\ntables = \
         [\"*.*\"]\nsink = \"all\"\n",
        sink("ordered", "orders.fifo"),
        sink("all", "all"),
    );
    let plugins = rig.directory.join("plugins");
    std::fs::create_dir(&plugins)?;
    for language in ["rust", "c"] {
        std::fs::copy(
            top().join(format!("target/guests/{language}/filter.wasm")),
            plugins.join(format!("{language}.wasm")),
        )?;
    }
    Shop::create(&rig.mysql).await?;
    rig.mysql
        .run(
            "SET GLOBAL innodb_flush_log_at_trx_commit = 2; SET GLOBAL sync_binlog = 0; SET GLOBAL \
             binlog_expire_logs_seconds = 60; SET GLOBAL max_binlog_size = 67108864; \
             CREATE TABLE shop.blobs (id INT PRIMARY KEY AUTO_INCREMENT, bytes LONGBLOB, text LONGTEXT, json JSON)",
        )
        .await?;
    let mut engine = Engine::start_and_wait(&rig.config).await?;
    let mut shop = Shop::open(&rig.mysql, 1).await?;
    let mut conn = rig.mysql.connect().await?;
    let mut random = SmallRng::seed_from_u64(2);
    let (begin, mut told) = (Instant::now(), 0);
    let mut samples = Vec::new();
    while begin.elapsed() < MINUTE * minutes {
        match random.random_range(0..200) {
            0..30 => {
                let (bytes, text) = (random.random_range(1..90_000), random.random_range(1..20_000));
                let insert = format!(
                    "INSERT INTO shop.blobs (bytes, text, json) VALUES (REPEAT('x', {bytes}), REPEAT('y', {text}), \
                     JSON_OBJECT('a', REPEAT('z', {text})))"
                );
                conn.query_drop(insert).await?;
            }
            30..32 => conn.query_drop("UPDATE shop.blobs SET text = 'short' ORDER BY id DESC LIMIT 30").await?,
            32 => conn.query_drop("DELETE FROM shop.blobs LIMIT 100").await?,
            33 => {
                let number = random.random_range(0..1000);
                let alter = format!("ALTER TABLE shop.customers RENAME COLUMN email TO email_{number}");
                conn.query_drop(alter).await?;
                conn.query_drop(format!("ALTER TABLE shop.customers RENAME COLUMN email_{number} TO email")).await?;
            }
            34 => tokio::time::sleep(Duration::from_millis(random.random_range(1..500))).await,
            _ => drop(shop.step().await?),
        }
        let elapsed = begin.elapsed();
        if elapsed.as_secs() / 10 > told {
            told = elapsed.as_secs() / 10;
            let now = engine.process().memory()?;
            println!("{told}0 s: {} KB, {} messages", now >> 10, drain.drained().messages);
            samples.push(now);
        }
    }
    rig.read_to_the_end(&engine).await?;
    let middle = samples.len() / 2;
    let most = |samples: &[u64]| samples.iter().max().copied().unwrap_or_default();
    let (first, second) = (most(&samples[..middle]), most(&samples[middle..]));
    ensure!(drain.drained().messages > 1000, "there was no load");
    ensure!(second < first + (10 << 20), "it had {first} bytes in the first half, and {second} in the second");
    engine.stop().await
}
