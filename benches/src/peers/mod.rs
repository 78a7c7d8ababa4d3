//! FlowAI beside the queues that people would take instead: the same job, durability class, disk and cores, in rounds one after
//! the other. `docs/benchmarks.md` has the table, and what of the protocol two cores cannot do.

mod contender;
mod disk;
mod records;
mod server;
mod table;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::contender::{CONTENDERS, Contender, Stage, Submissions};
use self::records::Lives;
use self::server::{Class, Kind, Servers};
use crate::figures;
use crate::machine::{self, Machine};

/// Connections that submit in the closed loop.
const PRODUCERS: usize = 32;
/// Jobs that are accepted at once where acceptance in batches is measured: a user of FlowAI's highest tier may have two such batches
/// waiting.
const BATCH: usize = 100;
/// Jobs of the idle system, one at a time: each is long over before the next.
const IDLE: Submissions = Submissions {
    seconds: 30,
    count: IDLE_COLD + 200,
    producers: 1,
    pause_ms: 30,
};
/// Of them, the first ones on the client's new connection, whose statements are planned for them: they do not count.
const IDLE_COLD: usize = 10;
const WARM_UP: Submissions = Submissions {
    seconds: 30,
    count: 20,
    producers: 1,
    pause_ms: 0,
};
/// From the start of the workers' processes to their first job.
const WORKERS_READY: Duration = Duration::from_secs(60);
/// From the last acknowledgement to the last start.
const DRAINED: Duration = Duration::from_secs(120);
/// Workers where their number is not what is looked at.
const WORKERS: usize = 10;
/// Workers where jobs are accepted in batches.
const WORKERS_OF_BATCHES: usize = 100;
/// A shorter time than this is no measure of a depth.
const AT_DEPTH_MIN: Duration = Duration::from_secs(2);
/// A depth takes no longer than this to be written.
const PRELOAD_S: usize = 60;
/// How long a backlog is worked on, after a time that does not count unless all of it is gone by then.
const AT_DEPTH: Duration = Duration::from_secs(4);
const AT_DEPTH_WARM_UP: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/peers.json")]
    out: PathBuf,
    /// Where `ops/setup/peers.sh` has put the others
    #[arg(long, value_name = "FOLDER", default_value = ".peers")]
    peers: PathBuf,
    /// Every case of every contender, so often, one round after the other
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long jobs are submitted in each case
    #[arg(long, default_value_t = 4)]
    seconds: usize,
    /// Numbers of workers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    workers: Vec<usize>,
    /// Numbers of waiting jobs
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    depths: Vec<usize>,
    /// Only these contenders
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Prints the tables of a report that was written before, as Markdown, and measures nothing
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lives,
    Batches,
    Idle,
    /// How many lives share a sync of Redis: the tracer that counts them is in the way of its rates.
    Syncs,
    /// Of so many waiting jobs.
    Depth(usize),
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Lives => "lives",
            Self::Batches => "batches",
            Self::Idle => "idle",
            Self::Syncs => "syncs",
            Self::Depth(_) => "depth",
        }
    }

    fn depth(self) -> usize {
        match self {
            Self::Depth(depth) => depth,
            Self::Lives | Self::Batches | Self::Idle | Self::Syncs => 0,
        }
    }

    /// Jobs that are submitted at once.
    fn batch(self) -> usize {
        match self {
            Self::Batches => BATCH,
            Self::Lives | Self::Idle | Self::Syncs | Self::Depth(_) => 1,
        }
    }
}

/// One case of one round.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    contender: String,
    class: String,
    round: usize,
    case: String,
    workers: usize,
    depth: usize,
    /// Of the disk, before and after.
    syncs_per_s: [f64; 2],
    load: f64,
    /// What was found; `error` alone when the case could not be measured, or its count does not add up: the row is void.
    found: Value,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(report) = &options.table {
        return table::print(report);
    }
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let peers = options
        .peers
        .canonicalize()
        .context("run ops/setup/peers.sh first")?;
    tokio::runtime::Runtime::new()?.block_on(measure(options, &peers))
}

async fn measure(options: &Options, peers: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("flowai-peers-").tempdir()?;
    let mut servers = Servers::start(folder.path()).await?;
    let [postgres, redis] = servers.versions().await?;
    for name in &options.only {
        let is_known = CONTENDERS.iter().any(|one| one.name == name);
        ensure!(is_known, "--only: {name} is none of the contenders");
    }
    let is_wanted = |one: &&Contender| {
        options.only.is_empty() || options.only.iter().any(|name| name == one.name)
    };
    let contenders: Vec<Contender> = CONTENDERS.iter().filter(is_wanted).copied().collect();
    let mut bench = Bench {
        options,
        peers,
        folder: folder.path(),
        servers: &mut servers,
        rows: Vec::new(),
        report: json!({
            "date": figures::now(),
            "machine": Machine::read()?,
            "servers": { "postgresql": postgres, "redis": redis },
            "settings": {
                "postgresql": include_str!("../../peers/postgresql.conf"),
                "redis": include_str!("../../peers/redis.conf"),
                "producers": PRODUCERS, "seconds": options.seconds, "payload_bytes": 256,
                "rounds": options.rounds, "idle": IDLE, "idle_cold": IDLE_COLD,
            },
            "contenders": contenders,
        }),
    };
    for round in 1..=options.rounds {
        for contender in &contenders {
            bench.round(round, contender).await?;
        }
    }
    bench.write()
}

struct Bench<'a> {
    options: &'a Options,
    peers: &'a Path,
    folder: &'a Path,
    servers: &'a mut Servers,
    rows: Vec<Row>,
    report: Value,
}

impl Bench<'_> {
    async fn round(&mut self, round: usize, contender: &Contender) -> Result<()> {
        let classes: &[Class] = match contender.server {
            Kind::Postgres => &[Class::A],
            Kind::Redis => &[Class::A, Class::B],
        };
        for class in classes.iter().copied() {
            for workers in self.options.workers.clone() {
                if workers <= contender.workers_max {
                    self.case(round, contender, class, Case::Lives, workers)
                        .await?;
                }
            }
            if class == Class::A {
                let workers = contender.workers_max.min(WORKERS_OF_BATCHES);
                self.case(round, contender, class, Case::Batches, workers)
                    .await?;
            }
            self.case(round, contender, class, Case::Idle, WORKERS)
                .await?;
            if class == Class::A && contender.server == Kind::Redis && round == 1 {
                self.case(round, contender, class, Case::Syncs, WORKERS)
                    .await?;
            }
            for depth in self.options.depths.clone() {
                // Writing a million takes long enough for one round.
                let is_too_often = depth > 100_000 && round > 1;
                if class == Class::A
                    && !is_too_often
                    && depth <= contender.preloads_per_s * PRELOAD_S
                {
                    self.case(round, contender, class, Case::Depth(depth), WORKERS)
                        .await?;
                }
            }
        }
        self.write()
    }

    /// Measures one case. What goes wrong in it is its result: the others are measured all the same.
    async fn case(
        &mut self,
        round: usize,
        contender: &Contender,
        class: Class,
        case: Case,
        workers: usize,
    ) -> Result<()> {
        let before = disk::syncs_per_s(self.folder)?;
        let load = machine::load()?;
        let found = self.found(contender, class, case, workers).await;
        let found = found.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        let row = Row {
            contender: contender.label(),
            class: format!("{class:?}"),
            round,
            case: case.name().to_owned(),
            workers,
            depth: case.depth(),
            syncs_per_s: [before, disk::syncs_per_s(self.folder)?],
            load,
            found,
        };
        eprintln!("{}", serde_json::to_string(&row)?);
        self.rows.push(row);
        Ok(())
    }

    async fn found(
        &mut self,
        contender: &Contender,
        class: Class,
        case: Case,
        workers: usize,
    ) -> Result<Value> {
        let url = self.servers.fresh(contender.server, class).await?;
        let stage = contender.set_up(self.peers, url, case.batch()).await?;
        if let Case::Depth(depth) = case {
            return at_depth(&stage, depth, workers).await;
        }
        self.lives(contender, case, workers, &stage).await
    }

    /// Jobs are submitted while workers work.
    async fn lives(
        &self,
        contender: &Contender,
        case: Case,
        workers: usize,
        stage: &Stage,
    ) -> Result<Value> {
        let working = stage.work(workers)?;
        stage.enqueue(WARM_UP).await?;
        let wanted = records::acknowledged(&stage.acks())?;
        let warm = stage.begun(wanted, WORKERS_READY).await;
        ensure!(
            warm == wanted,
            "{warm} of {wanted} jobs began: {}",
            working.log_end()
        );
        let wanted = match case {
            Case::Idle => IDLE,
            Case::Lives | Case::Batches | Case::Syncs | Case::Depth(_) => Submissions {
                seconds: self.options.seconds,
                count: contender.jobs_max,
                producers: PRODUCERS,
                pause_ms: 0,
            },
        };
        let cold = if case == Case::Idle { IDLE_COLD } else { 0 };
        let is_counted = contender.server == Kind::Postgres || case == Case::Syncs;
        let syncs = match is_counted {
            true => Some(
                self.servers
                    .count_syncs(contender.server, stage.folder())
                    .await?,
            ),
            false => None,
        };
        stage.enqueue(wanted).await?;
        let all = warm + records::acknowledged(&stage.acks())?;
        stage.begun(all, DRAINED).await;
        let syncs = match syncs {
            Some(syncs) => Some(syncs.end().await?),
            None => None,
        };
        let lives: Lives = records::join(&stage.acks(), &stage.starts(), cold)?;
        ensure!(
            lives.missing == 0 && lives.doubled == 0,
            "{} acknowledged jobs never began, and {} began more than once",
            lives.missing,
            lives.doubled
        );
        let mut found = serde_json::to_value(&lives)?;
        if let Some(syncs) = syncs {
            found["jobs_per_sync"] = json!(lives.acknowledged as f64 / syncs as f64);
        }
        Ok(found)
    }

    fn write(&mut self) -> Result<()> {
        self.report["rows"] = serde_json::to_value(&self.rows)?;
        figures::write(&self.options.out, &self.report)
    }
}

/// Starts a second out of a backlog, which is written before the workers come.
async fn at_depth(stage: &Stage, depth: usize, workers: usize) -> Result<Value> {
    stage.preload(depth).await?;
    stage.settle().await?;
    let working = stage.work(workers)?;
    let begun = stage.begun(1, WORKERS_READY).await;
    ensure!(begun > 0, "no job began: {}", working.log_end());
    stage.begun(depth, AT_DEPTH_WARM_UP + AT_DEPTH).await;
    drop(working);
    let starts = records::starts(&stage.starts())?;
    let keys: HashSet<&str> = starts.iter().map(|(key, _)| key.as_str()).collect();
    ensure!(
        keys.len() == starts.len(),
        "{} of {} jobs began twice",
        starts.len() - keys.len(),
        keys.len()
    );
    let times: Vec<i64> = starts.iter().map(|(_, at)| *at).collect();
    let (started, seconds) = started_warm(&times);
    // What is gone sooner says more of its beginning than of its depth.
    let is_long = seconds >= AT_DEPTH_MIN.as_secs_f64();
    let starts_per_s = is_long.then(|| started as f64 / seconds);
    Ok(json!({ "starts_per_s": starts_per_s, "started": started, "seconds": seconds }))
}

/// How many began once all was warm, and within how many seconds. `times`: ns.
fn started_warm(times: &[i64]) -> (usize, f64) {
    let first = times.iter().copied().min().unwrap_or_default();
    let last = times.iter().copied().max().unwrap_or_default();
    let warm = first + AT_DEPTH_WARM_UP.as_nanos() as i64;
    let started = times.iter().filter(|at| **at >= warm).count();
    (started, (last - warm).max(0) as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_depth_what_begins_in_the_first_second_does_not_count() {
        let every_10_ms =
            |seconds: i64| -> Vec<i64> { (0..=100 * seconds).map(|n| 10_000_000 * n).collect() };
        assert_eq!(started_warm(&every_10_ms(4)), (301, 3.0));
        assert_eq!(started_warm(&every_10_ms(0)), (0, 0.0));
        assert_eq!(started_warm(&[]), (0, 0.0));
    }
}
