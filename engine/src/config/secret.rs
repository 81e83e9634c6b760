//! Secrets, which are never printed.

use std::fmt;
use std::ops::Deref;

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the password itself, to log in with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns the password in an environment variable. An empty variable counts as not set: that is how a service manager or a
/// Compose file passes on a variable that nobody set.
pub(super) fn password_of_environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|password| !password.is_empty())
}

/// The driver's connection options, the password included.
#[derive(Clone)]
pub struct ServerOptions(mysql_async::Opts);

impl From<mysql_async::Opts> for ServerOptions {
    fn from(options: mysql_async::Opts) -> Self {
        Self(options)
    }
}

impl Deref for ServerOptions {
    type Target = mysql_async::Opts;

    fn deref(&self) -> &mysql_async::Opts {
        &self.0
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.ip_or_hostname(), self.0.tcp_port())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn nothing_prints_a_password() {
        assert_eq!(format!("{:?}", Secret::from("hidden".to_owned())), "***");
        let text = "[source]\nurl = \"mysql://me:hidden@h\"\nfailover = [\"mysql://me:hidden@g\"]\n[checkpoint]\ntype = \
                    \"mysql\"\nurl = \"mysql://me:hidden@h/d\"\n[sink.out]\ntype = \"null\"\n";
        let config = Config::parse(text).expect("valid");
        assert_eq!(config.source.options.pass(), Some("hidden"));
        let (short, long) = (format!("{config:?}"), format!("{config:#?}"));
        assert!(!short.contains("hidden") && !long.contains("hidden"), "{long}");
    }
}
