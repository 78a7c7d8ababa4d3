//! Goal: what PostgreSQL has acknowledged is there after SIGKILL, and the farm finds it at the same address.
//! Method: a real cluster in a temporary folder, killed while sessions are open.
#![allow(clippy::unwrap_used)]

mod support;

use flowai_embedded::{Error, Listen, Postgres};
use sqlx::{Connection, Executor, PgConnection};
use support::{DEADLINE, connect, eventually};

async fn rows(url: &str) -> Vec<i32> {
    sqlx::query_scalar("select n from kept order by n")
        .fetch_all(&mut connect(url).await)
        .await
        .unwrap()
}

#[tokio::test]
async fn acknowledged_rows_survive_kill_and_restart() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let url = postgres.urls().owner.clone();
    let mut session = connect(&url).await;
    session
        .execute("create table kept (n int primary key)")
        .await
        .unwrap();
    session
        .execute("insert into kept values (1)")
        .await
        .unwrap();
    let mut open = session.begin().await.unwrap();
    open.execute("insert into kept values (2)").await.unwrap();

    postgres.kill().await;
    // Its own process notices the death of the server's a moment later.
    let ended = async { while open.execute("select 1").await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), ended)
        .await
        .expect("the session ends with its server");
    postgres.restart().await.unwrap();

    assert_eq!(rows(&url).await, [1]);
}

#[tokio::test]
async fn a_stopped_cluster_keeps_its_rows_and_passwords() {
    let folder = tempfile::tempdir().unwrap();
    let first = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let password = first.passwords().owner.clone();
    let mut session = connect(&first.urls().owner).await;
    session
        .execute("create table kept (n int primary key); insert into kept values (7)")
        .await
        .unwrap();
    drop(first);

    let second = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    assert_eq!(rows(&second.urls().owner).await, [7]);
    assert_eq!(second.passwords().owner, password);
}

#[tokio::test]
async fn a_server_that_outlived_its_farm_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let first = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let orphan = first.pid().await;
    let mut session = connect(&first.urls().owner).await;
    session
        .execute("create table kept (n int primary key); insert into kept values (3)")
        .await
        .unwrap();
    // Neither stopped nor dropped; only the lock goes, as when a farm dies before the kernel's signal could be set.
    let lock = folder.path().join("lock");
    std::fs::remove_file(&lock).unwrap();

    let second = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    assert_ne!(second.pid().await, orphan);
    assert_eq!(rows(&second.urls().owner).await, [3]);
    first.ended().await;
}

/// Set for the process that may not look into the processes of others.
const BLIND: &str = "FLOWAI_TEST_BLIND";

/// As root in a container: the servers' user is another one.
#[test]
fn a_server_that_nobody_may_look_into_keeps_its_cluster() {
    if !nix::unistd::geteuid().is_root() {
        // Then the servers' user is one's own, and nothing is hidden.
        return;
    }
    let test = "a_server_keeps_its_cluster_in_a_process_of_its_own";
    let output = std::process::Command::new("setpriv")
        .args(["--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(BLIND, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_server_keeps_its_cluster_in_a_process_of_its_own() {
    // Run by the test above.
    if std::env::var_os(BLIND).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let first = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    std::fs::remove_file(folder.path().join("lock")).unwrap();
    let second = Postgres::start(folder.path(), Listen::Socket).await;
    let error = second.map(drop).unwrap_err();
    assert!(error.to_string().contains("postmaster.pid"), "{error}");
    let pid_file = folder.path().join("cluster/postmaster.pid");
    let holder = std::fs::read_to_string(pid_file).unwrap();
    assert_eq!(holder.lines().next(), Some(&*first.pid().await.to_string()));
}

#[tokio::test]
async fn a_number_of_the_dead_that_lives_on_in_another_process_is_no_obstacle() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(
        Postgres::start(folder.path(), Listen::Socket)
            .await
            .unwrap(),
    );
    // A process of the same user, as after a restart of the machine or of its container.
    let somebody = flowai_embedded::Redis::start(other.path()).await.unwrap();
    let pid_file = folder.path().join("cluster/postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n", somebody.pid().await)).unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir_all(&run).unwrap();
    let lock = format!("{}\n", somebody.pid().await);
    std::fs::write(run.join(".s.PGSQL.5432.lock"), lock).unwrap();

    let postgres = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    connect(&postgres.urls().owner)
        .await
        .execute("select 1")
        .await
        .unwrap();
    assert!(support::is_alive(somebody.pid().await));
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let second = Postgres::start(folder.path(), Listen::Socket).await;
    assert!(matches!(second, Err(Error::FolderInUse(_))), "{second:?}");
}

#[tokio::test]
async fn a_folder_that_everybody_uses_stays_as_it_is() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let shared = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(folder.path(), shared).unwrap();
    let refused = Postgres::start(folder.path(), Listen::Socket).await;
    assert!(matches!(refused, Err(Error::FolderOfAll(_))));
    let mode = std::fs::metadata(folder.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[tokio::test]
async fn an_interrupted_first_start_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("cluster.part-0");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("PG_VERSION"), "15\n").unwrap();

    let postgres = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    connect(&postgres.urls().owner)
        .await
        .execute("select 1")
        .await
        .unwrap();
    assert!(!half.exists());
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = folder.path().join("cluster");
    std::fs::create_dir(&cluster).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "9\n").unwrap();

    let refused = Postgres::start(folder.path(), Listen::Socket).await;
    assert!(
        matches!(&refused, Err(Error::PostgresVersion { found, .. }) if found == "9"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_long_folder_name_leaves_room_for_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("a".repeat(120));
    // Under a temporary folder that only its owner may enter, which is root when root runs this test.
    support::open_to_all(folder.path());
    let postgres = Postgres::start(&long, Listen::Socket).await.unwrap();
    connect(&postgres.urls().owner)
        .await
        .execute("select 1")
        .await
        .unwrap();
    let sockets = postgres.socket_folder().to_owned();
    drop(postgres);
    assert!(!sockets.exists(), "{} is left behind", sockets.display());
}

#[tokio::test]
async fn the_farm_hears_when_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(folder.path(), Listen::Socket)
        .await
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(postgres.pid().await);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    tokio::time::timeout(DEADLINE, postgres.ended())
        .await
        .unwrap();
    eventually("connections are refused", async || {
        PgConnection::connect(&postgres.urls().owner).await.is_err()
    })
    .await;
}
