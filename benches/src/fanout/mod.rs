//! Live updates: from a message of the leader at the link of one api instance to bytes at the sockets of its readers.
//!
//! The api is the real program on real parts. This process is its leader (the lease row, a listening link) and all of its
//! readers, on the same cores.

mod house;
mod reader;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use flowai_actors::ids::{Attempt, JobId, UserId};
use flowai_actors::messages::{Live, LiveState, Phase};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use self::house::House;
use self::reader::{Published, ROUNDS_MAX, Reader};
use crate::figures;
use crate::machine::{self, Machine};
use crate::statistics::Percentiles;

/// As often as the api lets progress of one job out.
const INTERVAL: Duration = Duration::from_millis(250);
/// Streams that are opened at the same time.
const OPENING: usize = 64;
/// What is published before that does not count.
const WARM_UP: Duration = Duration::from_secs(2);
/// Of a case: more rounds are not remembered.
const SECONDS_MAX: u64 =
    (ROUNDS_MAX as u128 * INTERVAL.as_millis() / 1_000) as u64 - 2 * WARM_UP.as_secs();
/// So long after the last opening is memory read.
const SETTLED: Duration = Duration::from_secs(3);
/// Streams of one user that one instance allows.
const STREAMS_OF_A_USER: usize = 32;
/// Jobs of each user in the case of the reader that never reads. What they send in a case fits into its socket, megabytes that the two
/// kernels keep: how a full one is left is shown by tests of the api.
const JOBS_OF_A_WATCHED_USER: usize = 50;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/fanout.json")]
    out: PathBuf,
    /// Open streams
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Jobs that run, where each stream is that of another user
    #[arg(long, default_value_t = 1_000)]
    jobs: usize,
    /// How long updates are published in each case
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
}

/// Who watches what.
#[derive(Debug, Clone, Copy, Serialize)]
struct Audience {
    users: usize,
    streams_of_a_user: usize,
    /// Users from the first on have running jobs, so many each.
    users_with_jobs: usize,
    jobs_of_a_user: usize,
    /// The first stream is never read.
    is_one_stalled: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    case: &'static str,
    audience: Audience,
    streams: usize,
    published_per_s: f64,
    delivered_per_s: f64,
    /// Of what was published after the warming up: updates that came to a reader over those times its readers.
    delivered_share: f64,
    /// Updates that the link to the api did not take.
    shed: u64,
    /// From before the message is given to the link until its bytes have been read from the socket, ms.
    latency_ms: Percentiles,
    /// Resident bytes of the api that a stream without updates adds.
    idle_bytes_per_stream: f64,
    opened_per_s: f64,
    load: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = options.streams as u64 + 512;
    ensure!(
        most >= needed,
        "--streams: {needed} open files are needed, {most} are allowed; raise `ulimit -Hn`"
    );
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    tokio::runtime::Runtime::new()?.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<()> {
    let streams = options.streams;
    let each_their_own = Audience {
        users: streams,
        streams_of_a_user: 1,
        users_with_jobs: options.jobs.min(streams),
        jobs_of_a_user: 1,
        is_one_stalled: false,
    };
    let many_of_one = Audience {
        users: streams.div_ceil(STREAMS_OF_A_USER),
        streams_of_a_user: STREAMS_OF_A_USER,
        users_with_jobs: streams.div_ceil(STREAMS_OF_A_USER),
        ..each_their_own
    };
    let hundred = Audience {
        users: 4,
        streams_of_a_user: 25,
        users_with_jobs: 4,
        jobs_of_a_user: JOBS_OF_A_WATCHED_USER,
        is_one_stalled: false,
    };
    let stalled = Audience {
        is_one_stalled: true,
        ..hundred
    };
    let cases = [
        ("each stream another user's", each_their_own),
        ("32 streams of each user", many_of_one),
        ("100 readers", hundred),
        ("100 readers, one of them stalled", stalled),
    ];
    let mut found = Vec::new();
    for (case, audience) in cases {
        let one = of_case(case, audience, options.seconds).await?;
        eprintln!("{}", serde_json::to_string(&one)?);
        found.push(one);
    }
    let report = json!({
        "date": figures::now(),
        "machine": Machine::read()?,
        "settings": { "updates_per_s_and_job": 1_000 / INTERVAL.as_millis(), "seconds": options.seconds },
        "cases": found,
    });
    figures::write(&options.out, &report)
}

async fn of_case(case: &'static str, audience: Audience, seconds: u64) -> Result<Found> {
    let house = House::start(audience.users).await?;
    let streams = audience.users * audience.streams_of_a_user;
    let jobs: Vec<(UserId, JobId)> = (0..audience.users_with_jobs)
        .flat_map(|n| std::iter::repeat_n(house::user(n), audience.jobs_of_a_user))
        .map(|user| (user, JobId::generate()))
        .collect();
    let published = Arc::new(Published::of(jobs.iter().map(|(_, job)| *job)));

    let before = house.api_resident_bytes()?;
    let begun = Instant::now();
    let readers = open(&house, audience, &published).await?;
    let opened = begun.elapsed();
    tokio::time::sleep(SETTLED).await;
    let idle = house.api_resident_bytes()?.saturating_sub(before);
    let load = machine::load()?;

    let mut reading = JoinSet::new();
    let (end, is_over) = tokio::sync::watch::channel(false);
    for (n, reader) in readers.into_iter().enumerate() {
        if n == 0 && audience.is_one_stalled {
            // Held, and never read.
            reading.spawn(reader.stall(is_over.clone()));
        } else {
            reading.spawn(reader.read(is_over.clone()));
        }
    }
    let counted_from = Instant::now() + WARM_UP;
    published.count_from(counted_from);
    let (shed, updates) = publish(
        &house,
        &jobs,
        &published,
        WARM_UP + Duration::from_secs(seconds),
    )
    .await?;
    // Who publishes may fall behind its schedule.
    let counted_s = counted_from.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    end.send_replace(true);
    let mut latencies = Vec::new();
    while let Some(of_one) = reading.join_next().await {
        latencies.extend(of_one??);
    }
    house.stop().await?;
    let readers_of_a_job = audience.streams_of_a_user as f64;
    let stalled = if audience.is_one_stalled {
        audience.jobs_of_a_user as f64 / jobs.len() as f64
    } else {
        0.0
    };
    let due = updates as f64 * (readers_of_a_job - stalled);
    Ok(Found {
        case,
        audience,
        streams,
        published_per_s: updates as f64 / counted_s,
        delivered_per_s: latencies.len() as f64 / counted_s,
        delivered_share: latencies.len() as f64 / due,
        shed,
        latency_ms: Percentiles::of(latencies).context("nothing was delivered")?,
        idle_bytes_per_stream: idle as f64 / streams as f64,
        opened_per_s: streams as f64 / opened.as_secs_f64(),
        load,
    })
}

async fn open(
    house: &House,
    audience: Audience,
    published: &Arc<Published>,
) -> Result<Vec<Reader>> {
    let mut readers = Vec::new();
    let mut opening = JoinSet::new();
    for n in 0..audience.users * audience.streams_of_a_user {
        if opening.len() >= OPENING {
            let opened: Result<Reader> =
                opening.join_next().await.context("nothing is opening")??;
            readers.push(opened?);
        }
        let key = house::key(n % audience.users);
        let is_narrow = n == 0 && audience.is_one_stalled;
        opening.spawn(Reader::open(
            house.address(),
            key,
            published.clone(),
            is_narrow,
        ));
        // The one that will not be read must be the first.
        if n == 0 {
            let opened: Result<Reader> =
                opening.join_next().await.context("nothing is opening")??;
            readers.push(opened?);
        }
    }
    while let Some(opened) = opening.join_next().await {
        readers.push(opened??);
    }
    Ok(readers)
}

/// Each job's progress at its own moment of the interval. What was shed in all, and published after the warming up.
async fn publish(
    house: &House,
    jobs: &[(UserId, JobId)],
    published: &Published,
    time: Duration,
) -> Result<(u64, u64)> {
    let (start, count) = (Instant::now(), jobs.len() as u32);
    let (mut shed, mut counted) = (0, 0);
    for round in 0.. {
        for (n, (user, job)) in jobs.iter().enumerate() {
            let at = start + INTERVAL * round + INTERVAL * n as u32 / count;
            if at >= start + time {
                return Ok((shed, counted));
            }
            tokio::time::sleep_until(at.into()).await;
            let live = Live {
                user: *user,
                job: *job,
                live: LiveState::Progress {
                    attempt: Attempt::new(1),
                    phase: Phase::Denoising,
                    step: round,
                    steps: u32::MAX,
                    left_s: None,
                },
            };
            counted += u64::from(published.note(*job, round, at));
            if !house.tell(&live)? {
                shed += 1;
            }
        }
    }
    Ok((shed, counted))
}
