//! Makes messages of rows: chooses the sink and the message group, and writes the body.
//!
//! In: a batch after the transforms. Out: messages by sink, in binlog order. No I/O.

use std::sync::{Arc, LazyLock};

use anyhow::bail;
use base64_simd::STANDARD;
use bytes::Bytes;
use rowmill_core::ByTable;
use rowmill_core::batch::{Batch, Kind, Operation, PackedBatch, Row, Table};
use rowmill_core::binlog::{DecodeError, SchemaChange, SkippedChange, SkippedContent};
use rowmill_core::envelope::{Connector, Envelope, Format, KeyChange, SourceName};
use rowmill_core::position::BinlogPosition;
use rowmill_core::route::{GroupTemplate, TableTemplate, deduplication_id, message_id, schema_change_id, skipped_id};

use crate::ack::RowPositions;
use crate::config::{self, Attribute, Destinations, SinkId};
use crate::dead_letter::{Content, DeadLetter, Origin, Stage};
use crate::sink::{Body, Capabilities, Message};
use crate::transform::{DeadRow, Emitted, Passed, Stop, TransformError, Transformed};

/// The bytes that are reserved for a body before the first batch.
const BODY_EXPECTED: usize = 512;

/// The requirements of a sink for its messages.
#[derive(Debug, Clone)]
pub struct SinkRequirements {
    capabilities: Capabilities,
    /// The format of the bodies.
    format: Format,
    /// The message attributes to add.
    attributes: Vec<Attribute>,
    /// The template of the destination's address, where the sink has a destination for each table.
    destination: Option<TableTemplate>,
}

impl SinkRequirements {
    /// Returns the requirements of a sink with this configuration.
    pub fn new(capabilities: Capabilities, config: &config::Sink) -> Self {
        Self {
            capabilities,
            format: config.format,
            attributes: config.attributes().to_vec(),
            destination: config.destination_of_table().cloned(),
        }
    }
}

/// Makes messages of rows.
#[derive(Debug, Clone)]
pub struct Router {
    routes: Arc<[config::Route]>,
    /// The index in `routes`, by table ID and operation.
    route_of: ByTable<[Option<usize>; 4]>,
    sinks: Vec<SinkRequirements>,
    schema_change_sink: Option<SinkId>,
    dead_letter_sink: Option<SinkId>,
    /// The identity of the server whose binlog the current batch is from.
    server: Arc<str>,
    /// By sink.
    envelopes: Vec<Envelope>,
    /// Addresses by sink and table ID, where the sink has a destination for each table.
    addresses: Vec<ByTable<Arc<str>>>,
    /// The average bytes of a body in the last batch.
    body_bytes: usize,
}

/// The messages of a batch.
#[derive(Debug)]
pub struct RoutedBatch {
    /// Messages by sink, each in binlog order.
    pub by_sink: Vec<Vec<Message>>,
    /// The binlog positions of the messages' rows.
    pub places: RowPositions,
    /// The row that stops the pipeline: there are no messages of this row or of later ones.
    pub stop: Option<Stop>,
}

/// A transform's choices, which take precedence over the route's.
#[derive(Clone, Copy)]
struct Override<'a> {
    sink: Option<SinkId>,
    group: Option<&'a str>,
    deduplication_id: Option<&'a str>,
}

/// A route's choices.
struct RouteMatch<'a> {
    sink: Option<SinkId>,
    /// The message group, if the route has one.
    group: Option<&'a GroupTemplate>,
}

impl Router {
    /// Creates a router to the destinations of `config`; `sinks` has the requirements of each sink. Envelopes have `name`
    /// as the name of the source, a server of `connector`'s family.
    pub fn new(config: Destinations, sinks: Vec<SinkRequirements>, name: String, connector: Connector) -> Self {
        let Destinations { routes, schema_changes, dead_letters } = config;
        let source = SourceName { version: env!("CARGO_PKG_VERSION").to_owned(), name, connector };
        let envelopes =
            sinks.iter().map(|sink| Envelope::new(sink.format, sink.capabilities.escaping, source.clone())).collect();
        Self {
            routes: routes.into(),
            route_of: ByTable::default(),
            addresses: vec![ByTable::default(); sinks.len()],
            sinks,
            schema_change_sink: schema_changes,
            dead_letter_sink: dead_letters,
            server: "".into(),
            envelopes,
            body_bytes: BODY_EXPECTED,
        }
    }

    /// Returns a batch's messages. `server` is the identity of the server whose binlog the batch is from, `tables` are
    /// indexed by table ID, `now_us` is the wall clock in microseconds since 1970. A row without a route stops the pipeline:
    /// no row is dropped silently.
    pub fn messages(
        &mut self,
        transformed: Transformed,
        server: Arc<str>,
        tables: &[Arc<Table>],
        now_us: i64,
    ) -> RoutedBatch {
        self.server = server;
        let Transformed { packed, rows, emitted, seen, dead, skipped, mut stop, .. } = transformed;
        let batch = packed.view();
        let seen: Vec<Batch<'_>> = seen.iter().map(PackedBatch::view).collect();
        let mut out = MessageWriter::new(self.sinks.len(), rows.len(), self.body_bytes);
        let unrouted = self.write_rows(&batch, rows, emitted, &seen, tables, now_us, &mut out);
        self.body_bytes = out.bodies.len().checked_div(out.ends.len()).unwrap_or(self.body_bytes);
        let MessageWriter { mut by_sink, mut places, bodies, ends, .. } = out;
        let bodies = Bytes::from(bodies);
        let mut start = 0;
        for (sink, message, end) in ends {
            by_sink[sink.0][message].body =
                Body::new(bodies.slice(start..end), self.sinks[sink.0].capabilities.escaping);
            start = end;
        }
        if let Err(unrouted) = unrouted {
            by_sink.iter_mut().for_each(|messages| messages.retain(|message| message.row < unrouted.origin));
            stop = Some(unrouted);
        }
        let dead = dead.iter().filter(|row| stop.as_ref().is_none_or(|stop| row.origin < stop.origin));
        for row in dead {
            self.dead_letter(row, tables, now_us, &mut places, &mut by_sink);
        }
        for (origin, skipped) in skipped.iter().filter(|(row, _)| stop.as_ref().is_none_or(|stop| *row < stop.origin)) {
            self.skipped(skipped, *origin, &mut places, &mut by_sink);
        }
        if let Some(sink) = self.dead_letter_sink {
            // The sink of dead letters may get messages of rows, too.
            by_sink[sink.0].sort_by_key(|message| message.row);
        }
        RoutedBatch { by_sink, places, stop }
    }

    /// Writes the messages of rows, and adds those that transforms made, in the order of the rows.
    ///
    /// # Errors
    /// At the first row without a route; some of its messages may be in `out` already.
    #[expect(clippy::too_many_arguments)]
    fn write_rows(
        &mut self,
        batch: &Batch<'_>,
        rows: Vec<Passed>,
        emitted: Vec<Emitted>,
        seen: &[Batch<'_>],
        tables: &[Arc<Table>],
        now_us: i64,
        out: &mut MessageWriter,
    ) -> Result<(), Stop> {
        let mut emitted = emitted.into_iter().peekable();
        for Passed { row, origin, reroute } in rows {
            let (sink, group) = reroute.as_ref().map_or((None, None), |to| (to.sink, to.group.as_deref()));
            let overrides = Override { sink, group, deduplication_id: None };
            while let Some(message) = emitted.next_if(|message| message.origin <= origin) {
                self.emitted(message, seen, tables, out)?;
            }
            let row = batch.row(row);
            let table = &tables[row.table().0 as usize];
            out.places.row(origin, &row, table, batch);
            for &part in KeyChange::for_row(table, &row) {
                let output = OutputSlot { part, number: out.outputs.next(origin) };
                let ids = self.sink_and_ids(table, batch, &row, overrides, output);
                let (sink, group, deduplication_id) = ids.map_err(|error| Stop { origin, error })?;
                self.envelopes[sink.0].write(table, batch, &row, part, now_us, &mut out.bodies);
                out.ends.push((sink, out.by_sink[sink.0].len(), out.bodies.len()));
                let mut attributes = Vec::new();
                add_attributes(&self.sinks[sink.0].attributes, table, batch, &row, &mut attributes);
                let (destination, table) = (self.destination_of(sink, table), Some((table.generation, table.id)));
                let body = Body::default();
                let message = Message {
                    body,
                    group,
                    deduplication_id,
                    attributes,
                    table,
                    destination,
                    row: origin,
                    is_dead_letter: false,
                };
                out.by_sink[sink.0].push(message);
            }
        }
        for message in emitted {
            self.emitted(message, seen, tables, out)?;
        }
        Ok(())
    }

    /// Adds the dead letter of a row that a transform failed on, with the error, in the row's default message group.
    fn dead_letter(
        &mut self,
        dead: &DeadRow,
        tables: &[Arc<Table>],
        now_us: i64,
        places: &mut RowPositions,
        by_sink: &mut [Vec<Message>],
    ) {
        let sink = self.dead_letter_sink.expect("plugins that make dead letters are loaded only with a sink for them");
        let batch = dead.batch.view();
        let row = batch.row(dead.row);
        let table = &tables[row.table().0 as usize];
        let TransformError { plugin, code, message, .. } = &dead.error;
        let transaction = batch.transaction(row.transaction()).header();
        let mut change = Vec::new();
        self.envelopes[sink.0].write(table, &batch, &row, KeyChange::None, now_us, &mut change);
        let change = Body::new(change.into(), self.sinks[sink.0].capabilities.escaping);
        let (table_name, change) = (table.to_string(), change.plain());
        let letter = DeadLetter {
            stage: Stage::Transform,
            name: Some(plugin),
            code,
            error: message,
            source: Some(Origin {
                table: Some(&table_name),
                file: transaction.file,
                pos: row.event_position(),
                row: row.index_in_event(),
                event_type: None,
                gtid: transaction.gtid,
                ts_ms: (transaction.commit_time_us > 0).then_some(transaction.commit_time_us / 1000),
            }),
            destination: None,
            content: Content::Change(&change),
        };
        let body = letter.to_json();
        let group = GroupTemplate::default().group(table, &row);
        let deduplication_id = deduplication_id(&self.server, &batch, &row, u32::MAX);
        places.row(dead.origin, &row, table, &batch);
        by_sink[sink.0].push(Message {
            body: body.into(),
            group,
            deduplication_id,
            row: dead.origin,
            is_dead_letter: true,
            ..Message::default()
        });
    }

    /// Adds the dead letter of a change that cannot be decoded. Each table has one message group, and changes without a table
    /// share one.
    fn skipped(&self, skipped: &SkippedChange, origin: u32, places: &mut RowPositions, by_sink: &mut [Vec<Message>]) {
        let sink = self.dead_letter_sink.expect("undecodable changes are skipped only with a sink for dead letters");
        let SkippedChange { error, row, gtid, time_us, content, bytes } = skipped;
        let DecodeError { position: BinlogPosition { file, offset }, transaction, table, cause, .. } = &**error;
        let encoded = match content {
            SkippedContent::Statement(_) => String::new(),
            SkippedContent::Images(bytes) | SkippedContent::Event(bytes) => STANDARD.encode_to_string(bytes),
        };
        let letter = DeadLetter {
            stage: Stage::Source,
            name: None,
            code: cause.code(),
            error: &cause.to_string(),
            source: Some(Origin {
                table: table.as_deref(),
                file,
                pos: *offset,
                row: *row,
                event_type: Some(error.kind.0),
                gtid,
                ts_ms: Some(time_us / 1000),
            }),
            destination: None,
            content: match content {
                SkippedContent::Statement(statement) => Content::Statement(statement, *bytes),
                SkippedContent::Images(_) => Content::Images(&encoded, *bytes),
                SkippedContent::Event(_) => Content::Event(&encoded, *bytes),
            },
        };
        let body = letter.to_json();
        let transaction = BinlogPosition::new(file.as_str(), transaction.unwrap_or(*offset));
        places.other(origin, &transaction, *offset, *row);
        by_sink[sink.0].push(Message {
            body: body.into(),
            group: message_id(table.clone().unwrap_or_else(|| "statements".to_owned())),
            deduplication_id: skipped_id(&self.server, skipped),
            row: origin,
            is_dead_letter: true,
            ..Message::default()
        });
    }

    /// Adds a schema change's message after those of the rows. Each schema has one message group.
    ///
    /// # Panics
    /// If no sink for schema changes is configured; the decoder emits none then.
    pub fn schema_change(&self, change: &SchemaChange, server: &str, now_us: i64, routed: &mut RoutedBatch) {
        let sink = self.schema_change_sink.expect("schema changes are decoded only with a sink for them");
        let mut body = Vec::with_capacity(1024);
        self.envelopes[sink.0].write_schema_change(change, now_us, &mut body);
        let body = Body::new(body.into(), self.sinks[sink.0].capabilities.escaping);
        let group = message_id(change.schema.clone().unwrap_or_default());
        let deduplication_id = schema_change_id(server, change);
        let transaction = BinlogPosition::new(change.file.as_str(), change.transaction_position);
        routed.places.other(0, &transaction, change.event_position, 0);
        routed.by_sink[sink.0].push(Message { body, group, deduplication_id, ..Message::default() });
    }

    /// Adds a message that a transform made.
    ///
    /// # Errors
    /// If the transform names no sink, and the row has no route.
    fn emitted(
        &mut self,
        message: Emitted,
        seen: &[Batch<'_>],
        tables: &[Arc<Table>],
        out: &mut MessageWriter,
    ) -> Result<(), Stop> {
        let Emitted { batch, row, origin, sink, text, mut attributes } = message;
        let batch = &seen[batch as usize];
        let row = batch.row(row);
        let table = &tables[row.table().0 as usize];
        let output = OutputSlot { part: KeyChange::None, number: out.outputs.next(origin) };
        let overrides = Override { sink, group: text.group(), deduplication_id: text.deduplication_id() };
        let ids = self.sink_and_ids(table, batch, &row, overrides, output);
        let (sink, group, deduplication_id) = ids.map_err(|error| Stop { origin, error })?;
        add_attributes(&self.sinks[sink.0].attributes, table, batch, &row, &mut attributes);
        let (body, destination) = (text.body().into(), self.destination_of(sink, table));
        out.places.row(origin, &row, table, batch);
        let table = None; // never aggregated
        let message = Message {
            body,
            group,
            deduplication_id,
            attributes,
            table,
            destination,
            row: origin,
            is_dead_letter: false,
        };
        out.by_sink[sink.0].push(message);
        Ok(())
    }

    /// Returns the address of a table's destination, where the sink has a destination for each table.
    fn destination_of(&mut self, sink: SinkId, table: &Table) -> Option<Arc<str>> {
        let template = self.sinks[sink.0].destination.as_ref()?;
        let address = self.addresses[sink.0].entry(table).get_or_insert_with(|| template.of(table).into());
        Some(Arc::clone(address))
    }

    /// Returns the sink, the message group and the deduplication ID of one of a row's messages.
    ///
    /// # Errors
    /// If the row has no route, and the transform names no sink.
    fn sink_and_ids(
        &mut self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
        overrides: Override<'_>,
        output: OutputSlot,
    ) -> anyhow::Result<(SinkId, String, String)> {
        let RouteMatch { sink, group } = route(&self.routes, &mut self.route_of, table, row.operation());
        let Some(sink) = overrides.sink.or(sink) else {
            bail!(
                "no route for {} of table {table}: a row at {}:{} passed the transforms; add a [[route]], or exclude the \
                 table by `source.tables`",
                plural(row.operation()),
                batch.transaction(row.transaction()).header().file,
                row.event_position()
            );
        };
        static DEFAULT: LazyLock<GroupTemplate> = LazyLock::new(GroupTemplate::default);
        let is_ordered = self.sinks[sink.0].capabilities.is_ordered;
        let template = group.or(is_ordered.then_some(&DEFAULT));
        let group = match (overrides.group, output.part) {
            (Some(group), _) => message_id(group.to_owned()),
            (None, KeyChange::Delete) => template.map_or_else(String::new, |template| template.old_group(table, row)),
            (None, KeyChange::None | KeyChange::Insert) => {
                template.map_or_else(String::new, |template| template.group(table, row))
            }
        };
        if !is_ordered {
            return Ok((sink, group, String::new()));
        }
        let id = match overrides.deduplication_id {
            Some(id) => message_id(id.to_owned()),
            None => deduplication_id(&self.server, batch, row, output.number),
        };
        Ok((sink, group, id))
    }
}

fn route<'r>(
    routes: &'r [config::Route],
    route_of: &mut ByTable<[Option<usize>; 4]>,
    table: &Table,
    operation: Operation,
) -> RouteMatch<'r> {
    let known = &mut route_of.entry(table).get_or_insert_default()[usize::from(operation.code()) - 1];
    *known = known.or_else(|| routes.iter().position(|route| route.is_for(&table.schema, &table.name, operation)));
    let route = known.map(|index| &routes[index]);
    RouteMatch { sink: route.map(|route| route.sink), group: route.and_then(|route| route.group.as_ref()) }
}

/// Adds the attributes `wanted` by a sink, except those that the message already has.
fn add_attributes(
    wanted: &[Attribute],
    table: &Table,
    batch: &Batch<'_>,
    row: &Row<'_>,
    attributes: &mut Vec<(String, String)>,
) {
    for attribute in wanted {
        let (name, value) = match attribute {
            Attribute::Table => ("table", table.to_string()),
            Attribute::Operation => ("operation", format!("{:?}", row.operation()).to_lowercase()),
            Attribute::Position => {
                let (header, file) = (row.header(), batch.transaction(row.transaction()).header().file);
                ("position", format!("{file}:{}:{}", header.event_position, header.index_in_event))
            }
            Attribute::ContentType => ("content-type", "application/json".to_owned()),
            Attribute::Traceparent => match traceparent(table, row) {
                Some(trace) => ("traceparent", trace),
                None => continue,
            },
        };
        if !attributes.iter().any(|(overrides, _)| overrides == name) {
            attributes.push((name.to_owned(), value));
        }
    }
}

/// Returns a row's trace context: the text in its column `traceparent`, if it is valid.
/// <https://www.w3.org/TR/trace-context/#traceparent-header>
fn traceparent(table: &Table, row: &Row<'_>) -> Option<String> {
    let column = table.column("traceparent")?;
    let is_text = table.columns[column.0 as usize].kind == Kind::Text;
    let text = row.newest().cell(column).text().filter(|text| is_text && is_traceparent(text))?;
    Some(text.to_owned())
}

/// Returns the plural of an operation's name.
pub fn plural(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "inserts",
        Operation::Update => "updates",
        Operation::Delete => "deletes",
        Operation::Read => "rows of a snapshot",
    }
}

/// Whether a text is a `traceparent`. Any other text would be in an attribute for which a queue may reject the whole message.
fn is_traceparent(text: &str) -> bool {
    const LENGTHS: [usize; 4] = [2, 32, 16, 2];
    let mut parts = text.split('-');
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let has_parts = LENGTHS.iter().all(|&len| parts.next().is_some_and(|part| part.len() == len && is_hex(part)));
    // Later versions may append more fields.
    has_parts && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Messages that are being written.
struct MessageWriter {
    by_sink: Vec<Vec<Message>>,
    places: RowPositions,
    outputs: OutputCounter,
    /// The bodies one after another, in one allocation.
    bodies: Vec<u8>,
    /// For each body: the sink, the index among the sink's messages, and the offset of the body's end.
    ends: Vec<(SinkId, usize, usize)>,
}

impl MessageWriter {
    /// Reserves memory for the messages of `rows` rows.
    fn new(sinks: usize, rows: usize, body_bytes: usize) -> Self {
        // A single sink takes all rows.
        let expected = if sinks == 1 { rows } else { 0 };
        Self {
            by_sink: (0..sinks).map(|_| Vec::with_capacity(expected)).collect(),
            places: RowPositions::default(),
            outputs: OutputCounter::default(),
            bodies: Vec::with_capacity(rows * (body_bytes + body_bytes / 8)),
            ends: Vec::with_capacity(rows),
        }
    }
}

/// One of a row's messages.
#[derive(Debug, Clone, Copy)]
struct OutputSlot {
    part: KeyChange,
    /// The number of the message among the row's messages.
    number: u32,
}

/// Numbers the messages of each row.
#[derive(Default)]
struct OutputCounter {
    origin: Option<u32>,
    next: u32,
}

impl OutputCounter {
    fn next(&mut self, origin: u32) -> u32 {
        if self.origin != Some(origin) {
            *self = Self { origin: Some(origin), next: 0 };
        }
        self.next += 1;
        self.next - 1
    }
}
