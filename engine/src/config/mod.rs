//! The configuration file: TOML, in which unknown keys are refused and `${VAR}` stands for an
//! environment variable.

mod checkpoint;
mod error;
mod quantity;
mod secret;
mod sinks;
mod tables;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowmill_core::gtid::GtidSet;
use rowmill_core::position::BinlogPosition;
use serde::Deserialize;

pub use error::ConfigError;
pub(crate) use error::toml_fault;
pub(crate) use quantity::Quantity;
pub use secret::{Secret, ServerOptions};
pub use sinks::{
    Attribute, Compression, LargeMessages, OnError, PackForm, Packing, Queue, Role, Route, Sink, SinkKind,
};
pub use tables::{NameCase, TablePatterns};

use crate::ack::Cost;
pub use crate::source::tls::Tls;
use crate::source::tls::TlsMode;
pub use checkpoint::{Checkpoint, MySqlCheckpoint};
use text::Text;

/// A configuration that makes sense in itself.
#[derive(Debug)]
pub struct Config {
    /// Where changes come from.
    pub source: Source,
    /// Where the progress is kept.
    pub checkpoint: Checkpoint,
    /// The transforms.
    pub plugins: Plugins,
    /// Where messages go, in the order of their names.
    pub sinks: Vec<Sink>,
    /// Which of them get what.
    pub destinations: Destinations,
    /// How much may be on its way.
    pub in_flight: InFlight,
    /// Warnings about the configuration.
    pub notes: Vec<String>,
    /// How long a stop may take: what isn't delivered by then is sent again at the next start.
    pub shutdown_timeout: Duration,
}

/// The transforms, and what they run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// Where they are. `None`: there are none.
    pub directory: Option<PathBuf>,
    /// Where their compiled code is kept.
    pub cache: PathBuf,
    /// How many threads run them.
    pub threads: usize,
}

/// Which sinks get what: indexes in [`Config::sinks`].
#[derive(Debug, Default)]
pub struct Destinations {
    /// Which tables go to which sink; the first that matches counts.
    pub routes: Vec<Route>,
    /// The sink that schema changes go to. `None`: nobody is told of them.
    pub schema_changes: Option<usize>,
    /// The sink that changes and messages go to that can't be decoded, transformed or delivered, if the user wants that.
    pub dead_letters: Option<usize>,
}

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

/// How much may be between the binlog and a durable checkpoint: full, the reading stops. It is also
/// what may be delivered twice after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Rows.
    pub rows: u32,
    /// Bytes of packed rows.
    pub bytes: u32,
}

impl InFlight {
    /// As batches cost it.
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTable {
    url: Text,
    password: Option<Text>,
    password_file: Option<Text>,
    server_id: Option<u32>,
    name: Option<Text>,
    tables: Option<TablePatterns>,
    on_error: Option<OnError>,
    start: Option<Text>,
    tls: Option<TlsTable>,
    #[serde(default)]
    failover: Vec<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    mode: Option<TlsMode>,
    ca: Option<Text>,
    cert: Option<Text>,
    key: Option<Text>,
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
    rows: Option<u32>,
    bytes: Option<u32>,
}

/// Less than what Docker waits for before it kills.
const SHUTDOWN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(8);
const PLUGINS_DEFAULT: &str = "plugins";
/// Beside the checkpoint.
const PLUGINS_CACHE_DEFAULT: &str = "plugins-cache";
const PLUGINS_THREADS_DEFAULT_MAX: usize = 4;
const PASSWORD_VARIABLE: &str = "ROWMILL_SOURCE_PASSWORD";

impl Config {
    /// Reads a configuration file. Paths in it are relative to the working directory.
    ///
    /// # Errors
    /// If it can't be read, or says something that can't be meant.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_by(path, Self::parse)
    }

    fn load_by(path: &Path, parse: impl FnOnce(&str) -> Result<Self, String>) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        parse(&text).map_err(|fault| ConfigError::Invalid { path: path.to_owned(), fault })
    }

    /// The same, for what delivers nothing: there may be no sinks.
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
        let mut file: File = toml::from_str(text).map_err(|error| toml_fault(text, &error))?;
        if !needs_sinks && file.sink.is_empty() {
            (file.route, file.schema_changes, file.dead_letter) = Default::default();
            file.source.on_error = None;
        }
        let sinks =
            file.sink.into_iter().map(|(name, table)| sinks::sink(name, table)).collect::<Result<Vec<_>, _>>()?;
        if sinks.is_empty() && needs_sinks {
            return Err("there is no sink: add `[sink.NAME]` with a `type`".to_owned());
        }
        let routes = sinks::routes(file.route, &sinks)?;
        let named = |key: &str, table: Option<SinkNameTable>| {
            table.map(|table| sinks::index_of_sink_for_all(key, &table.sink.0, &sinks)).transpose()
        };
        let mut destinations = Destinations {
            routes,
            schema_changes: named("schema_changes", file.schema_changes)?,
            dead_letters: named("dead_letter", file.dead_letter)?,
        };
        let dead_letters = destinations.dead_letters;
        for (index, Sink { name, kind, .. }) in sinks.iter().enumerate() {
            let makes_them = matches!(kind, SinkKind::Sqs(queue) if queue.on_error == OnError::DeadLetter);
            if makes_them && dead_letters.is_none_or(|dead_letters| dead_letters == index) {
                return Err(format!(
                    "sink.{name}: on_error = \"dead-letter\" needs another sink for them: `[dead_letter]` with a `sink`"
                ));
            }
        }
        let default = InFlight::default();
        let in_flight = file.in_flight.map_or(default, |table| InFlight {
            rows: table.rows.unwrap_or(default.rows),
            bytes: table.bytes.unwrap_or(default.bytes),
        });
        if in_flight.rows == 0 || in_flight.bytes == 0 {
            return Err("in_flight: `rows` and `bytes` must be more than 0, or nothing ever moves".to_owned());
        }
        let shutdown_timeout = match file.shutdown_timeout {
            None => SHUTDOWN_TIMEOUT_DEFAULT,
            Some(quantity) => quantity.duration().ok_or("shutdown_timeout: write a text as \"8s\"")?,
        };
        let checkpoint = file.checkpoint.map_or_else(|| Ok(Checkpoint::default()), checkpoint::checkpoint)?;
        let mut notes = Vec::new();
        let source = source(file.source, destinations.schema_changes.is_some(), &mut notes)?;
        if source.on_error == OnError::DeadLetter && dead_letters.is_none() {
            return Err(
                "source: on_error = \"dead-letter\" needs a sink for them: `[dead_letter]` with a `sink`".to_owned()
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

fn plugins(table: PluginsTable, checkpoint: &Checkpoint) -> Result<Plugins, String> {
    let PluginsTable { dir, cache, threads } = table;
    if threads == Some(0) {
        return Err("plugins: at least one of `threads` is needed".to_owned());
    }
    let threads_there = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plugins {
        directory: match dir {
            Some(Text(dir)) => Some(dir.into()),
            None => Some(PathBuf::from(PLUGINS_DEFAULT)).filter(|dir| dir.is_dir()),
        },
        cache: match cache {
            Some(Text(cache)) => cache.into(),
            None => checkpoint.beside(PLUGINS_CACHE_DEFAULT),
        },
        threads: threads.unwrap_or(threads_there.min(PLUGINS_THREADS_DEFAULT_MAX)),
    })
}

fn source(table: SourceTable, schema_changes: bool, notes: &mut Vec<String>) -> Result<Source, String> {
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
        tls: tls_of("source.tls", tls.unwrap_or_default())?,
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

/// A server by its URL, and as users may see it. The password in the URL counts only where there is no
/// other.
fn server(key: &str, url: &str, password: Option<&str>) -> Result<(ServerOptions, String), String> {
    if has_raw_separator(url) {
        return Err(format!(
            "{key}: a `/`, `?` or `#` in the user's name or password is percent-encoded in a URL: `%2F`, `%3F`, `%23`; a password \
             may also stand in `password_file`"
        ));
    }
    let (url, zone) = without_zone(url);
    // The driver's own messages may repeat the URL, and with it the password.
    let options = mysql_async::Opts::from_url(&url).map_err(|_| {
        format!(
            "{key} isn't a MySQL URL: write `mysql://user@host:3306`, special characters percent-encoded, an IPv6 address \
             within brackets"
        )
    })?;
    // In a URL an IPv6 address has brackets, which are no part of it.
    let host = options.ip_or_hostname().trim_start_matches('[').trim_end_matches(']').to_owned();
    let host = zone.map_or_else(|| host.clone(), |zone| format!("{host}%{zone}"));
    // A socket is used if it's asked for, never because the server has one.
    let mut builder = mysql_async::OptsBuilder::from_opts(options).ip_or_hostname(host).prefer_socket(false);
    if let Some(password) = password {
        builder = builder.pass(Some(password));
    }
    let options = mysql_async::Opts::from(builder);
    let user = options.user().unwrap_or_default();
    let host = options.ip_or_hostname();
    let host = if host.contains(':') { format!("[{}]", host.replace('%', "%25")) } else { host.to_owned() };
    let address = format!("mysql://{user}@{host}:{}", options.tcp_port());
    Ok((options.into(), address))
}

/// Whether what separates a URL's parts stands before the `@` that ends user and password: then the host would be a piece of
/// the password.
fn has_raw_separator(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    !authority[..end].contains('@') && authority[end..].contains('@')
}

/// Takes out the zone of an IPv6 address, which says by which network a link-local one is reached:
/// `[fe80::1%25eth0]`, or as it is written elsewhere, `[fe80::1%eth0]`. What reads URLs doesn't know it.
/// <https://www.rfc-editor.org/rfc/rfc6874>
fn without_zone(url: &str) -> (Cow<'_, str>, Option<&str>) {
    let zone = || {
        let authority = url.find("://")? + 3;
        let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
        let host = url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
        let address = url[host..end].strip_prefix('[')?.split_once(']')?.0;
        let percent = host + 1 + address.find('%')?;
        Some((percent, host + 1 + address.len()))
    };
    let Some((percent, end)) = zone() else { return (url.into(), None) };
    let name = &url[percent + 1..end];
    let name = name.strip_prefix("25").unwrap_or(name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    match !name.is_empty() && name.chars().all(is_plain) {
        true => (format!("{}{}", &url[..percent], &url[end..]).into(), Some(name)),
        false => (url.into(), None),
    }
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

/// What a section says of TLS.
fn tls_of(section: &'static str, table: TlsTable) -> Result<Tls, String> {
    let TlsTable { mode, ca, cert, key } = table;
    let path = |text: Text| PathBuf::from(text.0);
    let ca = ca.map(path);
    // Who names an authority wants it to be asked.
    let mode = mode.or(ca.is_some().then_some(TlsMode::VerifyIdentity));
    if ca.is_some() && mode < Some(TlsMode::VerifyIdentity) {
        return Err(format!("{section}: `ca` is used only if `mode` is \"verify-identity\""));
    }
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((path(cert), path(key))),
        _ => return Err(format!("{section}: `cert` and `key` go together")),
    };
    Ok(Tls { section, mode, ca, identity })
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

    const SMALL: &str = "[source]\nurl = \"mysql://me@127.0.0.1:3306\"\n[sink.out]\ntype = \"null\"\n";

    fn fault(text: &str) -> String {
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
            for (before, behind) in [("me", ""), ("me:p[%40%25]q", "/state?prefer_socket=true")] {
                let (options, address_shown) =
                    server("source.url", &format!("mysql://{before}@{host}{behind}"), None).expect(host);
                assert_eq!((options.ip_or_hostname(), options.tcp_port()), (address, port), "{host}");
                assert_eq!(address_shown, format!("mysql://me@{shown}"));
                assert_eq!(options.user(), Some("me"));
                if !behind.is_empty() {
                    assert_eq!((options.pass(), options.db_name()), (Some("p[@%]q"), Some("state")));
                }
            }
        }
        for host in
            ["::1:3306", "[::1:3306", "[::1%]:3306", "[::1%25]:3306", "[fe80::1%a/b]:3306", "[fe80::1%a b]", "[x]"]
        {
            let fault = server("source.url", &format!("mysql://me:secret@{host}"), None).expect_err(host);
            assert!(fault.contains("within brackets") && !fault.contains("secret"), "{fault}");
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
        let fault = fault(&SMALL.replace("[sink", "strat = \"latest\"\n[sink"));
        assert!(fault.contains("line 3") && fault.contains("`strat`"), "{fault}");
        assert!(fault.contains("did you mean `start`?"), "{fault}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let with = |start: &str| fault(&SMALL.replace("[sink", &format!("start = \"{start}\"\n[sink")));
        assert!(with("snapshot").contains("isn't there yet"));
        assert!(with("yesterday").contains("isn't known"));
        assert!(with("binlog.000001:2").contains("isn't known"));
        assert!(fault("[source]\nurl = \"mysql://x\"\n").contains("no sink"));
        assert!(fault(&SMALL.replace("null", "sqs")).contains("queue_url"));
        assert!(fault(&format!("{SMALL}path = \"x\"")).contains("means nothing"));
        assert!(fault(&format!("{SMALL}attributes = [\"table\"]")).contains("means nothing"));
        let role = SMALL.replace("\"null\"", "\"sqs\"\nqueue_url = \"http://q/1\"\nexternal_id = \"x\"");
        assert!(fault(&role).contains("needs a `role_arn`"));
        let queue = |more: &str| fault(&SMALL.replace("\"null\"", &format!("\"sqs\"\n{more}")));
        assert!(
            queue("queue_url = \"http://q/{tabel}\"").contains("`{tabel}` isn't known: here are {schema} and {table}")
        );
        assert!(queue("queue_url = \"http://q/1\"\ncompress = \"zstd\"").contains("means nothing without `pack`"));
        let for_all = "queue_url = \"http://q/{table}\"\n[schema_changes]\nsink = \"out\"";
        assert!(queue(for_all).contains("has a queue for each table"), "{}", queue(for_all));
        let unknown = fault(&format!("{SMALL}format = \"avro\""));
        assert!(unknown.contains("line 5") && unknown.contains("maxwell"), "{unknown}");
        let none = format!("{SMALL}[[route]]\ntables = [\"a.*\"]\noperations = []\nsink = \"out\"");
        assert!(fault(&none).contains("nothing would take it"));
        let route = format!("{SMALL}[[route]]\ntables = [\"a.*\"]\nsink = \"uot\"");
        assert!(fault(&route).contains("did you mean `out`?"), "{}", fault(&route));
        assert!(fault(&format!("{SMALL}[in_flight]\nrows = 0")).contains("more than 0"));
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
        let fault = Config::parse("[source]\nurl = \"mysql://h\"\npassword = 12345678\n").expect_err("refused");
        assert_eq!(fault, "line 3: it is a whole number, and must be a text in quotes");
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
            let fault = parsed(more).expect_err("refused");
            assert!(fault.contains("needs another sink"), "{fault}");
        }
        parsed("[sink.dead]\ntype = \"null\"\n[dead_letter]\nsink = \"dead\"\n").expect("valid");
    }

    #[test]
    fn positions_are_read() {
        assert_eq!(parse_start("binlog.000042:1234"), Ok(Start::Position(BinlogPosition::new("binlog.000042", 1234))));
        let mysql = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9";
        assert_eq!(parse_start(&format!("gtid:{mysql}")), Ok(Start::Gtids(mysql.parse().expect("a set"))));
        assert!(matches!(parse_start("gtid:0-1-5"), Ok(Start::Gtids(_))));
        assert!(parse_start("gtid:abc").is_err());
        assert!(parse_start("gtid:").is_err());
    }

    #[test]
    fn a_missing_variable_is_named_and_a_password_never_shown() {
        let fault = fault(&SMALL.replace("me@", "me:${ROWMILL_TEST_NO_SUCH_VARIABLE}@"));
        assert!(fault.contains("ROWMILL_TEST_NO_SUCH_VARIABLE") && fault.contains("line 2"), "{fault}");
        let config = Config::parse(&SMALL.replace("me@", "me:secret@")).expect("valid");
        assert!(!config.source.address.contains("secret"));
    }
}
