use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Args;
use flowai::client::{Status, Update};
use flowai::farm::Engine;
use serde::Serialize;
use serde_json::json;

use super::{BenchFarm, User};
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
    /// Fusing, preparing, denoising and decoding on the node.
    engine_ms: f64,
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
    let first = render(&user).await?;
    let mut renders = Vec::new();
    for _ in 0..options.rounds {
        renders.push(render(&user).await?);
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
            "engine_ms": "fuse + prepare + denoise + decode, as the manifest has them",
            "added_ms": "wall_ms - engine_ms: HTTP, database, scheduling, fetching, the rest of encoding, uploading, settling, telling",
        },
        "added_ms": added,
        "wall_ms": summary(|render| render.wall_ms),
        "engine_ms": summary(|render| render.engine_ms),
        "submit_ms": summary(|render| render.submit_ms),
        "fetch_ms": summary(|render| render.fetch_ms),
        "encode_tail_ms": summary(|render| render.encode_tail_ms),
        "upload_ms": summary(|render| render.upload_ms),
        "first_added_ms": first.added_ms(),
        "renders": renders,
    });
    figures::write(&options.out, &report)
}

async fn render(user: &User) -> Result<Render> {
    let video = user.video(STEPS);
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
    let stages = user.client.manifest(&job.id).await?.timings_ms;
    Ok(Render {
        wall_ms: wall.as_secs_f64() * 1e3,
        engine_ms: stages.fuse + stages.prepare + stages.denoise + stages.decode,
        submit_ms: submitted.as_secs_f64() * 1e3,
        fetch_ms: stages.fetch,
        encode_tail_ms: stages.encode_tail,
        upload_ms: stages.upload,
    })
}
