//! MariaDB's compressed events (`log_bin_compress`): a query's text or the rows of a row event, compressed with zlib after a
//! small header.
//! <https://github.com/MariaDB/server/blob/main/sql/log_event.cc> (`binlog_buf_compress`)

use std::borrow::Cow;

use libdeflater::{DecompressionError, Decompressor};

use super::bytes::Bytes;
use super::error::DecodeErrorKind;

/// The largest size of a decompressed part or value: the server's limit for packets.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// The largest ratio of decompressed to compressed bytes. <https://zlib.net/zlib_tech.html>
const RATIO_MAX: u64 = 1032;

const DAMAGED: DecodeErrorKind = DecodeErrorKind::Malformed("a compressed event");

/// Decompresses a part of an event.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, DecodeErrorKind> {
    const COMPRESSED: u8 = 0x80;
    const ALGORITHM: u8 = 0x70;
    const LENGTH_BYTES: u8 = 0x07;

    let mut bytes = Bytes(packed);
    let header = bytes.u8()?;
    // Zlib, number 0, is the only algorithm.
    if header & COMPRESSED == 0 || header & ALGORITHM != 0 {
        return Err(DAMAGED);
    }
    let len = bytes.uint_be(usize::from(header & LENGTH_BYTES))?;
    inflate(bytes.0, len, Decompressor::zlib_decompress)
}

/// Decompresses the value of a compressed column (`VARCHAR(100) COMPRESSED`).
/// <https://github.com/MariaDB/server/blob/main/sql/field_comp.cc>
pub(super) fn unpack_column(packed: &[u8]) -> Result<Cow<'_, [u8]>, DecodeErrorKind> {
    const ZLIB: u8 = 8;
    const HEADERLESS: u8 = 0x08;
    let Some((&header, rest)) = packed.split_first() else { return Ok(Cow::Borrowed(&[])) };
    if header == 0 {
        return Ok(Cow::Borrowed(rest)); // stored uncompressed, because it is small
    }
    let mut bytes = Bytes(rest);
    if header >> 4 != ZLIB {
        return Err(DAMAGED);
    }
    let len = bytes.uint_be(usize::from(header & 0x07))?;
    let is_headerless = header & HEADERLESS != 0;
    let format = if is_headerless { Decompressor::deflate_decompress } else { Decompressor::zlib_decompress };
    inflate(bytes.0, len, format).map(Cow::Owned)
}

type Format = fn(&mut Decompressor, &[u8], &mut [u8]) -> Result<usize, DecompressionError>;

/// Decompresses data of `len` announced bytes.
fn inflate(packed: &[u8], len: u64, format: Format) -> Result<Vec<u8>, DecodeErrorKind> {
    // Memory is not allocated for an impossible length.
    if len > UNPACKED_BYTES_MAX.min(packed.len() as u64 * RATIO_MAX) {
        return Err(DAMAGED);
    }
    let mut unpacked = vec![0; len as usize];
    match format(&mut Decompressor::new(), packed, &mut unpacked) {
        Ok(found) if found == unpacked.len() => Ok(unpacked),
        _ => Err(DAMAGED),
    }
}

#[cfg(test)]
mod tests {
    use libdeflater::{CompressionLvl, Compressor};

    use super::*;

    fn packed(text: &[u8], announced: u32) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut packed = vec![0; compressor.zlib_compress_bound(text.len())];
        let len = compressor.zlib_compress(text, &mut packed).expect("room for all of it");
        let mut event = vec![0x80 | 4];
        event.extend(announced.to_be_bytes());
        event.extend(&packed[..len]);
        event
    }

    #[test]
    fn as_announced_or_refused() {
        let text = b"update t set a = 1".repeat(100);
        assert_eq!(unpack(&packed(&text, 1800)), Ok(text.clone()));
        assert_eq!(unpack(&packed(&text, 1799)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, 1801)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, 1 << 29)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, u32::MAX)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, 1800)[..40]), Err(DAMAGED));
        assert_eq!(unpack(b"\x00abc"), Err(DAMAGED));
        assert_eq!(unpack(b""), Err(DecodeErrorKind::Truncated));
    }

    #[test]
    fn a_damaged_value_announces_what_no_memory_holds() {
        // Allocating the announced length would abort the process.
        let mut column = vec![8 << 4 | 7];
        column.extend(&(1u64 << 55).to_be_bytes()[1..]);
        column.extend(&packed(b"value", 5)[5..]);
        assert_eq!(unpack_column(&column), Err(DAMAGED));
        column[1..8].copy_from_slice(&5u64.to_be_bytes()[1..]);
        assert_eq!(unpack_column(&column), Ok(b"value".as_slice().into()));
    }
}
