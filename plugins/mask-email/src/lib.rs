//! Replaces the value of every `email` column by its SHA-256 hash, so that consumers can tell customers apart without their
//! addresses.

use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};
use sha2::{Digest, Sha256};

#[derive(Default)]
struct MaskEmail;

impl Transform for MaskEmail {
    fn interest(&mut self, table: &Table) -> Interest {
        Interest::only(table.has("email")).columns(&["email"])
    }

    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure> {
        Ok(row.map_text("email", mask)?)
    }
}

/// Returns the hash of the trimmed, lowercased address, in hexadecimal.
fn mask(email: &str) -> String {
    let hash = Sha256::digest(email.trim().to_lowercase());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

export!(MaskEmail);
