use std::path::{Path, PathBuf};

use flowai_actors::ids::Sha256;
use sha2::Digest;
use uuid::Uuid;

use super::CommandError;
use super::delivery::Delivery;
use crate::client::{
    Adapter, AdapterWeight, CLIP_MODELS, Client, KEYFRAME_MODELS, NewKeyframe, NewVideo, Purpose,
};
use crate::output::Output;

/// Render a picture or a prompt: upload what is needed, submit, watch, download the clip
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ctrl-C stops watching; the job goes on. Exit codes: flowai help exit-codes",
    group(clap::ArgGroup::new("beginning").args(["picture", "prompt"]).required(true).multiple(true))
)]
pub(super) struct Args {
    /// The picture to begin with: PNG, JPEG or WebP, or the id of one that is stored. Without one it is made from --prompt
    picture: Option<PathBuf>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    delivery: Delivery,
    #[command(flatten)]
    keyframe: KeyframeArgs,
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
    /// What the picture shall show, when none is given; beside a picture it is only kept with the clip
    #[arg(long)]
    prompt: Option<String>,
    /// Render few steps, frames and pixels, to see whether the full video is worth it: `flowai final` makes that one
    #[arg(long)]
    draft: bool,
    /// One of many that you do not wait for: others may pass it, and it may make room for them and go on later
    #[arg(long)]
    batch: bool,
    /// Start when that job is done, and fail when it does
    #[arg(long, value_name = "JOB")]
    after: Option<String>,
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

/// How the picture is made from the prompt. Whatever is left out is the model's default.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The picture, from a prompt")]
struct KeyframeArgs {
    /// What the picture shall not show
    #[arg(long, conflicts_with = "picture")]
    negative_prompt: Option<String>,
    /// What makes the picture: its name, as `flowai models` lists it
    #[arg(long, conflicts_with = "picture")]
    keyframe_model: Option<String>,
    /// An adapter for the keyframe model, as --adapter
    #[arg(long = "keyframe-adapter", value_name = "FILE_OR_ID[=WEIGHT]", value_parser = parse_adapter, conflicts_with = "picture")]
    keyframe_adapters: Vec<AdapterArg>,
    /// Its denoising steps
    #[arg(long, conflicts_with = "picture")]
    keyframe_steps: Option<u32>,
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
    let picture = args.picture.as_deref();
    let out = args.delivery.out(default_out(picture)?)?;
    let video = prepare(client, picture, args.spec, args.keyframe, output).await?;
    let job = client.submit(&video).await?;
    args.delivery.of(job, &out, client, output).await
}

fn default_out(picture: Option<&Path>) -> Result<PathBuf, CommandError> {
    let Some(picture) = picture else {
        return Ok(PathBuf::from("clip.mp4"));
    };
    picture
        .file_stem()
        .map(|stem| PathBuf::from(stem).with_extension("mp4"))
        .ok_or_else(|| CommandError::Usage(format!("{} names no file", picture.display())))
}

/// Uploads what the render needs and names it.
async fn prepare(
    client: &Client,
    picture: Option<&Path>,
    spec: SpecArgs,
    keyframe: KeyframeArgs,
    output: Output,
) -> Result<NewVideo, CommandError> {
    let model = (spec.model.as_deref(), CLIP_MODELS);
    let adapters = stored_adapters(client, spec.adapters, model, output).await?;
    let model = (keyframe.keyframe_model.as_deref(), KEYFRAME_MODELS);
    let made_with = stored_adapters(client, keyframe.keyframe_adapters, model, output).await?;
    let is_told = keyframe.keyframe_steps.is_some() || !made_with.is_empty();
    let image = match picture {
        Some(picture) => Some(picture_id(client, picture, output).await?),
        None => None,
    };
    Ok(NewVideo {
        image,
        model: spec.model,
        prompt: spec.prompt,
        negative_prompt: keyframe.negative_prompt,
        keyframe_model: keyframe.keyframe_model,
        keyframe: is_told.then_some(NewKeyframe {
            steps: keyframe.keyframe_steps,
            adapters: made_with,
        }),
        draft: spec.draft,
        class: spec.batch.then(|| "batch".to_owned()),
        after: spec.after.clone(),
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

/// The id of a stored picture; a file is uploaded.
async fn picture_id(
    client: &Client,
    picture: &Path,
    output: Output,
) -> Result<String, CommandError> {
    let id = picture.to_str().and_then(|text| text.parse::<Uuid>().ok());
    if let Some(id) = id.filter(|_| !picture.exists()) {
        return Ok(id.to_string());
    }
    let bytes = read(picture)?;
    let spinner = output.working("uploading the picture");
    let image = client
        .upload(Purpose::Image, &file_name(picture), bytes.into())
        .await?;
    drop(spinner);
    Ok(image.id)
}

/// `model`: the one that they are for, if it was named, and its family.
async fn stored_adapters(
    client: &Client,
    adapters: Vec<AdapterArg>,
    model: (Option<&str>, &str),
    output: Output,
) -> Result<Vec<AdapterWeight>, CommandError> {
    let mut stored = Vec::new();
    for AdapterArg { source, weight } in adapters {
        let id = adapter_id(client, &source, model, output).await?;
        stored.push(AdapterWeight { id, weight });
    }
    Ok(stored)
}

/// The id of a stored adapter; a file is stored unless the caller has stored the same bytes before.
async fn adapter_id(
    client: &Client,
    source: &str,
    (model, family): (Option<&str>, &str),
    output: Output,
) -> Result<String, CommandError> {
    let path = Path::new(source);
    if !path.exists() {
        return match source.parse::<Uuid>() {
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
        None => only_model(client, family).await?,
    };
    let adapter = store_adapter(client, &model, &file_name(path), bytes, output).await?;
    Ok(adapter.id)
}

/// The model of a family that a render without one gets.
async fn only_model(client: &Client, family: &str) -> Result<String, CommandError> {
    let models = client.models().await?.into_iter();
    let mut models = models.filter(|model| model.family == family);
    match (models.next(), models.next()) {
        (Some(model), None) => Ok(model.id),
        (None, _) => Err(CommandError::Failed(
            "no node has offered a model yet".to_owned(),
        )),
        (Some(_), Some(_)) => {
            let flag = match family {
                KEYFRAME_MODELS => "--keyframe-model",
                _ => "--model",
            };
            let detail = format!("the farm offers several models: say which one with {flag}");
            Err(CommandError::Usage(detail))
        }
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
        let check = |picture: Option<&str>, out: &str| {
            let made = default_out(picture.map(Path::new)).unwrap();
            assert_eq!(made, Path::new(out));
        };
        check(Some("photos/cat.png"), "cat.mp4");
        check(Some("cat"), "cat.mp4");
        check(None, "clip.mp4");
        assert!(default_out(Some(Path::new(".."))).is_err());
    }
}
