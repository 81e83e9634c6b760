//! Numbers as text.

use std::io::Write;

/// Appends a double as MySQL's JSON functions show it: the shortest digits that read back as the same double, with an
/// exponent below 1e-15 and for integers from 1e15 on, and always recognizable as a double (`1.0`).
/// <https://github.com/mysql/mysql-server/blob/trunk/strings/dtoa.cc> (`my_gcvt`)
pub(super) fn push_json_double(number: f64, out: &mut Vec<u8>) {
    let mut buffer = zmij::Buffer::new();
    let shortest = buffer.format_finite(number);
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let exponent: i32 = exponent.parse().unwrap_or(0);

    // The number is 0.DIGITS * 10^point.
    let all = format!("{integer}{fraction}");
    let digits = all.trim_start_matches('0');
    let point = integer.len() as i32 + exponent - (all.len() - digits.len()) as i32;
    let digits = if digits.is_empty() { "0" } else { digits.trim_end_matches('0') };
    let count = digits.len() as i32;
    let written = if number == 0.0 {
        write!(out, "{sign}0.0")
    } else if point < -14 || point > 15 && count <= point {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        write!(out, "{sign}{first}{dot}{rest}e{}", point - 1)
    } else if point <= 0 {
        write!(out, "{sign}0.{:0>width$}", digits, width = (count - point) as usize)
    } else if count <= point {
        write!(out, "{sign}{:0<width$}.0", digits, width = point as usize)
    } else {
        let (integer, fraction) = digits.split_at(point as usize);
        write!(out, "{sign}{integer}.{fraction}")
    };
    written.expect("writing to memory doesn't fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_mysql_shows_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (1e14, "100000000000000.0"),
            (-0.0, "-0.0"),
            (999999999999999.0, "999999999999999.0"),
            (1e15, "1e15"),
            (1234567890123456.0, "1.234567890123456e15"),
            (1234567890123456.8, "1234567890123456.8"),
            (-4503599627370495.5, "-4503599627370495.5"),
            (4503599627370497.0, "4.503599627370497e15"),
            (9007199254740993.0, "9.007199254740992e15"),
            (1e-15, "0.000000000000001"),
            (1.2345678901234568e-15, "0.0000000000000012345678901234568"),
            (9.99e-16, "9.99e-16"),
            (5e-324, "5e-324"),
            (2.2250738585072014e-308, "2.2250738585072014e-308"),
            (1e20, "1e20"),
            (1.25e-20, "1.25e-20"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
            (123456.789, "123456.789"),
        ] {
            let mut out = Vec::new();
            push_json_double(number, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
            assert_eq!(text.parse(), Ok(number));
        }
    }
    proptest! {
        /// tests/tests/json_fidelity.rs compares the digits and the notation with a real server's.
        #[test]
        fn any_double_reads_back(bits in any::<u64>(), exponent in -20i32..20) {
            for number in [f64::from_bits(bits), (bits as f64 / 2f64.powi(64)) * 10f64.powi(exponent)] {
                if number.is_finite() {
                    let mut out = Vec::new();
                    push_json_double(number, &mut out);
                    let text = String::from_utf8(out).expect("text");
                    prop_assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(number.to_bits()), "{}", text);
                    prop_assert!(text.contains(['.', 'e']), "{}", text);
                }
            }
        }
    }
}
