//! One keyframe of a whole architecture with random weights, by diffusers and by this engine, one after the other, compared
//! stage by stage: the sister of `equals_diffusers`.
//!
//! ```text
//! cargo run --release -p flowai-svd --features oracle --example keyframe_equals_diffusers -- --model target/sd-1.5
//! ```
//!
//! The folder is made when it is not there (2.1 GB for Stable Diffusion 1.5, fp16) and can be used again. Ends with an error
//! when a stage differs by more than the tests allow.
#![allow(
    clippy::unwrap_used,
    reason = "shares the tests' support, which fails by panicking"
)]

/// Of the tests.
#[path = "../tests/support"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support {
    pub(crate) mod compare;
    pub(crate) mod cost;
    pub(crate) mod keyframe;
    pub(crate) mod models;
    pub(crate) mod oracle;
}

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use flowai_model::config::{ModelIndex, TimestepSpacing};
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::{KeyframePreset, synthetic};
use flowai_svd::keyframe::SamplerKind;
use flowai_svd::{DeviceName, Dtype, KeyframeSpec, Keyframer, LoadOptions};
use serde_json::json;
use support::cost::{peak_bytes, peak_of_children_bytes, report};
use support::{keyframe, oracle};

#[derive(Parser)]
struct Arguments {
    /// Model folder; made when it is not there
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Architecture of a folder that is made: keyframe-dummy, keyframe-tiny, sd-1.5 or sd-2.1
    #[arg(long, default_value = "sd-1.5")]
    preset: KeyframePreset,
    /// Pixels; 128 are 16 latents
    #[arg(long, default_value_t = 128)]
    height: u32,
    #[arg(long, default_value_t = 192)]
    width: u32,
    #[arg(long, default_value_t = 2)]
    steps: u32,
    /// Where this engine computes: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// CPU threads of this engine; the reference takes one
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let dir = &arguments.model;
    if !dir.join(ModelIndex::FILE).exists() {
        let preset = arguments.preset;
        println!("making a random {preset} model in {}", dir.display());
        synthetic::write_stable_diffusion(dir, &preset.config(), 0, FileDtype::F16)?;
    }
    let spec = KeyframeSpec {
        height: arguments.height,
        width: arguments.width,
        steps: arguments.steps,
        sampler: SamplerKind::Euler,
        timestep_spacing: TimestepSpacing::Linspace,
        guidance_scale: 7.5,
        seed: 0,
    };
    let prompt = keyframe::prompt("blurry");

    // The reference first, in a process of its own: what it takes is given back before the engine loads.
    let started = Instant::now();
    let job = keyframe::job("frame", dir, ("fp32", "fp32"), &spec, &prompt);
    let expected = oracle::ask("keyframe_pipeline.py", &json!({ "jobs": [job] }), &[]);
    report("diffusers", started, peak_of_children_bytes())?;

    let started = Instant::now();
    let options = LoadOptions {
        dtype: Dtype::Fp32,
        device: arguments.device,
        threads: Some(arguments.threads),
        identity: None,
    };
    let found = keyframe::render(&Keyframer::load(dir, options)?, &spec, &prompt);
    report("flowai-svd", started, peak_bytes()?)?;

    keyframe::compare("frame", &found, &expected);
    println!("equal within the tolerances of the tests");
    Ok(())
}
