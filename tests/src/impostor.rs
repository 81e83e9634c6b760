//! Who a server is: an authority that says so, and one that lies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, command, wait_for};
use crate::top;

/// A server that isn't one, and tries to get the password: see `tests/tests/impostor.py`.
#[derive(Debug)]
pub struct Impostor {
    _process: Process,
    log: PathBuf,
    /// Where it listens, on all addresses.
    pub port: u16,
}

impl Impostor {
    /// Starts one that plays so.
    ///
    /// # Errors
    /// If it doesn't start.
    pub async fn start(directory: &Path, mode: &str) -> anyhow::Result<Self> {
        let log = directory.join(format!("impostor-{mode}.log"));
        let mut python = command(top().join("target/tools/moto/bin/python"));
        let _process = Process::start(python.arg(top().join("tests/tests/impostor.py")).arg(mode), &log)?;
        // Its log begins with its port.
        let port = wait_for("the impostor", Duration::from_secs(60), || async {
            let text = std::fs::read_to_string(&log)?;
            Ok(text.split_once('\n').map(|(port, _)| port.parse()).transpose()?)
        });
        Ok(Self { port: port.await?, _process, log })
    }

    /// What happened, and what it learned.
    ///
    /// # Errors
    /// If its log can't be read.
    pub fn said(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

/// Makes an authority, and a certificate of it for loopback's addresses, in a directory: `ca.pem`, which is given back,
/// `server.pem` and `server-key.pem`.
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
