//! Pictures for documents, from the figures of simulated farms.

mod chart;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use flowai_sim::farm::compare::Report;
use flowai_sim::farm::measure::Figures;

use self::chart::{Chart, Curve, Panel, Point};

#[derive(Args)]
pub(crate) struct Options {
    /// What `flowai sim farm --compare` wrote
    #[arg(long)]
    from: PathBuf,
    /// The folder for the pictures
    #[arg(long)]
    into: PathBuf,
}

/// Committed pictures stay small.
const PICTURE_BYTES_MAX: usize = 60_000;
/// The load whose waits are shown in full.
const CDF_LOAD: f64 = 0.8;
/// A wait of nothing has no place on a logarithmic axis, s.
const WAIT_MIN_S: f64 = 1.0;

pub(crate) fn run(options: &Options) -> Result<()> {
    let path = options.from.display();
    let text = fs::read_to_string(&options.from).with_context(|| path.to_string())?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{path}: is no comparison"))?;
    fs::create_dir_all(&options.into).with_context(|| options.into.display().to_string())?;
    for (name, chart) in [
        ("sim-wait-p99.svg", waits(&report)),
        ("sim-wait-cdf.svg", distributions(&report)),
        ("sim-loading.svg", loading(&report)),
        ("sim-fairness.svg", fairness(&report)),
    ] {
        write(&options.into.join(name), &chart.svg()?)?;
    }
    Ok(())
}

fn write(path: &Path, svg: &str) -> Result<()> {
    let bytes = svg.len();
    ensure!(
        bytes <= PICTURE_BYTES_MAX,
        "{}: must be at most {PICTURE_BYTES_MAX} bytes (got {bytes})",
        path.display()
    );
    fs::write(path, svg).with_context(|| path.display().to_string())
}

/// What a reader must know to make it again.
fn origin(report: &Report) -> String {
    let setting = &report.setting;
    let last = setting.seed + report.seeds - 1;
    let date = report.made_at.get(..10).unwrap_or(&report.made_at);
    format!(
        "{} simulated nodes, {} h, seeds {} to {last}: median, bars from least to most. {date}",
        setting.nodes, setting.hours, setting.seed
    )
}

fn waits(report: &Report) -> Chart {
    let panel = |tier: &'static str| Panel {
        title: tier.to_owned(),
        curves: by_load(report, move |figures| {
            Some(figures.wait.get(tier)?.p99_s.max(WAIT_MIN_S))
        }),
    };
    Chart {
        title: "99th percentile of the wait for a start, by tier".to_owned(),
        origin: origin(report),
        x: "load, % of the farm's GPU-seconds",
        y: "wait, s",
        is_x_logarithmic: false,
        is_y_logarithmic: true,
        panels: ["free", "pro", "studio"].map(panel).into(),
    }
}

fn loading(report: &Report) -> Chart {
    let panel = |title: &str, figure: fn(&Figures) -> f64| Panel {
        title: title.to_owned(),
        curves: by_load(report, move |figures| Some(figure(figures))),
    };
    Chart {
        title: "What loading costs".to_owned(),
        origin: origin(report),
        x: "load, % of the farm's GPU-seconds",
        y: "GPU-hours that nodes stood still",
        is_x_logarithmic: false,
        is_y_logarithmic: false,
        panels: vec![
            panel("models and adapters", |figures| figures.loads.gpu_hours),
            panel("adapters alone", |figures| figures.loads.adapter_gpu_hours),
        ],
    }
}

fn fairness(report: &Report) -> Chart {
    let panel = |title: &str, figure: fn(&Figures) -> f64| Panel {
        title: title.to_owned(),
        curves: by_load(report, move |figures| Some(figure(figures))),
    };
    Chart {
        title: "How far one of two waiting users of equal weight fell behind".to_owned(),
        origin: origin(report),
        x: "load, % of the farm's GPU-seconds",
        y: "mean clips",
        is_x_logarithmic: false,
        is_y_logarithmic: true,
        panels: vec![
            panel("the worst pair", |figures| {
                figures.fairness.gap_jobs.max(0.1)
            }),
            panel("99 of 100 pairs", |figures| {
                let Some(clip_s) = mean_clip_s(figures) else {
                    return 0.1;
                };
                (figures.fairness.gap_p99_s / clip_s).max(0.1)
            }),
        ],
    }
}

fn mean_clip_s(figures: &Figures) -> Option<f64> {
    let fairness = &figures.fairness;
    (fairness.gap_jobs > 0.0).then(|| fairness.gap_s / fairness.gap_jobs)
}

/// Of each policy, one point a load.
fn by_load(report: &Report, figure: impl Fn(&Figures) -> Option<f64>) -> Vec<Curve> {
    let mut loads: Vec<f64> = report.outcomes.iter().map(|outcome| outcome.load).collect();
    loads.sort_by(f64::total_cmp);
    loads.dedup();
    let curve = |policy: String| {
        let points = loads.iter().filter_map(|load| {
            let middle = report.middle(&policy, *load, &figure)?;
            Some(Point {
                x: 100.0 * load,
                y: middle.median,
                range: Some((middle.min, middle.max)),
            })
        });
        Curve {
            points: points.collect(),
            name: policy.clone(),
        }
    };
    policies(report).into_iter().map(curve).collect()
}

fn distributions(report: &Report) -> Chart {
    let panel = |tier: &'static str| {
        let curve = |policy: String| {
            let points = (0..=100_usize).filter_map(|percent| {
                let middle = report.middle(&policy, CDF_LOAD, |figures| {
                    figures.wait.get(tier)?.quantiles_s.get(percent).copied()
                })?;
                Some(Point {
                    x: middle.median.max(WAIT_MIN_S),
                    y: percent as f64,
                    range: None,
                })
            });
            Curve {
                points: points.collect(),
                name: policy.clone(),
            }
        };
        Panel {
            title: tier.to_owned(),
            curves: policies(report).into_iter().map(curve).collect(),
        }
    };
    Chart {
        title: format!(
            "Clips that had started by then, at a load of {:.0} %",
            100.0 * CDF_LOAD
        ),
        origin: origin(report).replace(", bars from least to most", " of each percentile"),
        x: "wait, s (1: at once)",
        y: "clips started, %",
        is_x_logarithmic: true,
        is_y_logarithmic: false,
        panels: ["free", "pro", "studio"].map(panel).into(),
    }
}

/// In the order in which they were compared.
fn policies(report: &Report) -> Vec<String> {
    let mut policies: Vec<String> = Vec::new();
    for outcome in &report.outcomes {
        if !policies.contains(&outcome.policy) {
            policies.push(outcome.policy.clone());
        }
    }
    policies
}
