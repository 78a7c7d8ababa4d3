//! The servers that contenders keep their jobs in: one PostgreSQL and one Redis, each with one file of settings for all.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flowai_embedded::{Launch, Listen, Postgres, Process, RunAs};
use nix::sys::signal::Signal;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::{Child, Command};
use url::Url;

const POSTGRES_SETTINGS: &str = include_str!("../../peers/postgresql.conf");
const REDIS_SETTINGS: &str = include_str!("../../peers/redis.conf");
const REDIS: &str = "/usr/bin/redis-server";
/// Emptied for each contender in turn.
const DATABASE: &str = "peer";
const START_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Sessions bring their counters to where others read them at most so late.
const COUNTERS_LATE: Duration = Duration::from_millis(1_200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Postgres,
    Redis,
}

/// What is on disk when a job is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Class {
    /// The job.
    A,
    /// The jobs up to a second ago.
    B,
}

pub(super) struct Servers {
    folder: PathBuf,
    postgres: Postgres,
    redis: Option<Redis>,
}

struct Redis {
    process: Process,
    url: Url,
}

impl Servers {
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let postgres = Postgres::start(folder.join("postgres"), Listen::Socket).await?;
        let settings: Vec<_> = settings(POSTGRES_SETTINGS, " = ").collect();
        postgres.restart_with(&settings).await?;
        let mut owner = PgConnection::connect(&postgres.urls().owner).await?;
        for (name, value) in settings {
            let held: String = sqlx::query_scalar("select current_setting($1)")
                .bind(name)
                .fetch_one(&mut owner)
                .await?;
            ensure!(
                held == value,
                "{name} is {held} and not {value}, as postgresql.conf has it"
            );
        }
        owner.close().await?;
        Ok(Self {
            folder: folder.to_owned(),
            postgres,
            redis: None,
        })
    }

    /// An empty server of this kind in this class; how to reach it.
    pub(super) async fn fresh(&mut self, kind: Kind, class: Class) -> Result<Url> {
        match (kind, class) {
            (Kind::Postgres, Class::A) => {
                let mut owner = self.owner().await?;
                let drop = format!("drop database if exists {DATABASE} with (force)");
                for statement in [
                    drop,
                    format!("create database {DATABASE}"),
                    "checkpoint".to_owned(),
                ] {
                    sqlx::query(AssertSqlSafe(statement))
                        .execute(&mut owner)
                        .await?;
                }
                let mut url: Url = self.postgres.urls().owner.parse()?;
                url.set_path(DATABASE);
                Ok(url)
            }
            (Kind::Postgres, Class::B) => bail!("PostgreSQL is measured in class A only"),
            (Kind::Redis, class) => {
                let policy = match class {
                    Class::A => "always",
                    Class::B => "everysec",
                };
                // Another one, and not the last one emptied: what a worker of the last case still holds must not come back.
                self.redis = None;
                let folder = self.folder.join("redis");
                std::fs::remove_dir_all(&folder).ok();
                let redis = start_redis(&folder, policy).await?;
                let url = redis.url.clone();
                self.redis = Some(redis);
                Ok(url)
            }
        }
    }

    pub(super) async fn versions(&self) -> Result<[String; 2]> {
        let mut owner = self.owner().await?;
        let postgres = sqlx::query_scalar("show server_version")
            .fetch_one(&mut owner)
            .await?;
        // `Redis server v=7.0.15 sha=…`
        let said = Command::new(REDIS).arg("--version").output().await?;
        let said = String::from_utf8(said.stdout)?;
        let redis = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="));
        Ok([postgres, redis.unwrap_or_default().to_owned()])
    }

    async fn owner(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.postgres.urls().owner).await?)
    }

    /// Begins to count syncs of the log. Of Redis with `strace`, which slows it: its rates do not count then.
    pub(super) async fn count_syncs(&self, kind: Kind, folder: &Path) -> Result<Syncs<'_>> {
        let counting = match kind {
            Kind::Postgres => Counting::Postgres(self.wal_syncs().await?),
            Kind::Redis => {
                let redis = self.redis.as_ref().context("no Redis was started")?;
                let summary = folder.join("syncs");
                let mut strace = Command::new("strace");
                strace
                    .args(["-f", "-c", "-e", "trace=fdatasync,fsync", "-o"])
                    .arg(&summary);
                strace
                    .args(["-p", &redis.process.pid().to_string()])
                    .stderr(Stdio::null())
                    .kill_on_drop(true);
                Counting::Redis(Box::new(strace.spawn().context("strace")?), summary)
            }
        };
        Ok(Syncs {
            servers: self,
            counting,
        })
    }

    async fn wal_syncs(&self) -> Result<i64> {
        tokio::time::sleep(COUNTERS_LATE).await;
        let read = sqlx::query_scalar("select wal_sync from pg_stat_wal");
        Ok(read.fetch_one(&mut self.owner().await?).await?)
    }
}

enum Counting {
    Postgres(i64),
    Redis(Box<Child>, PathBuf),
}

pub(super) struct Syncs<'a> {
    servers: &'a Servers,
    counting: Counting,
}

impl Syncs<'_> {
    pub(super) async fn end(self) -> Result<u64> {
        match self.counting {
            Counting::Postgres(before) => {
                Ok(u64::try_from(self.servers.wal_syncs().await? - before)?)
            }
            Counting::Redis(mut strace, summary) => {
                let pid = strace.id().context("strace ended by itself")?;
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid.cast_signed()),
                    Signal::SIGINT,
                )?;
                strace.wait().await?;
                let said = std::fs::read_to_string(&summary)?;
                // `% time  seconds  usecs/call  calls  [errors]  syscall`
                let rows = said
                    .lines()
                    .map(|line| line.split_whitespace().collect::<Vec<_>>());
                let calls = rows.filter(|row| matches!(row.last(), Some(&"fdatasync" | &"fsync")));
                let calls: u64 = calls
                    .filter_map(|row| row.get(3)?.parse::<u64>().ok())
                    .sum();
                ensure!(
                    calls > 0,
                    "strace saw no sync: may it trace other processes here?"
                );
                Ok(calls)
            }
        }
    }
}

async fn start_redis(folder: &Path, policy: &str) -> Result<Redis> {
    std::fs::create_dir_all(folder)?;
    // Free a moment ago; should somebody else take it meanwhile, the start fails.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let password = hex::encode(rand::random::<[u8; 16]>());
    let config = folder.join("redis.conf");
    let more = format!(
        "port {port}\nrequirepass {password}\nappendfsync {policy}\ndir {}\n",
        folder.display()
    );
    std::fs::write(&config, format!("{REDIS_SETTINGS}{more}"))?;
    let process = Process::start(Launch {
        name: "redis",
        program: Path::new(REDIS),
        args: vec![config.display().to_string()],
        env: Vec::new(),
        run_as: &RunAs::caller(),
        log: folder.join("redis.log"),
        stop_signal: Signal::SIGTERM,
        stop_deadline: START_DEADLINE,
    })?;
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(
            begun.elapsed() < START_DEADLINE,
            "redis: {}",
            process.log_end()
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let url = Url::parse(&format!("redis://:{password}@127.0.0.1:{port}/0"))?;
    Ok(Redis { process, url })
}

fn settings<'a>(text: &'a str, between: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| line.split_once(between))
}
