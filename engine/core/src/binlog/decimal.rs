//! `DECIMAL`: digits in groups of nine, each group a big-endian integer.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/group__DECIMAL.html> (`decimal2bin`)

use super::bytes::Bytes;
use super::error::DecodeErrorKind;

/// The bytes of a group by its number of digits: 0 digits take 0 bytes, 9 take 4.
const GROUP_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
const DIGITS_A_GROUP: usize = 9;
/// The server's decimals have at most nine groups. A column's value takes at most 30 bytes; a decimal in a JSON
/// document may be stored with leading zeros, and so with more digits than a column can have.
const BYTES_MAX: usize = 9 * 4;

/// Returns the length of a value of `DECIMAL(precision, scale)`, in bytes.
pub(super) fn len(precision: u8, scale: u8) -> Result<usize, DecodeErrorKind> {
    let bytes = |digits: u8| {
        let digits = usize::from(digits);
        digits / DIGITS_A_GROUP * 4 + GROUP_BYTES[digits % DIGITS_A_GROUP]
    };
    let Some(integer_digits) = precision.checked_sub(scale) else {
        return Err(DecodeErrorKind::Malformed("a decimal's scale"));
    };
    Ok(bytes(integer_digits) + bytes(scale))
}

/// Appends a value of `DECIMAL(precision, scale)` as text: `-12.50`.
pub(super) fn decode(
    bytes: &mut Bytes<'_>,
    precision: u8,
    scale: u8,
    out: &mut Vec<u8>,
) -> Result<(), DecodeErrorKind> {
    let len = len(precision, scale)?;
    let (precision, scale) = (usize::from(precision), usize::from(scale));
    let integer_digits = precision - scale;
    let (integer_groups, integer_rest) = (integer_digits / DIGITS_A_GROUP, integer_digits % DIGITS_A_GROUP);
    let (fraction_groups, fraction_rest) = (scale / DIGITS_A_GROUP, scale % DIGITS_A_GROUP);

    let mut buffer = [0u8; BYTES_MAX];
    let Some(number) = buffer.get_mut(..len) else { return Err(DecodeErrorKind::Malformed("a decimal's precision")) };
    number.copy_from_slice(bytes.take(len)?);
    let Some(first) = number.first_mut() else {
        return Err(DecodeErrorKind::Malformed("a decimal without digits"));
    };
    // The first bit is the inverted sign; a negative number has all other bits inverted, too.
    let negative = *first & 0x80 == 0;
    *first ^= 0x80;
    if negative {
        number.iter_mut().for_each(|byte| *byte = !*byte);
        out.push(b'-');
    }

    let mut groups = Bytes(number);
    let digits_at = out.len();
    push_group(&mut groups, integer_rest, out)?;
    for _ in 0..integer_groups {
        push_group(&mut groups, DIGITS_A_GROUP, out)?;
    }
    let leading_zeros = out[digits_at..].iter().take_while(|&&digit| digit == b'0').count();
    out.drain(digits_at..digits_at + leading_zeros);
    if out.len() == digits_at {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        for _ in 0..fraction_groups {
            push_group(&mut groups, DIGITS_A_GROUP, out)?;
        }
        push_group(&mut groups, fraction_rest, out)?;
    }
    Ok(())
}

/// Appends a group of at most nine digits, with its leading zeros.
fn push_group(groups: &mut Bytes<'_>, digits: usize, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let mut group = groups.uint_be(GROUP_BYTES[digits])?;
    let at = out.len();
    out.resize(at + digits, b'0');
    for digit in out[at..].iter_mut().rev() {
        *digit = b'0' + (group % 10) as u8;
        group /= 10;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], precision: u8, scale: u8) -> String {
        let mut out = Vec::new();
        decode(&mut Bytes(bytes), precision, scale, &mut out).expect("a decimal");
        String::from_utf8(out).expect("text")
    }

    /// The example of the server's documentation of `decimal2bin`.
    #[test]
    fn the_manuals_example() {
        assert_eq!(text(&[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2], 14, 4), "1234567890.1234");
        assert_eq!(text(&[0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d], 14, 4), "-1234567890.1234");
    }

    #[test]
    fn small_numbers() {
        assert_eq!(text(&[0x80, 0x00], 4, 2), "0.00");
        assert_eq!(text(&[0x80, 0x05], 4, 2), "0.05");
        assert_eq!(text(&[0x7f, 0xfa], 4, 2), "-0.05");
        assert_eq!(text(&[0x80], 2, 2), "0.00");
        assert_eq!(text(&[0x8c], 2, 0), "12");
    }

    /// 72 digits before the point, of which the first are zeros, and one after it.
    #[test]
    fn leading_zeros_of_a_whole_group() {
        let bytes = [&[0x80, 0, 0, 0, 0, 0, 0, 1][..], &[0; 24], &[0, 5]].concat();
        assert_eq!(text(&bytes[..33], 73, 1), format!("1{}.0", "0".repeat(54)));
        assert_eq!(text(&[&bytes[..32], &[5]].concat(), 73, 1), format!("1{}.5", "0".repeat(54)));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut out = Vec::new();
        assert_eq!(decode(&mut Bytes(&[0x80]), 4, 2, &mut out), Err(DecodeErrorKind::Truncated));
        assert!(decode(&mut Bytes(&[0x80; 200]), 255, 0, &mut out).is_err());
        assert!(decode(&mut Bytes(&[0x80]), 1, 2, &mut out).is_err());
        assert!(decode(&mut Bytes(&[]), 0, 0, &mut out).is_err());
    }
}
