//! Binlog files, without a server: the same decoder and envelope, to standard output.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rowmill_core::binlog::{DecodeErrorKind, Decoder, Next};
use rowmill_core::position::{BinlogPosition, ResumePoint};

use crate::config::TablePatterns;
use crate::printer::{Form, Printer};

/// What a binlog file begins with, and an encrypted one.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
const MAGIC: [u8; 4] = *b"\xfebin";
const MAGIC_ENCRYPTED: [u8; 4] = *b"\xfdbin";
/// An event's size stands here in its header.
const SIZE_AT: usize = 9;
const HEADER_LEN: usize = 19;

/// What of the files is written.
#[derive(Debug)]
pub struct Wanted {
    /// The rows of these tables,
    pub tables: TablePatterns,
    /// and the statements that change tables, if this is set,
    pub schema_changes: bool,
    /// in this form.
    pub form: Form,
}

/// Writes what files have, in their order, as lines of JSON.
///
/// # Errors
/// If a file can't be read or decoded: the error names it and the position. The rows before it are
/// written. If `out` is closed, that's the end and no error.
pub fn run(files: &[PathBuf], wanted: Wanted, out: &mut impl Write) -> anyhow::Result<()> {
    let Wanted { tables, schema_changes, form } = wanted;
    let name = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let begin = |path: &Path| BinlogPosition::new(name(path), BinlogPosition::FIRST_EVENT);
    let Some(first) = files.first() else { bail!("no file to read") };
    let begin_first = ResumePoint::at("replay", begin(first));
    let mut decoder = Decoder::new(begin_first, Box::new(tables)).with_schema_changes(schema_changes);
    let mut printer = Printer::new(out, form);
    for path in files {
        // A file's last event names the next one: where the files don't follow each other, start anew.
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

/// False if nobody reads what is written any more.
fn file(path: &Path, decoder: &mut Decoder, printer: &mut Printer<'_, impl Write>) -> anyhow::Result<bool> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).context("the file can't be read")?);
    let mut magic = [0; 4];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Ok(()) if magic == MAGIC_ENCRYPTED => {
            bail!("the file is encrypted; read it from its server, which decrypts it")
        }
        _ => bail!("the file isn't a binlog"),
    }
    match events(&mut file, decoder, printer) {
        Err(error) => {
            // What is before it is written all the same.
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

/// Reads an event. False behind the last.
fn next_event(file: &mut impl BufRead, event: &mut Vec<u8>) -> anyhow::Result<bool> {
    if file.fill_buf()?.is_empty() {
        return Ok(false);
    }
    event.clear();
    file.by_ref().take(HEADER_LEN as u64).read_to_end(event)?;
    let size =
        event.get(SIZE_AT..SIZE_AT + 4).and_then(|size| size.first_chunk::<4>()).context("its header is cut off")?;
    let size = u32::from_le_bytes(*size) as usize;
    let rest = size.checked_sub(HEADER_LEN).context("its size is too small")?;
    file.by_ref().take(rest as u64).read_to_end(event)?;
    if event.len() < size {
        bail!("{} of its {size} bytes are there", event.len());
    }
    Ok(true)
}
