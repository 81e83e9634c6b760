//! A checkpoint's text: JSON that people can read, with a checksum of all that it says.

use std::num::ParseIntError;
use std::sync::Arc;

use anyhow::{Context, bail};
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::{BinlogPosition, EndMark, EventOffset, Fingerprint, PartialTransaction, ResumePoint};
use serde::{Deserialize, Serialize};

use super::Epoch;
use crate::schema_history::{Mark, checksum};

const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// How often a checkpoint was taken hold of: who has a lower number has lost it.
    epoch: u64,
    /// What tells the server from others.
    server: String,
    file: String,
    position: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partial: Option<PartialTransactionDocument>,
    /// All transactions that are wholly delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gtids: Option<String>,
    /// What shows that the position is one of the server's binlog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<FingerprintDocument>,
    /// Which schema history beside it belongs to it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema_history: Option<Mark>,
    /// CRC-32 of the compact JSON of all above, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    checksum: String,
}

/// Rows behind the position that are delivered all the same: see [`PartialTransaction`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialTransactionDocument {
    file: String,
    event: u64,
    rows: u32,
}

/// What is compared before the reading goes on: see [`Fingerprint`]. In hex.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FingerprintDocument {
    file: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<EndDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndDocument {
    bytes: u64,
    digest: String,
}

impl From<Fingerprint> for FingerprintDocument {
    fn from(Fingerprint { file, end }: Fingerprint) -> Self {
        let end = end.map(|EndMark { bytes, digest }| EndDocument { bytes, digest: format!("{digest:016x}") });
        Self { file: format!("{file:08x}"), end }
    }
}

impl FingerprintDocument {
    fn read(self) -> anyhow::Result<Fingerprint> {
        let end = |EndDocument { bytes, digest }| {
            Ok::<_, ParseIntError>(EndMark { bytes, digest: u64::from_str_radix(&digest, 16)? })
        };
        Ok(Fingerprint { file: u32::from_str_radix(&self.file, 16)?, end: self.end.map(end).transpose()? })
    }
}

/// The version alone: of documents of other versions nothing else is known.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// From where to read on.
    pub resume: ResumePoint,
    /// The epoch of its writer.
    pub epoch: Epoch,
    /// The schema history that was written before it.
    pub schema_history: Option<Mark>,
}

/// The text, with a newline at its end.
pub(super) fn write(resume: &ResumePoint, Epoch(epoch): Epoch, schema_history: Option<Mark>) -> String {
    let mut document = Document {
        version: VERSION,
        epoch,
        server: resume.server.to_string(),
        file: resume.position.file.clone(),
        position: resume.position.offset,
        partial: resume.partial.as_ref().map(|PartialTransaction { file, progress: EventOffset { event, rows } }| {
            PartialTransactionDocument { file: file.clone(), event: *event, rows: *rows }
        }),
        gtids: resume.gtids.as_ref().map(ToString::to_string).filter(|text| !text.is_empty()),
        fingerprint: resume.fingerprint.map(FingerprintDocument::from),
        schema_history,
        checksum: String::new(),
    };
    document.checksum = checksum(&document);
    serde_json::to_string_pretty(&document).expect("numbers and texts are JSON") + "\n"
}

/// # Errors
/// If it isn't whole, or of another version.
pub(super) fn read(text: &str) -> anyhow::Result<Content> {
    const DAMAGED: &str = "it is damaged or isn't a checkpoint";
    let Versioned { version } = serde_json::from_str(text).context(DAMAGED)?;
    if version != VERSION {
        bail!("it has version {version}, and this rowmill reads version {VERSION}; use the rowmill that wrote it");
    }
    let mut document: Document = serde_json::from_str(text).context(DAMAGED)?;
    let said = std::mem::take(&mut document.checksum);
    let found = checksum(&document);
    if said != found {
        bail!("it is damaged or was changed by hand: its checksum is `{said}`, its content's {found}");
    }
    let Document { epoch, server, file, position, partial, gtids, fingerprint, schema_history, .. } = document;
    let partial = partial.map(|PartialTransactionDocument { file, event, rows }| PartialTransaction {
        file,
        progress: EventOffset { event, rows },
    });
    let gtids = gtids.map(|text| text.parse::<GtidSet>().map(Arc::new)).transpose().context(DAMAGED)?;
    let fingerprint = fingerprint.map(FingerprintDocument::read).transpose().context(DAMAGED)?;
    let position = BinlogPosition::new(file, position);
    let resume = ResumePoint { server: server.into(), position, partial, gtids, fingerprint };
    Ok(Content { resume, epoch: Epoch(epoch), schema_history })
}

#[cfg(test)]
mod tests {
    use super::super::tests::resume;
    use super::*;

    const MARK: Mark = Mark { history: 77, sequence: 3 };

    #[test]
    fn what_is_written_is_read() {
        let short = ResumePoint::at("uuid", BinlogPosition::new("", 4));
        for (resume, epoch, schema_history) in [(resume(), Epoch(7), Some(MARK)), (short, Epoch(1), None)] {
            let text = write(&resume, epoch, schema_history);
            assert_eq!(read(&text).expect("whole"), Content { resume, epoch, schema_history });
        }
    }

    #[test]
    fn whatever_changes_is_found() {
        let text = write(&resume(), Epoch(7), Some(MARK));
        for (at, byte) in text.bytes().enumerate().filter(|(_, byte)| !byte.is_ascii_whitespace()) {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if byte == b'1' { b'2' } else { b'1' };
            let damaged = String::from_utf8(damaged).expect("ASCII");
            assert!(read(&damaged).is_err(), "{damaged}");
            assert!(read(&text[..at]).is_err(), "{}", &text[..at]);
        }
    }

    #[test]
    fn other_versions_are_named() {
        let error = read("{\"version\": 3, \"more\": true}").expect_err("refused");
        assert!(error.to_string().contains("version 3"), "{error}");
    }
}
