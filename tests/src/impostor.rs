//! Server identity: a certificate authority, and an impostor of a server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, command, wait_for};
use crate::top;

/// A process that impersonates a MySQL server to learn the password: see `tests/tests/impostor.py`.
#[derive(Debug)]
pub struct Impostor {
    _process: Process,
    log: PathBuf,
    /// The port, on all addresses.
    pub port: u16,
}

impl Impostor {
    /// Starts an impostor in one of the modes of `impostor.py`.
    ///
    /// # Errors
    /// If the impostor does not start.
    pub async fn start(directory: &Path, mode: &str) -> anyhow::Result<Self> {
        let log = directory.join(format!("impostor-{mode}.log"));
        let mut python = command(top().join("target/tools/moto/bin/python"));
        let _process = Process::start(python.arg(top().join("tests/tests/impostor.py")).arg(mode), &log)?;
        // The log's first line is the port.
        let port = wait_for("the impostor", Duration::from_secs(60), || async {
            let text = std::fs::read_to_string(&log)?;
            Ok(text.split_once('\n').map(|(port, _)| port.parse()).transpose()?)
        });
        Ok(Self { port: port.await?, _process, log })
    }

    /// Returns the log: what happened, and what the impostor learned.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn said(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

/// Makes a certificate authority and a server certificate for loopback's addresses, and returns the path of `ca.pem`.
///
/// `server.pem` and `server-key.pem` are in the same directory.
///
/// # Errors
/// If openssl fails.
pub fn certify(directory: &Path) -> anyhow::Result<PathBuf> {
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem && \
         openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server-key.pem -out server.csr && \
         printf 'subjectAltName=IP:127.0.0.1,IP:::1\\n' > names && \
         openssl x509 -req -in server.csr -days 2 -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile names -out server.pem";
    let output = Command::new("sh").args(["-c", script]).current_dir(directory).output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(directory.join("ca.pem"))
}
