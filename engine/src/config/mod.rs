//! The configuration file: TOML text comes in, and a valid, consistent [`Config`] goes out. Unknown keys are rejected;
//! `${VAR}` stands for an environment variable. This module never connects to a server or a queue.

mod checkpoint;
mod error;
mod quantity;
#[cfg(test)]
pub(crate) mod reference;
mod secret;
mod server_url;
mod sinks;
mod source;
mod tables;
mod text;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowmill_pipeline::ack::Cost;
use serde::Deserialize;

pub use error::ConfigError;
pub(crate) use error::{nearest, toml_error};
pub(crate) use quantity::Quantity;
pub use secret::{Secret, ServerOptions};
pub use sinks::{
    AggregateForm, Aggregation, Attribute, Compression, LargeMessages, OnError, Queue, Role, Route, Sink, SinkId,
    SinkKind,
};
pub use tables::{NameCase, TablePatterns};
pub use tls::{Tls, TlsMode};

pub use checkpoint::{Checkpoint, MySqlCheckpoint};
pub use source::{Source, Start, parse_start, random_server_id};
use source::{SourceTable, source};
use text::Text;

/// A configuration whose values are valid and consistent.
#[derive(Debug)]
pub struct Config {
    /// The server that changes are read from.
    pub source: Source,
    /// Where the checkpoint is stored.
    pub checkpoint: Checkpoint,
    /// The transforms, and how they run.
    pub plugins: Plugins,
    /// The sinks, in the order of their names.
    pub sinks: Vec<Sink>,
    /// Which sink gets which messages.
    pub destinations: Destinations,
    /// The in-flight budget.
    pub in_flight: InFlight,
    /// Warnings about the configuration.
    pub notes: Vec<String>,
    /// Time that a stop may take. Rows that are not delivered by then are read again at the next start.
    pub shutdown_timeout: Duration,
}

/// The transforms, and how they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// The plugins directory. `None`: there are no plugins.
    pub directory: Option<PathBuf>,
    /// The directory of compiled code.
    pub cache: PathBuf,
    /// Number of threads that run transforms.
    pub threads: usize,
}

/// Which sink gets which messages.
#[derive(Debug, Default)]
pub struct Destinations {
    /// The routes of rows; the first one that matches decides.
    pub routes: Vec<Route>,
    /// The sink of schema changes. `None`: no messages are made of them.
    pub schema_changes: Option<SinkId>,
    /// The sink of dead letters: of changes that cannot be decoded or transformed, and of messages that are rejected.
    pub dead_letters: Option<SinkId>,
}

/// The in-flight budget: how much may be read and not yet covered by a durable checkpoint. When it is used up, reading stops
/// until the checkpoint advances. It also bounds what may be delivered twice after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Number of rows.
    pub rows: u32,
    /// Size of the packed rows, in bytes.
    pub bytes: u32,
}

impl InFlight {
    /// Returns the budget as a cost.
    pub fn cost(self) -> Cost {
        Cost { rows: self.rows, bytes: self.bytes }
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self { rows: 100_000, bytes: 64 << 20 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shutdown_timeout: Option<Quantity>,
    source: SourceTable,
    checkpoint: Option<checkpoint::CheckpointTable>,
    plugins: Option<PluginsTable>,
    #[serde(default)]
    sink: BTreeMap<String, sinks::SinkTable>,
    #[serde(default)]
    route: Vec<sinks::RouteTable>,
    schema_changes: Option<SinkNameTable>,
    dead_letter: Option<SinkNameTable>,
    in_flight: Option<InFlightTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PluginsTable {
    dir: Option<Text>,
    cache: Option<Text>,
    threads: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SinkNameTable {
    sink: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InFlightTable {
    max_rows: Option<u32>,
    max_bytes: Option<Quantity>,
}

/// Less than the 10 s that Docker waits before it kills a container.
const SHUTDOWN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(8);
const PLUGINS_DEFAULT: &str = "plugins";
/// The name of the directory beside the checkpoint.
const PLUGINS_CACHE_DEFAULT: &str = "plugins-cache";
const PLUGINS_THREADS_DEFAULT_MAX: usize = 4;

impl Config {
    /// Reads a configuration file. Paths in it are relative to the working directory.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a valid configuration.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_by(path, Self::parse)
    }

    fn load_by(path: &Path, parse: impl FnOnce(&str) -> Result<Self, String>) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        parse(&text).map_err(|error| ConfigError::Invalid { path: path.to_owned(), error })
    }

    /// Reads a configuration file for a command that delivers nothing, and so needs no sinks.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_without_sinks(path: &Path) -> Result<Self, ConfigError> {
        Self::load_by(path, |text| Self::parse_by(text, false))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_by(text, true)
    }

    fn parse_by(text: &str, needs_sinks: bool) -> Result<Self, String> {
        let mut file: File = toml::from_str(text).map_err(|error| toml_error(text, &error))?;
        if !needs_sinks && file.sink.is_empty() {
            (file.route, file.schema_changes, file.dead_letter) = Default::default();
            file.source.on_error = None;
        }
        let sinks =
            file.sink.into_iter().map(|(name, table)| sinks::sink(name, table)).collect::<Result<Vec<_>, _>>()?;
        if sinks.is_empty() && needs_sinks {
            return Err("there is no sink; add `[sink.NAME]` with a `type`".to_owned());
        }
        let routes = sinks::routes(file.route, &sinks)?;
        let named = |key: &str, table: Option<SinkNameTable>| {
            table.map(|table| sinks::sink_for_all_tables(key, &table.sink.0, &sinks)).transpose()
        };
        let mut destinations = Destinations {
            routes,
            schema_changes: named("schema_changes", file.schema_changes)?,
            dead_letters: named("dead_letter", file.dead_letter)?,
        };
        let dead_letters = destinations.dead_letters;
        for (index, Sink { name, kind, .. }) in sinks.iter().enumerate() {
            let makes_them = matches!(kind, SinkKind::Sqs(queue) if queue.on_error == OnError::DeadLetter);
            if makes_them && dead_letters.is_none_or(|dead_letters| dead_letters == SinkId(index)) {
                return Err(format!(
                    "sink.{name}: on_error = \"dead-letter\" needs another sink for dead letters; set `[dead_letter]`"
                ));
            }
        }
        let in_flight = in_flight(file.in_flight)?;
        let shutdown_timeout = match file.shutdown_timeout {
            None => SHUTDOWN_TIMEOUT_DEFAULT,
            Some(quantity) => quantity.duration().ok_or("shutdown_timeout: write text with a unit, such as \"8s\"")?,
        };
        let checkpoint = file.checkpoint.map_or_else(|| Ok(Checkpoint::default()), checkpoint::checkpoint)?;
        let mut notes = Vec::new();
        let source = source(file.source, destinations.schema_changes.is_some(), &mut notes)?;
        if source.on_error == OnError::DeadLetter && dead_letters.is_none() {
            return Err(
                "source: on_error = \"dead-letter\" needs a sink for dead letters; set `[dead_letter]`".to_owned()
            );
        }
        for route in &mut destinations.routes {
            route.tables = std::mem::take(&mut route.tables).with_case(source.tables.case());
        }
        Ok(Self {
            source,
            plugins: plugins(file.plugins.unwrap_or_default(), &checkpoint)?,
            checkpoint,
            sinks,
            destinations,
            in_flight,
            shutdown_timeout,
            notes,
        })
    }
}

fn in_flight(table: Option<InFlightTable>) -> Result<InFlight, String> {
    let default = InFlight::default();
    let Some(InFlightTable { max_rows, max_bytes }) = table else { return Ok(default) };
    let rows = max_rows.unwrap_or(default.rows);
    if rows == 0 {
        return Err("in_flight: `max_rows` must be more than 0, or nothing is ever read".to_owned());
    }
    let bytes = match max_bytes {
        None => default.bytes,
        Some(quantity) => quantity.bytes().and_then(|bytes| u32::try_from(bytes).ok()).ok_or(
            "in_flight: write `max_bytes` as bytes or as text, such as \"64MiB\": more than 0, less than 4 GiB",
        )?,
    };
    Ok(InFlight { rows, bytes })
}

fn plugins(table: PluginsTable, checkpoint: &Checkpoint) -> Result<Plugins, String> {
    let PluginsTable { dir, cache, threads } = table;
    if threads == Some(0) {
        return Err("plugins: `threads` must be at least 1".to_owned());
    }
    let threads_there = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plugins {
        directory: match dir {
            Some(Text(dir)) => Some(dir.into()),
            None => Some(PathBuf::from(PLUGINS_DEFAULT)).filter(|dir| dir.is_dir()),
        },
        cache: match cache {
            Some(Text(cache)) => cache.into(),
            None => checkpoint.sibling(PLUGINS_CACHE_DEFAULT),
        },
        threads: threads.unwrap_or(threads_there.min(PLUGINS_THREADS_DEFAULT_MAX)),
    })
}

#[cfg(test)]
mod tests {
    use super::server_url::server;
    use super::*;

    const SMALL: &str = "[source]\nurl = \"mysql://me@127.0.0.1:3306\"\n[sink.out]\ntype = \"null\"\n";

    fn error(text: &str) -> String {
        Config::parse(text).expect_err("this must be refused")
    }

    #[test]
    fn a_small_configuration_has_sane_defaults() {
        let config = Config::parse(SMALL).expect("valid");
        assert_eq!(config.source.start, Start::Latest);
        assert_eq!(config.source.address, "mysql://me@127.0.0.1:3306");
        assert!(matches!(&config.checkpoint, Checkpoint::File(path) if path == Path::new("state/checkpoint.json")));
        assert_eq!(config.destinations.routes.len(), 1);
        assert_eq!(config.in_flight, InFlight::default());
    }

    #[test]
    fn addresses_of_ipv6_have_brackets_in_urls_alone() {
        for (host, address, port, shown) in [
            ("[::1]:3307", "::1", 3307, "[::1]:3307"),
            ("[2001:DB8::1]", "2001:db8::1", 3306, "[2001:db8::1]:3306"),
            ("[::ffff:10.0.0.1]:1", "::ffff:a00:1", 1, "[::ffff:a00:1]:1"),
            ("[fe80::1%25eth0]:3306", "fe80::1%eth0", 3306, "[fe80::1%25eth0]:3306"),
            ("[fe80::1%br-0.7]:3306", "fe80::1%br-0.7", 3306, "[fe80::1%25br-0.7]:3306"),
            ("127.0.0.1:3306", "127.0.0.1", 3306, "127.0.0.1:3306"),
            ("db.example.com", "db.example.com", 3306, "db.example.com:3306"),
        ] {
            for (before, after) in [("me", ""), ("me:p[%40%25]q", "/state?prefer_socket=true")] {
                let (options, address_shown) =
                    server("source.url", &format!("mysql://{before}@{host}{after}"), None).expect(host);
                assert_eq!((options.ip_or_hostname(), options.tcp_port()), (address, port), "{host}");
                assert_eq!(address_shown, format!("mysql://me@{shown}"));
                assert_eq!(options.user(), Some("me"));
                if !after.is_empty() {
                    assert_eq!((options.pass(), options.db_name()), (Some("p[@%]q"), Some("state")));
                }
            }
        }
        for host in
            ["::1:3306", "[::1:3306", "[::1%]:3306", "[::1%25]:3306", "[fe80::1%a/b]:3306", "[fe80::1%a b]", "[x]"]
        {
            let error = server("source.url", &format!("mysql://me:secret@{host}"), None).expect_err(host);
            assert!(error.contains("within brackets") && !error.contains("secret"), "{error}");
        }
        let config = Config::parse(&SMALL.replace(
            "[sink.out]",
            "failover = [\"mysql://me@[::2]:2\"]\n[checkpoint]\ntype = \"mysql\"\nurl = \"mysql://me@[::3]/state\"\n[sink.out]",
        ))
        .expect("valid");
        let (options, address) = &config.source.failover[0];
        assert_eq!((options.ip_or_hostname(), address.as_str()), ("::2", "mysql://me@[::2]:2"));
        let Checkpoint::MySql(checkpoint) = &config.checkpoint else { panic!("{:?}", config.checkpoint) };
        assert_eq!(
            (checkpoint.options.ip_or_hostname(), checkpoint.address.as_str()),
            ("::3", "mysql://me@[::3]:3306")
        );
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_one() {
        let error = error(&SMALL.replace("[sink", "strat = \"latest\"\n[sink"));
        assert!(error.contains("line 3") && error.contains("`strat`"), "{error}");
        assert!(error.contains("did you mean `start`?"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let with = |start: &str| error(&SMALL.replace("[sink", &format!("start = \"{start}\"\n[sink")));
        assert!(with("snapshot").contains("is not supported yet"));
        let of_no_table = error(&format!("{SMALL}[[route]]\ntables = []\nsink = \"out\"\n"));
        assert!(of_no_table.contains("an empty list of tables; write [\"*.*\"]"), "{of_no_table}");
        assert!(with("yesterday").contains("is not a start point"));
        assert!(with("binlog.000001:2").contains("is not a start point"));
        assert!(error("[source]\nurl = \"mysql://x\"\n").contains("no sink"));
        assert!(error(&SMALL.replace("null", "sqs")).contains("queue_url"));
        assert!(error(&format!("{SMALL}path = \"x\"")).contains("is not supported"));
        assert!(error(&format!("{SMALL}attributes = [\"table\"]")).contains("is not supported"));
        let role = SMALL.replace("\"null\"", "\"sqs\"\nqueue_url = \"http://q/1\"\nexternal_id = \"x\"");
        assert!(error(&role).contains("needs a `role_arn`"));
        let queue = |more: &str| error(&SMALL.replace("\"null\"", &format!("\"sqs\"\n{more}")));
        assert!(
            queue("queue_url = \"http://q/{tabel}\"")
                .contains("unknown placeholder `{tabel}`; available: {schema}, {table}")
        );
        assert!(queue("queue_url = \"http://q/1\"\ncompression = \"zstd\"").contains("needs `aggregate`"));
        let for_all = "queue_url = \"http://q/{table}\"\n[schema_changes]\nsink = \"out\"";
        assert!(queue(for_all).contains("has a queue for each table"), "{}", queue(for_all));
        let unknown = error(&format!("{SMALL}format = \"avro\""));
        assert!(unknown.contains("line 5") && unknown.contains("maxwell"), "{unknown}");
        let none = format!("{SMALL}[[route]]\ntables = [\"a.*\"]\noperations = []\nsink = \"out\"");
        assert!(error(&none).contains("no row would match"));
        let route = format!("{SMALL}[[route]]\ntables = [\"a.*\"]\nsink = \"uot\"");
        assert!(error(&route).contains("did you mean `out`?"), "{}", error(&route));
        assert!(error(&format!("{SMALL}[in_flight]\nmax_rows = 0")).contains("more than 0"));
    }

    #[test]
    fn a_replica_has_an_id() {
        let parsed = |id: u32| {
            Config::parse(&format!("[source]\nurl = \"mysql://h\"\nserver_id = {id}\n[sink.out]\ntype = \"null\""))
        };
        assert!(parsed(0).expect_err("refused").contains("`server_id` must be from 1"));
        assert_eq!(parsed(7).expect("valid").source.server_id, 7);
    }

    #[test]
    fn values_of_the_wrong_type_are_not_repeated() {
        let error = Config::parse("[source]\nurl = \"mysql://h\"\npassword = 12345678\n").expect_err("refused");
        assert_eq!(error, "line 3: the value is an integer, and must be a string in quotes");
    }

    #[test]
    fn changes_that_cannot_be_decoded_need_a_sink() {
        let parsed = |source: &str, more: &str| {
            Config::parse(&format!("[source]\nurl = \"mysql://h\"\n{source}\n[sink.out]\ntype = \"null\"\n{more}"))
        };
        let on_error = "on_error = \"dead-letter\"";
        assert_eq!(parsed("", "").expect("valid").source.on_error, OnError::Halt);
        assert!(parsed(on_error, "").expect_err("no sink").contains("[dead_letter]"));
        let config = parsed(on_error, "[dead_letter]\nsink = \"out\"\n").expect("valid");
        assert_eq!(config.source.on_error, OnError::DeadLetter);
        assert!(parsed("on_error = \"skip\"", "").is_err(), "nothing is dropped in silence");
    }

    #[test]
    fn dead_letters_need_another_sink() {
        let queue = "[sink.out]\ntype = \"sqs\"\nqueue_url = \"http://q/1\"\non_error = \"dead-letter\"\n";
        let base = SMALL.replace("[sink.out]\ntype = \"null\"\n", queue);
        let parsed =
            |more: &str| Config::parse(&format!("{base}{more}[[route]]\ntables = [\"*.*\"]\nsink = \"out\"\n"));
        for more in ["", "[dead_letter]\nsink = \"out\"\n"] {
            let error = parsed(more).expect_err("refused");
            assert!(error.contains("needs another sink"), "{error}");
        }
        parsed("[sink.dead]\ntype = \"null\"\n[dead_letter]\nsink = \"dead\"\n").expect("valid");
    }

    #[test]
    fn the_reference_lists_each_key() {
        use super::reference::assert_section;
        assert_section::<File>("Top level");
        assert_section::<SourceTable>("[source]");
        assert_section::<tls::TlsTable>("[source.tls]");
        assert_section::<checkpoint::CheckpointTable>("[checkpoint]");
        assert_section::<tls::TlsTable>("[checkpoint.tls]");
        assert_section::<PluginsTable>("[plugins]");
        assert_section::<sinks::SinkTable>("[sink.NAME]");
        assert_section::<sinks::LargeMessagesTable>("[sink.NAME.large_messages]");
        assert_section::<sinks::RouteTable>("[[route]]");
        assert_section::<SinkNameTable>("[schema_changes]");
        assert_section::<SinkNameTable>("[dead_letter]");
        assert_section::<InFlightTable>("[in_flight]");
    }

    #[test]
    fn a_missing_variable_is_named_and_a_password_never_shown() {
        let error = error(&SMALL.replace("me@", "me:${ROWMILL_TEST_NO_SUCH_VARIABLE}@"));
        assert!(error.contains("ROWMILL_TEST_NO_SUCH_VARIABLE") && error.contains("line 2"), "{error}");
        let config = Config::parse(&SMALL.replace("me@", "me:secret@")).expect("valid");
        assert!(!config.source.address.contains("secret"));
    }
}
