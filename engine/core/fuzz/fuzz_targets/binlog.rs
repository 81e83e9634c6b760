//! Fuzzes the decoder with a whole binlog file: events of all kinds, in any order, with any content.
#![no_main]
use libfuzzer_sys::fuzz_target;
use rowmill_core::batch::Batch;
use rowmill_core::binlog::{Decoder, Next, TableSelector};
use rowmill_core::position::{BinlogPosition, ResumePoint};

struct Everything;

impl TableSelector for Everything {
    fn table(&self, _schema: &str, _table: &str) -> bool {
        true
    }

    fn schema(&self, _schema: &str) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let resume = ResumePoint::at("server", BinlogPosition::new("binlog.000001", BinlogPosition::FIRST_EVENT));
    let mut decoder = Decoder::new(resume, Box::new(Everything));
    let mut rest = bytes.get(4..).unwrap_or_default();
    while let Some(size) = rest.get(9..13).and_then(|size| size.first_chunk()) {
        let size = (u32::from_le_bytes(*size) as usize).clamp(19, rest.len().max(19));
        let Some((event, after)) = rest.split_at_checked(size) else { break };
        rest = after;
        loop {
            match decoder.next(event) {
                Ok(Next::Batch(batch)) => {
                    // The batch is well-formed: every column of every row can be read.
                    let parsed = batch.packed.view();
                    for row in parsed.rows() {
                        row.before().into_iter().chain(row.after()).for_each(|image| image.cells().for_each(drop));
                    }
                }
                Ok(Next::Event) => break,
                Ok(Next::Columns { .. }) | Err(_) => return,
            }
        }
    }
    let _ = decoder.flush();
});
