//! `rowmill replay`: decodes binlog files without a server and writes their rows to standard output, with the engine's decoder
//! and envelope.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rowmill_core::binlog::{DecodeErrorKind, Decoder, Next};
use rowmill_core::position::{BinlogPosition, ResumePoint};

use super::printer::{Printer, Selection};
use crate::config::TablePatterns;

/// The first bytes of a binlog file, and of an encrypted one.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
const MAGIC: [u8; 4] = *b"\xfebin";
const MAGIC_ENCRYPTED: [u8; 4] = *b"\xfdbin";
/// The offset of an event's size in its header, in bytes.
const SIZE_AT: usize = 9;
const HEADER_LEN: usize = 19;

/// The selection of what is written, and its form.
#[derive(Debug)]
pub struct Wanted {
    /// The tables whose rows are written.
    pub tables: TablePatterns,
    /// Whether schema changes are written, too.
    pub schema_changes: bool,
    /// The rows that are written, and how.
    pub selection: Selection,
}

/// Writes the rows of binlog files, in order, as lines of JSON.
///
/// # Errors
/// If a file cannot be read or decoded: the error names the file and the position, and earlier rows are written. A
/// reader that closes `out` ends the run without an error.
pub fn run(files: &[PathBuf], wanted: Wanted, out: &mut impl Write) -> anyhow::Result<()> {
    let Wanted { tables, schema_changes, selection } = wanted;
    let name = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let begin = |path: &Path| BinlogPosition::new(name(path), BinlogPosition::FIRST_EVENT);
    let Some(first) = files.first() else { bail!("no file to read") };
    let begin_first = ResumePoint::at("replay", begin(first));
    let mut decoder = Decoder::new(begin_first, Box::new(tables)).with_schema_changes(schema_changes);
    let mut printer = Printer::new(out, selection);
    for path in files {
        // A file's last event names the next file. If another file follows, the decoder starts anew.
        if *decoder.position() != begin(path) {
            decoder.relocate(ResumePoint::at("replay", begin(path)));
        }
        let done = file(path, &mut decoder, &mut printer).with_context(|| path.display().to_string())?;
        if !done {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes the rows of a file. Returns false if no more is to be written.
fn file(path: &Path, decoder: &mut Decoder, printer: &mut Printer<'_, impl Write>) -> anyhow::Result<bool> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).context("cannot read the file")?);
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) if magic == MAGIC_ENCRYPTED => {
            bail!("the file is encrypted; read it from its server, which decrypts it")
        }
        _ => bail!("the file is not a binlog"),
    }
    match events(&mut file, decoder, printer) {
        Err(error) => {
            // Rows before the error are written all the same.
            while let Some(batch) = decoder.give_up() {
                printer.print(&batch)?;
            }
            Err(error)
        }
        read => read,
    }
}

fn events(
    file: &mut impl BufRead,
    decoder: &mut Decoder,
    printer: &mut Printer<'_, impl Write>,
) -> anyhow::Result<bool> {
    let mut event = Vec::new();
    while next_event(file, &mut event)
        .with_context(|| format!("the file ends within the event at {}", decoder.position()))?
    {
        loop {
            match decoder.next(&event)? {
                Next::Event => break,
                Next::Batch(batch) => {
                    printer.set_connector(decoder.connector());
                    if !printer.print(&batch)? {
                        return Ok(false);
                    }
                }
                Next::Columns { schema, table, missing } => {
                    bail!(
                        "binlog event at {}, table {schema}.{table}: {}",
                        decoder.position(),
                        DecodeErrorKind::Incomplete(missing)
                    )
                }
            }
        }
    }
    printer.set_connector(decoder.connector());
    while let Some(batch) = decoder.flush() {
        if !printer.print(&batch)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the next event. Returns false after the last one.
fn next_event(file: &mut impl BufRead, event: &mut Vec<u8>) -> anyhow::Result<bool> {
    if file.fill_buf()?.is_empty() {
        return Ok(false);
    }
    event.clear();
    file.by_ref().take(HEADER_LEN as u64).read_to_end(event)?;
    let size =
        event.get(SIZE_AT..SIZE_AT + 4).and_then(|size| size.first_chunk::<4>()).context("its header is truncated")?;
    let size = u32::from_le_bytes(*size) as usize;
    let rest = size.checked_sub(HEADER_LEN).context("the event's size is less than that of its header")?;
    file.by_ref().take(rest as u64).read_to_end(event)?;
    if event.len() < size {
        bail!("only {} of the event's {size} bytes are there", event.len());
    }
    Ok(true)
}
