//! Dates and times as text, in MySQL's notation. Zero dates and zero parts are kept.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/field_8h.html> (`my_datetime_packed_from_binary`)

use super::bytes::Bytes;
use super::error::DecodeErrorKind;

/// Appends `number` with at least `width` digits.
fn push_padded(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut count = 0;
    while number > 0 || count < width {
        count += 1;
        digits[20 - count] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[20 - count..]);
}

/// Returns the two digits of a number below 100.
fn pair(number: u64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

fn push_date(year: u64, month: u64, day: u64, out: &mut Vec<u8>) {
    if year < 10_000 && month < 100 && day < 100 {
        let [[a, b], [c, d]] = [pair(year / 100), pair(year % 100)];
        let [[e, f], [g, h]] = [pair(month), pair(day)];
        return out.extend_from_slice(&[a, b, c, d, b'-', e, f, b'-', g, h]);
    }
    push_padded(year, 4, out);
    out.push(b'-');
    push_padded(month, 2, out);
    out.push(b'-');
    push_padded(day, 2, out);
}

fn push_time(hours: u64, minutes: u64, seconds: u64, out: &mut Vec<u8>) {
    if hours < 100 && minutes < 100 && seconds < 100 {
        let [[a, b], [c, d], [e, f]] = [pair(hours), pair(minutes), pair(seconds)];
        return out.extend_from_slice(&[a, b, b':', c, d, b':', e, f]);
    }
    push_padded(hours, 2, out);
    out.push(b':');
    push_padded(minutes, 2, out);
    out.push(b':');
    push_padded(seconds, 2, out);
}

/// Appends the first `digits` digits of a fraction of a second.
fn push_fraction(micros: u64, digits: u8, out: &mut Vec<u8>) {
    if digits == 0 {
        return;
    }
    out.push(b'.');
    let at = out.len();
    if micros < 1_000_000 {
        let [[a, b], [c, d], [e, f]] = [pair(micros / 10_000), pair(micros / 100 % 100), pair(micros % 100)];
        out.extend_from_slice(&[a, b, c, d, e, f]);
    } else {
        push_padded(micros, 6, out);
    }
    out.truncate(at + usize::from(digits.min(6)));
}

/// Reads the fraction after a time as microseconds: a big-endian number of hundredths, ten-thousandths or millionths.
fn fraction(bytes: &mut Bytes<'_>, digits: u8) -> Result<u64, DecodeErrorKind> {
    let len = fraction_len(digits)?;
    Ok(bytes.uint_be(len)? * [0, 10_000, 100, 1][len])
}

/// Returns the length of a fraction of a second, in bytes.
pub(super) fn fraction_len(digits: u8) -> Result<usize, DecodeErrorKind> {
    if digits > 6 {
        Err(DecodeErrorKind::Malformed("more than 6 digits of a second"))
    } else {
        Ok(usize::from(digits.div_ceil(2)))
    }
}

/// Reads a `DATE`: 3 bytes, little-endian; from the lowest bit on 5 bits of day, 4 of month, and the year.
pub(super) fn date(bytes: &mut Bytes<'_>, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let packed = bytes.uint(3)?;
    push_date(packed >> 9, packed >> 5 & 15, packed & 31, out);
    Ok(())
}

/// Reads a `DATETIME(digits)`: 5 bytes, big-endian (sign, year * 13 + month, day, hour, minute, second), then the
/// fraction.
pub(super) fn datetime2(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let packed = bytes.uint_be(5)?.wrapping_sub(0x80_0000_0000);
    let micros = fraction(bytes, digits)?;
    push_packed_datetime(packed, micros, digits, out);
    Ok(())
}

fn push_packed_datetime(packed: u64, micros: u64, digits: u8, out: &mut Vec<u8>) {
    let date = packed >> 17 & 0x3f_ffff;
    let time = packed & 0x1_ffff;
    let months = date >> 5;
    push_date(months / 13, months % 13, date & 31, out);
    out.push(b' ');
    push_time(time >> 12, time >> 6 & 63, time & 63, out);
    push_fraction(micros, digits, out);
}

/// Reads a `DATETIME` from before MySQL 5.6: 8 bytes, the decimal digits YYYYMMDDhhmmss.
pub(super) fn datetime_old(bytes: &mut Bytes<'_>, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let packed = bytes.u64()?;
    let (date, time) = (packed / 1_000_000, packed % 1_000_000);
    push_date(date / 10_000, date / 100 % 100, date % 100, out);
    out.push(b' ');
    push_time(time / 10_000, time / 100 % 100, time % 100, out);
    Ok(())
}

/// Reads a `TIME(digits)`: a signed number of 3 bytes and the fraction's bytes, big-endian, offset by its sign bit.
pub(super) fn time2(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let len = fraction_len(digits)?;
    let packed = bytes.uint_be(3 + len)? as i64 - (0x80_0000_i64 << (8 * len));
    if packed < 0 {
        out.push(b'-');
    }
    let magnitude = packed.unsigned_abs();
    let (time, parts) = (magnitude >> (8 * len), magnitude & ((1 << (8 * len)) - 1));
    push_time(time >> 12 & 0x3ff, time >> 6 & 63, time & 63, out);
    push_fraction(parts * [0, 10_000, 100, 1][len], digits, out);
    Ok(())
}

/// Reads a `TIME` from before MySQL 5.6: 3 bytes, the decimal digits hhmmss, signed.
pub(super) fn time_old(bytes: &mut Bytes<'_>, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let packed = (bytes.uint(3)? as i64) << 40 >> 40;
    if packed < 0 {
        out.push(b'-');
    }
    let time = packed.unsigned_abs();
    push_time(time / 10_000, time / 100 % 100, time % 100, out);
    Ok(())
}

/// Reads a `TIMESTAMP(digits)`: seconds since 1970 in 4 bytes, big-endian, then the fraction. In UTC.
pub(super) fn timestamp2(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let seconds = bytes.uint_be(4)?;
    let micros = fraction(bytes, digits)?;
    push_timestamp(seconds, micros, digits, out);
    Ok(())
}

/// Reads a `TIMESTAMP` from before MySQL 5.6: seconds since 1970 in 4 bytes, little-endian.
pub(super) fn timestamp_old(bytes: &mut Bytes<'_>, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    push_timestamp(u64::from(bytes.u32()?), 0, 0, out);
    Ok(())
}

fn push_timestamp(seconds: u64, micros: u64, digits: u8, out: &mut Vec<u8>) {
    if seconds == 0 && micros == 0 {
        // TIMESTAMP has no value for 1970-01-01 00:00:00: zero is the zero date. MariaDB has values for the fractions
        // of that second.
        push_date(0, 0, 0, out);
    } else {
        let (year, month, day) = civil_from_days(seconds / 86_400);
        push_date(year, month, day, out);
    }
    out.push(b' ');
    push_time(seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60, out);
    push_fraction(micros, digits, out);
}

/// Returns how many units of the last of `digits` fractional digits a second has.
fn units_per_second(digits: u8) -> u64 {
    10u64.pow(u32::from(digits.min(6)))
}

/// Splits a time in units of the last of its `digits` fractional digits into seconds and microseconds.
fn split_units(units: u64, digits: u8) -> (u64, u64) {
    let per_second = units_per_second(digits);
    (units / per_second, units % per_second * (1_000_000 / per_second))
}

/// Returns the length of a `TIME(digits)` in MariaDB's own format, in bytes.
pub(super) fn time_hires_len(digits: u8) -> Result<usize, DecodeErrorKind> {
    const LENS: [usize; 7] = [3, 4, 4, 5, 5, 5, 6];
    LENS.get(usize::from(digits)).copied().ok_or(DecodeErrorKind::Malformed("more than 6 digits of a second"))
}

/// Returns the length of a `DATETIME(digits)` in MariaDB's own format, in bytes.
pub(super) fn datetime_hires_len(digits: u8) -> Result<usize, DecodeErrorKind> {
    const LENS: [usize; 7] = [5, 6, 6, 7, 7, 7, 8];
    LENS.get(usize::from(digits)).copied().ok_or(DecodeErrorKind::Malformed("more than 6 digits of a second"))
}

/// Reads a `TIME(digits)` in MariaDB's own format, which versions before 10.1 and `mysql56_temporal_format=OFF` have: a
/// big-endian number of units of the last digit, offset by 839 hours, the first time above the largest one.
/// <https://github.com/MariaDB/server/blob/10.11/sql/field.cc> (`Field_time_hires`)
pub(super) fn time_hires(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    const ZERO_SECONDS: i64 = 839 * 3_600;
    let zero = ZERO_SECONDS * units_per_second(digits) as i64;
    let units = bytes.uint_be(time_hires_len(digits)?)? as i64 - zero;
    if units < 0 {
        out.push(b'-');
    }
    let (seconds, micros) = split_units(units.unsigned_abs(), digits);
    push_time(seconds / 3_600, seconds / 60 % 60, seconds % 60, out);
    push_fraction(micros, digits, out);
    Ok(())
}

/// Reads a `DATETIME(digits)` in the same format: ((((year * 13 + month) * 32 + day) * 24 + hour) * 60 + minute) * 60 +
/// second, in units of the last digit, big-endian.
/// <https://github.com/MariaDB/server/blob/10.11/sql-common/my_time.c> (`pack_time`)
pub(super) fn datetime_hires(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let (packed, micros) = split_units(bytes.uint_be(datetime_hires_len(digits)?)?, digits);
    let (date, time) = (packed / 86_400, packed % 86_400);
    push_date(date / (13 * 32), date / 32 % 13, date % 32, out);
    out.push(b' ');
    push_time(time / 3_600, time / 60 % 60, time % 60, out);
    push_fraction(micros, digits, out);
    Ok(())
}

/// Reads a `TIMESTAMP(digits)` in the same format: seconds since 1970 in 4 bytes, then units of the last digit, both
/// big-endian.
pub(super) fn timestamp_hires(bytes: &mut Bytes<'_>, digits: u8, out: &mut Vec<u8>) -> Result<(), DecodeErrorKind> {
    let seconds = bytes.uint_be(4)?;
    let units = bytes.uint_be(fraction_len(digits)?)?;
    push_timestamp(seconds, units * (1_000_000 / units_per_second(digits)), digits, out);
    Ok(())
}

/// Returns the Gregorian date (year, month, day) of a number of days since 1970, by Howard Hinnant's algorithm.
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
pub(crate) fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Appends a `DATETIME`, `TIMESTAMP` or `DATE` of a JSON document: 64 bits, with the fraction in the low 24.
pub(super) fn json_datetime(packed: u64, with_time: bool, out: &mut Vec<u8>) {
    if with_time {
        push_packed_datetime(packed >> 24, packed & 0xff_ffff, 6, out);
    } else {
        let date = packed >> 41 & 0x3f_ffff;
        push_date((date >> 5) / 13, (date >> 5) % 13, date & 31, out);
    }
}

/// Appends a `TIME` of a JSON document.
pub(super) fn json_time(packed: i64, out: &mut Vec<u8>) {
    if packed < 0 {
        out.push(b'-');
    }
    let magnitude = packed.unsigned_abs();
    let time = magnitude >> 24;
    push_time(time >> 12 & 0x3ff, time >> 6 & 63, time & 63, out);
    push_fraction(magnitude & 0xff_ffff, 6, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(decode: impl FnOnce(&mut Bytes<'_>, &mut Vec<u8>) -> Result<(), DecodeErrorKind>, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        let mut bytes = Bytes(bytes);
        decode(&mut bytes, &mut out).expect("a value");
        assert!(bytes.is_empty(), "all bytes are read");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn timestamps_are_utc() {
        let at = |seconds: u32| text(|b, o| timestamp2(b, 0, o), &seconds.to_be_bytes());
        assert_eq!(at(0), "0000-00-00 00:00:00");
        assert_eq!(at(1), "1970-01-01 00:00:01");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(u32::MAX), "2106-02-07 06:28:15");
    }

    /// MariaDB has `TIMESTAMP` values within the second whose beginning is the zero date.
    #[test]
    fn a_fraction_of_the_first_second_is_no_zero_date() {
        let new = |digits, bytes: &[u8]| text(|b, o| timestamp2(b, digits, o), bytes);
        assert_eq!(new(6, &[0, 0, 0, 0, 7, 0xa1, 0x20]), "1970-01-01 00:00:00.500000");
        assert_eq!(new(6, &[0, 0, 0, 0, 0, 0, 1]), "1970-01-01 00:00:00.000001");
        assert_eq!(new(1, &[0, 0, 0, 0, 50]), "1970-01-01 00:00:00.5");
        assert_eq!(new(6, &[0; 7]), "0000-00-00 00:00:00.000000");
        let hires = |digits, bytes: &[u8]| text(|b, o| timestamp_hires(b, digits, o), bytes);
        assert_eq!(hires(1, &[0, 0, 0, 0, 5]), "1970-01-01 00:00:00.5");
        assert_eq!(hires(3, &[0; 6]), "0000-00-00 00:00:00.000");
    }

    /// The values of a row that MariaDB 11.8 wrote with `mysql56_temporal_format=OFF`.
    #[test]
    fn mariadbs_own_format() {
        let hex = |text: &str| {
            text.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect::<Vec<_>>()
        };
        let timestamp = |digits, bytes| text(|b, o| timestamp_hires(b, digits, o), &hex(bytes));
        assert_eq!(timestamp(1, "58 5a c2 7c 07"), "2016-12-21 17:57:16.7");
        assert_eq!(timestamp(6, "58 5a c2 7c 01 e2 40"), "2016-12-21 17:57:16.123456");
        let time = |digits, bytes| text(|b, o| time_hires(b, digits, o), &hex(bytes));
        assert_eq!(time(2, "11 c8 ce b3"), "-10:11:12.13");
        assert_eq!(time(6, "05 7e 7b bc f7 ff"), "838:59:59.999999");
        let datetime = |digits, bytes: &str| text(|b, o| datetime_hires(b, digits, o), &hex(bytes));
        assert_eq!(datetime(3, "00 41 ef 0a d9 d3 75"), "2016-12-21 17:57:16.789");
        assert_eq!(datetime(6, "01 01 8d c2 62 d5 f7 01"), "2016-12-21 17:57:16.000001");
        for digits in 1..=6 {
            let zero = vec!["00"; datetime_hires_len(digits).expect("a length")].join(" ");
            assert_eq!(datetime(digits, &zero), format!("0000-00-00 00:00:00.{}", "0".repeat(usize::from(digits))));
        }
        // No bytes cause a panic.
        for len in 0..=8 {
            for digits in 0..=9 {
                for byte in [0, 0xff] {
                    let bytes = vec![byte; len];
                    for decode in [time_hires, datetime_hires, timestamp_hires] {
                        let _ = decode(&mut Bytes(&bytes), digits, &mut Vec::new());
                    }
                }
            }
        }
    }

    #[test]
    fn datetimes_keep_zero_parts() {
        let packed = |year: u64, month: u64, day: u64, time: u64| {
            let packed = ((year * 13 + month) << 5 | day) << 17 | time | 0x80_0000_0000;
            packed.to_be_bytes()[3..].to_vec()
        };
        let decode = |bytes: &[u8]| text(|b, o| datetime2(b, 0, o), bytes);
        assert_eq!(decode(&packed(0, 0, 0, 0)), "0000-00-00 00:00:00");
        assert_eq!(decode(&packed(2026, 0, 31, 23 << 12 | 59 << 6 | 58)), "2026-00-31 23:59:58");
        assert_eq!(decode(&packed(9999, 12, 31, 0)), "9999-12-31 00:00:00");
    }

    #[test]
    fn times_may_be_negative_and_long() {
        let packed = |time: i64, digits: u8| {
            let len = 3 + usize::from(digits.div_ceil(2));
            let shift = 8 * (len - 3);
            ((time + (0x80_0000_i64 << shift)) as u64).to_be_bytes()[8 - len..].to_vec()
        };
        let long = (838 << 12 | 59 << 6 | 59) as i64;
        assert_eq!(text(|b, o| time2(b, 0, o), &packed(long, 0)), "838:59:59");
        assert_eq!(text(|b, o| time2(b, 0, o), &packed(-long, 0)), "-838:59:59");
        assert_eq!(text(|b, o| time2(b, 2, o), &packed(-(1 << 8 | 50), 2)), "-00:00:01.50");
        assert_eq!(text(|b, o| time2(b, 6, o), &packed(-1, 6)), "-00:00:00.000001");
    }
}
