mod model;

use std::path::{Path, PathBuf};
use std::time::Instant;

use flowai_actors::manifest::Manifest;
use flowai_actors::spec::FirstFrame;
use serde_json::json;
use tempfile::TempDir;

use self::model::Motion;
use super::up::{interrupted, programs_folder, stop};
use super::{CommandError, account, files, follow};
use crate::client::{AdapterWeight, Client, NewVideo, Purpose, Secret};
use crate::farm::{Farm, FarmOptions};
use crate::output::{Output, table};

/// From a picture to a clip on a farm of its own, through every real part
///
/// Starts a farm in a temporary folder, signs up a user, uploads a photograph, and an adapter if one is named, renders, downloads
/// the clip, and stops everything. The model is a small one that was trained for this: it zooms slowly into any picture, at 96x96
/// pixels.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the clip goes
    #[arg(long, default_value = "demo.mp4")]
    out: PathBuf,
    /// Another motion, from a LoRA adapter
    #[arg(long, value_enum)]
    adapter: Option<Motion>,
}

/// Chelsea the cat; see assets/LICENSE.
pub const PICTURE: &[u8] = include_bytes!("../../../assets/chelsea.png");
const EMAIL: &str = "demo@flowai.localhost";

pub(super) async fn run(args: Args, output: Output) -> Result<(), CommandError> {
    let begun = Instant::now();
    let (data, models) = (temporary_folder()?, temporary_folder()?);
    model::write(models.path()).map_err(CommandError::io("writing the demo's model"))?;
    let options = FarmOptions {
        models: Some(models.path().to_owned()),
        ..FarmOptions::new(data.path().to_owned(), programs_folder()?)
    };
    let spinner =
        output.working("starting a farm: PostgreSQL, Redis, S3, coordinator, api, render node");
    let farm = tokio::select! {
        farm = Farm::start(options) => farm?,
        interrupted = interrupted() => return interrupted.and(Err(CommandError::Interrupted)),
    };
    drop(spinner);
    let started = begun.elapsed();
    let rendered = tokio::select! {
        rendered = make_clip(&farm, &args, output) => rendered,
        interrupted = interrupted() => interrupted.and(Err(CommandError::Interrupted)),
    };
    // What went wrong with the render counts more.
    let stopped = stop(farm, output).await;
    let (manifest, render_s) = rendered?;
    stopped?;
    report(&args, &manifest, started.as_secs_f64(), render_s, output);
    Ok(())
}

fn temporary_folder() -> Result<TempDir, CommandError> {
    tempfile::Builder::new()
        .prefix("flowai-demo-")
        .tempdir()
        .map_err(CommandError::io("making a temporary folder"))
}

/// The clip's manifest, and the seconds from the submission to the end of the job.
async fn make_clip(
    farm: &Farm,
    args: &Args,
    output: Output,
) -> Result<(Manifest, f64), CommandError> {
    let url = farm
        .url()
        .ok_or_else(|| CommandError::Failed("the api ended right after its start".to_owned()))?;
    let password = Secret::new(hex::encode(rand::random::<[u8; 16]>()));
    Client::sign_up(&url, EMAIL, &password).await?;
    let (client, account) = account::obtain_key(&url, EMAIL, &password).await?;
    output.note(format_args!("signed up {}", account.email));

    let mut adapters = Vec::new();
    if let Some(motion) = args.adapter {
        let file = motion.adapter().to_vec();
        let stored =
            files::store_adapter(&client, model::NAME, motion.name(), file, output).await?;
        output.note(format_args!("stored an adapter, sha256 {}", stored.sha256));
        adapters.push(AdapterWeight {
            id: stored.id,
            weight: 1.0,
        });
    }
    let image = client
        .upload(Purpose::Image, "chelsea.png", PICTURE.into())
        .await?;
    output.note(format_args!(
        "uploaded a photograph, sha256 {}",
        image.sha256
    ));

    let submitted = Instant::now();
    let wish = NewVideo {
        adapters,
        ..video(image.id)
    };
    let job = client.submit(&wish).await?;
    output.note(format_args!("submitted {}", job.id));
    let job = follow::follow(&client, &job.id, None, output).await?;
    let render_s = submitted.elapsed().as_secs_f64();

    let out: &Path = &args.out;
    if let Some(folder) = out.parent() {
        let what = format!("making {}", folder.display());
        std::fs::create_dir_all(folder).map_err(CommandError::io(what))?;
    }
    Ok((client.download(&job.id, out).await?, render_s))
}

/// As the model was trained: its own size and length, decoded together, without guidance.
pub fn video(image: String) -> NewVideo {
    NewVideo {
        image: Some(image),
        frames: Some(8),
        fps: Some(7),
        width: Some(96),
        height: Some(96),
        steps: Some(6),
        min_guidance_scale: Some(1.0),
        max_guidance_scale: Some(1.0),
        decode_chunk_size: Some(8),
        seed: Some(7),
        ..NewVideo::default()
    }
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
    let adapters = match adapters.is_empty() {
        true => "none".to_owned(),
        false => adapters.join("; "),
    };
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
        adapters,
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
