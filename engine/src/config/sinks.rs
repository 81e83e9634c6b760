//! Sinks and routes: `[sink.NAME]` and `[[route]]`.

use std::path::PathBuf;

use rowmill_core::batch::Operation;
use rowmill_core::envelope::Format;
use rowmill_core::route::{GroupTemplate, TableTemplate};
use serde::Deserialize;

use super::error;
use super::quantity::Quantity;
use super::tables::TablePatterns;
use super::text::Text;

/// A sink of messages.
#[derive(Debug)]
pub struct Sink {
    /// The name that routes and transforms use for the sink.
    pub name: String,
    /// The format of a row in a message's body.
    pub format: Format,
    /// The type of sink, with its settings.
    pub kind: SinkKind,
}

/// The number of a sink: its index in [`Config::sinks`](super::Config::sinks).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkId(pub usize);

/// The type of a sink, with its settings.
#[derive(Debug)]
pub enum SinkKind {
    /// An SQS queue.
    Sqs(Box<Queue>),
    /// Standard output, one message per line.
    Stdout,
    /// A file, one message per line.
    File {
        /// The file, which is appended to.
        path: PathBuf,
    },
    /// Messages are discarded.
    Null,
}

/// An SQS queue, or one for each table.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The URL, in which placeholders stand for the row's schema and table.
    pub url: TableTemplate,
    /// The region. `None`: that of the queue's URL, or else of AWS's default chain.
    pub region: Option<String>,
    /// An endpoint other than AWS's, such as a local server.
    pub endpoint_url: Option<String>,
    /// The IAM role to assume, of this account or another.
    pub role: Option<Role>,
    /// What happens to a message that the queue rejects.
    pub on_error: OnError,
    /// The attributes of the messages.
    pub attributes: Vec<Attribute>,
    /// How rows that wait are aggregated. `None`: one row per message.
    pub aggregation: Option<Aggregation>,
    /// The bucket for bodies of messages that are larger than the queue accepts.
    pub large_messages: Option<LargeMessages>,
}

/// The aggregation of several rows, of one table and one message group, in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregation {
    /// The form of a message.
    pub form: AggregateForm,
    /// Largest size of a message before compression, in bytes. The queue's own limit may be lower.
    pub bytes: usize,
    /// The compression of a message.
    pub compression: Option<Compression>,
}

/// The compression of messages, which are base64 then.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard, RFC 8878.
    Zstd,
    /// gzip, RFC 1952.
    Gzip,
}

/// The S3 bucket for large messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeMessages {
    /// The bucket's name.
    pub bucket: String,
    /// The prefix of the objects' keys.
    pub prefix: String,
    /// An endpoint other than AWS's, such as a local server.
    pub endpoint_url: Option<String>,
}

/// The form of a message that has several rows.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AggregateForm {
    /// A JSON array, also for one row.
    Array,
    /// One row per line.
    Ndjson,
}

/// 64 KiB: AWS bills each 64 KiB of a request's payload as one request.
const AGGREGATE_BYTES_DEFAULT: usize = 64 << 10;
/// 512 KiB, which are mostly 64 KiB when compressed and base64.
const AGGREGATE_BYTES_COMPRESSED_DEFAULT: usize = 512 << 10;

/// An IAM role.
#[derive(Debug, Clone)]
pub struct Role {
    /// The role's ARN.
    pub arn: String,
    /// The external ID, where the role's trust policy asks for one.
    pub external_id: Option<String>,
}

/// What happens to a message that a queue rejects (one that is too large, for example), and to a change that cannot be decoded.
#[derive(Debug, Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The engine stops, with the checkpoint directly before the change.
    #[default]
    Halt,
    /// The sink of dead letters gets a dead letter, and delivery goes on.
    DeadLetter,
}

/// A message attribute. Its name in the configuration is the attribute's name.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// `shop.orders`
    Table,
    /// `insert`, `update` or `delete`.
    Operation,
    /// The change's position in the binlog: file, position, and the row's index in the event at that position.
    Position,
    /// `application/json`
    ContentType,
    /// The W3C Trace Context of the change: the row's value in the column `traceparent`.
    Traceparent,
}

impl Sink {
    /// Returns the attributes of the sink's messages.
    pub fn attributes(&self) -> &[Attribute] {
        if let SinkKind::Sqs(queue) = &self.kind { &queue.attributes } else { &[] }
    }

    /// Returns the template of the destination's address, a queue's URL, if there is a destination for each table.
    pub fn destination_of_table(&self) -> Option<&TableTemplate> {
        let SinkKind::Sqs(queue) = &self.kind else { return None };
        Some(&queue.url).filter(|url| url.fixed().is_none())
    }
}

impl std::fmt::Display for SinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqs(queue) => match queue.url.fixed() {
                Some(url) => write!(f, "the queue {url} exists"),
                None => write!(f, "the queues {}: each is looked up at its table's first message", queue.url),
            },
            Self::Stdout => f.write_str("standard output"),
            Self::File { path } => write!(f, "the file {} can be written", path.display()),
            Self::Null => f.write_str("discards messages"),
        }
    }
}

/// A route: the sink of certain rows.
#[derive(Debug)]
pub struct Route {
    /// The tables.
    pub tables: TablePatterns,
    /// The operations. `None`: all.
    operations: Option<Vec<RouteOperation>>,
    /// The sink.
    pub sink: SinkId,
    /// The template of the message group. `None`: the default, where the sink needs a group.
    pub group: Option<GroupTemplate>,
}

impl Route {
    /// Returns whether the route matches a row of this table with this operation.
    pub fn is_for(&self, schema: &str, table: &str, operation: Operation) -> bool {
        let is_meant = self.operations.as_ref().is_none_or(|meant| meant.iter().any(|meant| meant.is(operation)));
        is_meant && self.tables.matches(schema, table)
    }
}

#[derive(Debug, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RouteOperation {
    Insert,
    Update,
    Delete,
}

impl RouteOperation {
    fn is(self, operation: Operation) -> bool {
        matches!(
            (self, operation),
            (Self::Insert, Operation::Insert | Operation::Read)
                | (Self::Update, Operation::Update)
                | (Self::Delete, Operation::Delete)
        )
    }
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum SinkType {
    Sqs,
    Stdout,
    File,
    Null,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Debezium,
    CloudEvents,
    Maxwell,
    Row,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Debezium => Self::Debezium,
            FormatName::CloudEvents => Self::CloudEvents,
            FormatName::Maxwell => Self::Maxwell,
            FormatName::Row => Self::Row,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkTable {
    r#type: SinkType,
    format: Option<FormatName>,
    queue_url: Option<Text>,
    region: Option<Text>,
    endpoint_url: Option<Text>,
    role_arn: Option<Text>,
    external_id: Option<Text>,
    on_error: Option<OnError>,
    attributes: Option<Vec<Attribute>>,
    aggregate: Option<AggregateForm>,
    aggregate_max_bytes: Option<Quantity>,
    compression: Option<Compression>,
    large_messages: Option<LargeMessagesTable>,
    path: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LargeMessagesTable {
    bucket: Text,
    prefix: Option<Text>,
    endpoint_url: Option<Text>,
}

impl From<LargeMessagesTable> for LargeMessages {
    fn from(LargeMessagesTable { bucket: Text(bucket), prefix, endpoint_url }: LargeMessagesTable) -> Self {
        let prefix = prefix.map(|text| text.0).unwrap_or_default();
        Self { bucket, prefix, endpoint_url: endpoint_url.map(|text| text.0) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    tables: TablePatterns,
    operations: Option<Vec<RouteOperation>>,
    sink: Text,
    group: Option<Text>,
}

/// Reads a sink's table.
///
/// # Errors
/// If a key is missing, has an invalid value, or is not supported by the type of sink.
pub(super) fn sink(name: String, table: SinkTable) -> Result<Sink, String> {
    let SinkTable {
        r#type,
        format,
        queue_url,
        region,
        endpoint_url,
        role_arn,
        external_id,
        on_error,
        attributes,
        aggregate,
        aggregate_max_bytes,
        compression,
        large_messages,
        path,
    } = table;
    let refuse = |given: bool, key: &str| {
        if given { Err(format!("sink.{name}: `{key}` is not supported by a sink of this type")) } else { Ok(()) }
    };
    if r#type != SinkType::Sqs {
        refuse(queue_url.is_some(), "queue_url")?;
        refuse(region.is_some(), "region")?;
        refuse(endpoint_url.is_some(), "endpoint_url")?;
        refuse(role_arn.is_some(), "role_arn")?;
        refuse(external_id.is_some(), "external_id")?;
        refuse(on_error.is_some(), "on_error")?;
        refuse(attributes.is_some(), "attributes")?;
        refuse(aggregate.is_some(), "aggregate")?;
        refuse(aggregate_max_bytes.is_some(), "aggregate_max_bytes")?;
        refuse(compression.is_some(), "compression")?;
        refuse(large_messages.is_some(), "large_messages")?;
    }
    if r#type != SinkType::File {
        refuse(path.is_some(), "path")?;
    }
    if external_id.is_some() && role_arn.is_none() {
        return Err(format!("sink.{name}: `external_id` needs a `role_arn`"));
    }
    for (key, is_given) in
        [("aggregate_max_bytes", aggregate_max_bytes.is_some()), ("compression", compression.is_some())]
    {
        if is_given && aggregate.is_none() {
            return Err(format!("sink.{name}: `{key}` needs `aggregate`"));
        }
    }
    let bytes = match aggregate_max_bytes {
        None => compression.map_or(AGGREGATE_BYTES_DEFAULT, |_| AGGREGATE_BYTES_COMPRESSED_DEFAULT),
        Some(quantity) => quantity.bytes().ok_or_else(|| {
            format!("sink.{name}: write `aggregate_max_bytes` as a number of bytes or as text, such as \"64KiB\"")
        })?,
    };
    let aggregation = aggregate.map(|form| Aggregation { form, bytes, compression });
    let kind = match r#type {
        SinkType::Sqs => SinkKind::Sqs(Box::new(Queue {
            url: {
                let Text(url) = queue_url.ok_or_else(|| format!("sink.{name}: an sqs sink needs a `queue_url`"))?;
                TableTemplate::parse(&url).map_err(|error| format!("sink.{name}: queue_url = \"{url}\": {error}"))?
            },
            region: region.map(|text| text.0),
            endpoint_url: endpoint_url.map(|text| text.0),
            role: role_arn.map(|Text(arn)| Role { arn, external_id: external_id.map(|text| text.0) }),
            on_error: on_error.unwrap_or_default(),
            attributes: attributes.unwrap_or_default(),
            aggregation,
            large_messages: large_messages.map(LargeMessages::from),
        })),
        SinkType::Stdout => SinkKind::Stdout,
        SinkType::File => {
            SinkKind::File { path: path.ok_or_else(|| format!("sink.{name}: a file sink needs a `path`"))?.0.into() }
        }
        SinkType::Null => SinkKind::Null,
    };
    Ok(Sink { name, format: format.map(Format::from).unwrap_or_default(), kind })
}

/// Returns the ID of a sink for messages that belong to no table. `key` is the setting that names the sink.
///
/// # Errors
/// If there is no such sink, or if it has a queue for each table.
pub(super) fn sink_for_all_tables(key: &str, name: &str, sinks: &[Sink]) -> Result<SinkId, String> {
    let id = sink_id(key, name, sinks)?;
    match sinks[id.0].destination_of_table() {
        Some(url) => {
            Err(format!("{key}: the sink `{name}` has a queue for each table ({url}); name a sink with a single queue"))
        }
        None => Ok(id),
    }
}

/// Returns the ID of a sink. `key` is the setting that names the sink.
///
/// # Errors
/// If there is no such sink.
pub(super) fn sink_id(key: &str, name: &str, sinks: &[Sink]) -> Result<SinkId, String> {
    sinks.iter().position(|sink| sink.name == name).map(SinkId).ok_or_else(|| {
        let nearest = error::nearest(name, sinks.iter().map(|sink| sink.name.as_str()));
        format!("{key}: there is no sink `{name}`{nearest}")
    })
}

/// Reads the routes.
///
/// # Errors
/// If a route names a sink that does not exist, has an invalid group, or matches no operation.
pub(super) fn routes(tables: Vec<RouteTable>, sinks: &[Sink]) -> Result<Vec<Route>, String> {
    // Without routes, a single sink gets all rows.
    if let ([], [_]) = (&tables[..], sinks) {
        return Ok(vec![Route { tables: TablePatterns::default(), operations: None, sink: SinkId(0), group: None }]);
    }
    let route = |RouteTable { tables, operations, sink: Text(name), group }| {
        let sink = sink_id("route", &name, sinks)?;
        let template = |Text(template): Text| {
            GroupTemplate::parse(&template).map_err(|error| format!("route: group = \"{template}\": {error}"))
        };
        if operations.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!("route: `operations` of the route to `{name}` is empty: no row would match"));
        }
        Ok(Route { tables, operations, sink, group: group.map(template).transpose()? })
    };
    tables.into_iter().map(route).collect()
}
