//! The contenders, and how each is run: as processes with one set of commands, which `benches/peers/producer.py` describes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowai_embedded::{Launch, Process, RunAs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use url::Url;

use super::records::Starts;
use super::server::Kind;

/// What a program is given beside the work that it waits for.
const DEADLINE: Duration = Duration::from_secs(180);
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    /// This program.
    Own,
    Python,
    JavaScript,
    /// A program of its own under `.peers`.
    Rust,
}

/// One of those that are compared.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) server: Kind,
    /// Its fastest documented mode, as a row of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// What a worker is.
    workers: &'static str,
    /// Whether a late end of an attempt that was given to somebody else is refused.
    pub(super) fences_attempts: bool,
    /// Whether a user with many jobs leaves the others their share.
    pub(super) is_fair: bool,
    /// Workers of which a hundred are a hundred processes are measured with ten at most.
    #[serde(skip)]
    pub(super) workers_max: usize,
    /// A closed loop ends with this many at the latest, so that slow workers are through within the deadline.
    pub(super) jobs_max: usize,
    /// Jobs that are written a second, roughly, when many are written in advance: bounds the depth.
    #[serde(skip)]
    pub(super) preloads_per_s: usize,
    #[serde(skip)]
    language: Language,
}

const fn peer(
    name: &'static str,
    version: &'static str,
    server: Kind,
    language: Language,
) -> Contender {
    Contender {
        name,
        version,
        server,
        mode: None,
        workers: "one worker with so many jobs at once",
        fences_attempts: false,
        is_fair: false,
        workers_max: usize::MAX,
        jobs_max: 20_000,
        preloads_per_s: 5_000,
        language,
    }
}

/// Versions are those that `benches/peers/` pins.
pub(super) const CONTENDERS: &[Contender] = &[
    Contender {
        workers: "nodes with one job at a time each",
        fences_attempts: true,
        is_fair: true,
        preloads_per_s: 20_000,
        ..peer(
            "flowai",
            env!("CARGO_PKG_VERSION"),
            Kind::Postgres,
            Language::Own,
        )
    },
    Contender {
        workers: "processes, a hundred of them threads",
        preloads_per_s: 1_700,
        ..peer("celery", "5.7.0", Kind::Redis, Language::Python)
    },
    Contender {
        workers: "processes that fork for each job, ten at most here",
        workers_max: 10,
        jobs_max: 500,
        ..peer("rq", "3.0.0", Kind::Redis, Language::Python)
    },
    Contender {
        workers: "threads of one process",
        preloads_per_s: 1_700,
        ..peer("dramatiq", "2.2.1", Kind::Redis, Language::Python)
    },
    Contender {
        fences_attempts: true,
        preloads_per_s: 15_000,
        ..peer("bullmq", "6.7.0", Kind::Redis, Language::JavaScript)
    },
    peer("procrastinate", "3.10.0", Kind::Postgres, Language::Python),
    Contender {
        workers: "threads of one process",
        preloads_per_s: 20_000,
        ..peer("pgmq", "1.1.4", Kind::Postgres, Language::Python)
    },
    Contender {
        workers: "pollers of batches of 500",
        preloads_per_s: 10_000,
        ..peer("pg-boss", "10.4.2", Kind::Postgres, Language::JavaScript)
    },
    Contender {
        preloads_per_s: 10_000,
        ..peer(
            "graphile-worker",
            "0.17.3",
            Kind::Postgres,
            Language::JavaScript,
        )
    },
    Contender {
        mode: Some("fast"),
        preloads_per_s: 10_000,
        ..peer(
            "graphile-worker",
            "0.17.3",
            Kind::Postgres,
            Language::JavaScript,
        )
    },
    peer("apalis", "1.0.0", Kind::Postgres, Language::Rust),
];

impl Contender {
    /// Its name, and its mode where it has several rows.
    pub(super) fn label(&self) -> String {
        match self.mode {
            Some(mode) => format!("{} ({mode})", self.name),
            None => self.name.to_owned(),
        }
    }

    /// With its tables on an empty server; it accepts so many jobs at once.
    pub(super) async fn set_up(&self, peers: &Path, url: Url, batch: usize) -> Result<Stage> {
        let stage = Stage {
            contender: *self,
            peers: peers.to_owned(),
            url,
            secret: hex::encode(rand::random::<[u8; 16]>()),
            folder: tempfile::tempdir()?,
            batch,
        };
        stage.finish("setup", &[]).await?;
        Ok(stage)
    }
}

/// One contender on its server, with the files of one run.
pub(super) struct Stage {
    contender: Contender,
    peers: PathBuf,
    url: Url,
    secret: String,
    folder: TempDir,
    batch: usize,
}

/// The workers of one contender. All that they started ends with them: some leave processes behind, which would go on taking jobs
/// and cores in the next case.
pub(super) struct Working(Process);

impl Working {
    pub(super) fn log_end(&self) -> String {
        self.0.log_end()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // Before their parent goes, which they are found by.
        for pid in process_tree(self.0.pid()) {
            // One that has ended by itself.
            kill(pid, Signal::SIGKILL).ok();
        }
    }
}

/// The process and all that it and its children started.
fn process_tree(root: Pid) -> Vec<Pid> {
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(parent) = tree.get(at).copied() {
        let threads = std::fs::read_dir(format!("/proc/{parent}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            let pids = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            tree.extend(pids.map(Pid::from_raw));
        }
        at += 1;
    }
    tree
}

/// How jobs are submitted.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Submissions {
    pub(super) seconds: usize,
    pub(super) count: usize,
    pub(super) producers: usize,
    pub(super) pause_ms: usize,
}

impl Stage {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn starts(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    pub(super) fn acks(&self) -> PathBuf {
        self.folder.path().join("acks")
    }

    /// Runs until it is dropped.
    pub(super) fn work(&self, workers: usize) -> Result<Working> {
        Ok(Working(self.start("work", &[workers])?))
    }

    pub(super) async fn preload(&self, count: usize) -> Result<()> {
        self.finish("preload", &[count]).await
    }

    /// Has PostgreSQL look at what was written, as it does by itself in time.
    pub(super) async fn settle(&self) -> Result<()> {
        if self.contender.server == Kind::Postgres {
            let mut owner = PgConnection::connect(self.url.as_str()).await?;
            sqlx::raw_sql("vacuum analyze").execute(&mut owner).await?;
        }
        Ok(())
    }

    pub(super) async fn enqueue(&self, wanted: Submissions) -> Result<()> {
        let Submissions {
            seconds,
            count,
            producers,
            pause_ms,
        } = wanted;
        self.finish("enqueue", &[seconds, count, producers, pause_ms])
            .await
    }

    /// Waits until so many have begun, at most so long; how many have.
    pub(super) async fn begun(&self, count: usize, within: Duration) -> usize {
        let since = Instant::now();
        let mut starts = Starts::default();
        loop {
            let begun = starts.count(&self.starts());
            if begun >= count || since.elapsed() > within {
                return begun;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn finish(&self, command: &str, numbers: &[usize]) -> Result<()> {
        let process = self.start(command, numbers)?;
        let ended = tokio::time::timeout(DEADLINE, process.ended()).await;
        let status = process.status().filter(|_| ended.is_ok());
        ensure!(
            status.is_some_and(|status| status.success()),
            "{} {command} {numbers:?}: {status:?}\n{}",
            self.contender.label(),
            process.log_end()
        );
        Ok(())
    }

    fn start(&self, command: &str, numbers: &[usize]) -> Result<Process> {
        let folder = self.peers.join(self.contender.name);
        let (program, first) = match self.contender.language {
            Language::Own => (std::env::current_exe()?, Some("contender".to_owned())),
            Language::Python => (
                folder.join("bin/python"),
                Some(folder.join("peer.py").display().to_string()),
            ),
            Language::JavaScript => (
                "/usr/bin/node".into(),
                Some(folder.join("peer.mjs").display().to_string()),
            ),
            Language::Rust => (folder.join("bin").join(self.contender.name), None),
        };
        let numbers = numbers.iter().map(ToString::to_string);
        let value = |name: &str, value: OsString| (name.into(), value);
        let process = Process::start(Launch {
            name: self.contender.name,
            program: &program,
            args: first
                .into_iter()
                .chain([command.to_owned()])
                .chain(numbers)
                .collect(),
            env: vec![
                value("PEER_URL", self.url.as_str().into()),
                value("PEER_SECRET", (&self.secret).into()),
                value("PEER_DIR", self.folder().into()),
                value("PEER_STARTS", self.starts().into()),
                value("PEER_ACKS", self.acks().into()),
                value("PEER_BATCH", self.batch.to_string().into()),
                value("PEER_MODE", self.contender.mode.unwrap_or_default().into()),
            ],
            run_as: &RunAs::caller(),
            log: self.folder().join(format!("{command}.log")),
            stop_signal: Signal::SIGTERM,
            stop_deadline: STOP_DEADLINE,
        });
        process.with_context(|| format!("{}: run ops/setup/peers.sh", program.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_workers_started_is_found_with_them() {
        let mut parent = Command::new("sh")
            .args(["-c", "sh -c 'sleep 60 & echo $!; wait' & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap());
        let tree = process_tree(Pid::from_raw(parent.id().cast_signed()));
        assert_eq!((tree.len(), tree[2]), (3, grandchild));
        for pid in tree {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        parent.wait().unwrap();
    }
}
