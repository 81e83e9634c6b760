//! Where messages go: `[sink.NAME]` and `[[route]]`.

use std::path::PathBuf;

use rowmill_core::batch::Operation;
use rowmill_core::envelope::{Escaping, Format};
use rowmill_core::route::{GroupTemplate, TableTemplate};
use serde::Deserialize;

use super::error;
use super::quantity::Quantity;
use super::tables::TablePatterns;
use super::text::Text;

/// Where messages go.
#[derive(Debug)]
pub struct Sink {
    /// What routes and transforms call it.
    pub name: String,
    /// How a row is written as a message's body.
    pub format: Format,
    /// What it is.
    pub kind: SinkKind,
}

/// What a sink is.
#[derive(Debug)]
pub enum SinkKind {
    /// An SQS queue.
    Sqs(Box<Queue>),
    /// Standard output, a message a line.
    Stdout,
    /// A file, a message a line.
    File {
        /// The file, which is appended to.
        path: PathBuf,
    },
    /// Nowhere.
    Null,
}

/// An SQS queue, or one for each table.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its URL.
    pub url: TableTemplate,
    /// The region; by default the queue URL's, or the AWS default chain's.
    pub region: Option<String>,
    /// Another endpoint than AWS's: a local server.
    pub endpoint_url: Option<String>,
    /// The role to use it by, of its account or another.
    pub role: Option<Role>,
    /// What becomes of a message that it refuses for what it is.
    pub on_error: OnError,
    /// What its messages say beside their bodies.
    pub attributes: Vec<Attribute>,
    /// Whether rows that wait leave several in one message.
    pub aggregation: Option<Aggregation>,
    /// Where the bodies of messages go that are larger than the queue takes.
    pub large_messages: Option<LargeMessages>,
}

/// Several rows in one message: of one table and one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregation {
    /// How they stand in it.
    pub form: AggregateForm,
    /// Bytes of a message at most, before it is compressed. What the queue takes is less, maybe.
    pub bytes: usize,
    /// By what it is compressed.
    pub compression: Option<Compression>,
}

/// By what messages are compressed: they are base64 then.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

/// A bucket of S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeMessages {
    /// The bucket's name.
    pub bucket: String,
    /// What the keys begin with.
    pub prefix: String,
    /// Another endpoint than AWS's: a local server.
    pub endpoint_url: Option<String>,
}

/// How rows stand in a message.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AggregateForm {
    /// A JSON array, of one row as well.
    Array,
    /// A row a line.
    Ndjson,
}

/// A request of 64 KiB or less costs as one; a larger one as several.
const AGGREGATE_BYTES_DEFAULT: usize = 64 << 10;
/// What mostly is 64 KiB when it's compressed and base64.
const AGGREGATE_BYTES_COMPRESSED_DEFAULT: usize = 512 << 10;

/// A role of IAM.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its ARN.
    pub arn: String,
    /// What the role's trust asks for, where it does.
    pub external_id: Option<String>,
}

/// What becomes of a message that a queue refuses for what it is (too large, say), and of a change that can't be decoded.
#[derive(Debug, Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The engine stops; the checkpoint is before it.
    #[default]
    Halt,
    /// It goes to the sink of dead letters, and what is after it goes on.
    DeadLetter,
}

/// A message attribute: its name is as it is written here.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// `shop.orders`
    Table,
    /// `insert`, `update` or `delete`.
    Operation,
    /// Where the change is in the binlog: file, position, and row of the event at that position.
    Position,
    /// `application/json`
    ContentType,
    /// The trace that the change is of, by W3C's Trace Context: what the row has in its column `traceparent`.
    Traceparent,
}

impl Sink {
    /// What its messages say beside their bodies.
    pub fn attributes(&self) -> &[Attribute] {
        if let SinkKind::Sqs(queue) = &self.kind { &queue.attributes } else { &[] }
    }

    /// How its messages' bodies are kept: of what is compressed, as they are.
    pub fn escaping(&self) -> Escaping {
        match &self.kind {
            SinkKind::Sqs(queue) if queue.aggregation.is_none_or(|aggregation| aggregation.compression.is_none()) => {
                Escaping::Escaped
            }
            _ => Escaping::Plain,
        }
    }

    /// Of what its queue's URL is made, where it has one for each table.
    pub fn queue_of_table(&self) -> Option<&TableTemplate> {
        let SinkKind::Sqs(queue) = &self.kind else { return None };
        Some(&queue.url).filter(|url| url.fixed().is_none())
    }
}

impl std::fmt::Display for SinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqs(queue) => match queue.url.fixed() {
                Some(url) => write!(f, "the queue {url} is there"),
                None => write!(f, "the queues {}: looked up when a table's first message comes", queue.url),
            },
            Self::Stdout => f.write_str("standard output"),
            Self::File { path } => write!(f, "the file {} can be written", path.display()),
            Self::Null => f.write_str("nowhere"),
        }
    }
}

/// Which sink a table's rows go to.
#[derive(Debug)]
pub struct Route {
    /// The tables.
    pub tables: TablePatterns,
    /// What happened to the rows. `None`: whatever it was.
    operations: Option<Vec<RouteOperation>>,
    /// The sink's index in [`Config::sinks`](super::Config::sinks).
    pub sink: usize,
    /// The message group. `None`: the default, where there must be one.
    pub group: Option<GroupTemplate>,
}

impl Route {
    /// Whether it is for a row of this table to which this happened.
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
            (Self::Insert, Operation::Insert) | (Self::Update, Operation::Update) | (Self::Delete, Operation::Delete)
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
struct LargeMessagesTable {
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

/// # Errors
/// If it says what can't be meant.
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
        if given { Err(format!("sink.{name}: `{key}` means nothing for a sink of this type")) } else { Ok(()) }
    };
    if r#type != SinkType::Sqs {
        refuse(queue_url.is_some(), "queue_url")?;
        refuse(region.is_some(), "region")?;
        refuse(endpoint_url.is_some(), "endpoint_url")?;
        refuse(role_arn.is_some(), "role_arn")?;
        refuse(on_error.is_some(), "on_error")?;
        refuse(attributes.is_some(), "attributes")?;
        refuse(aggregate.is_some(), "aggregate")?;
        refuse(large_messages.is_some(), "large_messages")?;
    }
    if r#type != SinkType::File {
        refuse(path.is_some(), "path")?;
    }
    if external_id.is_some() && role_arn.is_none() {
        return Err(format!("sink.{name}: `external_id` is a role's: it needs a `role_arn`"));
    }
    for (key, is_given) in
        [("aggregate_max_bytes", aggregate_max_bytes.is_some()), ("compression", compression.is_some())]
    {
        if is_given && aggregate.is_none() {
            return Err(format!("sink.{name}: `{key}` means nothing without `aggregate`"));
        }
    }
    let bytes = match aggregate_max_bytes {
        None => compression.map_or(AGGREGATE_BYTES_DEFAULT, |_| AGGREGATE_BYTES_COMPRESSED_DEFAULT),
        Some(quantity) => quantity.bytes().ok_or_else(|| {
            format!("sink.{name}: write `aggregate_max_bytes` as a number of bytes or a text as \"64KiB\"")
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

/// Where a sink is among all that takes what isn't a table's; `key` says where it is named.
pub(super) fn index_of_sink_for_all(key: &str, name: &str, sinks: &[Sink]) -> Result<usize, String> {
    let index = sink_index(key, name, sinks)?;
    match sinks[index].queue_of_table() {
        Some(url) => {
            Err(format!("{key}: the sink `{name}` has a queue for each table ({url}); name one with one queue"))
        }
        None => Ok(index),
    }
}

/// Where a sink is among all; `key` says where it is named.
pub(super) fn sink_index(key: &str, name: &str, sinks: &[Sink]) -> Result<usize, String> {
    sinks.iter().position(|sink| sink.name == name).ok_or_else(|| {
        let nearest = error::nearest(name, sinks.iter().map(|sink| sink.name.as_str()));
        format!("{key}: there is no sink `{name}`{nearest}")
    })
}

/// # Errors
/// If one names a sink that isn't there, or its group can't be read.
pub(super) fn routes(tables: Vec<RouteTable>, sinks: &[Sink]) -> Result<Vec<Route>, String> {
    // With a single sink there is nothing to choose.
    if let ([], [_]) = (&tables[..], sinks) {
        return Ok(vec![Route { tables: TablePatterns::default(), operations: None, sink: 0, group: None }]);
    }
    let route = |RouteTable { tables, operations, sink: Text(name), group }| {
        let sink = sink_index("route", &name, sinks)?;
        let template = |Text(template): Text| {
            GroupTemplate::parse(&template).map_err(|error| format!("route: group = \"{template}\": {error}"))
        };
        if operations.as_ref().is_some_and(Vec::is_empty) {
            return Err(format!("route: `operations` of the route to `{name}` is empty: nothing would take it"));
        }
        Ok(Route { tables, operations, sink, group: group.map(template).transpose()? })
    };
    tables.into_iter().map(route).collect()
}
