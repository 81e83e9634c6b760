//! Dates and times as text and as numbers.

use rowmill_core::envelope::push_time;

use super::number::Number;

/// Returns a time in microseconds since 1970 as MySQL writes it, in UTC.
pub(super) fn text(time_us: i64) -> String {
    let mut out = Vec::with_capacity(32);
    push_time(time_us, &mut out);
    String::from_utf8_lossy(&out).replace('T', " ").trim_end_matches('Z').to_owned()
}

/// Returns the microseconds since 1970 of a moment in UTC.
pub(crate) fn time_us(text: &str) -> Option<i64> {
    Moment::parse(text)?.micros().map(|(micros, _)| micros)
}

/// A moment, or a date, as MySQL writes it. Zero parts are valid in MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment<'a> {
    year: &'a str,
    month: &'a str,
    day: &'a str,
    /// `08:30:00`; midnight if the value is a date.
    time: &'a str,
    /// The digits of the fraction of the second.
    fraction: &'a str,
}

impl<'a> Moment<'a> {
    /// Parses `2026-11-26`, `2026-11-26 08:30:00` and `2026-11-26 08:30:00.000000`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
        let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut parts = date.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let is_digits = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        let clock = time.as_bytes();
        let is_time = clock.len() == 8
            && clock[2] == b':'
            && clock[5] == b':'
            && [0, 1, 3, 4, 6, 7].iter().all(|&at| clock[at].is_ascii_digit());
        let is_moment = is_digits(year, 4)
            && is_digits(month, 2)
            && is_digits(day, 2)
            && is_time
            && is_digits(fraction, fraction.len())
            && fraction.len() <= 6
            && parts.next().is_none();
        is_moment.then_some(Self { year, month, day, time, fraction })
    }

    /// Returns the microseconds since 1970, with the moment in UTC, and the digits of its fraction. `None` if a part of the date
    /// is zero.
    fn micros(self) -> Option<(i64, u32)> {
        let number = |text: &str| text.parse::<u32>().ok();
        let (year, month, day) = (number(self.year)?, number(self.month)?, number(self.day)?);
        if year == 0 || month == 0 || month > 12 || day == 0 || day > 31 {
            return None;
        }
        let days = days_from_civil(i64::from(year), month, day);
        let [hours, minutes, seconds] = [0, 3, 6].map(|at| number(&self.time[at..at + 2]).unwrap_or_default());
        let seconds = days * 86_400 + i64::from(hours * 3600 + minutes * 60 + seconds);
        let micros: i64 = format!("{:0<6}", self.fraction).parse().ok()?;
        Some((seconds * 1_000_000 + micros, self.fraction.len() as u32))
    }

    /// Returns the seconds since 1970, with the fractional digits of the moment, as `UNIX_TIMESTAMP` of MySQL.
    pub fn unix_timestamp(self) -> Option<Number> {
        let (micros, digits) = self.micros()?;
        let millionth = Number::parse("0.000001")?;
        let seconds = Number::from(micros).calculate(super::number::Operator::Multiply, millionth).ok()?;
        Some(seconds.round(digits))
    }

    /// Returns the milliseconds since 1970; further digits are cut.
    pub fn unix_millis(self) -> Option<Number> {
        self.micros().map(|(micros, _)| Number::from(micros.div_euclid(1000)))
    }
}

/// Returns the days since 1970 of a date.
/// <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A format of `DATE_FORMAT`.
/// <https://dev.mysql.com/doc/refman/9.7/en/date-and-time-functions.html#function_date-format>
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Year,
    ShortYear,
    Month,
    MonthNumber,
    Day,
    DayNumber,
    Hour,
    HourNumber,
    Minute,
    Second,
    Micros,
    Clock,
}

impl Format {
    /// # Errors
    /// If the format has a specifier that is not supported.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let literal = match (c, if c == '%' { chars.next() } else { None }) {
                ('%', Some('%')) => '%',
                ('%', specifier) => {
                    pieces.push(match specifier {
                        Some('Y') => Piece::Year,
                        Some('y') => Piece::ShortYear,
                        Some('m') => Piece::Month,
                        Some('c') => Piece::MonthNumber,
                        Some('d') => Piece::Day,
                        Some('e') => Piece::DayNumber,
                        Some('H') => Piece::Hour,
                        Some('k') => Piece::HourNumber,
                        Some('i') => Piece::Minute,
                        Some('s' | 'S') => Piece::Second,
                        Some('f') => Piece::Micros,
                        Some('T') => Piece::Clock,
                        other => {
                            let specifier = other.map_or_else(|| "%".to_owned(), |other| format!("%{other}"));
                            let known = "%Y %y %m %c %d %e %H %k %i %s %f %T %%";
                            return Err(format!("date format `{text}`: `{specifier}` is none of {known}"));
                        }
                    });
                    continue;
                }
                (c, _) => c,
            };
            match pieces.last_mut() {
                Some(Piece::Text(text)) => text.push(literal),
                _ => pieces.push(Piece::Text(literal.to_string())),
            }
        }
        Ok(Self(pieces))
    }

    /// Returns the moment in this format.
    pub fn format(&self, moment: Moment<'_>) -> String {
        let mut out = String::new();
        let Moment { year, month, day, time, fraction } = moment;
        let number = |text: &'_ str| text.strip_prefix('0').unwrap_or(text).to_owned();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Year => out.push_str(year),
                Piece::ShortYear => out.push_str(&year[2..]),
                Piece::Month => out.push_str(month),
                Piece::MonthNumber => out.push_str(&number(month)),
                Piece::Day => out.push_str(day),
                Piece::DayNumber => out.push_str(&number(day)),
                Piece::Hour => out.push_str(&time[..2]),
                Piece::HourNumber => out.push_str(&number(&time[..2])),
                Piece::Minute => out.push_str(&time[3..5]),
                Piece::Second => out.push_str(&time[6..]),
                Piece::Micros => out.push_str(&format!("{fraction:0<6}")),
                Piece::Clock => out.push_str(time),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_numbers_and_texts() {
        for (text, timestamp, millis, formatted) in [
            ("2026-11-23 10:05:09.25", Some("1795428309.25"), Some("1795428309250"), "26/11/23 10h5 09.250000 %"),
            ("2026-11-23", Some("1795392000"), Some("1795392000000"), "26/11/23 0h5 00.000000 %"),
            ("1969-12-31 23:59:59.999", Some("-0.001"), Some("-1"), ""),
            ("2026-00-00", None, None, "26/00/0 0h 00.000000 %"),
        ] {
            let moment = Moment::parse(text).expect(text);
            assert_eq!(moment.unix_timestamp().map(Number::text).as_deref(), timestamp, "{text}");
            assert_eq!(moment.unix_millis().map(Number::text).as_deref(), millis, "{text}");
            if text.starts_with("2026-11") {
                let format = Format::parse("%y/%m/%e %kh5 %S.%f %%").expect("a format");
                assert_eq!(format.format(moment), formatted);
            }
        }
        let zero = Moment::parse("2026-00-07 01:02:03").expect("a moment");
        assert_eq!(Format::parse("%Y-%m-%d|%c|%e|%T|%i").expect("a format").format(zero), "2026-00-07|0|7|01:02:03|02");
        for text in
            ["", "2026", "2026-1-1", "2026-11-23 1:2:3", "2026-11-23 10:00", "26-11-2026", "2026-11-23 10:00:00.x"]
        {
            assert!(Moment::parse(text).is_none(), "{text}");
        }
        assert!(Format::parse("%W").is_err_and(|error| error.contains("`%W` is none of %Y")));
        assert!(Format::parse("%").is_err());
    }
}
