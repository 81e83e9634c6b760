//! The start point of a stream: the resume point, and how to request it from a server.

use std::sync::Arc;

use rowmill_core::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};

/// A resume point, and how to request it from the server.
#[derive(Debug, Clone)]
pub struct StartPoint {
    /// Rows before this point are done, and are skipped if the server sends them.
    pub resume: ResumePoint,
    /// How the server is asked.
    pub by: ResumeBy,
    /// The position to request, unless MySQL is asked by GTIDs. It may be before `resume`.
    pub from: BinlogPosition,
}

/// How a server is asked for the events after a resume point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeBy {
    /// By a position in a file.
    Position,
    /// By a set of GTIDs that are done. MySQL gets the set. MariaDB is asked for the head of a file before which all
    /// transactions are in the set. MariaDB's own request has one GTID a domain, and would skip transactions that are not
    /// done, if another server of the domain wrote them before that GTID.
    Gtids,
}

impl StartPoint {
    /// Makes a start point that is requested by its position.
    pub(super) fn at(resume: ResumePoint) -> Self {
        Self { from: resume.position.clone(), resume, by: ResumeBy::Position }
    }
}

impl std::fmt::Display for StartPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.by, &self.resume.gtids) {
            (ResumeBy::Gtids, Some(gtids)) => write!(f, "after the transactions {gtids}"),
            _ => self.resume.fmt(f),
        }
    }
}

/// Returns whether a position can be requested: a dump request has 32 bits for the offset.
pub(super) fn is_within_reach(position: &BinlogPosition) -> bool {
    u32::try_from(position.offset).is_ok()
}

/// Returns an equivalent resume point that can be requested from a server: a dump starts at most 4 GiB into a file. For a
/// position past 4 GiB, the file is read from its head, and the rows before the position are skipped.
pub(super) fn within_reach(resume: ResumePoint) -> ResumePoint {
    if is_within_reach(&resume.position) {
        return resume;
    }
    let BinlogPosition { file, offset } = &resume.position;
    let partial = PartialTransaction { file: file.clone(), progress: EventOffset { event: *offset, rows: 0 } };
    let head = BinlogPosition::new(file.clone(), BinlogPosition::FIRST_EVENT);
    // The first events of the file have the GTIDs before the file; adding those that follow gives the GTIDs at the position.
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
