//! The log lines by which tests follow what the engine does, each in one place. What users are to read in an error, tests
//! assert where it is caused.

/// The engine reads the binlog.
pub const RUNNING: &str = "running";
/// The connection to the server is lost; the engine reconnects.
pub const CONNECTION_LOST: &str = "connection lost";
/// Another connection reads on.
pub const RECONNECTED: &str = "reconnected";
/// A request was not accepted as a whole, and is retried.
pub const NOT_ACCEPTED: &str = "not accepted; retrying";
/// The sink accepts messages again.
pub const ACCEPTED_AGAIN: &str = "accepted again";
/// A plugin, or another version of it, was loaded.
pub const PLUGIN_LOADED: &str = "plugin loaded";
/// A plugin's file is gone.
pub const PLUGIN_REMOVED: &str = "plugin removed";
/// A plugin's new version cannot be used.
pub const PLUGIN_STAYS: &str = "the running version stays in use";
/// The plugins directory cannot be read.
pub const PLUGINS_STAY: &str = "running plugins stay in use";
/// The plugins directory can be read again.
pub const PLUGINS_BACK: &str = "can be read again";
/// A transform failed on a row, which is skipped.
pub const ROW_SKIPPED: &str = "row skipped";
/// The lag nears the server's binlog retention.
pub const LAG_WARNING: &str = "the lag exceeds half of the server's binlog retention";
