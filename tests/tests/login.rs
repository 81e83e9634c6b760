//! Logging in: TLS, authentication plugins, addresses.

use std::time::Duration;

use anyhow::Context;
use rowmill::mysql::Server;
use rowmill_tests::{Build, Engine, EngineConfig, Rig, certify, wait_for};

const SHOP: &str = "tables = [\"shop.*\"]";

/// `source.tls` decides what the server sees, and a refused connection's error says why.
#[tokio::test]
async fn tls_is_as_asked_for() -> anyhow::Result<()> {
    let rig = Rig::start("tls_is_as_asked_for", Build::MySql, &[], SHOP).await?;
    let data = rig.mysql.data();
    let file = |name: &str| data.join(name).display().to_string();
    let with = |tls: &str| {
        let text = format!("{}[source.tls]\n{tls}\n", rig.config.text);
        EngineConfig { text, ..rig.config.clone() }
    };
    let runs = async |config: &EngineConfig| Engine::start_and_wait(config).await?.stop().await;
    let refused = async |config: &EngineConfig, words: &[&str]| -> anyhow::Result<()> {
        let before = std::fs::read_to_string(rig.directory.join("rowmill.log")).unwrap_or_default().len();
        let mut engine = Engine::start(config)?;
        let status = engine.end(Duration::from_secs(20)).await?;
        let log = engine.log();
        assert_eq!(status.code(), Some(1), "{}", &log[before..]);
        for word in words {
            assert!(log[before..].contains(word), "`{word}` isn't in: {}", &log[before..]);
        }
        Ok(())
    };

    rig.mysql.run("ALTER USER rowmill@'%' REQUIRE SSL").await?;
    runs(&rig.config).await?; // `preferred`, the default
    runs(&with("mode = \"required\"")).await?;
    refused(&with("mode = \"disabled\""), &["refuses the user or the password"]).await?;
    // The server's own certificate is signed by its own authority, and names no host.
    refused(&with("mode = \"verify-identity\""), &["source.tls", "secure connection"]).await?;
    refused(&with(&format!("ca = \"{}\"", file("ca.pem"))), &["source.tls", "secure connection"]).await?;
    refused(&with(&format!("ca = \"{}\"", file("auto.cnf"))), &["source.tls"]).await?;
    rig.mysql.run("ALTER USER rowmill@'%' REQUIRE X509").await?;
    refused(&with("mode = \"required\""), &["refuses the user or the password"]).await?;
    let identity = format!("cert = \"{}\"\nkey = \"{}\"", file("client-cert.pem"), file("client-key.pem"));
    runs(&with(&format!("mode = \"required\"\n{identity}"))).await?;

    let certificate = certify(&rig.directory)?;
    rig.mysql
        .run(&format!(
            "ALTER USER rowmill@'%' REQUIRE SSL; SET GLOBAL ssl_ca = '{0}/ca.pem'; SET GLOBAL ssl_cert = '{0}/server.pem'; SET GLOBAL ssl_key = '{0}/server-key.pem'; ALTER INSTANCE RELOAD TLS",
            rig.directory.display()
        ))
        .await?;
    runs(&with(&format!("ca = \"{}\"", certificate.display()))).await?;

    // Without TLS, the password of caching_sha2_password is sent encrypted by the server's key; later logins use the server's
    // cache.
    rig.mysql.run("ALTER USER rowmill@'%' REQUIRE NONE; FLUSH PRIVILEGES").await?;
    runs(&with("mode = \"disabled\"")).await?;
    runs(&with("mode = \"disabled\"")).await?;
    // By the server's Unix socket.
    let socket = data.join("mysql.sock").display().to_string().replace('/', "%2F");
    let url = rig.mysql.url();
    let text = rig.config.text.replace(&url, &format!("{url}/?socket={socket}"));
    runs(&EngineConfig { text, ..rig.config.clone() }).await
}

/// MariaDB's ed25519: the password is never sent.
#[tokio::test]
async fn mariadb_logs_in_by_ed25519() -> anyhow::Result<()> {
    let rig = Rig::start("mariadb_logs_in_by_ed25519", Build::MariaDb("11.8"), &[], SHOP).await?;
    rig.mysql
        .run(&format!(
            "INSTALL SONAME 'auth_ed25519'; CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); \
             CREATE USER signer@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{}'); \
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO signer@'%'",
            rig.config.password
        ))
        .await?;
    let mut config = rig.config.clone();
    config.text = config.text.replace("//rowmill@", "//signer@");
    let engine = Engine::start_and_wait(&config).await?;
    rig.mysql.run("INSERT INTO shop.t VALUES (1)").await?;
    rig.read_to_the_end(&engine).await?;
    engine.stop().await?;
    assert_eq!(rig.changes()?, ["c t 1"]);
    config.password = "wrong".to_owned();
    let mut engine = Engine::start(&config)?;
    assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1));
    assert!(engine.log().contains("refuses the user or the password"), "{}", engine.log());
    Ok(())
}

/// MariaDB's PARSEC, whose nonce ends with a zero byte once in 256 times.
#[tokio::test]
async fn mariadb_logs_in_by_parsec() -> anyhow::Result<()> {
    let rig = Rig::start("mariadb_logs_in_by_parsec", Build::MariaDb("11.8"), &[], SHOP).await?;
    rig.mysql
        .run(&format!(
            "INSTALL SONAME 'auth_parsec'; CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); \
             CREATE USER signer@'%' IDENTIFIED VIA parsec USING PASSWORD('{}'); \
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO signer@'%'; GRANT ALL ON shop.* TO signer@'%'",
            rig.config.password
        ))
        .await?;
    let url = rig.mysql.url().replace("//rowmill@", "//signer@");
    let store = format!("type = \"mysql\"\nurl = \"{url}/shop\"\npassword = \"{}\"", rig.config.password);
    let path = format!("path = \"{}\"", rig.config.checkpoint().display());
    let mut config = rig.config.clone();
    config.text = config.text.replace("//rowmill@", "//signer@");
    for (id, tls) in [(1, "disabled"), (2, "required")] {
        let text = format!("{}[source.tls]\nmode = \"{tls}\"\n", config.text);
        let engine = Engine::start_and_wait(&EngineConfig { text, ..config.clone() }).await?;
        rig.mysql.run(&format!("INSERT INTO shop.t VALUES ({id})")).await?;
        rig.read_to_the_end(&engine).await?;
        engine.stop().await?;
    }
    assert_eq!(rig.changes()?, ["c t 1", "c t 2"]);
    // The checkpoint's connection uses it as well.
    let text = config.text.replace(&path, &store);
    Engine::start_and_wait(&EngineConfig { text, ..config.clone() }).await?.stop().await?;

    let source = format!("password = \"{}\"\n[checkpoint]", config.password);
    std::fs::write(rig.directory.join("with-password.toml"), config.text.replace("[checkpoint]", &source))?;
    let source = rowmill::config::Config::load(&rig.directory.join("with-password.toml"))?.source;
    for _ in 0..200 {
        Server::connect(&source).await?.disconnect().await;
    }

    for (password, words) in [("wrong", "refuses the user or the password"), ("", "`parsec`, which needs a password")] {
        config.password = password.to_owned();
        let mut engine = Engine::start(&config)?;
        assert_eq!(engine.end(Duration::from_secs(20)).await?.code(), Some(1), "{}", engine.log());
        let log = engine.log();
        assert!(log.contains(words) && !log.contains("panicked"), "{log}");
    }
    Ok(())
}

/// IPv6 addresses of the source, its failover server and the checkpoint's database, with TLS and with a zone.
#[tokio::test]
async fn servers_are_reached_over_ipv6() -> anyhow::Result<()> {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no ::1");
        return Ok(());
    }
    let rig = Rig::start("servers_are_reached_over_ipv6", Build::MySql, &["--bind-address=::"], SHOP).await?;
    rig.mysql
        .run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); GRANT ALL ON shop.* TO rowmill@'%'")
        .await?;
    let certificate = certify(&rig.directory)?;
    rig.mysql
        .run(&format!(
            "SET GLOBAL ssl_ca = '{0}/ca.pem'; SET GLOBAL ssl_cert = '{0}/server.pem'; \
             SET GLOBAL ssl_key = '{0}/server-key.pem'; ALTER INSTANCE RELOAD TLS",
            rig.directory.display()
        ))
        .await?;
    let at = |host: &str| rig.config.text.replace("@127.0.0.1:", &format!("@{host}:"));
    let mut ids = 0..;
    let mut reads = async |text: String| -> anyhow::Result<()> {
        let config = EngineConfig { text, ..rig.config.clone() };
        let engine = Engine::start_and_wait(&config).await?;
        let id: u32 = ids.next().context("an id")?;
        rig.mysql.run(&format!("INSERT INTO shop.t VALUES ({id})")).await?;
        wait_for("the row arrives", Duration::from_secs(20), || async {
            Ok(rig.changes()?.contains(&format!("c t {id}")).then_some(()))
        })
        .await
        .with_context(|| engine.log())?;
        engine.stop().await
    };
    for tls in ["mode = \"disabled\"", "mode = \"required\"", &format!("ca = \"{}\"", certificate.display())] {
        reads(format!("{}[source.tls]\n{tls}\n", at("[::1]"))).await?;
    }
    let log = std::fs::read_to_string(rig.directory.join("rowmill.log"))?;
    assert!(log.contains(&format!("mysql://rowmill@[::1]:{}", rig.mysql.port())), "{log}");
    // Failover to an IPv6 address.
    let dead = rowmill_tests::free_port();
    let failover = format!("failover = [\"{}\"]\n[checkpoint]", rig.mysql.url().replace("127.0.0.1", "[::1]"));
    let text = rig.config.text.replace(&format!(":{}\"", rig.mysql.port()), &format!(":{dead}\""));
    reads(text.replace("[checkpoint]", &failover)).await?;
    // The checkpoint's database at an IPv6 address.
    let store = format!(
        "type = \"mysql\"\nurl = \"{}/shop\"\npassword = \"{}\"",
        rig.mysql.url().replace("127.0.0.1", "[::1]"),
        rig.config.password
    );
    reads(rig.config.text.replace(&format!("path = \"{}\"", rig.config.checkpoint().display()), &store)).await?;
    // A link-local address, which needs a zone.
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let link_local = addresses.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "20", _, device] = fields[..] else { return None };
        let groups: Vec<&str> =
            address.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
        Some(format!("[{}%25{device}]", groups.join(":")))
    });
    match link_local {
        None => println!("this machine has no link-local address"),
        Some(host) => {
            for tls in ["disabled", "required"] {
                reads(format!("{}[source.tls]\nmode = \"{tls}\"\n", at(&host))).await?;
            }
        }
    }
    Ok(())
}
