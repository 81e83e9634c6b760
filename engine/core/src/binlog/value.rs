//! Decodes a column's value from a row event's encoding to the packed batch's.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Rows__event.html>

use super::bytes::Bytes;
use super::charset::{Charset, TextError};
use super::error::DecodeErrorKind;
use super::{decimal, json, mariadb, temporal};

/// The encoding of a column's values in row events.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Codec {
    Int {
        len: usize,
    },
    Uint {
        len: usize,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Year,
    Date,
    Time {
        digits: u8,
    },
    TimeOld,
    Datetime {
        digits: u8,
    },
    DatetimeOld,
    Timestamp {
        digits: u8,
    },
    TimestampOld,
    /// `TIME(digits)` in MariaDB's own format from before it adopted MySQL 5.6's, like the next two; `digits` isn't 0.
    TimeHires {
        digits: u8,
    },
    DatetimeHires {
        digits: u8,
    },
    TimestampHires {
        digits: u8,
    },
    Bit {
        len: usize,
    },
    /// The members are UTF-8, or any bytes if the column's kind is bytes.
    Enum {
        len: usize,
        members: Vec<Box<[u8]>>,
    },
    Set {
        len: usize,
        members: Vec<Box<[u8]>>,
    },
    Json {
        len_bytes: usize,
    },
    Text {
        len_bytes: usize,
        charset: Charset,
    },
    Bytes {
        len_bytes: usize,
    },
    /// MariaDB's compressed columns.
    Compressed {
        len_bytes: usize,
        charset: Charset,
    },
    Binary {
        len_bytes: usize,
        len: usize,
    },
}

/// A value that can't be decoded.
#[derive(Debug, PartialEq)]
pub(super) enum ValueError {
    Decode(DecodeErrorKind),
    Text(TextError),
}

impl From<DecodeErrorKind> for ValueError {
    fn from(cause: DecodeErrorKind) -> Self {
        Self::Decode(cause)
    }
}

impl From<TextError> for ValueError {
    fn from(cause: TextError) -> Self {
        Self::Text(cause)
    }
}

/// The width of a value in a row event, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Width {
    Fixed(usize),
    /// A length of 1 to 4 bytes, and as many bytes as it says.
    Prefixed(usize),
}

impl Width {
    /// Skips a value.
    #[inline]
    pub fn skip(self, bytes: &mut Bytes<'_>) -> Result<(), DecodeErrorKind> {
        let len = match self {
            Self::Fixed(len) => len,
            Self::Prefixed(len_bytes) => bytes.uint(len_bytes)? as usize,
        };
        bytes.take(len).map(|_| ())
    }
}

impl Codec {
    /// Returns the width of a value.
    ///
    /// # Errors
    /// If the codec can decode no value.
    pub fn width(&self) -> Result<Width, DecodeErrorKind> {
        Ok(match self {
            Self::Int { len }
            | Self::Uint { len }
            | Self::Bit { len }
            | Self::Enum { len, .. }
            | Self::Set { len, .. } => Width::Fixed(*len),
            Self::Float | Self::TimestampOld => Width::Fixed(4),
            Self::Double | Self::DatetimeOld => Width::Fixed(8),
            Self::Decimal { precision, scale } => Width::Fixed(decimal::len(*precision, *scale)?),
            Self::Year => Width::Fixed(1),
            Self::Date | Self::TimeOld => Width::Fixed(3),
            Self::Time { digits } => Width::Fixed(3 + temporal::fraction_len(*digits)?),
            Self::Datetime { digits } => Width::Fixed(5 + temporal::fraction_len(*digits)?),
            Self::Timestamp { digits } => Width::Fixed(4 + temporal::fraction_len(*digits)?),
            Self::TimeHires { digits } => Width::Fixed(temporal::time_hires_len(*digits)?),
            Self::DatetimeHires { digits } => Width::Fixed(temporal::datetime_hires_len(*digits)?),
            Self::TimestampHires { digits } => Width::Fixed(4 + temporal::fraction_len(*digits)?),
            Self::Json { len_bytes }
            | Self::Text { len_bytes, .. }
            | Self::Bytes { len_bytes }
            | Self::Compressed { len_bytes, .. }
            | Self::Binary { len_bytes, .. } => match len_bytes {
                1..=4 => Width::Prefixed(*len_bytes),
                _ => return Err(DecodeErrorKind::Malformed("a column's length of more than 4 bytes")),
            },
        })
    }

    pub fn is_json(&self) -> bool {
        matches!(self, Self::Json { .. })
    }

    /// Reads one value and appends it in the packed batch's encoding.
    #[inline]
    pub fn decode(&self, bytes: &mut Bytes<'_>, out: &mut Vec<u8>) -> Result<(), ValueError> {
        match self {
            Self::Int { len } => {
                let unused_bits = 64 - 8 * *len as u32;
                let number = ((bytes.uint(*len)? << unused_bits) as i64) >> unused_bits;
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Uint { len } => out.extend_from_slice(&bytes.uint(*len)?.to_le_bytes()),
            Self::Text { len_bytes, charset } => {
                let len = bytes.uint(*len_bytes)? as usize;
                charset.decode(bytes.take(len)?, out)?;
            }
            Self::Decimal { precision, scale } => decimal::decode(bytes, *precision, *scale, out)?,
            Self::Datetime { digits } => temporal::datetime2(bytes, *digits, out)?,
            Self::Timestamp { digits } => temporal::timestamp2(bytes, *digits, out)?,
            Self::Date => temporal::date(bytes, out)?,
            Self::Json { len_bytes } => {
                let len = bytes.uint(*len_bytes)? as usize;
                json::decode(bytes.take(len)?, out)?;
            }
            Self::Bytes { len_bytes } => {
                let len = bytes.uint(*len_bytes)? as usize;
                out.extend_from_slice(bytes.take(len)?);
            }
            Self::Compressed { len_bytes, charset } => {
                let len = bytes.uint(*len_bytes)? as usize;
                charset.decode(&mariadb::unpack_column(bytes.take(len)?)?, out)?;
            }
            Self::Binary { len_bytes, len } => {
                let stored = bytes.uint(*len_bytes)? as usize;
                let end = out.len() + (*len).max(stored);
                out.extend_from_slice(bytes.take(stored)?);
                out.resize(end, 0);
            }
            Self::Float => out.extend_from_slice(&f64::from(f32::from_bits(bytes.u32()?)).to_le_bytes()),
            Self::Double => out.extend_from_slice(&bytes.u64()?.to_le_bytes()),
            Self::Year => {
                let stored = u64::from(bytes.u8()?);
                let year = if stored == 0 { 0 } else { 1900 + stored };
                out.extend_from_slice(&year.to_le_bytes());
            }
            Self::Bit { len } => out.extend_from_slice(&bytes.uint_be(*len)?.to_le_bytes()),
            Self::Enum { len, members } => {
                // Index 0 is the empty text, which the server stores instead of a value outside the list.
                let index = bytes.uint(*len)? as usize;
                if let Some(index) = index.checked_sub(1) {
                    let Some(member) = members.get(index) else {
                        return Err(DecodeErrorKind::Malformed("an ENUM's index").into());
                    };
                    out.extend_from_slice(member);
                }
            }
            Self::Set { len, members } => {
                let bits = bytes.uint(*len)?;
                if bits.checked_shr(members.len() as u32).unwrap_or(0) != 0 {
                    return Err(DecodeErrorKind::Malformed("a SET's bits").into());
                }
                let at = out.len();
                for (_, member) in members.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0) {
                    if out.len() > at {
                        out.push(b',');
                    }
                    out.extend_from_slice(member);
                }
            }
            Self::Time { digits } => temporal::time2(bytes, *digits, out)?,
            Self::TimeOld => temporal::time_old(bytes, out)?,
            Self::DatetimeOld => temporal::datetime_old(bytes, out)?,
            Self::TimestampOld => temporal::timestamp_old(bytes, out)?,
            Self::TimeHires { digits } => temporal::time_hires(bytes, *digits, out)?,
            Self::DatetimeHires { digits } => temporal::datetime_hires(bytes, *digits, out)?,
            Self::TimestampHires { digits } => temporal::timestamp_hires(bytes, *digits, out)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_to_four_bytes() {
        for len_bytes in 0..=9 {
            let width = Codec::Json { len_bytes }.width();
            assert_eq!(width.is_ok(), (1..=4).contains(&len_bytes), "{len_bytes}: {width:?}");
        }
    }
}
