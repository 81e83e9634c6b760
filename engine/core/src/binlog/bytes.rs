//! A cursor over an event's bytes. Reading past the end is an error, never a panic.

use super::error::Fault;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        // Not `ok_or`: it would make, and drop, an error for each value that is there.
        let Some((taken, rest)) = self.0.split_at_checked(len) else { return Err(Fault::Truncated) };
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let Some((taken, rest)) = self.0.split_first_chunk::<N>() else { return Err(Fault::Truncated) };
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A little-endian unsigned integer of 0 to 8 bytes.
    #[inline]
    pub fn uint(&mut self, len: usize) -> Result<u64, Fault> {
        match self.0.first_chunk() {
            // Mostly more follows: then no length, known only now, is copied or asked for one by one.
            Some(eight) if matches!(len, 1..=8) => {
                self.0 = &self.0[len..];
                let unused_bits = 64 - 8 * len;
                Ok(u64::from_le_bytes(*eight) << unused_bits >> unused_bits)
            }
            _ if len <= 8 => Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))),
            _ => Err(Fault::Malformed("an integer of more than 8 bytes")),
        }
    }

    /// A big-endian unsigned integer of 0 to 8 bytes.
    #[inline]
    pub fn uint_be(&mut self, len: usize) -> Result<u64, Fault> {
        if len > 8 {
            return Err(Fault::Malformed("an integer of more than 8 bytes"));
        }
        Ok(self.take(len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A length-encoded integer, as the client protocol has them.
    pub fn lenenc(&mut self) -> Result<u64, Fault> {
        match self.u8()? {
            0xfc => self.uint(2),
            0xfd => self.uint(3),
            0xfe => self.uint(8),
            0xfb | 0xff => Err(Fault::Malformed("a length-encoded integer")),
            small => Ok(u64::from(small)),
        }
    }

    pub fn lenenc_usize(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.lenenc()?).map_err(|_| Fault::Truncated)
    }

    /// Bytes behind their length-encoded length.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.lenenc_usize()?;
        self.take(len)
    }

    /// An integer of MySQL's serialization format: as many low one bits as bytes follow the first.
    /// <https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>
    pub fn serialized_uint(&mut self) -> Result<u64, Fault> {
        let more = self.0.first().ok_or(Fault::Truncated)?.trailing_ones() as usize;
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
