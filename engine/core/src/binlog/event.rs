//! An event's header, as every binlog event of version 4 begins.

/// An event's first 19 bytes.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When the statement began, in seconds since 1970.
    pub timestamp_s: u32,
    /// What the event is.
    pub kind: EventKind,
    /// The server on which it first was written.
    pub server_id: u32,
    /// Bytes of the event: header, body and checksum.
    pub size: u32,
    /// Where the next event begins, its low 32 bits; 0 in events that aren't in the file.
    pub log_pos: u32,
    /// Flags: see [`EventHeader::is_artificial`] and [`EventHeader::is_ignorable`].
    pub flags: u16,
}

impl EventHeader {
    /// Whether the server made it for this connection: it isn't in the file.
    pub fn is_artificial(&self) -> bool {
        self.flags & 0x20 != 0 || self.log_pos == 0
    }

    /// Whether a reader that doesn't know the event may pass over it.
    pub fn is_ignorable(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// An event, borrowed from whoever read it.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its header.
    pub header: EventHeader,
    /// What follows the header, without the checksum.
    pub body: &'a [u8],
}

/// An event's type code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventKind(pub u8);

#[allow(missing_docs)] // the names of the format's own documentation
impl EventKind {
    pub const QUERY: Self = Self(2);
    pub const STOP: Self = Self(3);
    pub const ROTATE: Self = Self(4);
    pub const INTVAR: Self = Self(5);
    pub const RAND: Self = Self(13);
    pub const USER_VAR: Self = Self(14);
    pub const FORMAT_DESCRIPTION: Self = Self(15);
    pub const XID: Self = Self(16);
    pub const BEGIN_LOAD_QUERY: Self = Self(17);
    pub const EXECUTE_LOAD_QUERY: Self = Self(18);
    pub const TABLE_MAP: Self = Self(19);
    pub const WRITE_ROWS_V1: Self = Self(23);
    pub const UPDATE_ROWS_V1: Self = Self(24);
    pub const DELETE_ROWS_V1: Self = Self(25);
    pub const INCIDENT: Self = Self(26);
    pub const HEARTBEAT: Self = Self(27);
    pub const IGNORABLE: Self = Self(28);
    pub const ROWS_QUERY: Self = Self(29);
    pub const WRITE_ROWS: Self = Self(30);
    pub const UPDATE_ROWS: Self = Self(31);
    pub const DELETE_ROWS: Self = Self(32);
    pub const GTID: Self = Self(33);
    pub const ANONYMOUS_GTID: Self = Self(34);
    pub const PREVIOUS_GTIDS: Self = Self(35);
    pub const TRANSACTION_CONTEXT: Self = Self(36);
    pub const VIEW_CHANGE: Self = Self(37);
    pub const XA_PREPARE: Self = Self(38);
    pub const PARTIAL_UPDATE_ROWS: Self = Self(39);
    pub const TRANSACTION_PAYLOAD: Self = Self(40);
    pub const HEARTBEAT_V2: Self = Self(41);
    pub const GTID_TAGGED: Self = Self(42);
    pub const MARIADB_ANNOTATE_ROWS: Self = Self(160);
    pub const MARIADB_BINLOG_CHECKPOINT: Self = Self(161);
    pub const MARIADB_GTID: Self = Self(162);
    pub const MARIADB_GTID_LIST: Self = Self(163);
}
