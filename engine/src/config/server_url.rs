//! The URL of a MySQL or MariaDB server.

use std::borrow::Cow;

use super::secret::ServerOptions;

/// Returns the connection options of a server's URL, and the URL without the password, for logs and errors. `password` takes
/// precedence over the password in the URL; `key` is the setting that has the URL.
pub(super) fn server(key: &str, url: &str, password: Option<&str>) -> Result<(ServerOptions, String), String> {
    if has_raw_separator(url) {
        return Err(format!(
            "{key}: a `/`, `?` or `#` in the user's name or password must be percent-encoded in a URL: `%2F`, `%3F`, `%23`; a \
             source's password can also be read from a `password_file`"
        ));
    }
    let (url, zone) = without_zone(url);
    // The driver's own messages may repeat the URL, and with it the password.
    let options = mysql_async::Opts::from_url(&url).map_err(|_| {
        format!(
            "{key} is not a MySQL URL; write `mysql://user@host:3306`, special characters percent-encoded, an IPv6 address \
             within brackets"
        )
    })?;
    // In a URL an IPv6 address has brackets, which are not part of the address.
    let host = options.ip_or_hostname().trim_start_matches('[').trim_end_matches(']').to_owned();
    let host = zone.map_or_else(|| host.clone(), |zone| format!("{host}%{zone}"));
    // A Unix socket is used only if the URL names one, never because the server offers one.
    let mut builder = mysql_async::OptsBuilder::from_opts(options).ip_or_hostname(host).prefer_socket(false);
    if let Some(password) = password {
        builder = builder.pass(Some(password));
    }
    let options = mysql_async::Opts::from(builder);
    let user = options.user().unwrap_or_default();
    let host = options.ip_or_hostname();
    let host = if host.contains(':') { format!("[{}]", host.replace('%', "%25")) } else { host.to_owned() };
    let address = match options.socket() {
        Some(socket) => format!("mysql://{user}@localhost?socket={socket}"),
        None => format!("mysql://{user}@{host}:{}", options.tcp_port()),
    };
    Ok((options.into(), address))
}

/// Returns whether a separator of a URL's parts stands before the `@` that ends user and password: the host would be a part of
/// the password then.
fn has_raw_separator(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    !authority[..end].contains('@') && authority[end..].contains('@')
}

/// Returns the URL without the zone of an IPv6 address, and the zone, which names the network interface of a link-local
/// address: `[fe80::1%25eth0]`, or as written outside of URLs, `[fe80::1%eth0]`. URL parsers do not know zones.
/// <https://www.rfc-editor.org/rfc/rfc6874>
fn without_zone(url: &str) -> (Cow<'_, str>, Option<&str>) {
    let zone = || {
        let authority = url.find("://")? + 3;
        let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
        let host = url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
        let address = url[host..end].strip_prefix('[')?.split_once(']')?.0;
        let percent = host + 1 + address.find('%')?;
        Some((percent, host + 1 + address.len()))
    };
    let Some((percent, end)) = zone() else { return (url.into(), None) };
    let name = &url[percent + 1..end];
    let name = name.strip_prefix("25").unwrap_or(name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
    match !name.is_empty() && name.chars().all(is_plain) {
        true => (format!("{}{}", &url[..percent], &url[end..]).into(), Some(name)),
        false => (url.into(), None),
    }
}
