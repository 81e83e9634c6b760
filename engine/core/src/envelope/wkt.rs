//! Geometries as well-known text: `POINT (3 2)`, as the JTS library writes it, which Maxwell uses.
//! <https://www.ogc.org/standards/sfa/> (well-known text and well-known binary)

use std::io::Write;

/// The deepest nesting of collections. Deeper ones are not written as text.
const DEPTH_MAX: usize = 100;

const POINT: u32 = 1;
const LINE_STRING: u32 = 2;
const POLYGON: u32 = 3;
const MULTI_POINT: u32 = 4;
const MULTI_LINE_STRING: u32 = 5;
const MULTI_POLYGON: u32 = 6;
const COLLECTION: u32 = 7;

/// Returns a geometry's text; `None` if the bytes are not well-known binary.
pub(super) fn text(wkb: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(wkb.len());
    let mut reader = Reader { bytes: wkb, is_big_endian: false };
    reader.geometry(0, &mut out)?;
    reader.bytes.is_empty().then_some(out)
}

struct Reader<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        let mut taken = *taken;
        if self.is_big_endian {
            taken.reverse();
        }
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads a geometry's byte order, and returns its type.
    fn header(&mut self) -> Option<u32> {
        let [order] = self.array()?;
        self.is_big_endian = match order {
            0 => true,
            1 => false,
            _ => return None,
        };
        self.u32()
    }

    fn geometry(&mut self, depth: usize, out: &mut Vec<u8>) -> Option<()> {
        let kind = self.header()?;
        let name = match kind {
            POINT => "POINT ",
            LINE_STRING => "LINESTRING ",
            POLYGON => "POLYGON ",
            MULTI_POINT => "MULTIPOINT ",
            MULTI_LINE_STRING => "MULTILINESTRING ",
            MULTI_POLYGON => "MULTIPOLYGON ",
            COLLECTION => "GEOMETRYCOLLECTION ",
            _ => return None,
        };
        out.extend_from_slice(name.as_bytes());
        match kind {
            MULTI_POINT => self.list(out, |reader, out| reader.part(POINT, out)),
            MULTI_LINE_STRING => self.list(out, |reader, out| reader.part(LINE_STRING, out)),
            MULTI_POLYGON => self.list(out, |reader, out| reader.part(POLYGON, out)),
            COLLECTION if depth < DEPTH_MAX => self.list(out, |reader, out| reader.geometry(depth + 1, out)),
            COLLECTION => None,
            _ => self.content(kind, out),
        }
    }

    /// Reads a member of a multi-geometry, whose type is known and not written.
    fn part(&mut self, expected: u32, out: &mut Vec<u8>) -> Option<()> {
        if self.header()? != expected {
            return None;
        }
        self.content(expected, out)
    }

    fn content(&mut self, kind: u32, out: &mut Vec<u8>) -> Option<()> {
        match kind {
            POINT => {
                out.push(b'(');
                self.point(out)?;
                out.push(b')');
                Some(())
            }
            LINE_STRING => self.list(out, Self::point),
            _ => self.list(out, |reader, out| reader.list(out, Self::point)),
        }
    }

    fn list(&mut self, out: &mut Vec<u8>, push_member: impl Fn(&mut Self, &mut Vec<u8>) -> Option<()>) -> Option<()> {
        let count = self.u32()?;
        if count == 0 {
            out.extend_from_slice(b"EMPTY");
            return Some(());
        }
        for index in 0..count {
            out.extend_from_slice(if index == 0 { b"(" } else { b", " });
            push_member(self, out)?;
        }
        out.push(b')');
        Some(())
    }

    fn point(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.coordinate(out)?;
        out.push(b' ');
        self.coordinate(out)
    }

    /// Reads a coordinate and appends all its digits, never an exponent.
    fn coordinate(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let number = self.array().map(f64::from_le_bytes).filter(|number| number.is_finite())?;
        write!(out, "{number}").ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(x: f64, y: f64) -> Vec<u8> {
        [x.to_le_bytes(), y.to_le_bytes()].concat()
    }

    fn geometry(kind: u32, rest: &[u8]) -> Vec<u8> {
        [&[1], &kind.to_le_bytes()[..], rest].concat()
    }

    fn list(members: &[Vec<u8>]) -> Vec<u8> {
        [&(members.len() as u32).to_le_bytes()[..], &members.concat()].concat()
    }

    #[test]
    fn each_type_has_its_text() {
        let line = list(&[point(0.0, 1.0), point(1.5, -2.0)]);
        let polygon = list(&[line.clone(), line.clone()]);
        let a_point = geometry(POINT, &point(1e-7, 1e21));
        for (wkb, expected) in [
            (geometry(POINT, &point(3.0, 2.0)), "POINT (3 2)"),
            (geometry(LINE_STRING, &line), "LINESTRING (0 1, 1.5 -2)"),
            (geometry(POLYGON, &polygon), "POLYGON ((0 1, 1.5 -2), (0 1, 1.5 -2))"),
            (a_point.clone(), "POINT (0.0000001 1000000000000000000000)"),
            (
                geometry(MULTI_POINT, &list(&[a_point.clone(), geometry(POINT, &point(0.0, 0.0))])),
                "MULTIPOINT ((0.0000001 1000000000000000000000), (0 0))",
            ),
            (
                geometry(MULTI_LINE_STRING, &list(&[geometry(LINE_STRING, &line), geometry(LINE_STRING, &line)])),
                "MULTILINESTRING ((0 1, 1.5 -2), (0 1, 1.5 -2))",
            ),
            (
                geometry(MULTI_POLYGON, &list(&[geometry(POLYGON, &polygon)])),
                "MULTIPOLYGON (((0 1, 1.5 -2), (0 1, 1.5 -2)))",
            ),
            (geometry(COLLECTION, &list(&[])), "GEOMETRYCOLLECTION EMPTY"),
            (
                geometry(COLLECTION, &list(&[geometry(POINT, &point(1.0, 1.0)), geometry(LINE_STRING, &line)])),
                "GEOMETRYCOLLECTION (POINT (1 1), LINESTRING (0 1, 1.5 -2))",
            ),
        ] {
            let text = text(&wkb).map(|text| String::from_utf8(text).expect("text"));
            assert_eq!(text.as_deref(), Some(expected));
        }
        let big_endian = [&[0, 0, 0, 0, 1][..], &3f64.to_be_bytes(), &2f64.to_be_bytes()].concat();
        assert_eq!(text(&big_endian).as_deref(), Some(&b"POINT (3 2)"[..]));
    }

    #[test]
    fn what_is_no_geometry_has_none() {
        let deep = geometry(COLLECTION, &1u32.to_le_bytes()).repeat(200_000);
        for wkb in [
            &[][..],
            &[1, 2, 3],
            &geometry(POINT, &point(f64::NAN, 0.0)),
            &geometry(8, &point(0.0, 0.0)),
            &geometry(MULTI_POINT, &list(&[geometry(LINE_STRING, &list(&[]))])),
            &[geometry(POINT, &point(0.0, 0.0)), vec![0]].concat(),
            &geometry(LINE_STRING, &u32::MAX.to_le_bytes()),
            &deep,
        ] {
            assert_eq!(text(wkb), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(wkb in proptest::collection::vec(any::<u8>(), 0..100), kind in 1u32..8) {
            let _ = text(&geometry(kind, &wkb));
        }
    }
}
