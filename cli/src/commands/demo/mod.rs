use std::path::PathBuf;
use std::time::Instant;

use flowai_actors::manifest::Manifest;
use flowai_actors::spec::FirstFrame;
use flowai_model::adapter::{AdapterFormat, ModuleTable};
use flowai_model::synthetic::{AdapterSpec, adapter_bytes};
use flowai_model::{ModelFolder, Preset};
use serde_json::json;

use super::up::{interrupted, programs_folder};
use super::{CommandError, account, follow, render};
use crate::client::{AdapterWeight, Client, NewVideo, Purpose, Secret};
use crate::farm::{Farm, FarmOptions};
use crate::output::{Output, table};

/// From a picture to a clip on a farm of its own, through every real part
///
/// Starts a farm in a temporary folder, signs up a user, uploads a photograph and an adapter, renders, downloads the clip, and
/// stops everything. The model is small and has random weights: it shows that the farm works, not what a trained model looks
/// like.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the clip goes
    #[arg(long, default_value = "demo.mp4")]
    out: PathBuf,
}

/// Chelsea the cat; see assets/LICENSE.
pub const PICTURE: &[u8] = include_bytes!("../../../assets/chelsea.png");
const EMAIL: &str = "demo@flowai.localhost";

pub(super) async fn run(args: Args, output: Output) -> Result<(), CommandError> {
    let begun = Instant::now();
    let data = tempfile::Builder::new()
        .prefix("flowai-demo-")
        .tempdir()
        .map_err(CommandError::io("making a temporary folder"))?;
    let options = FarmOptions::new(data.path().to_owned(), programs_folder()?);
    let spinner =
        output.working("starting a farm: PostgreSQL, Redis, S3, coordinator, api, render node");
    let farm = tokio::select! {
        farm = Farm::start(options) => farm?,
        interrupted = interrupted() => return interrupted.and(Err(CommandError::Interrupted)),
    };
    drop(spinner);
    let started = begun.elapsed();
    let rendered = tokio::select! {
        rendered = make_clip(&farm, &args.out, output) => rendered,
        interrupted = interrupted() => interrupted.and(Err(CommandError::Interrupted)),
    };
    let spinner = output.working("stopping the farm");
    // Both are said: what went wrong with the render counts more.
    let stopped = farm.stop().await;
    drop(spinner);
    let (manifest, render_s) = rendered?;
    stopped?;
    report(&args, &manifest, started.as_secs_f64(), render_s, output);
    Ok(())
}

/// The clip's manifest, and the seconds from the submission to the end of the job.
async fn make_clip(
    farm: &Farm,
    out: &std::path::Path,
    output: Output,
) -> Result<(Manifest, f64), CommandError> {
    let url = farm
        .url()
        .ok_or_else(|| CommandError::Failed("the api ended right after its start".to_owned()))?;
    let password = Secret::new(hex::encode(rand::random::<[u8; 16]>()));
    Client::sign_up(&url, EMAIL, &password).await?;
    let (client, account) = account::obtain_key(&url, EMAIL, &password).await?;
    output.note(format_args!("signed up {}", account.email));

    let model = Preset::Small.to_string();
    let adapter =
        render::store_adapter(&client, &model, "demo style", adapter(farm)?, output).await?;
    output.note(format_args!("stored an adapter, sha256 {}", adapter.sha256));
    let image = client
        .upload(Purpose::Image, "chelsea.png", PICTURE.into())
        .await?;
    output.note(format_args!(
        "uploaded a photograph, sha256 {}",
        image.sha256
    ));

    let styled = NewVideo {
        adapters: vec![AdapterWeight {
            id: adapter.id,
            weight: 0.8,
        }],
        ..video(image.id)
    };
    let submitted = Instant::now();
    let job = client.submit(&styled).await?;
    output.note(format_args!("submitted {}", job.id));
    let job = follow::follow(&client, &job.id, None, output).await?;
    let render_s = submitted.elapsed().as_secs_f64();

    if let Some(folder) = out.parent() {
        let what = format!("making {}", folder.display());
        std::fs::create_dir_all(folder).map_err(CommandError::io(what))?;
    }
    Ok((client.download(&job.id, out).await?, render_s))
}

/// Large enough to look at, small enough for a CPU to render within seconds.
pub fn video(image: String) -> NewVideo {
    NewVideo {
        image: Some(image),
        frames: Some(14),
        fps: Some(7),
        width: Some(256),
        height: Some(192),
        steps: Some(25),
        seed: Some(7),
        ..NewVideo::default()
    }
}

/// A random LoRA for the attention of the farm's model.
fn adapter(farm: &Farm) -> Result<Vec<u8>, CommandError> {
    let spec = AdapterSpec {
        format: AdapterFormat::Peft,
        targets: ["to_q", "to_k", "to_v", "to_out.0"]
            .map(str::to_owned)
            .to_vec(),
        ranks: vec![4],
        alphas: vec![4.0],
        use_rslora: false,
        seed: 1,
    };
    let failed = |error: &dyn std::error::Error| CommandError::Failed(error.to_string());
    let model = farm.folder().models().join(Preset::Small.to_string());
    let model = ModelFolder::check(&model).map_err(|error| failed(&error))?;
    adapter_bytes(&ModuleTable::of(&model.config.unet), &spec).map_err(|error| failed(&error))
}

fn report(args: &Args, manifest: &Manifest, start_s: f64, render_s: f64, output: Output) {
    output.object(&json!({
        "event": "rendered",
        "path": args.out,
        "start_s": start_s,
        "render_s": render_s,
        "manifest": manifest,
    }));
    let adapters: Vec<String> = manifest
        .adapters
        .iter()
        .map(|adapter| {
            format!(
                "{} at {}, {} modules",
                adapter.sha256, adapter.weight, adapter.modules
            )
        })
        .collect();
    let spec = &manifest.spec;
    output.line(format_args!(
        "\nManifest\n\
         \x20 clip     {} bytes, sha256 {}\n\
         \x20 model    {}, sha256 {}\n\
         \x20 adapter  {}\n\
         \x20 picture  {}\n\
         \x20 spec     {} frames of {}x{} at {} a second, {} steps, seed {}\n\
         \x20 made by  {} {} on {} ({}, {}), attempt {}\n",
        manifest.clip_bytes,
        manifest.clip_sha256,
        spec.model,
        manifest.model_sha256,
        adapters.join("; "),
        first_frame(manifest),
        spec.frames,
        spec.width,
        spec.height,
        spec.fps,
        spec.steps,
        spec.seed,
        manifest.engine.name,
        manifest.engine.version,
        manifest.node,
        manifest.device_class,
        manifest.engine.dtype,
        manifest.attempt,
    ));
    output.line(format_args!(
        "Time\n{}\n",
        times(manifest, start_s, render_s)
    ));
    output.line(args.out.display());
}

fn first_frame(manifest: &Manifest) -> String {
    match &manifest.spec.first_frame {
        FirstFrame::Image(sha256) => format!("sha256 {sha256}"),
        FirstFrame::Keyframe(keyframe) => format!("made from words by {}", keyframe.model),
    }
}

fn times(manifest: &Manifest, start_s: f64, render_s: f64) -> String {
    let stages = &manifest.timings_ms;
    let row = |stage: &str, ms: f64| [format!("  {stage}"), format!("{ms:>9.0} ms")];
    table(
        ["  STAGE", "     TOOK"],
        &[
            row("start of the farm", start_s * 1000.0),
            row("fetch", stages.fetch),
            row("fuse the adapter", stages.fuse),
            row("prepare", stages.prepare),
            row("denoise", stages.denoise),
            row("decode and encode", stages.decode),
            row("rest of encoding", stages.encode_tail),
            row("upload", stages.upload),
            row("submission to done", render_s * 1000.0),
        ],
    )
}
