//! Goal: no server is left behind, however its farm ends, and the next start finds the data.
//! Method: `flowai-parts` as a process of its own, ended by SIGKILL, by the end of its input, and in the middle of its
//! first start.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Stdio;

use sqlx::{Connection, Executor};
use support::{DEADLINE, connect, eventually, is_alive};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

struct Farm {
    process: Child,
    description: serde_json::Value,
}

fn spawn(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_flowai-parts"))
        .arg(folder)
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env_remove("S3_ENDPOINT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

impl Farm {
    async fn start(folder: &Path) -> Self {
        let mut process = spawn(folder);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let description =
            serde_json::from_str(&line.expect("flowai-parts ended without a word")).unwrap();
        Self {
            process,
            description,
        }
    }

    fn database_url(&self) -> &str {
        self.description["database_url"].as_str().unwrap()
    }

    fn pids(&self) -> [i32; 2] {
        ["postgres_pid", "redis_pid"]
            .map(|name| i32::try_from(self.description[name].as_i64().unwrap()).unwrap())
    }
}

#[tokio::test]
async fn a_killed_farm_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut farm = Farm::start(folder.path()).await;
    let pids = farm.pids();
    assert!(pids.into_iter().all(is_alive));
    farm.process.kill().await.unwrap();
    eventually("the servers have ended", async || {
        !pids.into_iter().any(is_alive)
    })
    .await;
}

#[tokio::test]
async fn a_killed_farm_loses_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = Farm::start(folder.path()).await;
    connect(first.database_url())
        .await
        .execute("create table kept (n int primary key); insert into kept values (1)")
        .await
        .unwrap();
    let [_, redis_of_first] = first.pids();
    first.process.kill().await.unwrap();

    // At once, while the first farm's servers are still on their way out.
    let second = Farm::start(folder.path()).await;
    let mut session = connect(second.database_url()).await;
    let kept: i32 = sqlx::query_scalar("select n from kept")
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert_eq!(kept, 1);
    // What the first one's Redis takes with it is its own.
    eventually("the first Redis ends", async || !is_alive(redis_of_first)).await;
    let mut redis = support::redis(second.description["redis_url"].as_str().unwrap()).await;
    redis::cmd("PING")
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_farm_that_ends_by_itself_has_stopped_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    let mut farm = Farm::start(folder.path()).await;
    drop(farm.process.stdin.take());
    let status = tokio::time::timeout(DEADLINE, farm.process.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(!farm.pids().into_iter().any(is_alive));
}

#[tokio::test]
async fn a_farm_killed_during_its_first_start_can_be_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = spawn(folder.path());
    let postgres = folder.path().join("postgres");
    let is_being_made = || -> Option<bool> {
        let mut entries = std::fs::read_dir(&postgres).ok()?.flatten();
        Some(entries.any(|entry| entry.path().join("base").exists()))
    };
    eventually("the cluster is being made", async || {
        is_being_made() == Some(true)
    })
    .await;
    assert!(
        !postgres.join("cluster").exists(),
        "too late: the cluster is whole already"
    );
    first.kill().await.unwrap();

    let farm = Farm::start(folder.path()).await;
    connect(farm.database_url())
        .await
        .execute("select 1")
        .await
        .unwrap();
}

#[tokio::test]
async fn servers_that_end_by_themselves_are_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let farm = Farm::start(folder.path()).await;
    for pid in farm.pids() {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
    }
    eventually("postgres answers again", async || {
        sqlx::PgConnection::connect(farm.database_url())
            .await
            .is_ok()
    })
    .await;
    let redis_url = farm.description["redis_url"].as_str().unwrap();
    eventually("redis answers again", async || {
        redis::Client::open(redis_url)
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .is_ok()
    })
    .await;
}
