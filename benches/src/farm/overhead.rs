use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Args;
use flowai::client::{Status, Update};
use flowai::commands::demo;
use flowai::farm::Engine;
use flowai_actors::manifest::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use super::{BenchFarm, User, programs};
use crate::child;
use crate::figures;
use crate::machine::Machine;
use crate::statistics::Summary;

/// Enough that progress is pushed, few enough that twenty renders take no more than minutes.
const STEPS: u32 = 8;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the figures go, JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/farm.json")]
    out: PathBuf,
    /// Measured renders, one after the other
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// One render, milliseconds.
#[derive(Serialize)]
struct Render {
    /// From before the submission until its user heard of `done`.
    wall_ms: f64,
    /// Fusing, preparing and denoising on the node, and decoding by the engine alone.
    engine_ms: f64,
    /// How much longer decoding took on the node, which encodes beside it.
    encode_beside_ms: f64,
    /// From before the submission until it was answered.
    submit_ms: f64,
    fetch_ms: f64,
    encode_tail_ms: f64,
    upload_ms: f64,
}

impl Render {
    fn added_ms(&self) -> f64 {
        self.wall_ms - self.engine_ms
    }
}

pub(super) async fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let farm = BenchFarm::start(Engine::Svd, 1).await?;
    let user = farm.user("overhead").await?;
    // The first one loads the model.
    let alone = EngineAlone::prepare(&farm)?;
    let first = render(&user, &alone).await?;
    let mut renders = Vec::new();
    for _ in 0..options.rounds {
        renders.push(render(&user, &alone).await?);
    }
    farm.stop().await?;

    let summary = |figure: fn(&Render) -> f64| Summary::of(renders.iter().map(figure));
    let added = summary(Render::added_ms);
    if let Some(added) = added {
        eprintln!("added_ms {added}");
    }
    let report = json!({
        "date": figures::now(),
        "machine": Machine::read()?,
        "settings": { "frames": 14, "size": "256x192", "steps": STEPS, "rounds": options.rounds },
        "definitions": {
            "wall_ms": "from before POST /v1/videos until the client has read over its event stream that the job is done",
            "engine_ms": "fuse + prepare + denoise, as the manifest has them, and the decoding of the same frames by flowai-svd, run alone after each render",
            "added_ms": "wall_ms - engine_ms: HTTP, database, scheduling, fetching, encoding, uploading, settling, telling",
            "encode_beside_ms": "decode, as the manifest has it, less the decoding of flowai-svd alone",
        },
        "added_ms": added,
        "wall_ms": summary(|render| render.wall_ms),
        "engine_ms": summary(|render| render.engine_ms),
        "submit_ms": summary(|render| render.submit_ms),
        "fetch_ms": summary(|render| render.fetch_ms),
        "encode_beside_ms": summary(|render| render.encode_beside_ms),
        "encode_tail_ms": summary(|render| render.encode_tail_ms),
        "upload_ms": summary(|render| render.upload_ms),
        "first_added_ms": first.added_ms(),
        "renders": renders,
    });
    figures::write(&options.out, &report)
}

/// The engine's own program with the farm's model, picture and spec.
struct EngineAlone {
    program: PathBuf,
    model: PathBuf,
    folder: TempDir,
}

/// Of its line of figures, what is used here.
#[derive(Deserialize)]
struct Reported {
    decode_s: f64,
}

impl EngineAlone {
    fn prepare(farm: &BenchFarm) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("picture.png"), demo::PICTURE)?;
        Ok(Self {
            program: programs()?.join("flowai-svd"),
            model: farm.model(),
            folder,
        })
    }

    /// How long decoding takes without a farm around it, ms. One step, because noise decodes as slowly as a picture.
    fn decode_ms(&self, manifest: &Manifest) -> Result<f64> {
        let spec = &manifest.spec;
        let spec = json!({
            "height": spec.height, "width": spec.width, "frames": spec.frames, "steps": 1, "fps": spec.fps,
            "motion_bucket_id": spec.motion_bucket_id, "noise_aug_strength": spec.noise_aug_strength,
            "min_guidance_scale": spec.min_guidance_scale, "max_guidance_scale": spec.max_guidance_scale,
            "decode_chunk_size": spec.decode_chunk_size, "seed": spec.seed, "dtype": manifest.engine.dtype,
            "device": "cpu", "threads": std::thread::available_parallelism()?,
        });
        let file = |name| self.folder.path().join(name);
        std::fs::write(file("spec.json"), spec.to_string())?;
        let mut command = Command::new(&self.program);
        command.arg("animate").arg("--model").arg(&self.model);
        command.arg("--image").arg(file("picture.png"));
        command.arg("--spec").arg(file("spec.json"));
        command.arg("--out").arg(file("frames.safetensors"));
        let Reported { decode_s } = child::reported(&child::finish(command)?)?;
        Ok(decode_s * 1e3)
    }
}

/// What a render took, milliseconds, seen by its user.
pub(super) struct Seen {
    pub(super) submit_ms: f64,
    pub(super) wall_ms: f64,
}

/// Renders the usual clip in so many steps.
pub(super) async fn rendered(user: &User, steps: u32) -> Result<(Manifest, Seen)> {
    let video = user.video(steps);
    let begun = Instant::now();
    let job = user.client.submit(&video).await?;
    let submitted = begun.elapsed();
    let mut watch = user.client.watch(&job.id);
    let mut status = job.status;
    while let Some(update) = watch.next().await? {
        if let Update::Video(video) = update {
            status = video.status;
        }
    }
    let wall = begun.elapsed();
    if status != Status::Done {
        bail!("job {} is {}", job.id, status.as_str());
    }
    let seen = Seen {
        submit_ms: submitted.as_secs_f64() * 1e3,
        wall_ms: wall.as_secs_f64() * 1e3,
    };
    Ok((user.client.manifest(&job.id).await?, seen))
}

async fn render(user: &User, alone: &EngineAlone) -> Result<Render> {
    let (manifest, seen) = rendered(user, STEPS).await?;
    let decode_ms = alone.decode_ms(&manifest)?;
    let stages = manifest.timings_ms;
    Ok(Render {
        wall_ms: seen.wall_ms,
        engine_ms: stages.fuse + stages.prepare + stages.denoise + decode_ms,
        encode_beside_ms: stages.decode - decode_ms,
        submit_ms: seen.submit_ms,
        fetch_ms: stages.fetch,
        encode_tail_ms: stages.encode_tail,
        upload_ms: stages.upload,
    })
}
