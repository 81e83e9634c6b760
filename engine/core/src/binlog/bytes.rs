//! A cursor over an event's bytes. Reading past the end is an error, never a panic.

use super::error::DecodeErrorKind;

/// The bytes that are left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeErrorKind> {
        // Not `ok_or`, which would build and drop an error for each value.
        let Some((taken, rest)) = self.0.split_at_checked(len) else { return Err(DecodeErrorKind::Truncated) };
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeErrorKind> {
        let Some((taken, rest)) = self.0.split_first_chunk::<N>() else { return Err(DecodeErrorKind::Truncated) };
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeErrorKind> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeErrorKind> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeErrorKind> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeErrorKind> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a little-endian unsigned integer of 0 to 8 bytes.
    #[inline]
    pub fn uint(&mut self, len: usize) -> Result<u64, DecodeErrorKind> {
        match self.0.first_chunk() {
            // Usually 8 bytes are left, and are read at once instead of in a copy or loop of variable length.
            Some(eight) if matches!(len, 1..=8) => {
                self.0 = &self.0[len..];
                let unused_bits = 64 - 8 * len;
                Ok(u64::from_le_bytes(*eight) << unused_bits >> unused_bits)
            }
            _ if len <= 8 => Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))),
            _ => Err(DecodeErrorKind::Malformed("an integer of more than 8 bytes")),
        }
    }

    /// Reads a big-endian unsigned integer of 0 to 8 bytes.
    #[inline]
    pub fn uint_be(&mut self, len: usize) -> Result<u64, DecodeErrorKind> {
        if len > 8 {
            return Err(DecodeErrorKind::Malformed("an integer of more than 8 bytes"));
        }
        Ok(self.take(len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Reads a length-encoded integer of the client protocol.
    pub fn lenenc(&mut self) -> Result<u64, DecodeErrorKind> {
        match self.u8()? {
            0xfc => self.uint(2),
            0xfd => self.uint(3),
            0xfe => self.uint(8),
            0xfb | 0xff => Err(DecodeErrorKind::Malformed("a length-encoded integer")),
            small => Ok(u64::from(small)),
        }
    }

    pub fn lenenc_usize(&mut self) -> Result<usize, DecodeErrorKind> {
        usize::try_from(self.lenenc()?).map_err(|_| DecodeErrorKind::Truncated)
    }

    /// Reads bytes that follow their length-encoded length.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], DecodeErrorKind> {
        let len = self.lenenc_usize()?;
        self.take(len)
    }

    /// Reads an integer of MySQL's serialization format: as many low one bits as bytes follow the first.
    /// <https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>
    pub fn serialized_uint(&mut self) -> Result<u64, DecodeErrorKind> {
        let more = self.0.first().ok_or(DecodeErrorKind::Truncated)?.trailing_ones() as usize;
        if more == 8 {
            self.u8()?;
            return self.u64();
        }
        Ok(self.uint(more + 1)? >> (more + 1))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
