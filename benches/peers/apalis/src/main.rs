//! apalis on PostgreSQL. <https://docs.rs/apalis-postgres>: one worker with so many jobs at once, LISTEN/NOTIFY, batches of its
//! default size. The commands and files are those of `benches/peers/producer.py`.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PgTask, PostgresStorage, queries};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const QUEUE: &str = "peer";
const PADDING_BYTES: usize = 256 - 36;
const PRELOAD_BATCH: usize = 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    key: String,
    padding: String,
}

fn now_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn task(key: String) -> Result<PgTask> {
    let job = Job { key, padding: "x".repeat(PADDING_BYTES) };
    Ok(TaskBuilder::new(serde_json::to_vec(&job)?).build())
}

async fn enqueue(pool: PgPool, seconds: u64, count: usize, producers: usize, pause_ms: u64) -> Result<()> {
    let (turns, end) = (Arc::new(AtomicUsize::new(0)), Instant::now() + Duration::from_secs(seconds));
    let batch: usize = std::env::var("PEER_BATCH")?.parse()?;
    let mut loops = tokio::task::JoinSet::<Result<String>>::new();
    for _ in 0..producers {
        let (pool, turns) = (pool.clone(), turns.clone());
        loops.spawn(async move {
            let (mut acks, mut connection) = (String::new(), pool.acquire().await?.detach());
            while turns.fetch_add(batch, Ordering::Relaxed) < count && Instant::now() < end {
                let (keys, begin): (Vec<String>, i64) = ((0..batch).map(|_| Uuid::new_v4().to_string()).collect(), now_ns());
                let tasks = keys.iter().cloned().map(task).collect::<Result<Vec<_>>>()?;
                queries::push_tasks(&mut connection, QUEUE, tasks).await?;
                let acknowledged = now_ns();
                for key in keys {
                    writeln!(acks, "{key} {begin} {acknowledged}")?;
                }
                if pause_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
            }
            Ok(acks)
        });
    }
    let acks = loops.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(std::fs::write(std::env::var("PEER_ACKS")?, acks.concat())?)
}

async fn noop(job: Job) -> Result<()> {
    static STARTS: OnceLock<File> = OnceLock::new();
    let open = || OpenOptions::new().create(true).append(true).open(std::env::var("PEER_STARTS").unwrap()).unwrap();
    let line = format!("{} {}\n", job.key, now_ns());
    Ok(STARTS.get_or_init(open).write_all(line.as_bytes())?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize| words[n].parse::<usize>();
    let pool = PgPoolOptions::new().max_connections(40).connect(&std::env::var("PEER_URL")?).await?;
    match words[0].as_str() {
        "setup" => Ok(PostgresStorage::setup(&pool).await?),
        "enqueue" => enqueue(pool, number(1)? as u64, number(2)?, number(3)?, number(4)? as u64).await,
        "preload" => {
            let mut connection = pool.acquire().await?.detach();
            for first in (0..number(1)?).step_by(PRELOAD_BATCH) {
                let batch = first..(first + PRELOAD_BATCH).min(number(1)?);
                let tasks = batch.map(|_| task(Uuid::new_v4().to_string())).collect::<Result<Vec<_>>>()?;
                queries::push_tasks(&mut connection, QUEUE, tasks).await?;
            }
            Ok(())
        }
        _ => {
            let backend = PostgresStorage::new(&pool).with_config(Config::default().queue(QUEUE)).with_pubsub();
            let worker = WorkerBuilder::new("peer").backend(backend).concurrency(number(1)?).build(noop);
            Ok(worker.run().await?)
        }
    }
}
