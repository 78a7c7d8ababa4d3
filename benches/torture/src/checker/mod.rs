//! What became of every job, told by somebody who was not there.
//!
//! Knows the published schema, the object store's keys as rows name them, and the clients' history; shares no code with the api
//! or the coordinator, so that no mistake of theirs is made here again.

mod artefacts;
mod delivery;
mod ends;
mod facts;
mod ledger;
mod submissions;
mod usage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use sqlx::PgPool;

use crate::clients::Record;
use crate::watch::Most;

pub(crate) use artefacts::Store;
pub(crate) use facts::{Attempt, Facts, unfinished};

/// Findings of one check that are kept; all are counted.
const FINDINGS_KEPT_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Holds,
    Broken,
}

/// One check and what it found.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// Things that were looked at.
    pub(crate) checked: usize,
    pub(crate) broken: usize,
    pub(crate) findings: Vec<String>,
}

impl Check {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            verdict: Verdict::Holds,
            checked: 0,
            broken: 0,
            findings: Vec::new(),
        }
    }

    fn look(&mut self, holds: bool, finding: impl FnOnce() -> String) {
        self.checked += 1;
        if holds {
            return;
        }
        self.verdict = Verdict::Broken;
        self.broken += 1;
        if self.findings.len() < FINDINGS_KEPT_MAX {
            self.findings.push(finding());
        }
    }
}

/// What goes into the report beside the verdicts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Wishes that were sent at least once.
    pub(crate) submitted: usize,
    /// Wishes that heard an `ok`.
    pub(crate) acknowledged: usize,
    /// Wishes that were refused for good, as bad ones must be.
    pub(crate) refused: usize,
    /// Wishes whose client never heard, by whether a job is there.
    pub(crate) unknown_with_job: usize,
    pub(crate) unknown_without_job: usize,
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) double_billed: usize,
    /// Ends of all jobs, by class of their wish.
    pub(crate) ends: BTreeMap<String, BTreeMap<String, usize>>,
    pub(crate) attempts: BTreeMap<String, usize>,
    /// Files of attempts that were not delivered, which wait for their job's purge.
    pub(crate) undelivered_files: usize,
}

#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) database: &'a PgPool,
    pub(crate) store: &'a Store,
    pub(crate) history: &'a [Record],
    pub(crate) usage: &'a BTreeMap<String, Most>,
}

/// Reads the clients' history.
pub(crate) fn read_history(path: &Path) -> anyhow::Result<Vec<Record>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    BufReader::new(file)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}

/// Runs every check.
///
/// # Errors
/// What must be looked at cannot be read: nothing is said about the farm.
pub(crate) async fn check(inputs: &Inputs<'_>) -> anyhow::Result<(Vec<Check>, Tally, Facts)> {
    let facts = Facts::read(inputs.database).await?;
    let mut tally = Tally::default();
    let mut checks = submissions::check(inputs.history, &facts, &mut tally);
    checks.push(ends::every_job_ends(&facts, &mut tally));
    checks.push(ends::good_input_becomes_clips(&tally));
    checks.push(ends::cancelled_begins_no_more(inputs.history, &facts));
    checks.push(delivery::delivered_once(&facts, &mut tally));
    checks.extend(artefacts::check(&facts, inputs.store, &mut tally).await?);
    checks.push(usage::bounds_held(inputs.usage));
    checks.push(ledger::ledger_balances(inputs.database, &facts, &mut tally).await?);
    Ok((checks, tally, facts))
}
