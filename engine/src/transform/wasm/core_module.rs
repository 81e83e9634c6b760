//! Plugins that are core modules: the same rows and verdicts as components have, in linear memory. The interface is
//! specified in `wit/core-module.md`.

use rowmill_core::batch::{ColumnIndex, ImageKind, Kind, Table};
use wasmtime::{Caller, Engine, InstancePre, Linker, Memory, Store, TypedFunc, bail, format_err};

use super::super::error::PluginError;
use super::super::outcome::{Outcome, Packed, not_utf8};
use super::super::query::BatchQuery;
use super::bindings::{Failure, types};
use super::limits::{CONDITIONS_BYTES_MAX, LINE_BYTES_MAX, NAME_BYTES_MAX, RECIPES_BYTES_MAX};
use super::memory::memory;
use super::state::PluginState;

/// The export by which a core module is recognized as a plugin.
pub(in crate::transform) const PROCESS: &str = "rowmill_process";
const IMPORTS: &str = "rowmill";

/// The status that an answer begins with.
const DONE: u32 = 0;
const REJECTED: u32 = 1;
const RETRY: u32 = 2;

type Call = TypedFunc<(u32, u32), u64>;

/// A module's memory and exported functions.
pub(in crate::transform) struct ModuleGuest {
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    configure: Option<Call>,
    describe: Option<Call>,
    process: Call,
}

impl ModuleGuest {
    pub fn new(store: &mut Store<PluginState>, module: &InstancePre<PluginState>) -> wasmtime::Result<Self> {
        let instance = module.instantiate(&mut *store)?;
        // A WASI reactor must be initialized before any other call.
        if instance.get_func(&mut *store, "_initialize").is_some() {
            instance.get_typed_func::<(), ()>(&mut *store, "_initialize")?.call(&mut *store, ())?;
        }
        let memory = instance.get_memory(&mut *store, "memory");
        let memory = memory.ok_or_else(|| format_err!("no memory is exported as `memory`"))?;
        let optional = |store: &mut Store<PluginState>, name: &str| {
            let is_there = instance.get_func(&mut *store, name).is_some();
            is_there.then(|| instance.get_typed_func(&mut *store, name)).transpose()
        };
        Ok(Self {
            memory,
            alloc: instance.get_typed_func(&mut *store, "rowmill_alloc")?,
            configure: optional(store, "rowmill_configure")?,
            describe: optional(store, "rowmill_describe")?,
            process: instance.get_typed_func(&mut *store, PROCESS)?,
        })
    }

    pub fn configure(&self, store: &mut Store<PluginState>, settings: &str) -> wasmtime::Result<Result<(), String>> {
        let Some(configure) = &self.configure else { return Ok(Ok(())) };
        let answer = self.call(store, configure, settings.as_bytes())?;
        Ok(match self.answer(store, answer)? {
            Answer::Done(_) => Ok(()),
            Answer::Rejected(message) | Answer::Retry(message) => Err(message),
        })
    }

    pub fn describe(
        &self,
        store: &mut Store<PluginState>,
        table: &Table,
    ) -> wasmtime::Result<Result<types::Interest, String>> {
        let Some(describe) = &self.describe else { return Ok(Ok(types::Interest::All)) };
        let answer = self.call(store, describe, &packed_table(table))?;
        let mut words = match self.answer(store, answer)? {
            Answer::Done(words) => words,
            Answer::Rejected(message) | Answer::Retry(message) => return Ok(Err(message)),
        };
        Ok(Ok(match words.u32()? {
            0 => types::Interest::Pass,
            1 => types::Interest::Drop,
            2 => types::Interest::All,
            3 => {
                let flags = words.u32()?;
                let count = words.u32()?;
                let columns = (0..count).map(|_| words.text()).collect::<Result<_, _>>()?;
                let has = |flag: u32| flags & flag != 0;
                types::Interest::Want(types::Want {
                    columns,
                    before: has(1),
                    inserts: has(2),
                    updates: has(4),
                    deletes: has(8),
                })
            }
            other => bail!("malformed interest: {other}"),
        }))
    }

    pub fn process(&self, store: &mut Store<PluginState>, rows: &[u8]) -> wasmtime::Result<Result<(), Failure>> {
        let answer = self.call(store, &self.process, rows)?;
        let len_max = store.data().answer_max();
        let (memory, state) = self.memory.data_and_store_mut(&mut *store);
        let verdict = match read_answer(memory, answer, len_max)? {
            Answer::Done(words) => words.verdict()?,
            Answer::Rejected(message) => return Ok(Err(Failure::Reject(message))),
            Answer::Retry(message) => return Ok(Err(Failure::Retry(message))),
        };
        state.say(|outcome, asked| verdict.say(outcome, asked));
        Ok(Ok(()))
    }

    /// Calls a function with a copy of `input`. Returns the answer's address and length.
    fn call(&self, store: &mut Store<PluginState>, function: &Call, input: &[u8]) -> wasmtime::Result<(usize, usize)> {
        let len = u32::try_from(input.len())?;
        let at = self.alloc.call(&mut *store, len)?;
        self.memory
            .write(&mut *store, at as usize, input)
            .map_err(|_| format_err!("`rowmill_alloc` returned {at}, where the memory does not have {len} bytes"))?;
        let answer = function.call(&mut *store, (at, len))?;
        Ok(((answer >> 32) as usize, answer as u32 as usize))
    }

    fn answer<'s>(&self, store: &'s Store<PluginState>, place: (usize, usize)) -> wasmtime::Result<Answer<'s>> {
        read_answer(self.memory.data(store), place, store.data().answer_max())
    }
}

/// Reads an answer of at most `len_max` bytes from a module's memory.
fn read_answer(memory: &[u8], (at, len): (usize, usize), len_max: usize) -> wasmtime::Result<Answer<'_>> {
    if len > len_max {
        bail!("answer of {len} bytes: the limit is {len_max}; raise `output` in its .toml");
    }
    let bytes = memory.get(at..).and_then(|rest| rest.get(..len));
    let mut words = Words(bytes.ok_or_else(|| format_err!("answer of {len} bytes at {at} outside its memory"))?);
    let status = words.u32()?;
    let message = || String::from_utf8_lossy(words.0).into_owned();
    Ok(match status {
        DONE => Answer::Done(words),
        REJECTED => Answer::Rejected(message()),
        RETRY => Answer::Retry(message()),
        other => bail!("malformed answer: status {other}"),
    })
}

/// Returns a sink's index; `None` for the route's sink.
fn given(sink: u32) -> Option<u32> {
    Some(sink).filter(|&sink| sink != u32::MAX)
}

/// A module's answer.
enum Answer<'a> {
    Done(Words<'a>),
    Rejected(String),
    Retry(String),
}

/// Little-endian 32-bit words, read one after another.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// Reads all remaining words as a verdict.
    fn verdict(mut self) -> wasmtime::Result<Verdict<'a>> {
        let mut counts = [0; 8];
        for count in &mut counts {
            *count = self.u32()? as usize;
        }
        let [keep, reroutes, edits, emits, attributes, writes, fails, arena] = counts;
        let verdict = Verdict {
            keep: self.list(keep)?,
            reroutes: self.list(reroutes)?,
            edits: self.list(edits)?,
            emits: self.list(emits)?,
            attributes: self.list(attributes)?,
            writes: self.list(writes)?,
            fails: self.list(fails)?,
            arena: self.bytes(arena)?,
        };
        if !self.0.is_empty() {
            bail!("malformed verdict: {} bytes after its end", self.0.len());
        }
        Ok(verdict)
    }

    fn u32(&mut self) -> wasmtime::Result<u32> {
        let word = self.bytes(4)?.first_chunk().map_or([0; 4], |word| *word);
        Ok(u32::from_le_bytes(word))
    }

    fn text(&mut self) -> wasmtime::Result<String> {
        let len = self.u32()? as usize;
        Ok(String::from_utf8_lossy(self.bytes(len)?).into_owned())
    }

    fn bytes(&mut self, len: usize) -> wasmtime::Result<&'a [u8]> {
        let split = self.0.split_at_checked(len);
        let (taken, rest) = split.ok_or_else(|| format_err!("malformed answer: too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn list<const N: usize>(&mut self, count: usize) -> wasmtime::Result<List<'a, N>> {
        let len = count.checked_mul(4 * N).ok_or_else(|| format_err!("malformed answer: {count} items"))?;
        Ok(List(self.bytes(len)?))
    }
}

/// Items of `N` words each.
#[derive(Clone, Copy)]
struct List<'a, const N: usize>(&'a [u8]);

impl<const N: usize> List<'_, N> {
    fn iter(&self) -> impl ExactSizeIterator<Item = [u32; N]> {
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        self.0.chunks_exact(4 * N).map(move |item| std::array::from_fn(|index| word(&item[4 * index..])))
    }
}

/// A verdict in a module's memory. Its texts and values are in the arena, one after another.
struct Verdict<'a> {
    keep: List<'a, 1>,
    reroutes: List<'a, 3>,
    edits: List<'a, 5>,
    emits: List<'a, 5>,
    attributes: List<'a, 3>,
    writes: List<'a, 3>,
    fails: List<'a, 2>,
    arena: &'a [u8],
}

impl Verdict<'_> {
    /// Says all of it.
    ///
    /// # Errors
    /// If the arena is shorter or longer than the lengths of the items, or a part makes no sense.
    fn say(self, outcome: &mut Outcome, asked: &BatchQuery<'_>) -> Result<(), PluginError> {
        let mut arena = Arena(self.arena);
        outcome.keep(self.keep.iter().map(|[row]| asked.known(row)).collect::<Result<_, _>>()?)?;
        for [row, sink, group_len] in self.reroutes.iter() {
            outcome.reroute_to(&[asked.known(row)?], given(sink), arena.text(group_len)?.into())?;
        }
        for [row, image, column, state, value_len] in self.edits.iter() {
            let image = match image {
                0 => ImageKind::Before,
                1 => ImageKind::After,
                other => return Err(PluginError::Malformed(format!("image {other}"))),
            };
            let bytes = arena.bytes(value_len)?;
            let value = match state {
                0 => Packed::Absent,
                1 => Packed::Null,
                2 => Packed::Value(bytes),
                other => return Err(PluginError::Malformed(format!("unknown state {other} of an edit"))),
            };
            outcome.edit(asked, asked.known(row)?, image, ColumnIndex(column), value)?;
        }
        for [row, sink, group_len, id_len, body_len] in self.emits.iter() {
            let texts = [arena.text(group_len)?, arena.text(id_len)?, arena.text(body_len)?];
            outcome.emit(asked.known(row)?, given(sink), texts)?;
        }
        for [emit, name_len, value_len] in self.attributes.iter() {
            let (name, value) = (arena.text(name_len)?, arena.text(value_len)?);
            outcome.attribute(emit, name, value)?;
        }
        for [row, recipe, sink] in self.writes.iter() {
            outcome.write(&[asked.known(row)?], recipe, given(sink))?;
        }
        for [row, message_len] in self.fails.iter() {
            outcome.fail(asked.known(row)?, arena.text(message_len)?.to_owned())?;
        }
        if arena.0.is_empty() {
            Ok(())
        } else {
            Err(PluginError::Malformed(format!("{} unused bytes in the arena", arena.0.len())))
        }
    }
}

/// The texts and values of a verdict that are left.
struct Arena<'a>(&'a [u8]);

impl<'a> Arena<'a> {
    fn bytes(&mut self, len: u32) -> Result<&'a [u8], PluginError> {
        let split = self.0.split_at_checked(len as usize);
        let too_short = || PluginError::Malformed("the arena is shorter than the lengths of its items".to_owned());
        let (taken, rest) = split.ok_or_else(too_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn text(&mut self, len: u32) -> Result<&'a str, PluginError> {
        std::str::from_utf8(self.bytes(len)?).map_err(|_| not_utf8())
    }
}

fn packed_table(table: &Table) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + 32 * table.columns.len());
    out.extend_from_slice(&table.id.0.to_le_bytes());
    out.extend_from_slice(&(table.columns.len() as u32).to_le_bytes());
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    text(&table.schema, &mut out);
    text(&table.name, &mut out);
    for column in &table.columns {
        let flags = u32::from(column.nullable) | u32::from(column.key) << 1;
        out.extend_from_slice(&kind_number(column.kind).to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        text(&column.name, &mut out);
        text(&column.mysql_type, &mut out);
    }
    out
}

/// Returns a kind's index in the WIT world's `kind`.
fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Int => 0,
        Kind::Uint => 1,
        Kind::Float => 2,
        Kind::Decimal => 3,
        Kind::Text => 4,
        Kind::Bytes => 5,
        Kind::Json => 6,
        Kind::Date => 7,
        Kind::Time => 8,
        Kind::Datetime => 9,
        Kind::Timestamp => 10,
        Kind::Year => 11,
        Kind::Bit => 12,
        Kind::Enum => 13,
        Kind::Set => 14,
        Kind::Geometry => 15,
        Kind::Vector => 16,
    }
}

/// Returns a linker with the functions that modules may import.
pub(in crate::transform) fn linker(engine: &Engine) -> wasmtime::Result<Linker<PluginState>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(IMPORTS, "sink", |mut caller: Caller<'_, PluginState>, at: u32, len: u32| {
        let name = name(&mut caller, at, len)?;
        Ok(caller.data().sink_number(&name).unwrap_or(u32::MAX))
    })?;
    linker.func_wrap(IMPORTS, "recipe", |mut caller: Caller<'_, PluginState>, at: u32, len: u32| {
        if len as usize > RECIPES_BYTES_MAX {
            bail!("recipe of {len} bytes: recipes may have {RECIPES_BYTES_MAX} bytes");
        }
        let recipe = text(&mut caller, at, len)?;
        Ok(caller.data_mut().recipe_number(&recipe))
    })?;
    linker.func_wrap(
        IMPORTS,
        "select",
        |mut caller: Caller<'_, PluginState>, at: u32, len: u32, to: u32| -> wasmtime::Result<u32> {
            if len as usize > CONDITIONS_BYTES_MAX {
                bail!("condition of {len} bytes: conditions may have {CONDITIONS_BYTES_MAX} bytes");
            }
            let condition = text(&mut caller, at, len)?;
            let rows = caller.data_mut().select_rows(&condition);
            let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
            memory(&mut caller)?.write(&mut caller, to as usize, &bytes)?;
            Ok(rows.len() as u32)
        },
    )?;
    linker.func_wrap(IMPORTS, "log", |mut caller: Caller<'_, PluginState>, level: u32, at: u32, len: u32| {
        // One byte more than a line may have is read, so that `write_log` sees that the message is longer.
        let message = text(&mut caller, at, len.min(LINE_BYTES_MAX as u32 + 1))?;
        caller.data_mut().write_log(level, message);
        Ok(())
    })?;
    linker.func_wrap(IMPORTS, "count", |mut caller: Caller<'_, PluginState>, at: u32, len: u32, n: u64| {
        let counter = name(&mut caller, at, len)?;
        caller.data_mut().add_to_counter(counter, n);
        Ok(())
    })?;
    linker.func_wrap(IMPORTS, "now", |caller: Caller<'_, PluginState>| caller.data().granted_time().unwrap_or(0))?;
    linker.func_wrap(
        IMPORTS,
        "env",
        |mut caller: Caller<'_, PluginState>, at: u32, len: u32, to: u32, room: u32| -> wasmtime::Result<u32> {
            let name = name(&mut caller, at, len)?;
            let Some(value) = caller.data().granted_variable(&name) else { return Ok(u32::MAX) };
            if value.len() <= room as usize {
                memory(&mut caller)?.write(&mut caller, to as usize, value.as_bytes())?;
            }
            Ok(value.len() as u32)
        },
    )?;
    super::wasi_p1::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// Reads a name, whose length is limited.
fn name(caller: &mut Caller<'_, PluginState>, at: u32, len: u32) -> wasmtime::Result<String> {
    if len as usize > NAME_BYTES_MAX {
        bail!("name of {len} bytes: names may have {NAME_BYTES_MAX} bytes");
    }
    text(caller, at, len)
}

fn text(caller: &mut Caller<'_, PluginState>, at: u32, len: u32) -> wasmtime::Result<String> {
    let memory = memory(caller)?;
    let bytes = memory.data(&caller).get(at as usize..).and_then(|rest| rest.get(..len as usize));
    let bytes = bytes.ok_or_else(|| format_err!("text of {len} bytes at {at} outside its memory"))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Rows;
    use std::path::Path;

    /// Compares bytes with a file of hexadecimal bytes, sixteen per line. `ROWMILL_WRITE_VECTORS` rewrites the file.
    fn compare(name: &str, bytes: &[u8]) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/vectors").join(name);
        let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n";
        let text: String = bytes.chunks(16).map(line).collect();
        if std::env::var_os("ROWMILL_WRITE_VECTORS").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), text, "{name}");
    }

    #[test]
    fn the_vectors_are_what_the_engine_does() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/vectors");
        let rows = std::fs::read_to_string(directory.join("batch.rows.jsonl")).expect("kept");
        let rows = Rows::parse(&rows).expect("rows");
        compare("batch.hex", rows.packed.as_bytes());
        compare("table.hex", &packed_table(&rows.tables[0]));

        // The verdict that wit/vectors/README.md describes.
        let words: Vec<u32> = [
            &[0, 2, 1, 1, 1, 1, 1, 1, 30][..],
            &[0, 1],
            &[0, 3, 2],
            &[1, 1, 1, 2, 4],
            &[1, u32::MAX, 0, 3, 8],
            &[0, 3, 5],
            &[1, 7, u32::MAX],
            &[2, 5],
        ]
        .concat();
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(b"DEpaiddd1{\"a\":1} keyvaluebroke");
        compare("verdict.hex", &bytes);
        let mut words = Words(&bytes);
        assert_eq!(words.u32().expect("a status"), DONE);
        let verdict = words.verdict().expect("a verdict");
        assert_eq!(verdict.keep.iter().collect::<Vec<_>>(), [[0], [1]]);
        assert_eq!(verdict.reroutes.iter().collect::<Vec<_>>(), [[0, 3, 2]]);
        assert_eq!(verdict.edits.iter().collect::<Vec<_>>(), [[1, 1, 1, 2, 4]]);
        assert_eq!(verdict.emits.iter().collect::<Vec<_>>(), [[1, u32::MAX, 0, 3, 8]]);
        assert_eq!(verdict.attributes.iter().collect::<Vec<_>>(), [[0, 3, 5]]);
        assert_eq!(verdict.writes.iter().collect::<Vec<_>>(), [[1, 7, u32::MAX]]);
        assert_eq!(verdict.fails.iter().collect::<Vec<_>>(), [[2, 5]]);
        assert_eq!(verdict.arena.len(), 30);
    }

    #[test]
    fn any_answer_is_read_or_refused() {
        let whole: Vec<u8> = [0u32, 1, 0, 0, 0, 0, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        for len in 0..whole.len() {
            assert!(Words(&whole[..len]).verdict().is_err(), "{len}");
        }
        for count in [u32::MAX, 1 << 30] {
            let bytes: Vec<u8> = [count; 8].iter().flat_map(|word| word.to_le_bytes()).collect();
            assert!(Words(&bytes).verdict().is_err());
        }
    }
}
