//! Where the checkpoint is stored: `[checkpoint]`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::secret::{ServerOptions, password_of_environment};
use super::server_url::server;
use super::text::Text;
use super::tls::{self, Tls, TlsTable};

/// Where the checkpoint is stored.
#[derive(Debug, Clone)]
pub enum Checkpoint {
    /// In a file.
    File(PathBuf),
    /// In a row of a database's table.
    MySql(MySqlCheckpoint),
}

/// A row of a table in a MySQL or MariaDB database.
#[derive(Debug, Clone)]
pub struct MySqlCheckpoint {
    /// Connection options of the server, with user, password and database.
    pub options: ServerOptions,
    /// The server's URL without the password, for logs and errors.
    pub address: String,
    /// TLS of the connections to the server.
    pub tls: Tls,
    /// The table, which is created if it does not exist.
    pub table: String,
    /// The name of the row.
    pub name: String,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self::File(PATH_DEFAULT.into())
    }
}

impl Checkpoint {
    /// Returns a path on this machine's disk, beside a checkpoint file, for data that can be made again.
    pub(super) fn sibling(&self, name: &str) -> PathBuf {
        match self {
            Self::File(path) => path.with_file_name(name),
            Self::MySql(_) => Path::new(PATH_DEFAULT).with_file_name(name),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointTable {
    #[serde(default)]
    r#type: CheckpointType,
    path: Option<Text>,
    url: Option<Text>,
    password: Option<Text>,
    table: Option<Text>,
    name: Option<Text>,
    tls: Option<TlsTable>,
}

#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum CheckpointType {
    #[default]
    File,
    Mysql,
}

const PATH_DEFAULT: &str = "state/checkpoint.json";
const TABLE_DEFAULT: &str = "rowmill_checkpoints";
const NAME_DEFAULT: &str = "rowmill";
const PASSWORD_VARIABLE: &str = "ROWMILL_CHECKPOINT_PASSWORD";

pub(super) fn checkpoint(table: CheckpointTable) -> Result<Checkpoint, String> {
    let CheckpointTable { r#type, path, url, password, table, name, tls } = table;
    if r#type == CheckpointType::File {
        let of_mysql = [("url", &url), ("password", &password), ("table", &table), ("name", &name)];
        if let Some((key, _)) = of_mysql.into_iter().find(|(_, value)| value.is_some()) {
            return Err(format!("checkpoint: `{key}` needs `type = \"mysql\"`; a file has only a `path`"));
        }
        if tls.is_some() {
            return Err("checkpoint: `tls` needs `type = \"mysql\"`; a file has only a `path`".to_owned());
        }
        return Ok(Checkpoint::File(path.map_or_else(|| PATH_DEFAULT.into(), |Text(path)| path.into())));
    }
    if path.is_some() {
        return Err("checkpoint: `path` is not supported with `type = \"mysql\"`; set `url`".to_owned());
    }
    let Text(url) = url.ok_or("checkpoint: `type = \"mysql\"` needs a `url`, as `mysql://user@host:3306/database`")?;
    let password = password.map(|Text(password)| password).or_else(|| password_of_environment(PASSWORD_VARIABLE));
    let (options, address) = server("checkpoint.url", &url, password.as_deref())?;
    if options.db_name().is_none_or(str::is_empty) {
        return Err("checkpoint.url names no database; write `mysql://user@host:3306/database`".to_owned());
    }
    let or = |given: Option<Text>, default: &str| given.map_or_else(|| default.to_owned(), |Text(given)| given);
    let (table, name) = (or(table, TABLE_DEFAULT), or(name, NAME_DEFAULT));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if table.is_empty() || table.len() > 64 || !table.chars().all(is_plain) {
        return Err(format!("checkpoint.table `{table}` must be 1 to 64 letters, digits and underscores"));
    }
    if name.is_empty() || name.chars().count() > 64 {
        return Err(format!("checkpoint.name `{name}` must be 1 to 64 characters"));
    }
    let tls = tls::tls("checkpoint.tls", tls.unwrap_or_default())?;
    Ok(Checkpoint::MySql(MySqlCheckpoint { options, address, tls, table, name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(table: &str) -> Result<Checkpoint, String> {
        checkpoint(toml::from_str(table).expect("TOML"))
    }

    #[test]
    fn checkpoints_are_files_or_rows() {
        let checkpoint =
            parse("type = \"mysql\"\nurl = \"mysql://me:secret@db:3307/state\"\nname = \"orders\"").expect("valid");
        let Checkpoint::MySql(checkpoint) = checkpoint else { panic!("{checkpoint:?}") };
        assert_eq!(checkpoint.address, "mysql://me@db:3307");
        assert_eq!((checkpoint.table.as_str(), checkpoint.name.as_str()), (TABLE_DEFAULT, "orders"));
        for (table, words) in [
            ("url = \"mysql://me@db/state\"", "`url` needs `type"),
            ("type = \"mysql\"", "needs a `url`"),
            ("type = \"mysql\"\nurl = \"mysql://me@db\"", "names no database"),
            ("type = \"mysql\"\npath = \"x\"", "`path` is not supported"),
            ("type = \"mysql\"\nurl = \"mysql://me@db/state\"\ntable = \"a`b\"", "letters, digits"),
        ] {
            let error = parse(table).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }
}
