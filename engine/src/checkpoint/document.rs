//! A checkpoint's text: readable JSON with a checksum.

use std::num::ParseIntError;
use std::sync::Arc;

use anyhow::{Context, bail};
use rowmill_core::gtid::GtidSet;
use rowmill_core::position::{BinlogPosition, EndMark, EventOffset, Fingerprint, PartialTransaction, ResumePoint};
use serde::{Deserialize, Serialize};

use super::store::Epoch;
use crate::schema_history::{Mark, checksum};

const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// The fencing token: see [`Epoch`].
    epoch: u64,
    /// The server's identity.
    server: String,
    file: String,
    position: u64,
    #[serde(rename = "past", default, skip_serializing_if = "Option::is_none")]
    partial: Option<PartialTransactionDocument>,
    /// All transactions that are completely delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gtids: Option<String>,
    /// Evidence that the position belongs to the server's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<FingerprintDocument>,
    /// The schema history that belongs to the checkpoint, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema_history: Option<Mark>,
    /// CRC-32 of the compact JSON of all above, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    checksum: String,
}

/// How far rows after the position are delivered: see [`PartialTransaction`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialTransactionDocument {
    file: String,
    event: u64,
    rows: u32,
}

/// A fingerprint, in hex: see [`Fingerprint`].
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

/// The version alone: documents of other versions may have any other fields.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The content of a checkpoint's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// The resume point.
    pub resume: ResumePoint,
    /// The epoch of the writer.
    pub epoch: Epoch,
    /// The schema history that was written before the checkpoint.
    pub schema_history: Option<Mark>,
}

/// Returns the text, with a newline at its end.
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

/// Parses a text.
///
/// # Errors
/// If the text is damaged, or of another version.
pub(super) fn read(text: &str) -> anyhow::Result<Content> {
    const DAMAGED: &str = "it is damaged, or is not a checkpoint";
    let Versioned { version } = serde_json::from_str(text).context(DAMAGED)?;
    if version != VERSION {
        bail!("it has version {version}, and this rowmill reads version {VERSION}; use the rowmill that wrote it");
    }
    let mut document: Document = serde_json::from_str(text).context(DAMAGED)?;
    let said = std::mem::take(&mut document.checksum);
    let found = checksum(&document);
    if said != found {
        bail!("it is damaged, or was changed by hand: its checksum is `{said}`, that of its content {found}");
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

    /// The format stays what it was: a kept document is read, and written again the same.
    #[test]
    fn a_kept_document_is_read() {
        let text = r#"{
  "version": 2,
  "epoch": 13,
  "server": "42146494-ea17-11f1-a89a-02fc00000001",
  "file": "binlog.000001",
  "position": 1105,
  "past": {
    "file": "binlog.000001",
    "event": 4112079,
    "rows": 27
  },
  "gtids": "42146494-ea17-11f1-a89a-02fc00000001:1-4",
  "fingerprint": {
    "file": "3c46f26a"
  },
  "checksum": "33ccc474"
}
"#;
        let Content { resume, epoch, schema_history } = read(text).expect("it is read");
        let partial = PartialTransaction {
            file: "binlog.000001".to_owned(),
            progress: EventOffset { event: 4_112_079, rows: 27 },
        };
        assert_eq!((resume.position.offset, resume.partial.as_ref()), (1105, Some(&partial)));
        assert_eq!(write(&resume, epoch, schema_history), text);
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
