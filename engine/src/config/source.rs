//! Where changes come from: `[source]`.

use std::hash::{BuildHasher, Hasher, RandomState};

use rowmill_core::gtid::GtidSet;
use rowmill_core::position::BinlogPosition;
use serde::Deserialize;

use super::secret::ServerOptions;
use super::server_url::server;
use super::sinks::OnError;
use super::tables::TablePatterns;
use super::text::Text;
use super::tls::{self, Tls, TlsTable};

const PASSWORD_VARIABLE: &str = "ROWMILL_SOURCE_PASSWORD";

/// Where changes come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The server, with user and password.
    pub options: ServerOptions,
    /// How the connections are secured.
    pub tls: Tls,
    /// The server as users may see it: without the password.
    pub address: String,
    /// Servers that take its place, as the two above.
    pub failover: Vec<(ServerOptions, String)>,
    /// What this replica calls itself to the server.
    pub server_id: u32,
    /// What the envelope calls the server.
    pub name: String,
    /// Which tables' changes are read.
    pub tables: TablePatterns,
    /// Whether schema changes are read as well.
    pub schema_changes: bool,
    /// What becomes of changes that can't be decoded.
    pub on_error: OnError,
    /// Where to begin without a checkpoint.
    pub start: Start,
}

/// Where to begin without a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With the oldest change that the server still has.
    Earliest,
    /// With the next change.
    Latest,
    /// With the transaction that begins here.
    Position(BinlogPosition),
    /// With the first transaction that isn't in this set.
    Gtids(GtidSet),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    url: Text,
    password: Option<Text>,
    password_file: Option<Text>,
    server_id: Option<u32>,
    name: Option<Text>,
    tables: Option<TablePatterns>,
    pub(super) on_error: Option<OnError>,
    start: Option<Text>,
    tls: Option<TlsTable>,
    #[serde(default)]
    failover: Vec<Text>,
}

pub(super) fn source(table: SourceTable, schema_changes: bool, notes: &mut Vec<String>) -> Result<Source, String> {
    let SourceTable { url, password, password_file, server_id, name, tables, on_error, start, tls, failover } = table;
    let password = match (password, password_file) {
        (Some(_), Some(_)) => return Err("source: give `password` or `password_file`, not both".to_owned()),
        (Some(Text(password)), None) => Some(password),
        (None, Some(Text(path))) => Some(
            std::fs::read_to_string(&path)
                .map_err(|error| format!("source.password_file `{path}` can't be read: {error}"))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        ),
        (None, None) => {
            let password = std::env::var(PASSWORD_VARIABLE).ok();
            let of_url = server("source.url", &url.0, None)?.0.pass().map(str::to_owned);
            if password.is_some() && of_url.is_some_and(|of_url| password != Some(of_url)) {
                notes
                    .push(format!("the password is {PASSWORD_VARIABLE}'s, and the other one in source.url isn't used"));
            }
            password
        }
    };
    let (options, address) = server("source.url", &url.0, password.as_deref())?;
    let failover = failover.iter().map(|url| server("source.failover", &url.0, password.as_deref()));
    let failover = failover.collect::<Result<_, _>>()?;
    if server_id == Some(0) {
        return Err("source: `server_id` must be from 1 to 4294967295: to a server 0 is no replica".to_owned());
    }
    let start = start.map_or(Ok(Start::Latest), |Text(start)| parse_start(&start))?;
    Ok(Source {
        options,
        tls: tls::tls("source.tls", tls.unwrap_or_default())?,
        address,
        failover,
        server_id: server_id.unwrap_or_else(random_server_id),
        name: name.map_or_else(|| "rowmill".to_owned(), |name| name.0),
        tables: tables.unwrap_or_default(),
        schema_changes,
        on_error: on_error.unwrap_or_default(),
        start,
    })
}

/// A replica's id must differ from every other's on the server: people choose small ones, this is a
/// large one.
pub fn random_server_id() -> u32 {
    1 << 31 | RandomState::new().build_hasher().finish() as u32
}

impl Source {
    /// This server, then those that take its place, each as the first.
    pub fn candidates(&self) -> Vec<Self> {
        let servers = std::iter::once((self.options.clone(), self.address.clone())).chain(self.failover.clone());
        let servers: Vec<_> = servers.collect();
        (0..servers.len())
            .map(|first| {
                let mut servers = servers.clone();
                servers.rotate_left(first);
                let (options, address) = servers.remove(0);
                Self { options, address, failover: servers, ..self.clone() }
            })
            .collect()
    }
}

/// Reads a place to begin, as `source.start` has it.
///
/// # Errors
/// If it isn't one.
pub fn parse_start(start: &str) -> Result<Start, String> {
    match start {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        "snapshot" => {
            return Err("source.start = \"snapshot\" isn't there yet: use \"latest\" or \"earliest\"".to_owned());
        }
        _ => {}
    }
    if let Some(gtids) = start.strip_prefix("gtid:") {
        let set: GtidSet = gtids.parse().map_err(|error| format!("source.start = \"{start}\": {error}"))?;
        if set.is_empty() {
            return Err(
                "source.start = \"gtid:\" names no transactions: use \"earliest\" to begin with the first".to_owned()
            );
        }
        return Ok(Start::Gtids(set));
    }
    let position = start.rsplit_once(':').and_then(|(file, offset)| {
        let offset = offset.parse().ok().filter(|&offset: &u64| offset >= BinlogPosition::FIRST_EVENT)?;
        (!file.is_empty()).then(|| BinlogPosition::new(file, offset))
    });
    position.map(Start::Position).ok_or_else(|| {
        format!(
            "source.start = \"{start}\" isn't known: use \"earliest\", \"latest\", \"binlog.000042:1234\" or \"gtid:\" \
             and the set of transactions to begin behind"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        assert_eq!(parse_start("binlog.000042:1234"), Ok(Start::Position(BinlogPosition::new("binlog.000042", 1234))));
        let mysql = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9";
        assert_eq!(parse_start(&format!("gtid:{mysql}")), Ok(Start::Gtids(mysql.parse().expect("a set"))));
        assert!(matches!(parse_start("gtid:0-1-5"), Ok(Start::Gtids(_))));
        assert!(parse_start("gtid:abc").is_err());
        assert!(parse_start("gtid:").is_err());
    }
}
