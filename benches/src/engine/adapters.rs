//! Adapters beside PEFT: loading, switching and taking out on the same attention layers and files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::child::{finish, reported};
use crate::statistics::Summary;

/// Of one process, after one that it throws away.
const ROUNDS_OF_A_RUN: usize = 3;

/// Both programs.
pub(crate) struct Rivals {
    pub(crate) engine: PathBuf,
    pub(crate) python: PathBuf,
    pub(crate) script: PathBuf,
    pub(crate) threads: usize,
}

/// What a process said in its last line, of what is compared. Seconds of wall time.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reported {
    load_s: Vec<f64>,
    switch_s: Vec<f64>,
    restore_s: Vec<f64>,
}

#[derive(Debug, Clone, Serialize)]
struct Round {
    flowai: Reported,
    peft: Reported,
}

/// Everything about one model.
#[derive(Serialize)]
pub(crate) struct AdaptersReport {
    #[serde(skip)]
    pub(crate) ratios: BTreeMap<String, Summary>,
    /// Medians of processes, in seconds.
    flowai: BTreeMap<String, Summary>,
    peft: BTreeMap<String, Summary>,
    rounds: Vec<Round>,
}

type Figure = (&'static str, fn(&Reported) -> &Vec<f64>);

const FIGURES: [Figure; 3] = [
    ("adapter_load", |run| &run.load_s),
    ("adapter_switch", |run| &run.switch_s),
    ("adapter_restore", |run| &run.restore_s),
];

/// What each ratio is, for the report.
pub(crate) const DEFINITIONS: [(&str, &str); 3] = [
    (
        "adapter_load",
        "wall time from an adapter's file to its being fused into the attention layers, rank 16; the rival is PEFT",
    ),
    (
        "adapter_switch",
        "wall time from one fused adapter to another, both in memory; the rival is PEFT",
    ),
    (
        "adapter_restore",
        "wall time from a fused adapter to none; the rival is PEFT",
    ),
];

/// One round that is thrown away, then the measured ones, each side once in each.
pub(crate) fn measure(preset: &str, rivals: &Rivals, rounds: usize) -> Result<AdaptersReport> {
    let dir = tempfile::tempdir()?;
    let mut measured = Vec::new();
    for round in 0..=rounds {
        let flowai = rivals
            .flowai(preset, dir.path())
            .context("flowai-svd switch")?;
        let peft = rivals.peft(dir.path()).context("PEFT")?;
        if round > 0 {
            measured.push(Round { flowai, peft });
        }
    }
    let of = |side: fn(&Round) -> &Reported| {
        let summary = |(name, figure): &Figure| {
            let medians = measured
                .iter()
                .filter_map(|round| median(figure(side(round))));
            Some(((*name).to_owned(), Summary::of(medians)?))
        };
        FIGURES.iter().filter_map(summary).collect()
    };
    let ratio = |(name, figure): &Figure| {
        let ratios = measured.iter().filter_map(|round| {
            Some(median(figure(&round.flowai))? / median(figure(&round.peft))?)
        });
        Some((format!("{name}_ratio"), Summary::of(ratios)?))
    };
    Ok(AdaptersReport {
        ratios: FIGURES.iter().filter_map(ratio).collect(),
        flowai: of(|round| &round.flowai),
        peft: of(|round| &round.peft),
        rounds: measured,
    })
}

fn median(figures: &[f64]) -> Option<f64> {
    Some(Summary::of(figures.iter().copied())?.median)
}

impl Rivals {
    /// Makes the layers and adapters where they are not there yet.
    fn flowai(&self, preset: &str, dir: &Path) -> Result<Reported> {
        let mut command = Command::new(&self.engine);
        command.args(["switch", "--preset", preset]);
        self.run(command, dir)
    }

    fn peft(&self, dir: &Path) -> Result<Reported> {
        let mut command = Command::new(&self.python);
        command.arg(&self.script);
        self.run(command, dir)
    }

    fn run(&self, mut command: Command, dir: &Path) -> Result<Reported> {
        command
            .args([OsStr::new("--dir"), dir.as_os_str()])
            .args(["--threads", &self.threads.to_string()])
            .args(["--rounds", &ROUNDS_OF_A_RUN.to_string()]);
        reported(&finish(command)?)
    }
}
