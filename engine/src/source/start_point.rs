//! Where a stream starts, and how a server is asked for it.

use std::sync::Arc;

use rowmill_core::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};

/// Where to begin, and how to ask for it.
#[derive(Debug, Clone)]
pub struct StartPoint {
    /// From where to read on.
    pub resume: ResumePoint,
    /// How.
    pub by: ResumeBy,
    /// Where the server begins if it is asked for a position; what it sends from there and is past is passed over.
    pub from: BinlogPosition,
}

/// How a server is asked for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeBy {
    /// From a position in a file.
    Position,
    /// What isn't in the set of GTIDs: MySQL is given the set, MariaDB begins at the head of a file before which all
    /// transactions are in it. (Asked by a GTID of each domain, it would skip what another server of the domain wrote before
    /// it and the engine hasn't got.)
    Gtids,
}

impl StartPoint {
    /// To be asked for by its position.
    pub(super) fn at(resume: ResumePoint) -> Self {
        Self { from: resume.position.clone(), resume, by: ResumeBy::Position }
    }
}

impl std::fmt::Display for StartPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.by, &self.resume.gtids) {
            (ResumeBy::Gtids, Some(gtids)) => write!(f, "behind the transactions {gtids}"),
            _ => self.resume.fmt(f),
        }
    }
}

/// Whether a server can be asked for a position: a dump names it in 32 bits.
pub(super) fn is_within_reach(position: &BinlogPosition) -> bool {
    u32::try_from(position.offset).is_ok()
}

/// The same place, so that a server can be asked for it: a dump begins at most 4 GiB into a file. Beyond that the file is
/// read from its head, and what is before the place is passed over.
pub(super) fn within_reach(resume: ResumePoint) -> ResumePoint {
    if is_within_reach(&resume.position) {
        return resume;
    }
    let BinlogPosition { file, offset } = &resume.position;
    let partial = PartialTransaction { file: file.clone(), progress: EventOffset { event: *offset, rows: 0 } };
    let head = BinlogPosition::new(file.clone(), BinlogPosition::FIRST_EVENT);
    // The head of the file says which transactions are before it, and counting them gives those before the place.
    let at_head = ResumePoint {
        position: head,
        partial: None,
        gtids: None,
        fingerprint: None,
        server: Arc::clone(&resume.server),
    };
    let further = resume.partial;
    let at_head = at_head.advanced_to(partial);
    further.into_iter().fold(at_head, ResumePoint::advanced_to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_4_gib_the_file_is_read_from_its_head() {
        let near = ResumePoint::at("server", BinlogPosition::new("binlog.000007", u64::from(u32::MAX)));
        assert_eq!(within_reach(near.clone()), near);
        let far = ResumePoint::at("server", BinlogPosition::new("binlog.000007", 5 << 30));
        let head = ResumePoint::at("server", BinlogPosition::new("binlog.000007", 4));
        let partial = |event, rows| PartialTransaction {
            file: "binlog.000007".to_owned(),
            progress: EventOffset { event, rows },
        };
        assert_eq!(within_reach(far.clone()), ResumePoint { partial: Some(partial(5 << 30, 0)), ..head.clone() });
        let further = ResumePoint { partial: Some(partial(6 << 30, 7)), ..far };
        assert_eq!(within_reach(further), ResumePoint { partial: Some(partial(6 << 30, 7)), ..head });
    }
}
