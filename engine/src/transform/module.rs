//! Plain core modules: the same rows and verdicts as components have, over linear memory. Specified in
//! `wit/core-module.md`.

use rowmill_core::batch::{Kind, Table};
use wasmtime::{Caller, Engine, Extern, InstancePre, Linker, Memory, Store, TypedFunc, bail, format_err};

use super::instance::{Failure, PluginState, Verdict, types};

/// What a module must export to be one.
pub(super) const PROCESS: &str = "rowmill_process";
const IMPORTS: &str = "rowmill";

/// What an answer begins with.
const DONE: u32 = 0;
const REJECTED: u32 = 1;
const RETRY: u32 = 2;

type Call = TypedFunc<(u32, u32), u64>;

/// A module's functions.
pub(super) struct ModuleGuest {
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    configure: Option<Call>,
    describe: Option<Call>,
    process: Call,
}

impl ModuleGuest {
    pub fn new(store: &mut Store<PluginState>, module: &InstancePre<PluginState>) -> wasmtime::Result<Self> {
        let instance = module.instantiate(&mut *store)?;
        // What a reactor's runtime needs before anything else.
        if instance.get_func(&mut *store, "_initialize").is_some() {
            instance.get_typed_func::<(), ()>(&mut *store, "_initialize")?.call(&mut *store, ())?;
        }
        let memory = instance.get_memory(&mut *store, "memory");
        let memory = memory.ok_or_else(|| format_err!("it doesn't export its memory as `memory`"))?;
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
                let columns = (0..count).map(|_| words.u32()).collect::<Result<_, _>>()?;
                let has = |flag: u32| flags & flag != 0;
                types::Interest::Want(types::Want {
                    columns,
                    before: has(1),
                    inserts: has(2),
                    updates: has(4),
                    deletes: has(8),
                })
            }
            other => bail!("it returned a malformed interest: {other}"),
        }))
    }

    pub fn process(&self, store: &mut Store<PluginState>, rows: &[u8]) -> wasmtime::Result<Result<Verdict, Failure>> {
        let answer = self.call(store, &self.process, rows)?;
        let mut words = match self.answer(store, answer)? {
            Answer::Done(words) => words,
            Answer::Rejected(message) => return Ok(Err(Failure::Reject(message))),
            Answer::Retry(message) => return Ok(Err(Failure::Retry(message))),
        };
        let mut counts = [0; 7];
        for count in &mut counts {
            *count = words.u32()? as usize;
        }
        let [keep, reroutes, edits, emits, attributes, fails, arena] = counts;
        let verdict = Verdict {
            keep: words.list(keep, |[row]| Ok(row))?,
            reroutes: words
                .list(reroutes, |[row, sink, group_len]| Ok(types::Reroute { row, sink: given(sink), group_len }))?,
            edits: words.list(edits, |[row, image, column, state, value_len]| {
                let image = match image {
                    0 => types::Image::Before,
                    1 => types::Image::After,
                    other => bail!("it returned a malformed verdict: image {other}"),
                };
                let state = u8::try_from(state).unwrap_or(u8::MAX);
                Ok(types::Edit { row, image, column, state, value_len })
            })?,
            emits: words.list(emits, |[row, sink, group_len, dedup_len, body_len]| {
                Ok(types::Emit { row, sink: given(sink), group_len, dedup_len, body_len })
            })?,
            attributes: words
                .list(attributes, |[emit, name_len, value_len]| Ok(types::Attribute { emit, name_len, value_len }))?,
            writes: Vec::new(),
            fails: words.list(fails, |[row, message_len]| Ok(types::RowFail { row, message_len }))?,
            arena: words.bytes(arena)?.to_vec(),
        };
        if !words.0.is_empty() {
            bail!("it returned a malformed verdict: {} bytes too many", words.0.len());
        }
        Ok(Ok(verdict))
    }

    /// Gives where the answer is: its address, and its length.
    fn call(&self, store: &mut Store<PluginState>, function: &Call, input: &[u8]) -> wasmtime::Result<(usize, usize)> {
        let len = u32::try_from(input.len())?;
        let at = self.alloc.call(&mut *store, len)?;
        self.memory
            .write(&mut *store, at as usize, input)
            .map_err(|_| format_err!("`rowmill_alloc` gave {at}, and there are no {len} bytes"))?;
        let answer = function.call(&mut *store, (at, len))?;
        Ok(((answer >> 32) as usize, answer as u32 as usize))
    }

    fn answer<'s>(&self, store: &'s Store<PluginState>, (at, len): (usize, usize)) -> wasmtime::Result<Answer<'s>> {
        let bytes = self.memory.data(store).get(at..).and_then(|rest| rest.get(..len));
        let mut words =
            Words(bytes.ok_or_else(|| format_err!("its answer of {len} bytes at {at} isn't in its memory"))?);
        let status = words.u32()?;
        let message = || String::from_utf8_lossy(words.0).into_owned();
        Ok(match status {
            DONE => Answer::Done(words),
            REJECTED => Answer::Rejected(message()),
            RETRY => Answer::Retry(message()),
            other => bail!("it returned a malformed answer: status {other}"),
        })
    }
}

/// A sink's number; `None` for the one that the routes give.
fn given(sink: u32) -> Option<u32> {
    Some(sink).filter(|&sink| sink != u32::MAX)
}

/// What a module says.
enum Answer<'a> {
    Done(Words<'a>),
    Rejected(String),
    Retry(String),
}

/// Little-endian words, read one after another.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn u32(&mut self) -> wasmtime::Result<u32> {
        let [word] = *self.words(1)?.first().ok_or_else(|| format_err!("an empty answer"))?;
        Ok(word)
    }

    fn bytes(&mut self, len: usize) -> wasmtime::Result<&'a [u8]> {
        let split = self.0.split_at_checked(len);
        let (taken, rest) = split.ok_or_else(|| format_err!("it returned a malformed answer: it ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn words<const N: usize>(&mut self, count: usize) -> wasmtime::Result<Vec<[u32; N]>> {
        let len =
            count.checked_mul(4 * N).ok_or_else(|| format_err!("it returned a malformed answer: {count} items"))?;
        let bytes = self.bytes(len)?;
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let item = |item: &[u8]| std::array::from_fn(|index| word(&item[4 * index..]));
        Ok(bytes.chunks_exact(4 * N).map(item).collect())
    }

    fn list<const N: usize, T>(
        &mut self,
        count: usize,
        make: impl FnMut([u32; N]) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<Vec<T>> {
        self.words(count)?.into_iter().map(make).collect()
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

/// In the order of the world's `kind`.
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

/// Offers modules what they may import.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<PluginState>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(IMPORTS, "sink", |mut caller: Caller<'_, PluginState>, at: u32, len: u32| {
        let name = text(&mut caller, at, len)?;
        Ok(caller.data().sink_number(&name).unwrap_or(u32::MAX))
    })?;
    linker.func_wrap(IMPORTS, "log", |mut caller: Caller<'_, PluginState>, level: u32, at: u32, len: u32| {
        let message = text(&mut caller, at, len)?;
        caller.data_mut().write_log(level, message);
        Ok(())
    })?;
    linker.func_wrap(IMPORTS, "count", |mut caller: Caller<'_, PluginState>, at: u32, len: u32, n: u64| {
        let counter = text(&mut caller, at, len)?;
        caller.data_mut().add_to_counter(counter, n);
        Ok(())
    })?;
    linker.func_wrap(IMPORTS, "now", |caller: Caller<'_, PluginState>| caller.data().granted_time().unwrap_or(0))?;
    linker.func_wrap(
        IMPORTS,
        "env",
        |mut caller: Caller<'_, PluginState>, at: u32, len: u32, to: u32, room: u32| -> wasmtime::Result<u32> {
            let name = text(&mut caller, at, len)?;
            let Some(value) = caller.data().granted_variable(&name) else { return Ok(u32::MAX) };
            if value.len() <= room as usize {
                memory(&mut caller)?.write(&mut caller, to as usize, value.as_bytes())?;
            }
            Ok(value.len() as u32)
        },
    )?;
    super::wasi::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// The memory of the module that calls.
pub(super) fn memory(caller: &mut Caller<'_, PluginState>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => bail!("it doesn't export its memory as `memory`"),
    }
}

fn text(caller: &mut Caller<'_, PluginState>, at: u32, len: u32) -> wasmtime::Result<String> {
    let memory = memory(caller)?;
    let bytes = memory.data(&caller).get(at as usize..).and_then(|rest| rest.get(..len as usize));
    let bytes = bytes.ok_or_else(|| format_err!("a text of {len} bytes at {at} isn't in its memory"))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}
