//! Goal: no part can be reached without its random password, and no other user of the machine can read that (INV-12).
//! Method: the real parts, looked at as an attacker on the same machine would: wrong passwords, `/proc/net/tcp`, modes.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use flowai_embedded::{Error, External, Listen, Parts, Postgres, Redis};
use sqlx::{Connection, Executor, PgConnection};
use support::{connect, mode, tcp_listeners};

#[tokio::test]
async fn embedded_servers_listen_on_no_tcp_port() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::start(folder.path(), External::default())
        .await
        .unwrap();
    assert_eq!(
        tcp_listeners(parts.postgres().unwrap().pid().await),
        [""; 0]
    );
    assert_eq!(tcp_listeners(parts.redis().unwrap().pid().await), [""; 0]);
}

#[tokio::test]
async fn postgres_on_loopback_still_demands_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let postgres = Postgres::start(folder.path(), Listen::Loopback { port })
        .await
        .unwrap();
    let listeners = tcp_listeners(postgres.pid().await);
    assert_eq!(
        listeners,
        [format!("0100007F:{port:04X}")],
        "not loopback alone"
    );

    let url =
        |password: &str| format!("postgres://flowai_owner:{password}@127.0.0.1:{port}/flowai");
    connect(&url(&postgres.passwords().owner))
        .await
        .execute("select 1")
        .await
        .unwrap();
    for wrong in ["", "postgres", &"0".repeat(64)] {
        assert!(
            PgConnection::connect(&url(wrong)).await.is_err(),
            "password {wrong:?} was let in"
        );
    }
}

#[tokio::test]
async fn postgres_on_its_socket_demands_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let right = postgres.urls().owner.clone();
    let wrong = right.replace(&postgres.passwords().owner, &"0".repeat(64));
    connect(&right).await.execute("select 1").await.unwrap();
    let error = PgConnection::connect(&wrong).await.unwrap_err();
    assert!(
        error.to_string().contains("password authentication failed"),
        "{error}"
    );
}

#[tokio::test]
async fn redis_demands_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path()).await.unwrap();
    let (address, _) = redis.url().split_once('?').unwrap();
    let nobody = redis::Client::open(address)
        .unwrap()
        .get_multiplexed_async_connection()
        .await;
    let refused = match nobody {
        Err(error) => error,
        Ok(mut connection) => redis::cmd("PING")
            .query_async::<()>(&mut connection)
            .await
            .unwrap_err(),
    };
    assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");
}

#[tokio::test]
async fn secrets_are_readable_by_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let _parts = Parts::start(folder.path(), External::default())
        .await
        .unwrap();
    for file in [
        "postgres/secrets.json",
        "redis/secrets.json",
        "redis/redis.conf",
        "s3/secrets.json",
    ] {
        assert_eq!(mode(&folder.path().join(file)), 0o600, "{file}");
    }
    for private in ["postgres/cluster", "postgres/run", "redis/run", "s3"] {
        assert_eq!(mode(&folder.path().join(private)), 0o700, "{private}");
    }
}

#[tokio::test]
async fn secrets_never_show_in_process_lists_or_debug_output() {
    let folder = tempfile::tempdir().unwrap();
    let parts = Parts::start(folder.path(), External::default())
        .await
        .unwrap();
    let secrets = [
        parts.database_passwords().owner.clone(),
        parts.database_passwords().app.clone(),
        parts.s3().secret_access_key.clone(),
        parts.redis_url().rsplit_once("pass=").unwrap().1.to_owned(),
    ];
    let pids = [
        parts.postgres().unwrap().pid().await,
        parts.redis().unwrap().pid().await,
    ];
    let seen = |text: &str, place: &str| {
        for secret in &secrets {
            assert_eq!(secret.len(), 64);
            assert!(!text.contains(secret), "{place} shows a secret");
        }
    };
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            seen(&String::from_utf8_lossy(&bytes), file);
        }
    }
    for log in ["postgres/postgres.log", "redis/redis.log"] {
        seen(
            &std::fs::read_to_string(folder.path().join(log)).unwrap(),
            log,
        );
    }
    seen(
        &format!("{:?} {:?}", parts.database(), parts.s3()),
        "debug output",
    );
}

#[tokio::test]
async fn a_secrets_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    drop(Redis::start(folder.path()).await.unwrap());
    let secrets = folder.path().join("secrets.json");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Redis::start(folder.path()).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("644") && said.contains("chmod 600"), "{said}");
}

#[tokio::test]
async fn a_damaged_secrets_file_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    drop(Redis::start(folder.path()).await.unwrap());
    let secrets = folder.path().join("secrets.json");
    std::fs::write(&secrets, "{").unwrap();
    expect_damaged(folder.path(), "EOF").await;
    assert_eq!(std::fs::read_to_string(&secrets).unwrap(), "{");
}

async fn expect_damaged(folder: &Path, because: &str) {
    let refused = Redis::start(folder).await;
    let Err(Error::Secrets { reason, .. }) = &refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains(because), "{reason}");
}
