//! The run in figures: JSON for machines, a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::checker::{Check, Tally, Verdict};
use crate::faults::Row;
use crate::recovery::{DeadNodes, OfKind, Takeovers};
use crate::samples::Summary;
use crate::watch::Most;

/// Invariant 5: a dead node is noticed within this, one failure at a time.
const NOTICED_S_MAX: f64 = 15.0;
/// The next leader leads within this.
const TAKEOVER_S_MAX: f64 = 10.0;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) cores: usize,
    pub(crate) load_1m: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) network: &'static str,
    pub(crate) engine: &'static str,
    pub(crate) jobs: usize,
    pub(crate) faults: usize,
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    pub(crate) coordinators: usize,
    pub(crate) apis: usize,
    pub(crate) nodes: usize,
    /// From the first submission to the last end.
    pub(crate) duration_s: f64,
    pub(crate) history_sha256: String,
    #[serde(flatten)]
    pub(crate) tally: Tally,
    pub(crate) checks: Vec<Check>,
    /// Words of attempts that were not the speaker's any more, refused by the leader.
    pub(crate) stale_refused: usize,
    /// Batches of a leader whose term was over, refused by the database.
    pub(crate) fenced: usize,
    pub(crate) recovery: BTreeMap<String, OfKind>,
    pub(crate) dead_nodes: DeadNodes,
    pub(crate) takeover: Takeovers,
    /// Ends of programs that no fault was: of poisoned jobs, for the most part.
    pub(crate) deaths: BTreeMap<String, usize>,
    pub(crate) usage: BTreeMap<String, Most>,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// Jobs were taken, and nothing is broken. Times are goals, and said beside.
    pub(crate) fn is_good(&self) -> bool {
        let holds = |check: &Check| check.verdict != Verdict::Broken;
        self.tally.acknowledged > 0 && self.checks.iter().all(holds)
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    /// Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let tally = &self.tally;
        let bit = self.rows.iter().filter(|row| row.bit.is_some()).count();
        writeln!(out, "| | |\n|---|---|")?;
        let mut row = |name: &str, value: String| writeln!(out, "| {name} | {value} |");
        row("submitted", tally.submitted.to_string())?;
        row("acknowledged", tally.acknowledged.to_string())?;
        row("done", self.done().to_string())?;
        row("lost", tally.lost.to_string())?;
        row("doubled", tally.doubled.to_string())?;
        row("double-billed", tally.double_billed.to_string())?;
        row("stale words refused", self.stale_refused.to_string())?;
        row("batches of ended terms refused", self.fenced.to_string())?;
        row(
            "faults, of which bit",
            format!("{}, {bit}", self.rows.len()),
        )?;
        let noticed = &self.dead_nodes;
        for (name, found) in [
            (
                "silent node noticed, nothing else wrong",
                noticed.silent_alone,
            ),
            ("silent node noticed, in all", noticed.silent),
            (
                "node started again noticed, nothing else wrong",
                noticed.anew_alone,
            ),
            ("node started again noticed, in all", noticed.anew),
        ] {
            row(name, seconds(found))?;
        }
        row("its job begun elsewhere", seconds(noticed.elsewhere))?;
        row(
            "next leader leads, nothing else wrong",
            seconds(self.takeover.alone),
        )?;
        row("next leader leads, in all", seconds(self.takeover.all))?;
        let most = self.usage.iter().max_by_key(|(_, most)| most.memory_bytes);
        if let Some((program, most)) = most {
            let megabytes = most.memory_bytes >> 20;
            row("largest memory", format!("{megabytes} MiB, {program}"))?;
        }
        row("duration", format!("{:.0} s", self.duration_s))?;
        row("seed", self.seed.to_string())?;
        row("history", format!("sha256 {}", self.history_sha256))?;
        let Machine {
            commit,
            kernel,
            cores,
            load_1m,
        } = &self.machine;
        row("commit", commit.clone())?;
        row(
            "machine",
            format!("{cores} cores, load {load_1m} at the end, {kernel}"),
        )?;
        row("network", self.network.to_owned())?;
        self.write_checks(out)?;
        self.write_faults(out)?;
        self.write_slowest(out)
    }

    fn write_checks(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n| check | verdict | looked at | broken |\n|---|---|---|---|"
        )?;
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Holds => "holds",
                Verdict::Broken => "**broken**",
            };
            let Check {
                name,
                checked,
                broken,
                ..
            } = check;
            writeln!(out, "| `{name}` | {verdict} | {checked} | {broken} |")?;
        }
        Ok(())
    }

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n| fault | injected | bit | next delivery p50 / p99 / max | next acknowledgement p50 / p99 / max |\n|---|---|---|---|---|"
        )?;
        for (kind, of) in &self.recovery {
            writeln!(
                out,
                "| {kind} | {} | {} | {} | {} |",
                of.injected,
                of.bit,
                seconds(of.next_delivery),
                seconds(of.next_acknowledgement)
            )?;
        }
        Ok(())
    }

    fn write_slowest(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n| noticed last | after | what else was wrong, s after the death |\n|---|---|---|"
        )?;
        for noticed in &self.dead_nodes.slowest {
            let meanwhile = noticed.meanwhile.join("; ");
            writeln!(
                out,
                "| {} | {:.1} s | {meanwhile} |",
                noticed.node, noticed.seconds
            )?;
        }
        Ok(())
    }

    fn done(&self) -> usize {
        let ends = self.tally.ends.values();
        ends.filter_map(|ends| ends.get("done")).sum()
    }

    /// Goals in time that were missed or not measured, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let goals = [
            (
                "a silent node was noticed after",
                self.dead_nodes.silent_alone,
                NOTICED_S_MAX,
            ),
            (
                "a node that was started again was noticed after",
                self.dead_nodes.anew_alone,
                NOTICED_S_MAX,
            ),
            (
                "the next leader led after",
                self.takeover.alone,
                TAKEOVER_S_MAX,
            ),
        ];
        let missed = goals
            .into_iter()
            .filter_map(|(what, found, most)| match found {
                None => Some(format!("{what}: not measured, none stood alone")),
                Some(found) if found.p99_s > most => Some(format!(
                    "{what} {:.1} s at p99, the goal is {most} s",
                    found.p99_s
                )),
                Some(_) => None,
            });
        missed.collect()
    }
}

fn seconds(summary: Option<Summary>) -> String {
    summary.map_or("–".to_owned(), |of| {
        let (p50_s, p99_s, max_s) = (of.p50_s, of.p99_s, of.max_s);
        format!("{p50_s:.2} / {p99_s:.2} / {max_s:.2} s of {}", of.count)
    })
}

impl Machine {
    pub(crate) fn look() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let git = |arguments: &[&str]| {
            let output = Command::new("git").args(arguments).output().ok()?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(said)
        };
        let commit = git(&["rev-parse", "--short=12", "HEAD"]);
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
        let mark = match changed.is_some_and(|changed| !changed.is_empty()) {
            true => " with changes",
            false => "",
        };
        Self {
            commit: commit.unwrap_or("unknown".to_owned()) + mark,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load_1m: text("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

pub(crate) fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// Log lines of all coordinators that hold one of these.
pub(crate) fn count_lines(logs: &Path, words: &[&str]) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(logs)? {
        let path = entry?.path();
        let is_coordinator = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("coordinator-"));
        if is_coordinator {
            let text = fs::read_to_string(&path)?;
            let found = text
                .lines()
                .filter(|line| words.iter().any(|word| line.contains(word)));
            count += found.count();
        }
    }
    Ok(count)
}
