use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use flowai::farm::Engine;
use serde_json::json;

use super::BenchFarm;
use super::overhead::rendered;
use crate::figures;
use crate::machine::Machine;
use crate::statistics::Summary;

/// Some seconds of denoising, for a preview comes at most once in two seconds.
const STEPS: u32 = 30;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bench/previews.json"
    )]
    out: PathBuf,
    /// Measured renders, one after the other
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

pub(super) async fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let farm = BenchFarm::start(Engine::Svd, 1).await?;
    let user = farm.user("previews").await?;
    // The first one loads the model.
    rendered(&user, STEPS).await?;
    let (mut costs, mut previews_ms) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let (manifest, _) = rendered(&user, STEPS).await?;
        let stages = manifest.timings_ms;
        costs.push(stages.previews / stages.denoise);
        previews_ms.push(stages.previews);
    }
    farm.stop().await?;

    let cost = Summary::of(costs.iter().copied());
    if let Some(cost) = cost {
        eprintln!("preview_cost {cost}");
    }
    let report = json!({
        "date": figures::now(),
        "machine": Machine::read()?,
        "settings": { "frames": 14, "size": "256x192", "steps": STEPS, "rounds": options.rounds },
        "definitions": {
            "preview_cost": "wall time of painting and encoding previews over that of denoising, as the manifest has them; sending is not in it",
        },
        "preview_cost": cost,
        "costs": costs,
        "previews_ms": previews_ms,
    });
    figures::write(&options.out, &report)
}
