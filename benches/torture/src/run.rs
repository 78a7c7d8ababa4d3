//! One run from the first program to the report.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPoolOptions;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checker::{self, Inputs, Store};
use crate::clients::{Clients, History, wishes};
use crate::clock::At;
use crate::farm::Farm;
use crate::faults::{self, Row};
use crate::network::Network;
use crate::options::{Engine, Options};
use crate::pace::Pace;
use crate::plant;
use crate::recovery::{self, Death};
use crate::report::{Machine, Report, count_lines, sha256_of};
use crate::watch;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// # Errors
/// The rig failed: the run says nothing about the farm.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let out = options.out.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let kept = options.keep.clone();
    let temporary = match &kept {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            None
        }
        None => Some(
            tempfile::Builder::new()
                .prefix("flowai-torture-")
                .tempdir()?,
        ),
    };
    let folder = temporary.as_ref().map(|folder| folder.path().to_owned());
    let folder = folder.or(kept).context("a folder for the farm")?;
    let limit = Duration::from_secs(options.limit_s);
    let Ok(ran) = tokio::time::timeout(limit, run_in(options, &folder.canonicalize()?)).await
    else {
        bail!("the run took longer than {limit:?}");
    };
    ran
}

async fn run_in(options: &Options, folder: &Path) -> anyhow::Result<Report> {
    let network = match options.inside {
        true => Network::of_namespaces()?,
        false => Network::of_loopback(),
    };
    let network_name = network.name();
    let farm = Arc::new(Farm::start(options, folder, network).await?);
    let history_file = options.out.with_extension("history.jsonl");
    let apis = farm.api_proxies.iter();
    let apis = apis
        .map(|proxy| format!("http://{}", proxy.address()))
        .collect();
    let history = History::create(&history_file)?;
    let clients = Arc::new(Clients::make(options.clients, apis, history).await?);
    println!(
        "{} jobs, {} faults, seed {}, {network_name}",
        options.jobs, options.faults, options.seed
    );

    let end = CancellationToken::new();
    let usage = tokio::spawn(watch::usage(farm.clone(), end.clone()));
    let owner = farm.parts.postgres.urls().owner.clone();
    let terms = tokio::spawn(watch::terms(owner.clone(), end.clone()));
    let pace = Pace::new(options.jobs, options.faults);
    let began = At::now();
    let ((), rows) = tokio::try_join!(
        clients.clone().run(wishes(options), &pace),
        faults::run(farm.clone(), clients.clone(), options, &pace),
    )?;
    let database = PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy(&owner)?;
    let settle = Duration::from_secs(options.settle_s);
    wait_for_the_end(&database, settle).await?;
    let duration_s = At::now().seconds_since(began);
    end.cancel();
    let (usage, terms) = (usage.await?, terms.await??);
    Arc::into_inner(clients)
        .context("clients have ended")?
        .close()?;

    let history = checker::read_history(&history_file)?;
    let store = Store::new(&farm.parts.addresses.s3);
    plant::plant(&options.plant, &database, &store).await?;
    let (checks, tally, facts) = checker::check(&Inputs {
        database: &database,
        store: &store,
        history: &history,
        usage: &usage,
    })
    .await?;
    database.close().await;
    let deaths = deaths(&farm);
    let logs = farm.logs();
    let report = Report {
        date: chrono::Utc::now().to_rfc3339(),
        machine: Machine::look(),
        network: network_name,
        engine: match options.engine {
            Engine::StandIn => "stand-in",
            Engine::Svd => "svd",
        },
        jobs: options.jobs,
        faults: options.faults,
        seed: options.seed,
        clients: options.clients,
        coordinators: options.coordinators,
        apis: options.apis,
        nodes: options.nodes,
        duration_s,
        history_sha256: sha256_of(&history_file)?,
        stale_refused: count_lines(&logs, &STALE)?,
        fenced: count_lines(&logs, &["the term is over"])?,
        recovery: recovery::by_kind(&rows, &facts, &history),
        dead_nodes: recovery::dead_nodes(&deaths, &rows, &facts),
        takeover: recovery::takeovers(&deaths, &terms, &rows),
        deaths: unexplained(&deaths, &rows),
        tally,
        checks,
        usage,
        rows,
    };
    report.write(&options.out)?;
    Arc::into_inner(farm)
        .context("the farm is not used any more")?
        .stop()
        .await?;
    Ok(report)
}

/// What a leader says when it refuses the word of somebody who does not hold the attempt.
const STALE: [&str; 3] = [
    "stale end is refused",
    "stale write is refused",
    "stale question for upload targets is refused",
];

/// Until every job has ended, or none has for so long: what has not ended then is the checker's finding. A queue that is long, on
/// a machine that is slow, is none.
async fn wait_for_the_end(database: &sqlx::PgPool, settle: Duration) -> anyhow::Result<()> {
    let (mut fewest, mut until) = (i64::MAX, Instant::now());
    loop {
        let left = checker::unfinished(database).await?;
        if left < fewest {
            (fewest, until) = (left, Instant::now() + settle);
        }
        if left == 0 || Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn deaths(farm: &Farm) -> Vec<Death> {
    let programs = farm.programs().flat_map(|program| {
        let name = program.name().to_owned();
        let exits = program.exits().into_iter();
        exits.map(move |exit| Death {
            program: name.clone(),
            at: exit.at,
        })
    });
    programs.collect()
}

/// Ends of programs beside those that faults were, by program.
fn unexplained(deaths: &[Death], rows: &[Row]) -> std::collections::BTreeMap<String, usize> {
    // A kill is said to have healed at once, and takes a moment to be seen.
    const MOMENT_US: i64 = 1_000_000;
    let mut counts = std::collections::BTreeMap::new();
    for death in deaths {
        let is_fault = rows.iter().any(|row| {
            row.target == death.program
                && row.began <= death.at
                && death.at.0 <= row.healed.0 + MOMENT_US
        });
        if !is_fault {
            *counts.entry(death.program.clone()).or_default() += 1;
        }
    }
    counts
}
