use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Subcommand;
use flowai_model::safetensors::Dtype;
use flowai_model::{
    AnyModelFolder, KeyframePreset, Preset, UnknownKeyframePreset, UnknownPreset, synthetic,
};
use serde_json::json;

use super::CommandError;
use crate::client::Client;
use crate::output::{Output, table};

/// List the models that the farm offers, make a random one, check a folder
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what the farm offers (the default)
    List,
    /// Write a model with random weights in diffusers' layout, for trying things out
    Make(MakeArgs),
    /// Say whether a node would offer this folder, and under which hash
    Check {
        /// A model folder in diffusers' layout
        folder: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct MakeArgs {
    /// Where it goes; the folder's name is the model's
    folder: PathBuf,
    /// small is for trying things out, middle for measuring; full-svd has the 2.3 G parameters of SVD-XT. keyframe-tiny, sd-1.5 and
    /// sd-2.1 make first frames from prompts
    #[arg(long, default_value = "small")]
    preset: AnyPreset,
    /// Equal seeds give equal weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, value_enum, default_value_t = WeightDtype::F32)]
    dtype: WeightDtype,
}

/// Of a model that makes clips, or of one that makes keyframes.
#[derive(Debug, Clone, Copy)]
enum AnyPreset {
    Clips(Preset),
    Keyframes(KeyframePreset),
}

impl FromStr for AnyPreset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let clips = name.parse().map(Self::Clips);
        clips.or_else(|unknown: UnknownPreset| {
            let keyframes = name.parse().map(Self::Keyframes);
            keyframes.map_err(|other: UnknownKeyframePreset| format!("{unknown}; or {other}"))
        })
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum WeightDtype {
    F32,
    Bf16,
    F16,
}

impl WeightDtype {
    const fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
            Self::F16 => Dtype::F16,
        }
    }
}

/// `client` is asked for only where the farm is.
pub(super) async fn run(
    args: Args,
    client: impl FnOnce() -> Result<Client, CommandError>,
    output: Output,
) -> Result<(), CommandError> {
    match args.action {
        None | Some(Action::List) => list(&client()?, output).await,
        Some(Action::Make(args)) => make(args, output),
        Some(Action::Check { folder }) => check(&folder, output),
    }
}

async fn list(client: &Client, output: Output) -> Result<(), CommandError> {
    let models = client.models().await?;
    for model in &models {
        output.object(model);
    }
    if models.is_empty() {
        output.note("no node has offered a model yet");
        return Ok(());
    }
    let rows: Vec<_> = models
        .iter()
        .map(|model| {
            let sha256 = model.sha256.to_string();
            [
                model.id.clone(),
                model.family.clone(),
                model.limits.frames_max.to_string(),
                model.limits.side_multiple.to_string(),
                sha256[..12].to_owned(),
            ]
        })
        .collect();
    output.line(table(
        ["MODEL", "FAMILY", "FRAMES", "SIDES", "SHA256"],
        &rows,
    ));
    Ok(())
}

fn make(args: MakeArgs, output: Output) -> Result<(), CommandError> {
    let spinner = output.working("making random weights");
    let (folder, dtype) = (&args.folder, args.dtype.dtype());
    let written = match args.preset {
        AnyPreset::Clips(preset) => {
            synthetic::write_model(folder, &preset.config(), args.seed, dtype)
        }
        AnyPreset::Keyframes(preset) => {
            synthetic::write_stable_diffusion(folder, &preset.config(), args.seed, dtype)
        }
    };
    written.map_err(|error| CommandError::Failed(error.to_string()))?;
    drop(spinner);
    check(&args.folder, output)
}

fn check(folder: &Path, output: Output) -> Result<(), CommandError> {
    let refused = |error: flowai_model::FolderError| CommandError::Usage(error.to_string());
    let model = AnyModelFolder::check(folder).map_err(refused)?;
    let spinner = output.working("hashing the model's files");
    let identity = model.identify().map_err(refused)?;
    drop(spinner);
    let bytes: u64 = identity.files.iter().map(|file| file.bytes).sum();
    output.object(&json!({
        "folder": folder,
        "sha256": identity.sha256,
        "bytes": bytes,
        "files": identity.files,
    }));
    output.line(format_args!(
        "{} is whole: {} files, {:.1} MB, sha256 {}",
        folder.display(),
        identity.files.len(),
        bytes as f64 / 1e6,
        identity.sha256
    ));
    Ok(())
}
