use std::path::{Path, PathBuf};
use std::time::Duration;

use flowai_actors::ids::Sha256;
use flowai_actors::manifest::Manifest;
use serde_json::json;
use sha2::Digest;

use super::{CommandError, follow};
use crate::client::{Adapter, AdapterWeight, Client, NewVideo, Purpose};
use crate::output::Output;

/// Render a picture: upload it, submit, watch, download the clip
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C stops watching; the job goes on. Exit codes: flowai help exit-codes"
)]
pub(super) struct Args {
    /// The picture to begin with: PNG, JPEG or WebP
    picture: PathBuf,
    #[command(flatten)]
    spec: SpecArgs,
    /// Where the clip goes [default: the picture's name with .mp4, in this folder]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Replace the clip if there is one
    #[arg(long)]
    force: bool,
    /// Submit and leave; prints the job's id
    #[arg(long, conflicts_with_all = ["out", "timeout"])]
    detach: bool,
    /// Stop watching after so many seconds; the job goes on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// What the clip shall be. Whatever is left out is the model's default.
#[derive(Debug, clap::Args)]
struct SpecArgs {
    /// Its name, as `flowai models` lists it
    #[arg(long)]
    model: Option<String>,
    /// An adapter, as a file or as the id of one that is stored, with its strength; may be given several times
    #[arg(long = "adapter", value_name = "FILE_OR_ID[=WEIGHT]", value_parser = parse_adapter)]
    adapters: Vec<AdapterArg>,
    /// Kept with the clip; this kind of model does not read it
    #[arg(long)]
    prompt: Option<String>,
    /// How many pictures the clip has
    #[arg(long)]
    frames: Option<u32>,
    /// Frames a second
    #[arg(long)]
    fps: Option<u32>,
    /// In pixels, a multiple of what the model needs (`flowai models`: SIDES)
    #[arg(long)]
    width: Option<u32>,
    /// As the width
    #[arg(long)]
    height: Option<u32>,
    /// Denoising steps: more are slower and finer
    #[arg(long)]
    steps: Option<u32>,
    /// How much the picture moves, 0 to 255
    #[arg(long)]
    motion: Option<u32>,
    /// Equal seeds give equal clips
    #[arg(long)]
    seed: Option<u64>,
}

/// `FILE_OR_ID=WEIGHT`.
#[derive(Debug, Clone, PartialEq)]
struct AdapterArg {
    source: String,
    weight: f32,
}

fn parse_adapter(text: &str) -> Result<AdapterArg, String> {
    let (source, weight) = match text.rsplit_once('=') {
        None => (text, 1.0),
        Some((source, weight)) => {
            let weight = weight.parse().map_err(|_| {
                format!("the weight must be a number, as in style.safetensors=0.8 (got {weight:?})")
            })?;
            (source, weight)
        }
    };
    if source.is_empty() {
        return Err("names no file and no id".to_owned());
    }
    Ok(AdapterArg {
        source: source.to_owned(),
        weight,
    })
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    let out = match args.out {
        Some(out) => out,
        None => default_out(&args.picture)?,
    };
    // Said now and not after the render.
    if !args.detach && !args.force && out.exists() {
        return Err(CommandError::Usage(format!(
            "{} is there already; give --out or --force",
            out.display()
        )));
    }
    let video = prepare(client, &args.picture, args.spec, output).await?;
    let job = client.submit(&video).await?;
    if args.detach {
        output.object(&job);
        output.line(&job.id);
        return Ok(());
    }
    output.note(format_args!("submitted {}", job.id));
    let timeout = args.timeout.map(Duration::from_secs);
    let job = follow::follow(client, &job.id, timeout, output).await?;
    save(client, &job.id, &out, output).await?;
    Ok(())
}

/// Downloads a finished clip and says where it is.
pub(super) async fn save(
    client: &Client,
    id: &str,
    path: &Path,
    output: Output,
) -> Result<Manifest, CommandError> {
    let spinner = output.working("downloading the clip");
    let manifest = tokio::select! {
        manifest = client.download(id, path) => manifest?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(CommandError::io("waiting for Ctrl-C"))?;
            return Err(CommandError::Interrupted);
        }
    };
    drop(spinner);
    output.object(&json!({
        "event": "saved",
        "path": path,
        "sha256": manifest.clip_sha256,
        "bytes": manifest.clip_bytes,
    }));
    output.line(path.display());
    Ok(manifest)
}

fn default_out(picture: &Path) -> Result<PathBuf, CommandError> {
    picture
        .file_stem()
        .map(|stem| PathBuf::from(stem).with_extension("mp4"))
        .ok_or_else(|| CommandError::Usage(format!("{} names no file", picture.display())))
}

/// Uploads what the render needs and names it.
async fn prepare(
    client: &Client,
    picture: &Path,
    spec: SpecArgs,
    output: Output,
) -> Result<NewVideo, CommandError> {
    let mut adapters = Vec::new();
    for AdapterArg { source, weight } in spec.adapters {
        let model = spec.model.as_deref();
        let id = adapter_id(client, &source, model, output).await?;
        adapters.push(AdapterWeight { id, weight });
    }
    let bytes = read(picture)?;
    let spinner = output.working("uploading the picture");
    let image = client
        .upload(Purpose::Image, &file_name(picture), bytes.into())
        .await?;
    drop(spinner);
    Ok(NewVideo {
        image: image.id,
        model: spec.model,
        prompt: spec.prompt,
        adapters,
        frames: spec.frames,
        fps: spec.fps,
        width: spec.width,
        height: spec.height,
        steps: spec.steps,
        motion_bucket_id: spec.motion,
        seed: spec.seed,
        ..NewVideo::default()
    })
}

/// The id of a stored adapter; a file is stored unless the caller has stored the same bytes before.
async fn adapter_id(
    client: &Client,
    source: &str,
    model: Option<&str>,
    output: Output,
) -> Result<String, CommandError> {
    let path = Path::new(source);
    if !path.exists() {
        return match source.parse::<uuid::Uuid>() {
            Ok(id) => Ok(id.to_string()),
            Err(_) => Err(CommandError::Usage(format!(
                "adapter {source} is neither a file nor the id of a stored adapter"
            ))),
        };
    }
    let bytes = read(path)?;
    let sha256 = Sha256::from_bytes(sha2::Sha256::digest(&bytes).into());
    let mut stored = client.adapters().await?.into_iter();
    if let Some(adapter) = stored.find(|adapter| adapter.sha256 == sha256) {
        return Ok(adapter.id);
    }
    let model = match model {
        Some(model) => model.to_owned(),
        None => only_model(client).await?,
    };
    let adapter = store_adapter(client, &model, &file_name(path), bytes, output).await?;
    Ok(adapter.id)
}

/// The model that a render without one gets.
async fn only_model(client: &Client) -> Result<String, CommandError> {
    let mut models = client.models().await?.into_iter();
    match (models.next(), models.next()) {
        (Some(model), None) => Ok(model.id),
        (None, _) => Err(CommandError::Failed(
            "no node has offered a model yet".to_owned(),
        )),
        (Some(_), Some(_)) => Err(CommandError::Usage(
            "the farm offers several models: say which one with --model".to_owned(),
        )),
    }
}

/// Uploads an adapter and lets the farm check and store it.
pub(super) async fn store_adapter(
    client: &Client,
    model: &str,
    name: &str,
    bytes: Vec<u8>,
    output: Output,
) -> Result<Adapter, CommandError> {
    let spinner = output.working("uploading an adapter");
    let upload = client.upload(Purpose::Adapter, name, bytes.into()).await?;
    spinner.now("having the adapter checked");
    Ok(client.make_adapter(&upload, model, name).await?)
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(path)
        .map_err(|error| CommandError::Usage(format!("{} cannot be read: {error}", path.display())))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_a_source_and_a_weight() {
        let check = |text: &str, source: &str, weight: f32| {
            let expected = AdapterArg {
                source: source.to_owned(),
                weight,
            };
            assert_eq!(parse_adapter(text), Ok(expected), "{text}");
        };
        check("style.safetensors", "style.safetensors", 1.0);
        check("style.safetensors=0.8", "style.safetensors", 0.8);
        check("a=b.safetensors=-1", "a=b.safetensors", -1.0);
        for bad in ["style.safetensors=", "style.safetensors=much", "=1", ""] {
            assert!(parse_adapter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_clip_is_named_after_its_picture() {
        let check = |picture: &str, out: &str| {
            assert_eq!(default_out(Path::new(picture)).unwrap(), Path::new(out));
        };
        check("photos/cat.png", "cat.mp4");
        check("cat", "cat.mp4");
        assert!(default_out(Path::new("..")).is_err());
    }
}
