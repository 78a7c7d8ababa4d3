use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use flowai::farm::Engine;
use serde_json::json;

use super::overhead::rendered;
use super::{BenchFarm, User};
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
    /// Measured renders of each farm, which take turns
    #[arg(long, default_value_t = 10)]
    rounds: usize,
}

pub(super) async fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let mut farms = Vec::new();
    for preview_steps in [1, 0] {
        let change = |options: &mut flowai::farm::FarmOptions| {
            options.preview_steps = preview_steps;
        };
        let farm = BenchFarm::start_with(Engine::Svd, 1, change).await?;
        let user = farm.user("previews").await?;
        // The first one loads the model.
        denoise_ms(&user).await?;
        farms.push((farm, user));
    }
    let (mut shown, mut hidden) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        for ((_, user), figures) in farms.iter().zip([&mut shown, &mut hidden]) {
            figures.push(denoise_ms(user).await?);
        }
    }
    for (farm, _) in farms {
        farm.stop().await?;
    }
    let ratios = shown
        .iter()
        .zip(&hidden)
        .map(|(with, without)| with / without);
    let ratio = Summary::of(ratios);
    if let Some(ratio) = ratio {
        eprintln!("denoise_ratio {ratio}");
    }
    let report = json!({
        "date": figures::now(),
        "machine": Machine::read()?,
        "settings": { "frames": 14, "size": "256x192", "steps": STEPS, "rounds": options.rounds },
        "definitions": {
            "denoise_ratio": "time of denoising on a node that makes and sends previews over that on one that does not, in the same round",
        },
        "denoise_ratio": ratio,
        "with_previews_ms": shown,
        "without_ms": hidden,
    });
    figures::write(&options.out, &report)
}

async fn denoise_ms(user: &User) -> Result<f64> {
    let (manifest, _) = rendered(user, STEPS).await?;
    Ok(manifest.timings_ms.denoise)
}
