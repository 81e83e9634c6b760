//! The checkpoint: the durable resume point, before which everything is delivered. One process holds it at a time.

mod document;
mod edit;
#[cfg(test)]
pub(crate) mod fake;
mod file;
mod mysql;
mod store;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rowmill_core::position::ResumePoint;
use tracing::warn;

use crate::config::{self, TablePatterns};
use crate::schema_history::{HistoryText, Mark, SchemaHistory};

use document::Content;

pub use edit::{set, show};
pub use store::{CheckpointStore, Epoch};

/// A checkpoint that this process holds.
#[derive(Debug)]
pub struct Checkpoint {
    store: Box<dyn CheckpointStore>,
    epoch: Epoch,
    /// The mark of the schema history that the stored checkpoint needs; `None` once this process has written a checkpoint.
    saved: Option<Mark>,
    /// The schema history, written before a checkpoint that needs it.
    schemas: Option<Arc<SchemaHistory>>,
    /// Whether the schema history could not be written: since then checkpoints do not refer to it.
    is_history_lost: bool,
}

impl Checkpoint {
    /// Acquires the checkpoint, and reads its resume point if there is one.
    ///
    /// # Errors
    /// If another process holds the checkpoint, or if it cannot be read or is damaged. It is left unchanged.
    pub async fn open(config: &config::Checkpoint) -> anyhow::Result<(Self, Option<ResumePoint>)> {
        let mut store = store(config);
        let name = format!("checkpoint {}", store.describe());
        let (epoch, text) = store.acquire().await.with_context(|| name.clone())?;
        let content = parse(&mut *store, text).await.context(name)?;
        let saved = content.as_ref().and_then(|content| content.schema_history);
        Ok((Self { store, epoch, saved, schemas: None, is_history_lost: false }, content.map(|content| content.resume)))
    }

    /// Returns the schema history of a server's tables that belongs to the checkpoint. From now on it is written before each
    /// checkpoint that needs it.
    ///
    /// # Errors
    /// If the store cannot be read. A history that is missing, damaged or of another checkpoint is replaced by an empty one:
    /// tables are then looked up again.
    pub async fn schema_history(&mut self, server: &str, tables: &TablePatterns) -> anyhow::Result<Arc<SchemaHistory>> {
        let mut schemas = SchemaHistory::new(server);
        if let Some(needed) = self.saved {
            let name = format!("the schema history of checkpoint {}", self.store.describe());
            match self.store.read_schema_history().await.with_context(|| name.clone())? {
                None => warn!("{name} is gone; tables are looked up again"),
                Some(text) => {
                    match SchemaHistory::read(&text, needed, server, |schema, table| tables.matches(schema, table)) {
                        Ok(read) => schemas = read,
                        Err(error) => {
                            warn!(error = format!("{error:#}"), "cannot use {name}; tables are looked up again");
                        }
                    }
                }
            }
        }
        let schemas = Arc::new(schemas);
        self.schemas = Some(Arc::clone(&schemas));
        self.is_history_lost = false;
        Ok(schemas)
    }

    /// Acquires the checkpoint without parsing it, as it may be damaged.
    async fn hold(config: &config::Checkpoint) -> anyhow::Result<Self> {
        let mut store = store(config);
        let (epoch, _) = store.acquire().await.with_context(|| format!("checkpoint {}", store.describe()))?;
        Ok(Self { store, epoch, saved: None, schemas: None, is_history_lost: false })
    }

    /// Reads the resume point if there is one, whichever process holds the checkpoint.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or is damaged.
    pub async fn read(config: &config::Checkpoint) -> anyhow::Result<Option<ResumePoint>> {
        let mut store = store(config);
        let name = format!("checkpoint {}", store.describe());
        let text = store.read().await.with_context(|| name.clone())?;
        Ok(parse(&mut *store, text).await.context(name)?.map(|content| content.resume))
    }

    /// Checks that a checkpoint can be written, without changing it. Returns its name for users.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn probe(config: &config::Checkpoint) -> anyhow::Result<String> {
        let mut store = store(config);
        let name = format!("checkpoint {}", store.describe());
        store.probe().await.with_context(|| name.clone())?;
        Ok(name)
    }

    /// Returns a description for users.
    pub fn describe(&self) -> String {
        self.store.describe()
    }

    /// Returns the minimum interval between writes, unless the in-flight budget is short.
    pub fn interval(&self) -> Duration {
        self.store.interval()
    }

    /// Keeps the checkpoint held, and writes a schema history that is waiting. To be called from time to time while no
    /// checkpoint is written.
    pub async fn keep_alive(&mut self) {
        self.store.keep_alive().await;
        self.write_schema_history(true).await;
    }

    /// Writes a schema history that is waiting. To be called after the last checkpoint.
    pub async fn finish(&mut self) {
        self.write_schema_history(true).await;
    }

    /// Replaces the checkpoint. Once this returns, the checkpoint survives a crash of the machine.
    ///
    /// # Errors
    /// If the checkpoint cannot be written, or if another process has acquired it. It is then unchanged.
    pub async fn write(&mut self, resume: &ResumePoint) -> anyhow::Result<()> {
        self.try_write(resume).await.with_context(|| {
            format!(
                "cannot write checkpoint {}; messages delivered since the last one are sent again after a restart",
                self.describe()
            )
        })
    }

    async fn try_write(&mut self, resume: &ResumePoint) -> anyhow::Result<()> {
        self.write_schema_history(false).await;
        let written = self.schemas.as_ref().filter(|_| !self.is_history_lost);
        let needed = written.and_then(|schemas| schemas.needed());
        self.store.write(self.epoch, document::write(resume, self.epoch, needed)).await?;
        self.saved = None;
        self.schemas.iter().for_each(|schemas| schemas.forget_before(resume));
        Ok(())
    }

    /// Writes the schema history if that is due; `urgent` makes a waiting one due. If it cannot be written, checkpoints no
    /// longer refer to it, and tables are looked up again after a restart.
    async fn write_schema_history(&mut self, urgent: bool) {
        let Some(schemas) = self.schemas.as_ref().filter(|_| !self.is_history_lost) else { return };
        let Some(HistoryText { mark, text }) = schemas.text(self.saved, urgent) else { return };
        let bytes = text.len();
        match self.store.write_schema_history(self.epoch, text).await {
            Ok(()) => schemas.is_written(mark, bytes),
            Err(error) => {
                warn!(
                    bytes,
                    error = format!("{error:#}"),
                    "cannot write the schema history of checkpoint {}; tables are looked up again after a restart; to avoid \
                     this, set binlog_row_metadata = FULL on the server",
                    self.describe()
                );
                self.is_history_lost = true;
            }
        }
    }
}

fn store(config: &config::Checkpoint) -> Box<dyn CheckpointStore> {
    match config {
        config::Checkpoint::File(path) => Box::new(file::FileStore::new(path)),
        config::Checkpoint::MySql(config) => Box::new(mysql::MySqlStore::new(config.clone())),
    }
}

async fn parse(store: &mut dyn CheckpointStore, text: Option<String>) -> anyhow::Result<Option<Content>> {
    let Some(text) = text else { return Ok(None) };
    let error = match document::read(&text) {
        Ok(content) => return Ok(Some(content)),
        Err(error) => error,
    };
    let fix = match store.previous().await {
        Some((place, text)) if document::read(&text).is_ok() => {
            format!("{place} is the previous checkpoint: restore it, and messages delivered since are sent again")
        }
        _ => "restore it, or set a new one by `rowmill checkpoint set`".to_owned(),
    };
    Err(anyhow!("{error:#}; {fix}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rowmill_core::binlog::{Altered, CatalogColumn};
    use rowmill_core::position::{BinlogPosition, EndMark, EventOffset, Fingerprint, PartialTransaction};

    use super::*;

    async fn open(path: &Path) -> anyhow::Result<(Checkpoint, Option<ResumePoint>)> {
        Checkpoint::open(&config::Checkpoint::File(path.to_owned())).await
    }

    async fn read(path: &Path) -> anyhow::Result<Option<ResumePoint>> {
        Checkpoint::read(&config::Checkpoint::File(path.to_owned())).await
    }

    pub(super) fn resume() -> ResumePoint {
        let position = BinlogPosition::new("binlog.000007", 1234);
        let partial =
            PartialTransaction { file: "binlog.000008".to_owned(), progress: EventOffset { event: 2000, rows: 17 } };
        let gtids = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9".parse().expect("a set");
        let end = Some(EndMark { bytes: 300, digest: 0xfedc_ba98_7654_3210 });
        let fingerprint = Some(Fingerprint { file: 0x0123_4567, end });
        ResumePoint {
            server: "uuid".into(),
            position,
            partial: Some(partial),
            gtids: Some(Arc::new(gtids)),
            fingerprint,
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/er/checkpoint.json");
        let (mut checkpoint, none) = open(&path).await.expect("a new checkpoint");
        assert_eq!(none, None);
        let earlier = ResumePoint::at("uuid", BinlogPosition::new("binlog.000007", 4));
        checkpoint.write(&earlier).await.expect("written");
        checkpoint.write(&resume()).await.expect("replaced");
        drop(checkpoint);
        assert_eq!(open(&path).await.expect("a checkpoint").1, Some(resume()));
        assert_eq!(read(&path.with_file_name("checkpoint.json.previous")).await.expect("whole"), Some(earlier));
    }

    #[tokio::test]
    async fn a_damaged_one_is_refused_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        let damage = async |expected: &str| {
            std::fs::write(&path, "{\"version\": 2").expect("damaged");
            let error = format!("{:#}", open(&path).await.expect_err("damaged"));
            assert!(error.contains("damaged") && error.contains(expected), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("still there"), "{\"version\": 2");
        };
        damage("set a new one by `rowmill checkpoint set`").await;
        std::fs::remove_file(&path).expect("removed");
        let (mut checkpoint, _) = open(&path).await.expect("new");
        checkpoint.write(&resume()).await.expect("written");
        checkpoint.write(&resume()).await.expect("replaced");
        drop(checkpoint);
        damage("checkpoint.json.previous is the previous checkpoint").await;
        std::fs::rename(path.with_file_name("checkpoint.json.previous"), &path).expect("put in its place");
        assert_eq!(open(&path).await.expect("whole").1, Some(resume()));
    }

    #[tokio::test]
    async fn one_holds_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        let (mut first, _) = open(&path).await.expect("new");
        first.write(&resume()).await.expect("written");
        let error = format!("{:#}", open(&path).await.expect_err("held"));
        assert!(error.contains(&format!("(process {} on ", std::process::id())), "{error}");
        assert_eq!(read(&path).await.expect("anyone may"), Some(resume()));
        // The lock file is removed: the holder locks it again at its next write.
        let lock = path.with_file_name("checkpoint.json.lock");
        std::fs::remove_file(&lock).expect("removed");
        first.write(&resume()).await.expect("written");
        let error = format!("{:#}", open(&path).await.expect_err("held again"));
        assert!(error.contains("another rowmill holds it"), "{error}");
        // A second process acquires the checkpoint first: the first one has lost it.
        std::fs::remove_file(&lock).expect("removed");
        let (mut second, _) = open(&path).await.expect("let in");
        let error = format!("{:#}", first.write(&resume()).await.expect_err("out"));
        assert!(error.contains("another rowmill holds it"), "{error}");
        second.write(&resume()).await.expect("written");
        drop(second);
        let error = format!("{:#}", first.write(&resume()).await.expect_err("out"));
        assert!(error.contains("another rowmill acquired it: its epoch is 2, this one's is 1"), "{error}");
    }

    /// Versions of tables are forgotten with each checkpoint, also after the history could not be written.
    #[tokio::test]
    async fn a_schema_history_that_cannot_be_written_does_not_grow() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        std::fs::create_dir_all(path.with_file_name("checkpoint.json.schema-history/in-the-way")).expect("a directory");
        let (mut checkpoint, _) = open(&path).await.expect("new");
        let schemas = checkpoint.schema_history("uuid", &TablePatterns::default()).await.expect("new");
        let at = |offset| BinlogPosition::new("binlog.000001", offset);
        let rename = Altered::of_statement("ALTER TABLE t RENAME COLUMN a TO b").expect("it alters");
        for offset in [100, 200] {
            schemas.learn("shop", "t", at(offset), Vec::new());
            schemas.alter(&at(offset + 50), &rename);
            assert!(schemas.columns("shop", "t", &at(offset)).is_some());
            checkpoint.write(&ResumePoint::at("uuid", at(offset + 60))).await.expect("written without the history");
            assert!(schemas.columns("shop", "t", &at(offset)).is_none(), "no row before the checkpoint comes again");
        }
    }

    #[tokio::test]
    async fn the_schema_history_is_of_the_checkpoint_that_needs_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint.json");
        let history = path.with_file_name("checkpoint.json.schema-history");
        let all = TablePatterns::default();
        let columns = |name: &str| {
            let (name, column_type) = (name.to_owned(), "int".to_owned());
            vec![CatalogColumn { name, column_type, charset: None, key_position: None, is_hidden: false }]
        };
        let resume = ResumePoint { gtids: None, ..resume() };
        let at = &resume.position;
        let is_known = async || {
            let (mut checkpoint, _) = open(&path).await.expect("whole");
            let schemas = checkpoint.schema_history("uuid", &all).await.expect("asked");
            schemas.columns("shop", "t", at).is_some()
        };

        let (mut checkpoint, _) = open(&path).await.expect("new");
        let schemas = checkpoint.schema_history("uuid", &all).await.expect("new");
        checkpoint.write(&resume).await.expect("written");
        assert!(!history.exists(), "nothing was looked up");
        schemas.learn("shop", "t", at.clone(), columns("a"));
        checkpoint.write(&resume).await.expect("written");
        let (first, first_checkpoint) = (std::fs::read(&history).expect("there"), std::fs::read(&path).expect("there"));
        drop(checkpoint);
        assert!(is_known().await);

        // A later process reads the history, and writes it under its own ID before its first checkpoint.
        let (mut checkpoint, _) = open(&path).await.expect("whole");
        checkpoint.schema_history("uuid", &all).await.expect("read");
        checkpoint.write(&resume).await.expect("written");
        drop(checkpoint);
        assert!(is_known().await);
        let (second, second_checkpoint) =
            (std::fs::read(&history).expect("there"), std::fs::read(&path).expect("there"));
        // The process may have been stopped between the two writes.
        std::fs::write(&path, &first_checkpoint).expect("put back");
        assert!(is_known().await, "the checkpoint that it resumed from needs it, too");
        // A history and a checkpoint that do not belong together.
        std::fs::write(&path, &second_checkpoint).expect("put back");
        std::fs::write(&history, first).expect("put back");
        assert!(!is_known().await);
        std::fs::write(&history, second).expect("put back");
        assert!(is_known().await);
        let (mut checkpoint, _) = open(&path).await.expect("whole");
        checkpoint.write(&resume).await.expect("`checkpoint set` writes it without");
        drop(checkpoint);
        assert!(!is_known().await);
    }
}
