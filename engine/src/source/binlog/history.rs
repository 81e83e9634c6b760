//! Verifies that a server's binlog is the one that was read, before reading continues and again while the stream runs.
//!
//! File names prove nothing: after a `RESET`, on a restored or copied data directory, or on another server with the same
//! identity, there are files of the same names. So the fingerprint of a position is compared with what the server sends for
//! that position ([`verify`]). While the stream runs, [`History::watch`] looks for signs of another binlog over a connection
//! of its own: after a reset, the server's dump falls silent without an error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail};
use rowmill_core::binlog::{Finding, FingerprintCheck, GtidScan, file_fingerprint};
use rowmill_core::gtid::{Gtid, GtidSet, Newest};
use rowmill_core::position::{BinlogPosition, Fingerprint, ResumePoint, file_number};
use tokio::time::timeout;
use tracing::debug;

use super::stream::open_finite_stream;
use crate::config;
use crate::mysql::protocol::StreamError;
use crate::mysql::{
    ER_SOURCE_FATAL_ERROR_READING_BINLOG, Flavor, Server, is_definite, is_duplicate_server_id, is_lost_connection,
    with_fix,
};

/// The pause between two checks that the server still has the same binlog.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time-out of an answer, after which the connection is dropped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The fix for a binlog that is not the one that was read, for error texts.
pub(super) const OTHER_HISTORY_FIX: &str = "if `source.url` now leads to another server, point it at the one that was read; otherwise \
     the binlog was reset, or the server was restored or replaced: take a new copy of the tables, then run `rowmill checkpoint \
     set latest` to continue with what this server writes from now on, or `rowmill checkpoint set earliest` to read all of its \
     binlog";

/// Why there is no start point.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The server may have the position later.
    #[error("{0:#}")]
    Transient(anyhow::Error),
    /// The server does not have the position, or no longer.
    #[error("{0:#}")]
    Definite(anyhow::Error),
}

impl From<anyhow::Error> for LocateError {
    fn from(error: anyhow::Error) -> Self {
        Self::Definite(error)
    }
}

fn locate_error(error: StreamError, config: &config::Source) -> LocateError {
    if is_definite(&error) {
        LocateError::Definite(with_fix(error, config))
    } else {
        LocateError::Transient(error.into())
    }
}

/// Verifies that a position belongs to the server's history, by its fingerprint.
///
/// # Errors
/// If the position does not belong to it, or if the server cannot be asked.
pub(super) async fn verify(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
    expected: Fingerprint,
) -> Result<(), LocateError> {
    let mut check = FingerprintCheck::new(expected);
    let from = check.from(position);
    let compare = async {
        let mut stream = open_finite_stream(config, flavor, from).await?;
        loop {
            match check.next(stream.event().await?) {
                Finding::Open => {}
                finding => return Ok(finding),
            }
        }
    };
    let what = match compare.await {
        Ok(Finding::Open | Finding::Fits) => return Ok(()),
        Ok(Finding::OtherFile) => format!("its {} is not the file that was read", position.file),
        // At its end the position is past the end of the file.
        Ok(Finding::OtherEvents) | Err(StreamError::End) => {
            format!("the events that end at {position} are not those that were read")
        }
        Err(error) => {
            let Some(message) = refused_position(&error) else { return Err(locate_error(error, config)) };
            format!("no events that were read end at {position} (the server: {message})")
        }
    };
    Err(LocateError::Definite(other_history(&config.address, &what)))
}

/// Returns the server's message if it cannot read its binlog at a position, which is then not between two events. `None` for
/// any other error, and where another client with the same server ID ended the connection.
fn refused_position(error: &StreamError) -> Option<&str> {
    match error {
        StreamError::Server { code: ER_SOURCE_FATAL_ERROR_READING_BINLOG, message }
            if !is_duplicate_server_id(message) =>
        {
            Some(message)
        }
        _ => None,
    }
}

/// Returns the error for a position that does not belong to the server's history.
pub(super) fn other_history(address: &str, what: &str) -> anyhow::Error {
    anyhow!("the checkpoint does not belong to the binlog of {address}: {what}; {OTHER_HISTORY_FIX}")
}

/// Returns the fingerprint for a position before which nothing was read: that of its file.
///
/// # Errors
/// If the server cannot stream from the position.
pub(super) async fn identify(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
) -> Result<Fingerprint, LocateError> {
    let read = async {
        let mut stream = open_finite_stream(config, flavor, position.clone()).await?;
        loop {
            let event = stream.event().await?;
            if let Some(fingerprint) = file_fingerprint(event).map_err(|error| StreamError::Setup(error.into()))? {
                return Ok(fingerprint);
            }
        }
    };
    read.await.map_err(|error| match locate_error(error, config) {
        LocateError::Definite(error) => LocateError::Definite(
            error.context(format!("cannot read the binlog of {} from {position}", config.address)),
        ),
        after => after,
    })
}

/// Returns the transactions before a position between two transactions. The position is at most 4 GiB into its file, which is
/// read up to there.
///
/// # Errors
/// If the file cannot be read.
pub(super) async fn gtids_before(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
) -> anyhow::Result<Option<GtidSet>> {
    let head = BinlogPosition { offset: BinlogPosition::FIRST_EVENT, ..position.clone() };
    let mut stream = open_finite_stream(config, flavor, head).await?;
    let mut scan = GtidScan::default();
    loop {
        let event = match stream.event().await {
            Err(StreamError::End) => break,
            event => event?,
        };
        let begins = scan.next(event)?;
        // The server may continue with the next file.
        if scan.files() > 1 || begins.as_ref().is_some_and(|met| met.offset >= position.offset) {
            break;
        }
        if let Some(gtid) = begins.and_then(|met| met.gtid) {
            scan.add(&gtid);
        }
    }
    Ok(scan.gtids().cloned())
}

/// MariaDB: returns the newest transactions of all servers of each domain at `positions`, which has only the last transaction
/// of each domain. Reading starts at `file`, before which there must be no transaction past `positions`.
///
/// # Errors
/// If the binlog cannot be read, or lacks one of the transactions.
pub(super) async fn complete_gtids(
    config: &config::Source,
    file: &str,
    positions: &GtidSet,
) -> Result<GtidSet, LocateError> {
    let head = BinlogPosition::new(file, BinlogPosition::FIRST_EVENT);
    let mut open: Vec<(u32, Newest)> = positions.newest_of_servers().collect();
    let mut complete = GtidSet::mariadb();
    let mut scan = GtidScan::default();
    let read = async {
        let mut stream = open_finite_stream(config, Flavor::MariaDb, head).await?;
        while !open.is_empty() {
            let event = match stream.event().await {
                Err(StreamError::End) => break,
                event => event?,
            };
            let met = scan.next(event).map_err(|error| StreamError::Setup(error.into()))?;
            if let Some(gtid) = met.and_then(|met| met.gtid) {
                scan.add(&gtid);
            }
            let Some(gtids) = scan.gtids() else { continue };
            open.retain(|(domain, newest)| {
                let is_there = gtids.last(*domain) == Some(*newest);
                if is_there {
                    let servers = gtids.newest_of_servers().filter(|(of, _)| of == domain);
                    servers.for_each(|(domain, Newest { server, sequence })| {
                        complete.add(&Gtid::MariaDb { domain, server, sequence });
                    });
                }
                !is_there
            });
        }
        Ok(())
    };
    read.await.map_err(|error| locate_error(error, config))?;
    if let Some((domain, Newest { server, sequence })) = open.first() {
        return Err(LocateError::Definite(anyhow!(
            "the binlog of {} does not have the transaction {domain}-{server}-{sequence}, after which reading is to start; \
             name one that it has, as `SELECT @@GLOBAL.gtid_binlog_pos` or BINLOG_GTID_POS() returns it, or a file and a \
             position",
            config.address
        )));
    }
    Ok(complete)
}

/// Looks for evidence that the server's binlog is no longer the one that was read up to `resume`: a server that is reset may
/// end its stream with an unrelated error. Returns `None` if there is no such evidence.
pub(super) async fn difference(config: &config::Source, resume: &ResumePoint) -> Option<anyhow::Error> {
    let ask = async {
        let mut server = Server::connect(config).await.ok().filter(|server| server.identity == *resume.server)?;
        match still_has(&mut server, resume, None).await {
            Err(LocateError::Definite(error)) => Some(error),
            Err(LocateError::Transient(_)) => None,
            // The file may be purged, or seem to be after a reset to a higher file number.
            Ok(()) => match check_position(&mut server, "the stream", &resume.position).await {
                Err(LocateError::Definite(error)) if !is_lost_connection(&error) => Some(error),
                Ok(()) | Err(_) => None,
            },
        }
    };
    timeout(ANSWER_TIMEOUT, ask).await.ok().flatten()
}

/// Watches that the server that is being read keeps its history.
#[derive(Debug)]
pub(super) struct History {
    now: Mutex<Now>,
    /// Whether [`History::watch`] wants a newer resume point from the reader.
    is_wanted: AtomicBool,
}

#[derive(Debug, Clone)]
struct Now {
    config: config::Source,
    /// All before this point was read.
    resume: ResumePoint,
    /// The file that is being read: a server does not purge a file that it is still sending.
    file: String,
}

/// Properties of a server's binlog that change when another binlog replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signs {
    /// Number of `RESET` statements of any kind since the server started.
    resets: u64,
    /// The end of the binlog.
    end: BinlogPosition,
}

impl Signs {
    /// Returns whether the binlog may have been replaced.
    fn differ_from(&self, earlier: &Self) -> bool {
        self.resets != earlier.resets || self.end.is_before(&earlier.end)
    }
}

impl History {
    pub(super) fn new(config: config::Source, resume: ResumePoint) -> Self {
        let file = resume.position.file.clone();
        Self { now: Mutex::new(Now { config, resume, file }), is_wanted: AtomicBool::new(false) }
    }

    /// Records that another connection, perhaps to another server, continues at `resume`.
    pub(super) fn reads(&self, config: &config::Source, resume: &ResumePoint) {
        let file = resume.position.file.clone();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            Now { config: config.clone(), resume: resume.clone(), file };
    }

    /// Records, if [`History::watch`] asked for it, that all before `resume` was read, and some events up to `position`.
    #[inline]
    pub(super) fn read_to(&self, resume: &ResumePoint, position: &BinlogPosition) {
        if self.is_wanted.load(Ordering::Relaxed) && self.is_wanted.swap(false, Ordering::Relaxed) {
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            now.resume.clone_from(resume);
            now.file.clone_from(&position.file);
        }
    }

    fn now(&self) -> Now {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns an error once the server's binlog is no longer the one that was read. A server that does not answer is no
    /// evidence of that.
    pub(super) async fn watch(&self) -> anyhow::Error {
        let mut connected: Option<(Server, String)> = None;
        let mut known: Option<Signs> = None;
        loop {
            self.is_wanted.store(true, Ordering::Relaxed);
            tokio::time::sleep(INTERVAL).await;
            let Now { config, resume, file } = self.now();
            if connected.take_if(|(_, address)| *address != config.address).is_some() {
                known = None; // another server is being read
            }
            let asked = timeout(ANSWER_TIMEOUT, async {
                let (mut server, address) = match connected.take() {
                    Some(connected) => connected,
                    None => (Server::connect(&config).await?, config.address.clone()),
                };
                if server.identity != *resume.server {
                    return Ok(None); // another server at the same address, not the one being read
                }
                let signs = signs(&mut server).await?;
                Ok::<_, anyhow::Error>(Some((server, address, signs)))
            });
            let (mut server, address, signs) = match asked.await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => continue,
                Ok(Err(error)) => {
                    debug!(source = config.address, error = format!("{error:#}"), "cannot check the binlog");
                    known = None;
                    continue;
                }
                Err(_) => {
                    known = None;
                    continue;
                }
            };
            if known.as_ref().is_none_or(|known| signs.differ_from(known)) {
                let is_reset = known.as_ref().is_some_and(|known| signs.resets != known.resets);
                match timeout(ANSWER_TIMEOUT, still_has(&mut server, &resume, is_reset.then_some(&file))).await {
                    Ok(Ok(())) => known = Some(signs),
                    Ok(Err(LocateError::Definite(error))) => return error,
                    Ok(Err(LocateError::Transient(error))) => {
                        debug!(source = config.address, error = format!("{error:#}"), "cannot verify the position yet");
                    }
                    Err(_) => {}
                }
            } else {
                known = Some(signs);
            }
            connected = Some((server, address));
        }
    }
}

/// Asks the server for the signs.
async fn signs(server: &mut Server) -> anyhow::Result<Signs> {
    Ok(Signs { resets: server.resets().await?, end: server.binlog_end().await?.0 })
}

/// Checks that a resume point still belongs to the binlog, or was only purged from it. `reading`, the file that is being
/// read, is given after a `RESET` statement: if the server had merely purged older files, that file would still exist.
async fn still_has(server: &mut Server, resume: &ResumePoint, reading: Option<&String>) -> Result<(), LocateError> {
    let Some(fingerprint) = resume.fingerprint else { return Ok(()) };
    let position = &resume.position;
    let logs = server.binary_logs().await.map_err(LocateError::Transient)?;
    match logs.iter().find(|(name, _)| *name == position.file) {
        Some((_, size)) if position.offset <= *size => {
            verify(&server.config, server.flavor, position, fingerprint).await
        }
        Some((_, size)) => {
            let what = format!("{} now ends at {size}, and was read up to {}", position.file, position.offset);
            Err(LocateError::Definite(other_history(&server.address, &what)))
        }
        // The file was only purged: a reader that is too slow gets an error from the stream.
        None if logs.first().is_some_and(|(oldest, _)| file_number(&position.file) < file_number(oldest))
            && reading.is_none_or(|reading| logs.iter().any(|(name, _)| name == reading)) =>
        {
            Ok(())
        }
        None => {
            let newest = logs.last().map_or("none", |(name, _)| name);
            let oldest = logs.first().map_or("none", |(name, _)| name);
            let what = format!("it was read up to {position}, and now has the files {oldest} to {newest}");
            Err(LocateError::Definite(other_history(&server.address, &what)))
        }
    }
}

/// Checks that the server has a position. `whose` names the origin of the position in errors.
///
/// # Errors
/// If the server does not have the position, or cannot be asked.
pub(super) async fn check_position(
    server: &mut Server,
    whose: &str,
    position: &BinlogPosition,
) -> Result<(), LocateError> {
    let logs = server.binary_logs().await?;
    Ok(check_logs(&server.address, &logs, whose, position)?)
}

fn check_logs(address: &str, logs: &[(String, u64)], whose: &str, position: &BinlogPosition) -> anyhow::Result<()> {
    let BinlogPosition { file, offset } = position;
    let (oldest, newest) = (logs.first(), logs.last());
    let name = |log: Option<&(String, u64)>| log.map_or("none", |(name, _)| name).to_owned();
    match logs.iter().find(|(name, _)| name == file) {
        Some((_, size)) if offset <= size => Ok(()),
        Some((_, size)) => bail!(
            "cannot read from {position}, the position of {whose}: {file} on {address} ends at {size}, so the file was \
             replaced, or lost its end in a crash; {OTHER_HISTORY_FIX}"
        ),
        None if oldest.is_some_and(|(oldest, _)| is_before(file, oldest)) => bail!(
            "cannot read from {position}, the position of {whose}: {address} has purged that file (the oldest is {}), and \
             the changes in between can no longer be read; take a new copy of the tables, then remove the checkpoint and \
             start at \"earliest\"; to have more time, raise binlog_expire_logs_seconds",
            name(oldest)
        ),
        None if newest.is_some_and(|(newest, _)| is_before(newest, file)) => bail!(
            "cannot read from {position}, the position of {whose}: the newest binlog file on {address} is {}, so the \
             server never wrote that position, or was reset since; {OTHER_HISTORY_FIX}",
            name(newest)
        ),
        None => bail!(
            "cannot read from {position}, the position of {whose}: {address} has no such file, its binlog has the files {} \
             to {}; {OTHER_HISTORY_FIX}",
            name(oldest),
            name(newest)
        ),
    }
}

/// Returns whether a binlog file is older than another one of the same server.
fn is_before(file: &str, other: &str) -> bool {
    let base = |name: &str| name.rsplit_once('.').map(|(base, _)| base.to_owned());
    base(file) == base(other) && file_number(file).is_some() && file_number(file) < file_number(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_read_at_a_position_has_another_binlog() {
        let error = |code, message: &str| StreamError::Server { code, message: message.to_owned() };
        let bogus = "bogus data in log event; the first event 'binlog.000001' at 157";
        assert_eq!(refused_position(&error(1236, bogus)), Some(bogus));
        let same = "A replica with the same server_uuid/server_id as this replica has connected to the source";
        assert_eq!(refused_position(&error(1236, same)), None);
        assert_eq!(refused_position(&error(1045, "Access denied")), None);
        assert_eq!(refused_position(&StreamError::Silence), None);
    }

    #[test]
    fn signs_of_another_binlog() {
        let signs = |resets, file: &str, offset| Signs { resets, end: BinlogPosition::new(file, offset) };
        let known = signs(3, "binlog.000009", 500);
        for (now, differ) in [
            (signs(3, "binlog.000009", 500), false),
            (signs(3, "binlog.000009", 501), false),
            (signs(3, "binlog.000010", 4), false),
            (signs(3, "binlog.1000000", 4), false),
            (signs(4, "binlog.000009", 600), true),
            (signs(0, "binlog.000009", 600), true),
            (signs(3, "binlog.000009", 499), true),
            (signs(3, "binlog.000001", 900), true),
        ] {
            assert_eq!(now.differ_from(&known), differ, "{now:?}");
        }
    }

    #[test]
    fn files_before_others() {
        assert!(is_before("binlog.000009", "binlog.000010") && is_before("binlog.999999", "binlog.1000000"));
        assert!(!is_before("binlog.000010", "binlog.000010") && !is_before("mysql-bin.000009", "binlog.000010"));
        assert!(!is_before("binlog", "binlog.000010"));
    }
}
