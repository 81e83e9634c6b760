//! Whether a server's binlog is the one that was read: shown before it is read on, and asked again while it is read.
//!
//! Names prove nothing: after a `RESET`, on a restored or copied data directory, or on another server with the same
//! identity there are files of the same names. So a place's fingerprint is compared with what the server sends for it
//! ([`verify`]), and while the stream runs a connection of its own looks for signs of another binlog ([`History::watch`]):
//! the dump of a server that was reset falls silent, and says nothing of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use rowmill_core::binlog::{Finding, FingerprintCheck, GtidScan, file_fingerprint};
use rowmill_core::gtid::{Gtid, GtidSet, Newest};
use rowmill_core::position::{BinlogPosition, Fingerprint, ResumePoint, file_number};
use tokio::time::timeout;
use tracing::debug;

use super::stream::short_stream;
use crate::config;
use crate::mysql::protocol::StreamError;
use crate::mysql::{ER_SOURCE_FATAL_ERROR_READING_BINLOG, Flavor, Server, explained, is_final, is_lost_connection};

/// How often the server is asked whether its binlog is still the same.
const INTERVAL: Duration = Duration::from_secs(2);
/// A connection on which an answer takes longer is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do about a binlog that isn't the one that was read.
pub(super) const WAY_OUT: &str = "if `source.url` leads to another server now, point it at the one that was read; otherwise \
     the binlog was reset, or the server was restored or replaced: take a new copy of the tables, and then go on with what \
     this server writes by `rowmill checkpoint set latest`, or with all that its binlog has by `rowmill checkpoint set earliest`";

/// Why there is no place to begin.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The server may have the place later.
    #[error("{0:#}")]
    Transient(anyhow::Error),
    /// The server does not have the place, or no longer.
    #[error("{0:#}")]
    Definite(anyhow::Error),
}

impl From<anyhow::Error> for LocateError {
    fn from(error: anyhow::Error) -> Self {
        Self::Definite(error)
    }
}

fn locate_error(error: StreamError, config: &config::Source) -> LocateError {
    if is_final(&error) {
        LocateError::Definite(explained(error, config))
    } else {
        LocateError::Transient(error.into())
    }
}

/// Shows that a place belongs to the history of the server's binlog.
///
/// # Errors
/// If it doesn't, or if the server can't be asked.
pub(super) async fn verify(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
    expected: Fingerprint,
) -> Result<(), LocateError> {
    let mut check = FingerprintCheck::new(expected);
    let from = check.from(position);
    let compare = async {
        let mut stream = short_stream(config, flavor, from).await?;
        loop {
            match check.next(stream.event().await?) {
                Finding::Open => {}
                finding => return Ok(finding),
            }
        }
    };
    let finding = match compare.await {
        Ok(finding) => finding,
        // The place isn't one between two events, or it is behind the end.
        Err(StreamError::End) => Finding::OtherEvents,
        Err(StreamError::Server { code: ER_SOURCE_FATAL_ERROR_READING_BINLOG, .. }) => Finding::OtherEvents,
        Err(error) => return Err(locate_error(error, config)),
    };
    let what = match finding {
        Finding::Open | Finding::Fits => return Ok(()),
        Finding::OtherFile => format!("its {} is another file than the one that was read", position.file),
        Finding::OtherEvents => format!("other events than those that were read end at {position}"),
    };
    Err(LocateError::Definite(other_history(&config.address, &what)))
}

/// The error of a place that doesn't belong to a server's history.
pub(super) fn other_history(address: &str, what: &str) -> anyhow::Error {
    anyhow!("the binlog of {address} isn't the one that the checkpoint belongs to: {what}; {WAY_OUT}")
}

/// The fingerprint of the file that a place is in, where nothing was read before it.
///
/// # Errors
/// If the server doesn't send from there.
pub(super) async fn identify(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
) -> Result<Fingerprint, LocateError> {
    let read = async {
        let mut stream = short_stream(config, flavor, position.clone()).await?;
        loop {
            let event = stream.event().await?;
            if let Some(fingerprint) = file_fingerprint(event).map_err(|fault| StreamError::Setup(fault.into()))? {
                return Ok(fingerprint);
            }
        }
    };
    read.await.map_err(|error| match locate_error(error, config) {
        LocateError::Definite(error) => LocateError::Definite(
            error.context(format!("the binlog of {} can't be read from {position}", config.address)),
        ),
        behind => behind,
    })
}

/// The transactions before a place between two of them, which lies below 4 GiB: its file is read up to there.
///
/// # Errors
/// If it can't be read.
pub(super) async fn gtids_before(
    config: &config::Source,
    flavor: Flavor,
    position: &BinlogPosition,
) -> anyhow::Result<Option<GtidSet>> {
    let head = BinlogPosition { offset: BinlogPosition::FIRST_EVENT, ..position.clone() };
    let mut stream = short_stream(config, flavor, head).await?;
    let mut scan = GtidScan::default();
    loop {
        let event = match stream.event().await {
            Err(StreamError::End) => break,
            event => event?,
        };
        let begins = scan.next(event)?;
        // The server may go on with the next file.
        if scan.files() > 1 || begins.as_ref().is_some_and(|met| met.offset >= position.offset) {
            break;
        }
        if let Some(gtid) = begins.and_then(|met| met.gtid) {
            scan.add(&gtid);
        }
    }
    Ok(scan.gtids().cloned())
}

/// MariaDB: the newest transactions of all servers of each domain where its position is `positions`, which has the last one of
/// each domain alone. Read from a file on in which, or before which, each of them is.
///
/// # Errors
/// If the binlog can't be read, or lacks one of them.
pub(super) async fn all_servers(
    config: &config::Source,
    file: &str,
    positions: &GtidSet,
) -> Result<GtidSet, LocateError> {
    let head = BinlogPosition::new(file, BinlogPosition::FIRST_EVENT);
    let mut open: Vec<(u32, Newest)> = positions.newest_of_servers().collect();
    let mut complete = GtidSet::mariadb();
    let mut scan = GtidScan::default();
    let read = async {
        let mut stream = short_stream(config, Flavor::MariaDb, head).await?;
        while !open.is_empty() {
            let event = match stream.event().await {
                Err(StreamError::End) => break,
                event => event?,
            };
            let met = scan.next(event).map_err(|fault| StreamError::Setup(fault.into()))?;
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
            "the binlog of {} has no transaction {domain}-{server}-{sequence} from which on it could be read; name one that it \
             has, as `SELECT @@GLOBAL.gtid_binlog_pos` or BINLOG_GTID_POS() say it, or a file and a position",
            config.address
        )));
    }
    Ok(complete)
}

/// What shows that a server's binlog isn't the one any more that was read up to `resume`: a server that is reset may end its
/// stream with an error that says nothing of it. `None` if nothing shows it.
pub(super) async fn difference(config: &config::Source, resume: &ResumePoint) -> Option<anyhow::Error> {
    let ask = async {
        let mut server = Server::connect(config).await.ok().filter(|server| server.identity == *resume.server)?;
        match server.still_has(resume, None).await {
            Err(LocateError::Definite(error)) => Some(error),
            Err(LocateError::Transient(_)) => None,
            // It may be purged, or look so after a reset to a higher number.
            Ok(()) => match server.has_place("the stream", &resume.position).await {
                Err(LocateError::Definite(error)) if !is_lost_connection(&error) => Some(error),
                Ok(()) | Err(_) => None,
            },
        }
    };
    timeout(ANSWER_TIMEOUT, ask).await.ok().flatten()
}

/// What is watched: which server is read, and up to where.
#[derive(Debug)]
pub(super) struct History {
    now: Mutex<Now>,
    /// Whether a newer place is asked for.
    is_wanted: AtomicBool,
}

#[derive(Debug, Clone)]
struct Now {
    config: config::Source,
    /// All before it was read.
    resume: ResumePoint,
    /// The file that is being read: a server purges none that it still sends.
    file: String,
}

/// What a server says of its binlog that changes when it becomes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signs {
    /// How often something was reset, the binlog among other things.
    resets: u64,
    /// Where the binlog ends.
    end: BinlogPosition,
}

impl Signs {
    /// Whether the binlog may be another one than it was.
    fn differ_from(&self, earlier: &Self) -> bool {
        self.resets != earlier.resets || self.end.is_before(&earlier.end)
    }
}

impl History {
    pub(super) fn new(config: config::Source, resume: ResumePoint) -> Self {
        let file = resume.position.file.clone();
        Self { now: Mutex::new(Now { config, resume, file }), is_wanted: AtomicBool::new(false) }
    }

    /// Another connection reads on, maybe another server.
    pub(super) fn reads(&self, config: &config::Source, resume: &ResumePoint) {
        let file = resume.position.file.clone();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) =
            Now { config: config.clone(), resume: resume.clone(), file };
    }

    /// All before `resume` was read, and some behind it: up to `position`.
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

    /// Ends when the binlog that is read isn't the server's any more. A server that doesn't answer says nothing of that.
    pub(super) async fn watch(&self) -> anyhow::Error {
        let mut connected: Option<(Server, String)> = None;
        let mut known: Option<Signs> = None;
        loop {
            self.is_wanted.store(true, Ordering::Relaxed);
            tokio::time::sleep(INTERVAL).await;
            let Now { config, resume, file } = self.now();
            if connected.take_if(|(_, address)| *address != config.address).is_some() {
                known = None; // another server is read
            }
            let asked = timeout(ANSWER_TIMEOUT, async {
                let (mut server, address) = match connected.take() {
                    Some(connected) => connected,
                    None => (Server::connect(&config).await?, config.address.clone()),
                };
                if server.identity != *resume.server {
                    return Ok(None); // one behind the same address that isn't read
                }
                let signs = server.signs().await?;
                Ok::<_, anyhow::Error>(Some((server, address, signs)))
            });
            let (mut server, address, signs) = match asked.await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => continue,
                Ok(Err(error)) => {
                    debug!(source = config.address, error = format!("{error:#}"), "its binlog can't be asked for");
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
                match timeout(ANSWER_TIMEOUT, server.still_has(&resume, is_reset.then_some(&file))).await {
                    Ok(Ok(())) => known = Some(signs),
                    Ok(Err(LocateError::Definite(error))) => return error,
                    Ok(Err(LocateError::Transient(error))) => {
                        debug!(
                            source = config.address,
                            error = format!("{error:#}"),
                            "the place can't be compared yet"
                        );
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

impl Server {
    /// What changes when the binlog becomes another one.
    async fn signs(&mut self) -> anyhow::Result<Signs> {
        Ok(Signs { resets: self.resets().await?, end: self.binlog_end().await?.0 })
    }

    /// Whether a place that was read is still one of the binlog, or was purged of it. Something was reset where the file that
    /// is being read is given: were the place purged alone, that one would still be there.
    async fn still_has(&mut self, resume: &ResumePoint, reading: Option<&String>) -> Result<(), LocateError> {
        let Some(fingerprint) = resume.fingerprint else { return Ok(()) };
        let position = &resume.position;
        let logs = self.binary_logs().await.map_err(LocateError::Transient)?;
        match logs.iter().find(|(name, _)| *name == position.file) {
            Some((_, size)) if position.offset <= *size => {
                verify(&self.config, self.flavor, position, fingerprint).await
            }
            Some((_, size)) => {
                let what = format!("{} ends at {size} now, and was read up to {}", position.file, position.offset);
                Err(LocateError::Definite(other_history(&self.address, &what)))
            }
            // Who is that slow is told so by the stream.
            None if logs.first().is_some_and(|(oldest, _)| file_number(&position.file) < file_number(oldest))
                && reading.is_none_or(|reading| logs.iter().any(|(name, _)| name == reading)) =>
            {
                Ok(())
            }
            None => {
                let newest = logs.last().map_or("none", |(name, _)| name);
                let oldest = logs.first().map_or("none", |(name, _)| name);
                let what = format!("it was read up to {position}, and it goes from {oldest} to {newest} now");
                Err(LocateError::Definite(other_history(&self.address, &what)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
