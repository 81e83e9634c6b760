//! Global transaction IDs (GTIDs) of MySQL and MariaDB, and GTID sets.
//!
//! MySQL: <https://dev.mysql.com/doc/refman/8.4/en/replication-gtids-concepts.html>; MariaDB:
//! <https://mariadb.com/kb/en/gtid/>.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A transaction's GTID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtid {
    /// MySQL's `uuid:number` or `uuid:tag:number`.
    MySql {
        /// The source that assigned the number.
        source: Source,
        /// The transaction's number, from 1.
        number: u64,
    },
    /// MariaDB's `domain-server-sequence`.
    MariaDb {
        /// The replication domain.
        domain: u32,
        /// The server on which the transaction first ran.
        server: u32,
        /// The sequence number. It ascends for each server within a domain.
        sequence: u64,
    },
}

/// The source of MySQL GTIDs' numbers: a server, and within it a tag (8.3 and later; often none).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The server's UUID.
    pub uuid: [u8; 16],
    /// The tag, which is not empty. `None` stands for no tag, rather than an empty text: comparing two empty texts is
    /// slow where the C library compares by masked vectors, since their pointers point to no memory.
    pub tag: Option<Box<str>>,
}

impl Source {
    /// Creates a source. An empty `tag` means none.
    pub fn new(uuid: [u8; 16], tag: &str) -> Self {
        Self { uuid, tag: (!tag.is_empty()).then(|| tag.into()) }
    }
}

/// A set of transactions that are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// For each source, ascending intervals of numbers, with gaps between them.
    MySql(BTreeMap<Source, Vec<Interval>>),
    /// For each domain, the newest transaction of each server that wrote in the domain, as in MariaDB's
    /// `gtid_binlog_state`: in binlog order, so that the last one is the domain's position. Sequence numbers ascend
    /// for each server, not for the domain: with two primaries, merged replicas or `gtid_strict_mode = OFF` they step
    /// down.
    MariaDb(BTreeMap<u32, Vec<Newest>>),
}

/// The newest transaction of a server within a MariaDB domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// The server on which the transaction first ran.
    pub server: u32,
    /// The transaction's sequence number.
    pub sequence: u64,
}

/// An interval of numbers, from `first` to `last`, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The smallest number.
    pub first: u64,
    /// The largest number.
    pub last: u64,
}

/// The error of text that is not a GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read `{0}` as a GTID set; write `uuid:1-100` (MySQL) or `0-1-100` (MariaDB), several separated by commas"
)]
pub struct GtidSetError(pub String);

/// A writer of GTIDs as text. The source that successive GTIDs share is written once.
#[derive(Debug, Default)]
pub(crate) struct GtidText {
    text: String,
    /// The source with which the text begins.
    source: Option<Source>,
    /// The index in the text at which the number begins, after the source.
    number_at: usize,
}

impl GtidText {
    /// Returns a GTID's text; the empty text for `None`.
    pub fn of(&mut self, gtid: Option<&Gtid>) -> &str {
        match gtid {
            None => return "",
            Some(Gtid::MySql { source, number }) => {
                if self.source.as_ref() != Some(source) {
                    self.text = format!("{source}:");
                    self.number_at = self.text.len();
                    self.source = Some(source.clone());
                }
                self.text.truncate(self.number_at);
                self.text.push_str(itoa::Buffer::new().format(*number));
            }
            Some(gtid @ Gtid::MariaDb { .. }) => *self = Self { text: gtid.to_string(), ..Self::default() },
        }
        &self.text
    }
}

impl GtidSet {
    /// Creates an empty set of MySQL's GTIDs.
    pub fn mysql() -> Self {
        Self::MySql(BTreeMap::new())
    }

    /// Creates an empty set of MariaDB's GTIDs.
    pub fn mariadb() -> Self {
        Self::MariaDb(BTreeMap::new())
    }

    /// Adds a transaction. A GTID of the other family is ignored: a server writes only GTIDs of its own family.
    pub fn add(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Self::MySql(sources), Gtid::MySql { source, number }) => {
                if let Some(intervals) = sources.get_mut(source) {
                    // Nearly always the next number.
                    match intervals.last_mut() {
                        Some(newest) if newest.last.checked_add(1) == Some(*number) => newest.last = *number,
                        _ => insert(intervals, Interval { first: *number, last: *number }),
                    }
                } else {
                    sources.insert(source.clone(), vec![Interval { first: *number, last: *number }]);
                }
            }
            (Self::MariaDb(domains), Gtid::MariaDb { domain, server, sequence }) => {
                let servers = domains.entry(*domain).or_default();
                match servers.last_mut() {
                    // Nearly always the same server.
                    Some(last) if last.server == *server => last.sequence = *sequence,
                    _ => {
                        servers.retain(|newest| newest.server != *server);
                        servers.push(Newest { server: *server, sequence: *sequence });
                    }
                }
            }
            (Self::MySql(_), _) | (Self::MariaDb(_), _) => {}
        }
    }

    /// Adds the transactions of a MariaDB set, all of which are newer than those of `self`.
    pub fn add_all(&mut self, newer: &Self) {
        for (domain, Newest { server, sequence }) in newer.newest_of_servers() {
            self.add(&Gtid::MariaDb { domain, server, sequence });
        }
    }

    /// Adds an interval of a source's numbers to a MySQL set.
    pub fn add_interval(&mut self, source: Source, interval: Interval) {
        if let Self::MySql(sources) = self {
            insert(sources.entry(source).or_default(), interval);
        }
    }

    /// Whether the set contains a transaction. A MariaDB set contains the transactions whose numbers are not above that
    /// of the newest one of their server in their domain. As numbers may decrease, this holds only for transactions up
    /// to the newest one.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::MySql(sources), Gtid::MySql { source, number }) => sources
                .get(source)
                .is_some_and(|intervals| intervals.iter().any(|i| (i.first..=i.last).contains(number))),
            (Self::MariaDb(_), Gtid::MariaDb { domain, server, sequence }) => {
                self.newest(*domain, *server).is_some_and(|newest| *sequence <= newest)
            }
            _ => false,
        }
    }

    /// Returns the sequence number of a server's newest transaction in a MariaDB domain.
    pub fn newest(&self, domain: u32, server: u32) -> Option<u64> {
        let Self::MariaDb(domains) = self else { return None };
        let newest = domains.get(&domain)?.iter().find(|newest| newest.server == server)?;
        Some(newest.sequence)
    }

    /// Returns the last transaction of a MariaDB domain, which is the domain's position.
    pub fn last(&self, domain: u32) -> Option<Newest> {
        let Self::MariaDb(domains) = self else { return None };
        domains.get(&domain)?.last().copied()
    }

    /// Iterates over the transactions of a MariaDB set, each with its domain; a domain's last transaction comes last.
    /// For a MySQL set it is empty.
    pub fn newest_of_servers(&self) -> impl Iterator<Item = (u32, Newest)> {
        let domains = match self {
            Self::MySql(_) => None,
            Self::MariaDb(domains) => Some(domains),
        };
        domains.into_iter().flatten().flat_map(|(domain, servers)| servers.iter().map(|newest| (*domain, *newest)))
    }

    /// Whether `other` contains all transactions of `self`.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MySql(mine), Self::MySql(theirs)) => mine.iter().all(|(source, intervals)| {
                let theirs = theirs.get(source).map_or(&[][..], Vec::as_slice);
                intervals.iter().all(|i| theirs.iter().any(|other| other.first <= i.first && i.last <= other.last))
            }),
            (Self::MariaDb(_), Self::MariaDb(_)) => {
                self.newest_of_servers().all(|(domain, Newest { server, sequence })| {
                    other.newest(domain, server).is_some_and(|newest| sequence <= newest)
                })
            }
            // The empty text is MySQL's empty set.
            (empty, Self::MariaDb(_)) if empty.is_empty() => true,
            _ => false,
        }
    }

    /// Returns a MySQL set in the format in which a replica sends it to the server (`COM_BINLOG_DUMP_GTID`): that of
    /// `Gtid_set::encode`. Tags, which servers before 8.3 do not know, need another format. Empty for a MariaDB set.
    pub fn encode(&self) -> Vec<u8> {
        let Self::MySql(sources) = self else { return Vec::new() };
        let is_tagged = sources.keys().any(|source| source.tag.is_some());
        let count = sources.len() as u64;
        let mut bytes = Vec::new();
        let header = if is_tagged { 1 << 56 | count << 8 | 1 } else { count };
        bytes.extend_from_slice(&header.to_le_bytes());
        for (source, intervals) in sources {
            bytes.extend_from_slice(&source.uuid);
            if is_tagged {
                // At most 32 bytes: one byte is enough for the length in MySQL's serialization format.
                let tag = source.tag.as_deref().unwrap_or_default();
                bytes.push((tag.len() as u8) << 1);
                bytes.extend_from_slice(tag.as_bytes());
            }
            bytes.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
            for Interval { first, last } in intervals {
                bytes.extend_from_slice(&first.to_le_bytes());
                bytes.extend_from_slice(&last.saturating_add(1).to_le_bytes());
            }
        }
        bytes
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MySql(sources) => sources.is_empty(),
            Self::MariaDb(domains) => domains.is_empty(),
        }
    }
}

/// Inserts an interval among ascending ones, and merges intervals that overlap or touch.
fn insert(intervals: &mut Vec<Interval>, new: Interval) {
    let from = intervals.partition_point(|i| i.last.saturating_add(1) < new.first);
    let to = intervals.partition_point(|i| i.first <= new.last.saturating_add(1));
    let joined = match intervals.get(from..to) {
        Some([first, .., last]) => Interval { first: first.first.min(new.first), last: last.last.max(new.last) },
        Some([one]) => Interval { first: one.first.min(new.first), last: one.last.max(new.last) },
        _ => new,
    };
    intervals.splice(from..to, [joined]);
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.uuid.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MySql { source, number } => write!(f, "{source}:{number}"),
            Self::MariaDb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Writes the set as the servers write it and read it.
impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        match self {
            Self::MySql(sources) => {
                for (source, intervals) in sources {
                    write!(f, "{separator}{source}")?;
                    separator = ",";
                    for interval in intervals {
                        write!(f, ":{interval}")?;
                    }
                }
            }
            Self::MariaDb(domains) => {
                for (domain, servers) in domains {
                    for Newest { server, sequence } in servers {
                        write!(f, "{separator}{domain}-{server}-{sequence}")?;
                        separator = ",";
                    }
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = GtidSetError;

    /// Parses a set as [`GtidSet`]'s `Display`, MySQL's `gtid_executed` or MariaDB's `gtid_binlog_pos` and
    /// `gtid_binlog_state` write it. The empty text is MySQL's empty set.
    fn from_str(text: &str) -> Result<Self, GtidSetError> {
        let refuse = || GtidSetError(text.trim().to_owned());
        let mut set: Option<Self> = None;
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if item.contains(':') {
                let Self::MySql(sources) = set.get_or_insert_with(Self::mysql) else { return Err(refuse()) };
                mysql_item(item, sources).ok_or_else(refuse)?;
            } else {
                let set = set.get_or_insert_with(Self::mariadb);
                if matches!(set, Self::MySql(_)) {
                    return Err(refuse());
                }
                let mut numbers = item.split('-');
                let mut number = || numbers.next()?.parse::<u64>().ok();
                let (Some(domain), Some(server), Some(sequence), None) = (number(), number(), number(), number())
                else {
                    return Err(refuse());
                };
                let domain = u32::try_from(domain).map_err(|_| refuse())?;
                let server = u32::try_from(server).map_err(|_| refuse())?;
                set.add(&Gtid::MariaDb { domain, server, sequence });
            }
        }
        Ok(set.unwrap_or_else(Self::mysql))
    }
}

/// Parses `uuid:1-3:5:tag:1-2`: intervals, and tags that apply to the intervals after them.
fn mysql_item(item: &str, sources: &mut BTreeMap<Source, Vec<Interval>>) -> Option<()> {
    let mut parts = item.split(':').map(str::trim);
    let uuid = parse_uuid(parts.next()?)?;
    let mut source = Source::new(uuid, "");
    let mut found = false;
    for part in parts {
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let interval = Interval { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
            if interval.first == 0 || interval.last < interval.first {
                return None;
            }
            insert(sources.entry(source.clone()).or_default(), interval);
            found = true;
        } else {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if part.is_empty() || part.len() > 32 || !part.chars().all(fits) {
                return None;
            }
            source.tag = Some(part.to_ascii_lowercase().into());
        }
    }
    found.then_some(())
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> =
        text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.parse().expect("a set")
    }

    #[test]
    fn texts_one_after_the_other() {
        let mysql = |uuid, tag, number| Some(Gtid::MySql { source: Source::new([uuid; 16], tag), number });
        let mariadb = |sequence| Some(Gtid::MariaDb { domain: 0, server: 1, sequence });
        let gtids = [
            mysql(1, "", 9),
            mysql(1, "", u64::MAX),
            None,
            mysql(1, "", 1),
            mysql(1, "tag", 1),
            mysql(2, "tag", 1),
            mariadb(7),
            mariadb(8),
            mysql(2, "tag", 10),
        ];
        let mut text = GtidText::default();
        for gtid in &gtids {
            assert_eq!(text.of(gtid.as_ref()), gtid.as_ref().map(ToString::to_string).unwrap_or_default());
        }
    }

    #[test]
    fn sets_are_read_and_written_as_the_servers_do() {
        for text in [
            "",
            &format!("{UUID}:1-5"),
            &format!("{UUID}:1-5:7:9-10"),
            &format!("00000000-0000-0000-0000-000000000001:1,{UUID}:2"),
            "0-1-100,7-2-3",
            "0-2-100,0-1-50,7-2-3",
        ] {
            assert_eq!(set(text).to_string(), text);
        }
        assert_eq!(set(&format!("{UUID}:1-2:a_tag:4")).to_string(), format!("{UUID}:1-2,{UUID}:a_tag:4"));
        assert_eq!(set(&format!(" {} : 3-4 :1-2,\n{UUID}:5", UUID.to_uppercase())), set(&format!("{UUID}:1-5")));
        for wrong in ["x", "1-2", "1-2-3-4", &format!("{UUID}:"), &format!("{UUID}:5-3"), &format!("{UUID}:0")] {
            assert!(wrong.parse::<GtidSet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn subsets() {
        let all = set(&format!("{UUID}:1-10:20-30"));
        assert!(set(&format!("{UUID}:3-5:21")).is_subset_of(&all));
        assert!(!set(&format!("{UUID}:9-21")).is_subset_of(&all));
        assert!(set("").is_subset_of(&all));
        assert!(!set("2-1-5").is_subset_of(&set("0-2-7,1-1-1")));
        // Each server's numbers ascend independently.
        assert!(set("0-1-5").is_subset_of(&set("0-1-7,1-1-1")));
        assert!(set("0-1-1000").is_subset_of(&set("0-1-1000,0-2-501")));
        assert!(!set("0-1-5").is_subset_of(&set("0-2-7,1-1-1")), "another server's numbers say nothing of it");
        assert!(set("").is_subset_of(&set("0-2-7")) && !set("0-2-7").is_subset_of(&set("")));
    }

    #[test]
    fn two_servers_in_a_domain() {
        let add = |text: &str, domain, server, sequence| {
            let mut set = set(text);
            set.add(&Gtid::MariaDb { domain, server, sequence });
            set.to_string()
        };
        assert_eq!(add("0-1-1000", 0, 2, 500), "0-1-1000,0-2-500", "the newest is last");
        assert_eq!(add("0-1-1000,0-2-500", 0, 1, 1001), "0-2-500,0-1-1001");
        assert_eq!(add("0-2-500,0-1-1001", 0, 1, 7), "0-2-500,0-1-7", "numbers that step down are the newest, too");
        assert_eq!(add("0-1-5,3-1-7", 1, 9, 1), "0-1-5,1-9-1,3-1-7");
        let known = set("0-1-1000,0-2-500");
        let contains = |server, sequence| known.contains(&Gtid::MariaDb { domain: 0, server, sequence });
        assert!(contains(1, 1000) && contains(2, 500) && contains(2, 3));
        assert!(!contains(2, 501) && !contains(3, 1) && !contains(1, 1001));
    }

    proptest! {
        /// Intervals behave as a plain model does: a set of numbers.
        #[test]
        fn intervals_are_a_set(intervals in proptest::collection::vec((1u64..60, 0u64..6), 0..30)) {
            let source = Source::new([7; 16], "");
            let (mut set, mut model) = (GtidSet::mysql(), std::collections::BTreeSet::new());
            for (first, more) in intervals {
                if more == 0 {
                    set.add(&Gtid::MySql { source: source.clone(), number: first });
                } else {
                    set.add_interval(source.clone(), Interval { first, last: first + more });
                }
                model.extend(first..=first + more);
                for number in 0..80 {
                    let gtid = Gtid::MySql { source: source.clone(), number };
                    prop_assert_eq!(set.contains(&gtid), model.contains(&number));
                }
                let GtidSet::MySql(sources) = &set else { panic!("MySQL's") };
                let gaps = sources[&source].windows(2).all(|pair| pair[0].last + 1 < pair[1].first);
                prop_assert!(gaps, "{}", set);
                prop_assert_eq!(&set.to_string().parse::<GtidSet>().expect("a set"), &set);
            }
        }
    }
}
