//! A driver connection with a time-out for every statement, so that a silent server cannot block the engine.

use std::fmt;
use std::io::{Error as IoError, ErrorKind};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Error, Params, Result};
use tokio::time::timeout;
use tracing::debug;

/// Time-out for connecting, including the login.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time-out for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time-out for an answer for which the server reads files.
const LONG_ANSWER_TIMEOUT: Duration = Duration::from_secs(180);
/// Time-out for closing a connection, which is only a courtesy to the server.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// A driver connection with time-outs.
pub(crate) struct Client {
    conn: Conn,
    /// Whether a statement was not answered or was cancelled: the next answer would belong to that statement.
    is_lost: bool,
    /// Time-out for the next answer.
    patience: Duration,
}

/// Returns the error of a time-out.
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

    /// Sets a long time-out for the next statement, for which the server reads files.
    pub fn with_long_timeout(&mut self) -> &mut Self {
        self.patience = LONG_ANSWER_TIMEOUT;
        self
    }

    /// Returns the connection and the time-out for a statement. Until [`Client::answered`] is called the connection counts as
    /// lost, as the caller may be cancelled.
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

    /// Returns all rows of a query.
    pub async fn query<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Vec<T>> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query(statement)).await;
        self.answered(answer)
    }

    /// Returns the first row of a query.
    pub async fn query_first<T: FromRow + Send + 'static>(&mut self, statement: &str) -> Result<Option<T>> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query_first(statement)).await;
        self.answered(answer)
    }

    /// Runs a statement without rows.
    pub async fn query_drop(&mut self, statement: &str) -> Result<()> {
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.query_drop(statement)).await;
        self.answered(answer)
    }

    /// Returns all rows of a prepared query.
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

    /// Returns the first row of a prepared query.
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

    /// Runs a prepared statement without rows. Returns the number of rows affected.
    pub async fn exec_drop(&mut self, statement: &str, params: impl Into<Params> + Send) -> Result<u64> {
        let params = params.into();
        let (conn, patience) = self.ask()?;
        let answer = within(patience, conn.exec_drop(statement, params)).await;
        self.answered(answer)?;
        Ok(self.conn.affected_rows())
    }

    /// Closes the connection, and tells the server.
    pub async fn disconnect(self) {
        match timeout(LEAVE_TIMEOUT, self.conn.disconnect()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "cannot close a connection"),
            Err(_) => debug!("cannot close a connection in time"),
        }
    }
}
