//! What the programs use while the run goes on, and who leads when.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;

use crate::clock::At;
use crate::farm::Farm;

const USE_EVERY: Duration = Duration::from_secs(1);
const LEADER_EVERY: Duration = Duration::from_millis(100);
const DATABASE_DEADLINE: Duration = Duration::from_millis(500);

/// The most that one program used at any look, over all its starts.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Most {
    pub(crate) memory_bytes: u64,
    pub(crate) open_files: u64,
    pub(crate) looks: u64,
}

/// A term that was seen to begin.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Term {
    pub(crate) at: At,
    pub(crate) epoch: i32,
    pub(crate) holder: String,
}

/// Looks each second until it is told to end.
pub(crate) async fn usage(farm: Arc<Farm>, end: CancellationToken) -> BTreeMap<String, Most> {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|bytes| u64::try_from(bytes).ok());
    let page_bytes = page.unwrap_or(4_096);
    let mut most: BTreeMap<String, Most> = BTreeMap::new();
    loop {
        let parts = &farm.parts;
        let servers = [
            ("postgres", parts.postgres.pid().await),
            ("redis", parts.redis.pid().await),
        ];
        let programs = farm.programs().filter_map(|program| {
            let pid = program.standing().pid?;
            Some((program.name(), pid.as_raw()))
        });
        for (name, pid) in servers.into_iter().chain(programs) {
            let Some((pages, files)) = used(pid) else {
                continue;
            };
            let known = most.entry(name.to_owned()).or_default();
            known.memory_bytes = known.memory_bytes.max(pages * page_bytes);
            known.open_files = known.open_files.max(files);
            known.looks += 1;
        }
        let pause = tokio::time::sleep(USE_EVERY);
        if end.run_until_cancelled(pause).await.is_none() {
            return most;
        }
    }
}

/// Resident pages and open files.
fn used(pid: i32) -> Option<(u64, u64)> {
    let memory = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages = memory.split_whitespace().nth(1)?.parse().ok()?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((pages, files as u64))
}

/// Looks at the lease row, past the proxies, until it is told to end.
pub(crate) async fn terms(
    owner_url: String,
    end: CancellationToken,
) -> Result<Vec<Term>, sqlx::Error> {
    let database = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(DATABASE_DEADLINE)
        .connect_lazy(&owner_url)?;
    let mut terms: Vec<Term> = Vec::new();
    loop {
        let row = sqlx::query_as::<_, (i32, Option<String>)>("select epoch, holder from leader");
        let row = tokio::time::timeout(DATABASE_DEADLINE, row.fetch_one(&database)).await;
        // A database that does not answer has no new leader either.
        if let Ok(Ok((epoch, Some(holder)))) = row
            && terms.last().is_none_or(|term| term.epoch != epoch)
        {
            terms.push(Term {
                at: At::now(),
                epoch,
                holder,
            });
        }
        let pause = tokio::time::sleep(LEADER_EVERY);
        if end.run_until_cancelled(pause).await.is_none() {
            return Ok(terms);
        }
    }
}
