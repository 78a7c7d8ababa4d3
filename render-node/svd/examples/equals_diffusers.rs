//! One clip of a whole architecture with random weights, by diffusers and by this engine, one after the other, compared
//! stage by stage. The full size takes minutes and up to 24 GB, so this is no test:
//!
//! ```text
//! cargo run --release -p flowai-svd --features oracle --example equals_diffusers -- --model target/full-svd
//! ```
//!
//! The folder is made when it is not there (4.5 GB for the full size, fp16) and can be used again. Ends with an error when a
//! stage differs by more than the tests allow. `--device cuda` and `--dtype` are for whoever has a GPU; diffusers computes on
//! the CPU all the same.
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
    pub(crate) mod inputs;
    pub(crate) mod models;
    pub(crate) mod oracle;
    pub(crate) mod stages;
}

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use flowai_model::config::ModelIndex;
use flowai_model::safetensors::Dtype as FileDtype;
use flowai_model::{Preset, synthetic};
use flowai_svd::{DeviceName, Dtype, Engine, LoadOptions, Spec};
use serde_json::json;
use support::cost::{peak_bytes, peak_of_children_bytes, report};
use support::{inputs, oracle, stages};

#[derive(Parser)]
struct Arguments {
    /// Model folder; made when it is not there
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Architecture of a folder that is made: dummy, tiny, middle or full-svd
    #[arg(long, default_value = "full-svd")]
    preset: Preset,
    /// Pixels of both sides; 64 are 8 latents in the full architecture
    #[arg(long, default_value_t = 64)]
    side: u32,
    #[arg(long, default_value_t = 2)]
    frames: u32,
    #[arg(long, default_value_t = 1)]
    steps: u32,
    /// Where this engine computes: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// fp32; or fp16, bf16, of which the error against fp32 is compared with diffusers' own
    #[arg(long, default_value = "fp32", value_parser = dtype)]
    dtype: Dtype,
    /// CPU threads of this engine; the reference takes one
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    make_model(&arguments)?;
    let spec = Spec {
        height: arguments.side,
        width: arguments.side,
        frames: arguments.frames,
        steps: arguments.steps,
        fps: 7,
        motion_bucket_id: 127,
        noise_aug_strength: 0.02,
        min_guidance_scale: 1.0,
        max_guidance_scale: 3.0,
        decode_chunk_size: arguments.frames,
        seed: 0,
    };
    let scratch = tempfile::tempdir()?;
    let image = inputs::write_picture(scratch.path(), 320, 240);

    // The reference first, in a process of its own: what it takes is given back before the engine loads.
    let started = Instant::now();
    let is_half = arguments.dtype != Dtype::Fp32;
    let jobs = match is_half {
        true => stages::half_jobs(&arguments.model, &image, arguments.dtype.name(), &spec),
        false => json!({ "jobs": [{
            "name": "clip", "model": arguments.model, "dtype": "fp32", "noise_dtype": "fp32", "spec": spec,
            "image": image,
        }] }),
    };
    let expected = oracle::ask("pipeline.py", &jobs, &[]);
    report("diffusers", started, peak_of_children_bytes())?;

    let started = Instant::now();
    let found = stages::render(&load(&arguments)?, &spec, &image);
    report("flowai-svd", started, peak_bytes()?)?;

    match is_half {
        true => stages::compare_half(arguments.dtype.name(), &found, &expected),
        false => stages::compare("clip", &found, &expected),
    }
    println!("equal within the tolerances of the tests");
    Ok(())
}

/// By the name that specs use.
fn dtype(name: &str) -> Result<Dtype> {
    let all = [Dtype::Fp32, Dtype::Fp16, Dtype::Bf16];
    let found = all.into_iter().find(|dtype| dtype.name() == name);
    found.context("must be fp32, fp16 or bf16")
}

fn make_model(arguments: &Arguments) -> Result<()> {
    let dir = &arguments.model;
    if dir.join(ModelIndex::FILE).exists() {
        return Ok(());
    }
    println!(
        "making a random {} model in {}",
        arguments.preset,
        dir.display()
    );
    Ok(synthetic::write_model(
        dir,
        &arguments.preset.config(),
        0,
        FileDtype::F16,
    )?)
}

fn load(arguments: &Arguments) -> Result<Engine> {
    let options = LoadOptions {
        dtype: arguments.dtype,
        device: arguments.device,
        threads: Some(arguments.threads),
        identity: None,
    };
    Ok(Engine::load(&arguments.model, options)?)
}
