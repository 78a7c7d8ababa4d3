//! Goal: what goes between a farm and a database of somebody else's can be encrypted, and the database be made to show who it is.
//! Method: a PostgreSQL with a certificate, asked by each `sslmode` that says so.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

use flowai_actors::link::pki::Ca;
use flowai_embedded::{Listen, Postgres};
use flowai_store::database::{Database, DatabaseError};
use sqlx::{Connection as _, PgConnection};

const FILES: [&str; 2] = ["cert.pem", "key.pem"];

/// A server with a certificate of `ca`, whose files its own user can read alone, and how its owner reaches it.
async fn server(folder: &Path, ca: &Ca) -> (Postgres, String) {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let server = Postgres::start(folder, Listen::Loopback { port }).await;
    let server = server.unwrap();
    let cluster = folder.join("cluster");
    let identity = ca.issue(&"db.coordinator".parse().unwrap()).unwrap();
    identity.save(&cluster).unwrap();
    let owner = std::fs::metadata(&cluster).unwrap();
    for file in FILES {
        chown(cluster.join(file), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let settings = [
        ("ssl", "on"),
        ("ssl_cert_file", FILES[0]),
        ("ssl_key_file", FILES[1]),
    ];
    server.restart_with(&settings).await.unwrap();
    let password = &server.passwords().owner;
    let url = format!("postgres://flowai_owner:{password}@127.0.0.1:{port}/flowai");
    (server, url)
}

async fn is_encrypted(url: &str) -> Result<bool, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
}

#[tokio::test]
async fn connections_can_be_encrypted() {
    let (folder, cas) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = Ca::load_or_create(&cas.path().join("its")).unwrap();
    Ca::load_or_create(&cas.path().join("another")).unwrap();
    let (_server, url) = server(folder.path(), &ca).await;
    let with = |mode: &str| format!("{url}?sslmode={mode}");
    let verified = |name: &str| {
        let ca = cas.path().join(name).join("ca.pem");
        format!("{}&sslrootcert={}", with("verify-ca"), ca.display())
    };

    // Where the server can, it is done without asking.
    assert!(is_encrypted(&url).await.unwrap());
    assert!(is_encrypted(&with("require")).await.unwrap());
    assert!(is_encrypted(&verified("its")).await.unwrap());
    assert!(!is_encrypted(&with("disable")).await.unwrap());
    let refused = is_encrypted(&verified("another")).await;
    assert!(refused.is_err(), "{refused:?}");
    let refused = Database::connect(&verified("another"), 1).await;
    let is_unreachable = matches!(refused, Err(DatabaseError::Unreachable(_)));
    assert!(is_unreachable, "{refused:?}");
    // The right one is reached, and then refused for who it is.
    let reached = Database::connect(&verified("its"), 1).await;
    assert!(
        matches!(reached, Err(DatabaseError::Unbound { .. })),
        "{reached:?}"
    );
}
