//! The types of binlog events.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/namespacemysql_1_1binlog_1_1event.html>

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
    pub const MARIADB_START_ENCRYPTION: Self = Self(164);
    pub const MARIADB_QUERY_COMPRESSED: Self = Self(165);
    pub const MARIADB_WRITE_ROWS_COMPRESSED_V1: Self = Self(166);
    pub const MARIADB_UPDATE_ROWS_COMPRESSED_V1: Self = Self(167);
    pub const MARIADB_DELETE_ROWS_COMPRESSED_V1: Self = Self(168);
    pub const MARIADB_WRITE_ROWS_COMPRESSED: Self = Self(169);
    pub const MARIADB_UPDATE_ROWS_COMPRESSED: Self = Self(170);
    pub const MARIADB_DELETE_ROWS_COMPRESSED: Self = Self(171);
}
