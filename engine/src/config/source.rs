//! The server that changes are read from: `[source]`.

use std::hash::{BuildHasher, Hasher, RandomState};

use rowmill_core::gtid::GtidSet;
use rowmill_core::position::BinlogPosition;
use serde::Deserialize;

use super::secret::{ServerOptions, password_of_environment};
use super::server_url::server;
use super::sinks::OnError;
use super::tables::TablePatterns;
use super::text::Text;
use super::tls::{self, Tls, TlsTable};

const PASSWORD_VARIABLE: &str = "ROWMILL_SOURCE_PASSWORD";

/// The server that changes are read from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Connection options of the server, with user and password.
    pub options: ServerOptions,
    /// TLS of the connections to this server and those of `failover`.
    pub tls: Tls,
    /// The server's URL without the password, for logs and errors.
    pub address: String,
    /// Options and addresses of the servers to read from if this one cannot be reached, in order.
    pub failover: Vec<(ServerOptions, String)>,
    /// The engine's replica ID at the server.
    pub server_id: u32,
    /// The server's name in messages.
    pub name: String,
    /// The tables whose changes are read.
    pub tables: TablePatterns,
    /// Whether schema changes are read as well.
    pub schema_changes: bool,
    /// What happens to changes that cannot be decoded.
    pub on_error: OnError,
    /// The start point without a checkpoint.
    pub start: Start,
}

/// A start point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The oldest change that the server still has.
    Earliest,
    /// The next change.
    Latest,
    /// The transaction that begins at this position.
    Position(BinlogPosition),
    /// The first transaction that is not in this set.
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
        (Some(_), Some(_)) => return Err("source: set `password` or `password_file`, not both".to_owned()),
        (Some(Text(password)), None) => Some(password),
        (None, Some(Text(path))) => Some(
            std::fs::read_to_string(&path)
                .map_err(|error| format!("cannot read source.password_file `{path}`: {error}"))?
                .trim_end_matches(['\r', '\n'])
                .to_owned(),
        ),
        (None, None) => {
            let password = password_of_environment(PASSWORD_VARIABLE);
            let of_url = server("source.url", &url.0, None)?.0.pass().map(str::to_owned);
            if password.is_some() && of_url.is_some_and(|of_url| password != Some(of_url)) {
                notes.push(format!("{PASSWORD_VARIABLE} is used; the password in source.url differs and is ignored"));
            }
            password
        }
    };
    let (options, address) = server("source.url", &url.0, password.as_deref())?;
    let failover = failover.iter().map(|url| server("source.failover", &url.0, password.as_deref()));
    let failover = failover.collect::<Result<_, _>>()?;
    if server_id == Some(0) {
        return Err("source: `server_id` must be from 1 to 4294967295: 0 is not a replica's ID".to_owned());
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

/// Returns a random replica ID, 2147483648 or larger. A replica's ID must differ from that of every other replica of the
/// server; people choose small ones.
pub fn random_server_id() -> u32 {
    1 << 31 | RandomState::new().build_hasher().finish() as u32
}

impl Source {
    /// Returns the source of a server's URL, with the defaults of all other settings. The password is that of
    /// `ROWMILL_SOURCE_PASSWORD`, or of the URL.
    ///
    /// # Errors
    /// If the text is not the URL of a server.
    pub fn of_url(url: &str, tables: TablePatterns) -> Result<Self, String> {
        let table = SourceTable {
            url: Text(url.to_owned()),
            password: None,
            password_file: None,
            server_id: None,
            name: None,
            tables: Some(tables),
            on_error: None,
            start: None,
            tls: None,
            failover: Vec::new(),
        };
        source(table, false, &mut Vec::new())
    }

    /// Returns this source and one for each failover server: each has another server first, and the others as its failover.
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

/// Parses a start point, as written in `source.start`.
///
/// # Errors
/// If the text is not a start point.
pub fn parse_start(start: &str) -> Result<Start, String> {
    match start {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        "snapshot" => {
            return Err("source.start = \"snapshot\" is not supported yet; use \"latest\" or \"earliest\"".to_owned());
        }
        _ => {}
    }
    if let Some(gtids) = start.strip_prefix("gtid:") {
        let set: GtidSet = gtids.parse().map_err(|error| format!("source.start = \"{start}\": {error}"))?;
        if set.is_empty() {
            return Err(
                "source.start = \"gtid:\" names no transactions; use \"earliest\" for the oldest change".to_owned()
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
            "source.start = \"{start}\" is not a start point; use \"earliest\", \"latest\", \"binlog.000042:1234\" or \
             \"gtid:\" and the set of transactions to start after"
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
