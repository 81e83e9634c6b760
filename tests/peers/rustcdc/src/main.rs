//! Counts rows, each serialized as JSON, by rustcdc, for the benchmark.
//!
//! Arguments: port, user, password, binlog file, rows to count, a directory for the checkpoint. Prints the seconds from the
//! start to the first row, and from the first row to the last.

use std::time::Instant;

use rustcdc::checkpoint::FileCheckpoint;
use rustcdc::core::{Operation, SecretString, TransportConfig};
use rustcdc::schema_history::InMemorySchemaHistory;
use rustcdc::sink::SinkAdapter;
use rustcdc::{CdcRuntime, Event, MysqlSourceConfig, Result, RuntimeConfig, RuntimeSourceConfig};
use tokio_util::sync::CancellationToken;

struct Count {
    started: Instant,
    first: Option<Instant>,
    json: Vec<u8>,
    left: u64,
    done: CancellationToken,
}

impl SinkAdapter for Count {
    async fn send(&mut self, event: &Event) -> Result<()> {
        if !matches!(event.op, Operation::Insert | Operation::Update | Operation::Delete) {
            return Ok(());
        }
        self.json.clear();
        serde_json::to_writer(&mut self.json, event)?;
        let first = *self.first.get_or_insert_with(Instant::now);
        self.left -= 1;
        if self.left == 0 {
            let until_first = first.duration_since(self.started).as_secs_f64();
            println!("{until_first:.3} {:.3}", first.elapsed().as_secs_f64());
            self.done.cancel();
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        "count"
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, user, password, file, rows, directory] = &arguments[..] else {
        panic!("arguments: PORT USER PASSWORD FILE ROWS DIRECTORY");
    };
    let started = Instant::now();
    let mut source = MysqlSourceConfig::default();
    source.host = "127.0.0.1".to_owned();
    source.port = port.parse().expect("a port");
    source.user = user.clone();
    source.password = SecretString::new(password.as_str());
    source.database = "bench".to_owned();
    source.server_id = 4245;
    source.transport = TransportConfig::Plaintext;
    source.table_include_list = vec!["bench.orders".to_owned(), "bench.sbtest".to_owned()];
    let from = serde_json::json!({ "source_flavor": "mysql", "binlog_file": file, "binlog_pos": 4, "gtid": "" });
    FileCheckpoint::restore_from_record(directory.as_ref(), "mysql", serde_json::to_vec(&from)?, 0)?;
    let checkpoint = FileCheckpoint::new(directory);
    let config = RuntimeConfig::new(RuntimeSourceConfig::mysql(source), checkpoint, InMemorySchemaHistory::default());
    let mut runtime = CdcRuntime::new(config)?;
    let done = CancellationToken::new();
    let left = rows.parse().expect("a number of rows");
    runtime.register_sink(Count { started, first: None, json: Vec::new(), left, done: done.clone() });
    runtime.start().await?;
    runtime.run_to_completion(done).await?;
    Ok(())
}
