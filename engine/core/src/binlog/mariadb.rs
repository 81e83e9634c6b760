//! MariaDB's compressed events (`log_bin_compress`): a query's text or the rows of a row event, each
//! packed by zlib behind a small header.
//! <https://github.com/MariaDB/server/blob/main/sql/log_event.cc> (`binlog_buf_compress`)

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibDecoder};

use super::bytes::Bytes;
use super::error::Fault;

/// No unpacked part is larger: the server's limit for packets.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

const DAMAGED: Fault = Fault::Malformed("a compressed event");

/// Unpacks a part.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<u8>, Fault> {
    const COMPRESSED: u8 = 0x80;
    const ALGORITHM: u8 = 0x70;
    const LENGTH_BYTES: u8 = 0x07;

    let mut bytes = Bytes(packed);
    let header = bytes.u8()?;
    // Zlib, 0, is the only algorithm there is.
    if header & COMPRESSED == 0 || header & ALGORITHM != 0 {
        return Err(DAMAGED);
    }
    let len = bytes.uint_be(usize::from(header & LENGTH_BYTES))?;
    if len > UNPACKED_BYTES_MAX {
        return Err(DAMAGED);
    }
    let mut unpacked = Vec::new();
    // One byte more than announced would be a lie.
    ZlibDecoder::new(bytes.0).take(len + 1).read_to_end(&mut unpacked).map_err(|_| DAMAGED)?;
    if unpacked.len() as u64 == len { Ok(unpacked) } else { Err(DAMAGED) }
}

/// Unpacks the value of a compressed column (`VARCHAR(100) COMPRESSED`).
/// <https://github.com/MariaDB/server/blob/main/sql/field_comp.cc>
pub(super) fn unpack_column(packed: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    const ZLIB: u8 = 8;
    const HEADERLESS: u8 = 0x08;
    let Some((&header, rest)) = packed.split_first() else { return Ok(Cow::Borrowed(&[])) };
    if header == 0 {
        return Ok(Cow::Borrowed(rest)); // too small to be worth it
    }
    let mut bytes = Bytes(rest);
    if header >> 4 != ZLIB {
        return Err(DAMAGED);
    }
    let len = bytes.uint_be(usize::from(header & 0x07))?;
    let mut unpacked = Vec::new();
    let read = if header & HEADERLESS == 0 {
        ZlibDecoder::new(bytes.0).take(len + 1).read_to_end(&mut unpacked)
    } else {
        DeflateDecoder::new(bytes.0).take(len + 1).read_to_end(&mut unpacked)
    };
    match read {
        Ok(found) if found as u64 == len => Ok(Cow::Owned(unpacked)),
        _ => Err(DAMAGED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn packed(text: &[u8], announced: u32) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(vec![0x80 | 4], flate2::Compression::default());
        encoder.get_mut().extend(announced.to_be_bytes());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn as_announced_or_refused() {
        let text = b"update t set a = 1".repeat(100);
        assert_eq!(unpack(&packed(&text, 1800)), Ok(text.clone()));
        assert_eq!(unpack(&packed(&text, 1799)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, 1801)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, u32::MAX)), Err(DAMAGED));
        assert_eq!(unpack(&packed(&text, 1800)[..40]), Err(DAMAGED));
        assert_eq!(unpack(b"\x00abc"), Err(DAMAGED));
        assert_eq!(unpack(b""), Err(Fault::Truncated));
    }
}
