use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use super::adapters::{self, AdaptersReport};
use super::program::{Program, Run, Side};
use crate::figures;
use crate::machine::Machine;
use crate::statistics::Summary;

/// The runs of one round, one of each side.
pub(crate) type Round = BTreeMap<Side, Run>;

/// A figure of a run, and what it is.
type Figure = (&'static str, fn(&Run) -> f64, &'static str);

const FIGURES: [Figure; 7] = [
    (
        "wall",
        |run| run.reported.render_s,
        "wall time in the process from the model being loaded to all frames being in memory as f32",
    ),
    (
        "cpu",
        |run| run.reported.render_cpu_s,
        "user and system time of the process over the same stretch",
    ),
    (
        "peak_memory",
        |run| run.reported.peak_memory_bytes as f64,
        "the most memory that the process ever had resident (VmHWM), mapped files included",
    ),
    (
        "start",
        |run| run.reported.start_to_first_step_s,
        "wall time from the start of the process to the beginning of the first denoising step",
    ),
    (
        "step",
        |run| Summary::of(run.reported.steps_s.iter().copied()).map_or(f64::NAN, |s| s.median),
        "median wall time of the run's denoising steps",
    ),
    (
        "process_wall",
        |run| run.process_s,
        "wall time of the whole process, seen from outside",
    ),
    (
        "process_cpu",
        |run| run.process_cpu_s,
        "user and system time of the whole process, seen from outside",
    ),
];

/// Everything that goes into the file.
#[derive(Serialize)]
pub(crate) struct Report {
    date: String,
    machine: Machine,
    versions: Value,
    settings: Value,
    definitions: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) cases: BTreeMap<String, CaseReport>,
}

impl Report {
    pub(crate) fn start(programs: &[Program], threads: usize, rounds: usize) -> Result<Self> {
        Ok(Self {
            date: figures::now(),
            machine: Machine::read()?,
            versions: versions(programs)?,
            settings: json!({
                "dtype": "fp32",
                "threads": threads,
                "rounds": rounds,
                "order": programs.iter().map(|program| program.side).collect::<Vec<_>>(),
                "diffusers": "torch.inference_mode, default attention processor, 1 interop thread",
                "tuned_diffusers": "also channels-last weights of 2-D convolutions and the engine's allocator settings",
            }),
            definitions: definitions(),
            cases: BTreeMap::new(),
        })
    }
}

/// One model and job.
#[derive(Serialize)]
pub(crate) struct CaseReport {
    spec: Value,
    /// `wall_ratio` and so on: ours over diffusers', of each round.
    #[serde(flatten)]
    ratios: BTreeMap<String, Summary>,
    /// The same over diffusers with our settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_tuned_diffusers: Option<BTreeMap<String, Summary>>,
    /// Largest difference of a value of all frames, which are 0..1.
    frames_difference_max: f32,
    /// The figures themselves: seconds, bytes.
    absolute: BTreeMap<Side, BTreeMap<String, Summary>>,
    rounds: Vec<Round>,
    /// Figures and runs behind the `adapter_` ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapters: Option<AdaptersReport>,
}

impl CaseReport {
    pub(crate) fn new(spec: Value, rounds: Vec<Round>, frames_difference_max: f32) -> Result<Self> {
        let has_tuned = rounds
            .iter()
            .all(|round| round.contains_key(&Side::TunedDiffusers));
        let tuned = has_tuned.then(|| ratios(&rounds, Side::TunedDiffusers));
        let sides = [
            Side::Flowai,
            Side::FlowaiWithPreviews,
            Side::Diffusers,
            Side::TunedDiffusers,
        ];
        let absolute = sides
            .into_iter()
            .map(|side| (side, absolute(&rounds, side)))
            .filter(|(_, figures)| !figures.is_empty());
        Ok(Self {
            spec,
            ratios: ratios(&rounds, Side::Diffusers)
                .into_iter()
                .chain(preview_cost(&rounds))
                .collect(),
            to_tuned_diffusers: tuned,
            frames_difference_max,
            absolute: absolute.collect(),
            rounds,
            adapters: None,
        })
    }

    pub(crate) fn add_adapters(&mut self, adapters: AdaptersReport) {
        self.ratios.extend(adapters.ratios.clone());
        self.adapters = Some(adapters);
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, ratio) in &self.ratios {
            writeln!(f, "  {name:22} {ratio}")?;
        }
        for (name, ratio) in self.to_tuned_diffusers.iter().flatten() {
            writeln!(f, "  {name:22} {ratio} to tuned diffusers")?;
        }
        Ok(())
    }
}

/// Of each figure, what the engine's is of the rival's in the same round.
fn ratios(rounds: &[Round], rival: Side) -> BTreeMap<String, Summary> {
    let of = |figure: fn(&Run) -> f64| {
        let ratios = rounds.iter().filter_map(|round| {
            let (ours, theirs) = (round.get(&Side::Flowai)?, round.get(&rival)?);
            Some(figure(ours) / figure(theirs))
        });
        Summary::of(ratios)
    };
    let named = |(name, figure, _): &Figure| Some((format!("{name}_ratio"), of(*figure)?));
    FIGURES.iter().filter_map(named).collect()
}

/// Of each round, what a preview took of a step of the same process.
fn preview_cost(rounds: &[Round]) -> Option<(String, Summary)> {
    let median = |figures: &[f64]| Some(Summary::of(figures.iter().copied())?.median);
    let costs = rounds.iter().filter_map(|round| {
        let run = &round.get(&Side::FlowaiWithPreviews)?.reported;
        Some(median(run.previews_s.as_ref()?)? / median(&run.steps_s)?)
    });
    Some(("preview_cost".to_owned(), Summary::of(costs)?))
}

fn absolute(rounds: &[Round], side: Side) -> BTreeMap<String, Summary> {
    let of = |figure: fn(&Run) -> f64| {
        Summary::of(rounds.iter().filter_map(|r| r.get(&side)).map(figure))
    };
    let named = |(name, figure, _): &Figure| Some(((*name).to_owned(), of(*figure)?));
    FIGURES.iter().filter_map(named).collect()
}

fn definitions() -> BTreeMap<String, String> {
    let figures = FIGURES
        .iter()
        .map(|(name, _, meaning)| ((*name).to_owned(), (*meaning).to_owned()));
    let ratio =
        "a figure of flowai over the same figure of diffusers in the same round; below 1 is better";
    let adapters = adapters::DEFINITIONS.map(|(name, is)| (name.to_owned(), is.to_owned()));
    let preview = (
        "preview_cost".to_owned(),
        "wall time of a preview on the engine's thread over that of a denoising step, in a process of its own".to_owned(),
    );
    figures
        .chain(adapters)
        .chain([preview])
        .chain([("_ratio".to_owned(), ratio.to_owned())])
        .collect()
}

fn versions(programs: &[Program]) -> Result<Value> {
    const PACKAGES: &str = "\
import json, platform
from importlib.metadata import version
names = ('torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'safetensors', 'numpy')
print(json.dumps({'python': platform.python_version()} | {name: version(name) for name in names}))";
    let mut versions = serde_json::Map::new();
    for program in programs {
        match program.side {
            Side::Flowai => {
                versions.insert("flowai_svd".to_owned(), program.ask(&["--version"])?.into());
            }
            Side::Diffusers => {
                let packages: serde_json::Map<_, _> =
                    serde_json::from_str(&program.ask(&["-c", PACKAGES])?)?;
                versions.extend(packages);
            }
            Side::FlowaiWithPreviews | Side::TunedDiffusers => {}
        }
    }
    Ok(versions.into())
}
