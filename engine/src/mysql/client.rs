//! A connection by the driver, of which every question has a time-out: a server that falls silent must not keep the engine.

use std::fmt;
use std::io::{Error as IoError, ErrorKind};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Error, Params, Result};
use tokio::time::timeout;
use tracing::debug;

/// How long a connection may take to come about, with the login.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// And one for which the server reads files.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Leaving is a courtesy.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module's description.
pub(crate) struct Client {
    conn: Conn,
    /// A question has no answer, or was given up: the next answer would be that one's.
    is_lost: bool,
    /// How long the next answer may take.
    patience: Duration,
}

/// The error of a time-out.
pub(crate) fn timed_out(after: Duration) -> IoError {
    IoError::new(ErrorKind::TimedOut, format!("no answer in {} seconds", after.as_secs()))
}

async fn within<T>(patience: Duration, asked: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(patience, asked).await.unwrap_or_else(|_| Err(timed_out(patience).into()))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.conn.id()).finish_non_exhaustive() // the driver's has the password
    }
}

impl Client {
    pub fn new(conn: Conn) -> Self {
        Self { conn, is_lost: false, patience: ANSWER_TIMEOUT }
    }

    /// The next question may take long: the server reads files for it.
    pub fn patiently(&mut self) -> &mut Self {
        self.patience = LONG_ANSWER_TIMEOUT;
        self
    }

    /// For a question, and how long it may take. Until it is answered the connection counts as lost: it may be given up.
    fn ask(&mut self) -> Result<(&mut Conn, Duration)> {
        if std::mem::replace(&mut self.is_lost, true) {
            return Err(timed_out(ANSWER_TIMEOUT).into());
        }
        Ok((&mut self.conn, std::mem::replace(&mut self.patience, ANSWER_TIMEOUT)))
    }

    fn answered<T>(&mut self, answer: Result<T>) -> Result<T> {
        self.is_lost = matches!(answer, Err(Error::Io(_)));
        answer
    }

    /// All rows of a query.
    pub async fn query<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Vec<T>> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query(statement)).await;
        self.answered(answer)
    }

    /// The first row of a query.
    pub async fn query_first<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Option<T>> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query_first(statement)).await;
        self.answered(answer)
    }

    /// A statement without rows.
    pub async fn query_drop(&mut self, statement: &str) -> Result<()> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query_drop(statement)).await;
        self.answered(answer)
    }

    /// All rows of a prepared query.
    pub async fn exec<T: FromRow + Send + 'static>(
        &mut self,
        statement: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Vec<T>> {
        let params = params.into();
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.exec(statement, params)).await;
        self.answered(answer)
    }

    /// The first row of a prepared query.
    pub async fn exec_first<T: FromRow + Send + 'static>(
        &mut self,
        statement: &str,
        params: impl Into<Params> + Send,
    ) -> Result<Option<T>> {
        let params = params.into();
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.exec_first(statement, params)).await;
        self.answered(answer)
    }

    /// A prepared statement without rows. Gives how many rows it changed.
    pub async fn exec_drop(&mut self, statement: &str, params: impl Into<Params> + Send) -> Result<u64> {
        let params = params.into();
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.exec_drop(statement, params)).await;
        self.answered(answer)?;
        Ok(self.conn.affected_rows())
    }

    /// Says good-bye.
    pub async fn disconnect(self) {
        match timeout(LEAVE_TIMEOUT, self.conn.disconnect()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "a connection wasn't closed well"),
            Err(_) => debug!("a connection wasn't closed in time"),
        }
    }
}
