//! From rows to messages: which sink, which group, which body. No I/O.

use std::sync::{Arc, LazyLock};

use anyhow::bail;
use base64_simd::STANDARD;
use bytes::Bytes;
use rowmill_core::ByTable;
use rowmill_core::batch::{Batch, Kind, Operation, Row, Table};
use rowmill_core::binlog::{DecodeError, SchemaChange, SkippedChange, SkippedContent};
use rowmill_core::envelope::{Connector, Envelope, Escaping, Format, KeyChange, SourceName, push_int, push_string};
use rowmill_core::position::BinlogPosition;
use rowmill_core::route::{GroupTemplate, TableTemplate, deduplication_id, schema_change_id, skipped_id, sqs_id};

use crate::ack::Places;
use crate::config::{self, Attribute, Destinations};
use crate::sink::{Body, Message};
use crate::transform::{DeadRow, Emitted, Passed, Stop, TransformError, Transformed};

/// Bytes of a body that room is made for at once, before there was one.
const BODY_EXPECTED: usize = 512;

/// What is known of a sink here.
#[derive(Debug, Clone)]
pub struct SinkRequirements {
    /// Whether messages need a group and a deduplication id.
    pub ordered: bool,
    /// How its messages are written.
    pub format: Format,
    /// What for.
    pub escaping: Escaping,
    /// What they say beside their bodies.
    pub attributes: Vec<Attribute>,
    /// Of what its queue's URL is made, where it has several.
    pub queue: Option<TableTemplate>,
}

/// Makes messages of rows.
#[derive(Debug, Clone)]
pub struct Router {
    routes: Arc<[config::Route]>,
    /// ResumeBy table id and operation: the index in `routes`.
    route_of: ByTable<[Option<usize>; 3]>,
    sinks: Vec<SinkRequirements>,
    schema_change_sink: Option<usize>,
    dead_letter_sink: Option<usize>,
    /// Whose binlog the current batch is of.
    server: Arc<str>,
    /// ResumeBy sink.
    envelopes: Vec<Envelope>,
    /// ResumeBy sink and table id, of sinks with several.
    queues: Vec<ByTable<Arc<str>>>,
    /// Bytes of a body in the last batch.
    body_bytes: usize,
}

/// What became of a batch.
#[derive(Debug)]
pub struct RoutedBatch {
    /// Messages by sink, each in binlog order.
    pub by_sink: Vec<Vec<Message>>,
    /// Where their rows are.
    pub places: Places,
    /// Where everything stops: no message is of this row or one after it.
    pub stop: Option<Stop>,
}

/// A transform's part of a decision.
#[derive(Clone, Copy)]
struct Override<'a> {
    sink: Option<usize>,
    group: Option<&'a str>,
    deduplication_id: Option<&'a str>,
}

/// A route's part of a decision.
struct RouteMatch<'a> {
    sink: Option<usize>,
    /// If it says one.
    group: Option<&'a GroupTemplate>,
}

impl Router {
    /// Sends what `config` says where it says, to sinks that need what `sinks` say. Changes are of the source of this name, a
    /// server of `connector`'s family.
    pub fn new(config: Destinations, sinks: Vec<SinkRequirements>, name: String, connector: Connector) -> Self {
        let Destinations { routes, schema_changes, dead_letters } = config;
        let source = SourceName { version: env!("CARGO_PKG_VERSION").to_owned(), name, connector };
        let envelopes = sinks.iter().map(|sink| Envelope::new(sink.format, sink.escaping, source.clone())).collect();
        Self {
            routes: routes.into(),
            route_of: ByTable::default(),
            queues: vec![ByTable::default(); sinks.len()],
            sinks,
            schema_change_sink: schema_changes,
            dead_letter_sink: dead_letters,
            server: "".into(),
            envelopes,
            body_bytes: BODY_EXPECTED,
        }
    }

    /// A batch's messages. `server` is whose binlog it is of, `tables` are by their ids, `now_us` is the wall clock in
    /// microseconds since 1970. A row without a route stops everything: nothing is dropped in silence.
    pub fn messages(
        &mut self,
        transformed: Transformed,
        server: Arc<str>,
        tables: &[Arc<Table>],
        now_us: i64,
    ) -> RoutedBatch {
        self.server = server;
        let Transformed { bytes, rows, emitted, seen, dead, skipped, mut stop } = transformed;
        let parse = |bytes| Batch::parse(bytes).expect("batches are written by the builder");
        let batch = parse(&bytes);
        let seen: Vec<Batch<'_>> = seen.iter().map(|bytes| parse(bytes)).collect();
        let mut out = Out::new(self.sinks.len(), rows.len(), self.body_bytes);
        let unrouted = self.write_rows(&batch, rows, emitted, &seen, tables, now_us, &mut out);
        self.body_bytes = out.bodies.len().checked_div(out.ends.len()).unwrap_or(self.body_bytes);
        let Out { mut by_sink, mut places, bodies, ends, .. } = out;
        let bodies = Bytes::from(bodies);
        let mut start = 0;
        for (sink, message, end) in ends {
            by_sink[sink][message].body = Body::new(bodies.slice(start..end), self.sinks[sink].escaping);
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
            // It may have rows as well.
            by_sink[sink].sort_by_key(|message| message.row);
        }
        RoutedBatch { by_sink, places, stop }
    }

    /// Writes the messages of rows, and of those that transforms made of rows, in the order of the rows.
    ///
    /// # Errors
    /// At the first row without a route; it may have messages already.
    #[expect(clippy::too_many_arguments)]
    fn write_rows(
        &mut self,
        batch: &Batch<'_>,
        rows: Vec<Passed>,
        emitted: Vec<Emitted>,
        seen: &[Batch<'_>],
        tables: &[Arc<Table>],
        now_us: i64,
        out: &mut Out,
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
            out.places.row(origin, &row, batch);
            for &part in KeyChange::for_row(table, &row) {
                let output = OutputSlot { part, number: out.outputs.next(origin) };
                let address = self.address(table, batch, &row, overrides, output);
                let (sink, group, deduplication_id) = address.map_err(|error| Stop { origin, error })?;
                self.envelopes[sink].write(table, batch, &row, part, now_us, &mut out.bodies);
                out.ends.push((sink, out.by_sink[sink].len(), out.bodies.len()));
                let mut attributes = Vec::new();
                add_attributes(&self.sinks[sink].attributes, table, batch, &row, &mut attributes);
                let (queue, table) = (self.queue(sink, table), Some((table.generation, table.id)));
                let body = Body::default();
                let message = Message {
                    body,
                    group,
                    deduplication_id,
                    attributes,
                    table,
                    queue,
                    row: origin,
                    is_dead_letter: false,
                };
                out.by_sink[sink].push(message);
            }
        }
        for message in emitted {
            self.emitted(message, seen, tables, out)?;
        }
        Ok(())
    }

    /// A row that a transform failed on, with why: in the group that its table's rows are in by default.
    fn dead_letter(
        &mut self,
        dead: &DeadRow,
        tables: &[Arc<Table>],
        now_us: i64,
        places: &mut Places,
        by_sink: &mut [Vec<Message>],
    ) {
        let sink = self.dead_letter_sink.expect("plugins that make dead letters are loaded only where a sink is");
        let batch = Batch::parse(&dead.batch).expect("batches are written by the builder");
        let row = batch.row(dead.row);
        let table = &tables[row.table().0 as usize];
        let TransformError { plugin, file, position, row: row_index, fault, .. } = &dead.error;
        let mut body = Vec::with_capacity(1024);
        let mut text = |label: &[u8], text: &str| {
            body.extend_from_slice(label);
            push_string(text, &mut body);
        };
        text(b"{\"plugin\":", plugin);
        text(b",\"error\":", fault);
        text(b",\"file\":", file);
        body.extend_from_slice(b",\"pos\":");
        push_int(*position, &mut body);
        body.extend_from_slice(b",\"row\":");
        push_int(*row_index, &mut body);
        body.extend_from_slice(b",\"change\":");
        let mut change = Vec::new();
        self.envelopes[sink].write(table, &batch, &row, KeyChange::None, now_us, &mut change);
        body.extend_from_slice(Body::new(change.into(), self.sinks[sink].escaping).plain().as_bytes());
        body.push(b'}');
        let group = GroupTemplate::default().group(table, &row);
        let deduplication_id = deduplication_id(&self.server, &batch, &row, u32::MAX);
        let body = Body::new(body.into(), Escaping::Plain);
        places.row(dead.origin, &row, &batch);
        by_sink[sink].push(Message {
            body,
            group,
            deduplication_id,
            row: dead.origin,
            is_dead_letter: true,
            ..Message::default()
        });
    }

    /// A change that can't be decoded, as a dead letter. All of a table are one group.
    fn skipped(&self, skipped: &SkippedChange, origin: u32, places: &mut Places, by_sink: &mut [Vec<Message>]) {
        let sink = self.dead_letter_sink.expect("changes are passed over where a sink for dead letters is");
        let SkippedChange { error, row, gtid, time_us, content, bytes } = skipped;
        let DecodeError { position: BinlogPosition { file, offset }, transaction, table, fault, .. } = &**error;
        let mut body = Vec::with_capacity(1024);
        let mut text = |label: &[u8], text: &str| {
            body.extend_from_slice(label);
            push_string(text, &mut body);
        };
        text(b"{\"stage\":\"source\",\"error\":", &fault.to_string());
        if let Some(table) = table {
            text(b",\"table\":", table);
        }
        text(b",\"file\":", file);
        text(b",\"gtid\":", gtid);
        match content {
            SkippedContent::Statement(statement) => text(b",\"statement\":", statement),
            SkippedContent::Images(images) => text(b",\"images\":", &STANDARD.encode_to_string(images)),
            SkippedContent::Event(event) => text(b",\"event\":", &STANDARD.encode_to_string(event)),
        }
        let mut number = |label: &[u8], number: i64| {
            body.extend_from_slice(label);
            push_int(number, &mut body);
        };
        number(b",\"bytes\":", *bytes as i64);
        number(b",\"type\":", error.kind.0.into());
        number(b",\"pos\":", *offset as i64);
        number(b",\"row\":", (*row).into());
        number(b",\"ts_ms\":", time_us / 1000);
        body.push(b'}');
        let transaction = BinlogPosition::new(file.as_str(), transaction.unwrap_or(*offset));
        places.other(origin, &transaction, *offset, *row);
        by_sink[sink].push(Message {
            body: Body::new(body.into(), Escaping::Plain),
            group: sqs_id(table.clone().unwrap_or_else(|| "statements".to_owned())),
            deduplication_id: skipped_id(&self.server, skipped),
            row: origin,
            is_dead_letter: true,
            ..Message::default()
        });
    }

    /// Adds a schema change's message after those of the rows. All of a schema are one group.
    ///
    /// # Panics
    /// If no sink was configured for them: then none may be decoded either.
    pub fn schema_change(&self, change: &SchemaChange, server: &str, now_us: i64, dispatched: &mut RoutedBatch) {
        let sink = self.schema_change_sink.expect("schema changes are decoded where a sink is configured");
        let mut body = Vec::with_capacity(1024);
        self.envelopes[sink].write_schema_change(change, now_us, &mut body);
        let body = Body::new(body.into(), self.sinks[sink].escaping);
        let group = sqs_id(change.schema.clone().unwrap_or_default());
        let deduplication_id = schema_change_id(server, change);
        let transaction = BinlogPosition::new(change.file.as_str(), change.transaction_position);
        dispatched.places.other(0, &transaction, change.event_position, 0);
        dispatched.by_sink[sink].push(Message { body, group, deduplication_id, ..Message::default() });
    }

    fn emitted(
        &mut self,
        message: Emitted,
        seen: &[Batch<'_>],
        tables: &[Arc<Table>],
        out: &mut Out,
    ) -> Result<(), Stop> {
        let Emitted { batch, row, origin, sink, text, mut attributes } = message;
        let batch = &seen[batch as usize];
        let row = batch.row(row);
        let table = &tables[row.table().0 as usize];
        let output = OutputSlot { part: KeyChange::None, number: out.outputs.next(origin) };
        let overrides = Override { sink, group: text.group(), deduplication_id: text.deduplication_id() };
        let address = self.address(table, batch, &row, overrides, output);
        let (sink, group, deduplication_id) = address.map_err(|error| Stop { origin, error })?;
        add_attributes(&self.sinks[sink].attributes, table, batch, &row, &mut attributes);
        let (body, queue) = (text.body().into(), self.queue(sink, table));
        out.places.row(origin, &row, batch);
        let table = None; // it isn't packed with others
        let message =
            Message { body, group, deduplication_id, attributes, table, queue, row: origin, is_dead_letter: false };
        out.by_sink[sink].push(message);
        Ok(())
    }

    /// A table's queue, where a sink has several.
    fn queue(&mut self, sink: usize, table: &Table) -> Option<Arc<str>> {
        let template = self.sinks[sink].queue.as_ref()?;
        let queue = self.queues[sink].entry(table).get_or_insert_with(|| template.of(table).into());
        Some(Arc::clone(queue))
    }

    /// The sink, the group and the deduplication id of a row's output.
    fn address(
        &mut self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
        overrides: Override<'_>,
        output: OutputSlot,
    ) -> anyhow::Result<(usize, String, String)> {
        let RouteMatch { sink, group } = route(&self.routes, &mut self.route_of, table, row.operation());
        let Some(sink) = overrides.sink.or(sink) else {
            bail!(
                "no route for {} of table {table}, one of which at {}:{} passed the transforms; add a [[route]] for them, or \
                 leave the table out by `source.tables`",
                plural(row.operation()),
                batch.transaction(row.transaction()).header().file,
                row.header().event_position
            );
        };
        static DEFAULT: LazyLock<GroupTemplate> = LazyLock::new(GroupTemplate::default);
        let is_ordered = self.sinks[sink].ordered;
        let template = group.or(is_ordered.then_some(&DEFAULT));
        let group = match (overrides.group, output.part) {
            (Some(group), _) => sqs_id(group.to_owned()),
            (None, KeyChange::Delete) => template.map_or_else(String::new, |template| template.old_group(table, row)),
            (None, KeyChange::None | KeyChange::Insert) => {
                template.map_or_else(String::new, |template| template.group(table, row))
            }
        };
        if !is_ordered {
            return Ok((sink, group, String::new()));
        }
        let id = match overrides.deduplication_id {
            Some(id) => sqs_id(id.to_owned()),
            None => deduplication_id(&self.server, batch, row, output.number),
        };
        Ok((sink, group, id))
    }
}

fn route<'r>(
    routes: &'r [config::Route],
    route_of: &mut ByTable<[Option<usize>; 3]>,
    table: &Table,
    operation: Operation,
) -> RouteMatch<'r> {
    let known = &mut route_of.entry(table).get_or_insert_default()[usize::from(operation.code()) - 1];
    *known = known.or_else(|| routes.iter().position(|route| route.is_for(&table.schema, &table.name, operation)));
    let route = known.map(|index| &routes[index]);
    RouteMatch { sink: route.map(|route| route.sink), group: route.and_then(|route| route.group.as_ref()) }
}

/// Adds what a sink's messages say beside their bodies, but what is said already.
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

/// The trace that a row says it is of: the text in its column `traceparent`.
/// <https://www.w3.org/TR/trace-context/#traceparent-header>
fn traceparent(table: &Table, row: &Row<'_>) -> Option<String> {
    let column = table.column("traceparent")?;
    let is_text = table.columns[column.0 as usize].kind == Kind::Text;
    let text = row.newest().cell(column).text().filter(|text| is_text && is_traceparent(text))?;
    Some(text.to_owned())
}

/// Several of an operation, as messages name them.
pub fn plural(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "inserts",
        Operation::Update => "updates",
        Operation::Delete => "deletes",
    }
}

/// Whether a text is a trace's: no other is worth an attribute, which a queue may refuse, and the row with it.
fn is_traceparent(text: &str) -> bool {
    const LENGTHS: [usize; 4] = [2, 32, 16, 2];
    let mut parts = text.split('-');
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let has_parts = LENGTHS.iter().all(|&len| parts.next().is_some_and(|part| part.len() == len && is_hex(part)));
    // Later versions may say more.
    has_parts && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Messages that are being written.
struct Out {
    by_sink: Vec<Vec<Message>>,
    places: Places,
    outputs: OutputCounter,
    /// The rows' bodies, one after the other: one piece of memory for all of them.
    bodies: Vec<u8>,
    /// Where each ends: its sink, its index among the sink's messages, and the end.
    ends: Vec<(usize, usize, usize)>,
}

impl Out {
    /// Room for the messages of `rows` rows.
    fn new(sinks: usize, rows: usize, body_bytes: usize) -> Self {
        // All rows go to it where there is but one.
        let expected = if sinks == 1 { rows } else { 0 };
        Self {
            by_sink: (0..sinks).map(|_| Vec::with_capacity(expected)).collect(),
            places: Places::default(),
            outputs: OutputCounter::default(),
            bodies: Vec::with_capacity(rows * (body_bytes + body_bytes / 8)),
            ends: Vec::with_capacity(rows),
        }
    }
}

/// What of a row a message has.
#[derive(Debug, Clone, Copy)]
struct OutputSlot {
    part: KeyChange,
    /// Its place among the row's messages.
    number: u32,
}

/// Numbers the outputs of each row.
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
