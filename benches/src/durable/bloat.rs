use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use flowai_actors::ids::{Attempt, Epoch, Generation, JobId, NodeId};
use flowai_actors::limits::JOURNAL_BATCH_MAX;
use flowai_actors::messages::{AttemptRef, Holding};
use flowai_store::journal::{self, Batch, Change, Unfinished, Written};
use flowai_store::{leader, recovery};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};

use super::Durable;
use crate::figures;
use crate::machine::{self, Machine};

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/bloat.json")]
    out: PathBuf,
    /// How long the snapshot is held, seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Jobs that are assigned and given back over and over
    #[arg(long, default_value_t = 20_000)]
    jobs: u64,
    /// Changes a second: far more than a farm makes
    #[arg(long, default_value_t = 500)]
    rate: u64,
}

/// One look at the tables.
#[derive(Serialize)]
struct Look {
    at_s: f64,
    /// Of the batches since the last look, milliseconds.
    commit_p50_ms: f64,
    commit_p99_ms: f64,
    /// Of the leader's quick look for new jobs, milliseconds.
    sweep_ms: f64,
    state_table_bytes: i64,
    state_indexes_bytes: i64,
    dead_rows: i64,
}

#[derive(Serialize)]
struct Report {
    at: String,
    machine: Machine,
    load_before: f64,
    jobs: u64,
    changes: u64,
    /// Share of the updates of `job_state` that stayed in their page.
    hot_ratio: f64,
    looks: Vec<Look>,
    /// After the snapshot was let go and the tables were vacuumed.
    after_vacuum: Look,
}

struct Load {
    durable: Durable,
    epoch: Epoch,
    jobs: Vec<(JobId, u32)>,
    node: NodeId,
    next: usize,
    changes: u64,
    commits_ms: Vec<f64>,
    start: Instant,
}

impl Load {
    /// A batch of jobs is assigned, and in the next one given back.
    async fn turn(&mut self) -> Result<()> {
        let count = self.jobs.len();
        let these: Vec<usize> = (0..JOURNAL_BATCH_MAX / 2)
            .map(|n| (self.next + n) % count)
            .collect();
        self.next = (self.next + these.len()) % count;
        for of_job in [true, false] {
            let mut batch = Batch::default();
            for at in &these {
                let (job, attempt) = self.jobs[*at];
                let at = AttemptRef {
                    job,
                    attempt: Attempt::new(attempt + 1),
                    epoch: self.epoch,
                };
                let held = Holding {
                    at,
                    node: self.node.clone(),
                    generation: Generation::new(1),
                };
                let change = match of_job {
                    true => Change::Assign(held),
                    false => Change::Requeue {
                        held,
                        outcome: Unfinished::Stopped,
                        reason: "bench".to_owned(),
                        checkpoint: None,
                    },
                };
                ensure!(batch.push(change).is_ok(), "a batch takes no more");
            }
            let start = Instant::now();
            let written = journal::commit(&self.durable.database, self.epoch, &batch).await?;
            self.commits_ms.push(1e3 * start.elapsed().as_secs_f64());
            ensure!(
                written
                    .iter()
                    .all(|written| matches!(written, Written::Now(_))),
                "a change was refused"
            );
            self.changes += written.len() as u64;
        }
        for at in these {
            self.jobs[at].1 += 1;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Look> {
        let mut sorted = std::mem::take(&mut self.commits_ms);
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| {
            sorted
                .get((q * sorted.len() as f64) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        let start = Instant::now();
        recovery::newcomers(&self.durable.database, Duration::from_secs(10)).await?;
        let sweep_ms = 1e3 * start.elapsed().as_secs_f64();
        let (state_table_bytes, state_indexes_bytes, dead_rows): (i64, i64, i64) = sqlx::query_as(
            "select pg_relation_size('job_state'), pg_indexes_size('job_state'),
                    (select n_dead_tup from pg_stat_user_tables where relname = 'job_state')",
        )
        .fetch_one(&mut self.durable.owner)
        .await?;
        Ok(Look {
            at_s: self.start.elapsed().as_secs_f64(),
            commit_p50_ms: at(0.5),
            commit_p99_ms: at(0.99),
            sweep_ms,
            state_table_bytes,
            state_indexes_bytes,
            dead_rows,
        })
    }
}

pub(super) async fn run(options: &Options) -> Result<()> {
    let load_before = machine::load()?;
    let mut durable = Durable::start().await?;
    durable.queue(options.jobs, 1_000).await?;
    let epoch = leader::take_over(&durable.database, "bench-1", "127.0.0.1:1").await?;
    let epoch = epoch.context("somebody leads")?;
    let mut jobs = Vec::new();
    let mut after = None;
    loop {
        let page = recovery::unfinished_ids(&durable.database, after).await?;
        after = page.last().copied();
        if page.is_empty() {
            break;
        }
        jobs.extend(page.into_iter().map(|job| (job, 0)));
    }
    let mut snapshot = PgConnection::connect(&durable.postgres.urls().owner).await?;
    // A minute of idleness would end it, as it ends what a program forgets; what reads all the time, as a dump does, lasts.
    sqlx::query("set idle_in_transaction_session_timeout = 0")
        .execute(&mut snapshot)
        .await?;
    sqlx::query("begin isolation level repeatable read")
        .execute(&mut snapshot)
        .await?;
    sqlx::query("select count(*) from job_state")
        .execute(&mut snapshot)
        .await?;

    let mut load = Load {
        durable,
        epoch,
        jobs,
        node: "bench".parse()?,
        next: 0,
        changes: 0,
        commits_ms: Vec::new(),
        start: Instant::now(),
    };
    let pause = Duration::from_secs_f64(JOURNAL_BATCH_MAX as f64 / options.rate.max(1) as f64);
    let mut ticks = tokio::time::interval(pause);
    let mut looks = Vec::new();
    let every = Duration::from_secs(options.seconds.div_ceil(10).max(1));
    let mut next_look = Instant::now() + every;
    while load.start.elapsed() < Duration::from_secs(options.seconds) {
        ticks.tick().await;
        load.turn().await?;
        // The lease is not what is measured.
        ensure!(
            leader::renew(&load.durable.database, epoch, "bench-1").await?,
            "the lease is lost"
        );
        if next_look <= Instant::now() {
            looks.push(load.look().await?);
            next_look += every;
        }
    }
    sqlx::query("rollback").execute(&mut snapshot).await?;
    snapshot.close().await?;
    sqlx::query("vacuum analyze job_state")
        .execute(&mut load.durable.owner)
        .await?;
    for _ in 0..10 {
        load.turn().await?;
    }
    let after_vacuum = load.look().await?;
    let hot_ratio: f64 = sqlx::query_scalar(
        "select n_tup_hot_upd::float8 / greatest(n_tup_upd, 1) from pg_stat_user_tables where relname = 'job_state'",
    )
    .fetch_one(&mut load.durable.owner)
    .await?;
    let report = Report {
        at: figures::now(),
        machine: Machine::read()?,
        load_before,
        jobs: options.jobs,
        changes: load.changes,
        hot_ratio,
        looks,
        after_vacuum,
    };
    load.durable.stop().await?;
    figures::write(&options.out, &report)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
