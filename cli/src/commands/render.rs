use std::path::PathBuf;

use super::CommandError;
use super::delivery::{Delivery, clip_name};
use super::files::{AdapterArg, check_picture, parse_adapter, picture_id, stored_adapters};
use super::spec::SpecArgs;
use crate::client::{Client, KEYFRAME_MODELS, NewKeyframe, NewVideo};
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
    /// What the picture shall show, when none is given; beside a picture it is only kept with the clip
    #[arg(long)]
    prompt: Option<String>,
    /// One of many that you do not wait for: others may pass it, and it may make room for them and go on later
    #[arg(long)]
    batch: bool,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    delivery: Delivery,
    #[command(flatten)]
    keyframe: KeyframeArgs,
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

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    let name = match &args.picture {
        Some(picture) => clip_name(picture, None)?,
        None => "clip.mp4".into(),
    };
    // Whatever can be said before anything is uploaded.
    let out = args.delivery.out(name)?;
    if let Some(picture) = &args.picture {
        check_picture(picture)?;
    }
    let mut video = args.spec.video(client, output).await?;
    args.keyframe.add_to(&mut video, client, output).await?;
    video.prompt = args.prompt;
    video.class = args.batch.then(|| "batch".to_owned());
    if let Some(picture) = &args.picture {
        video.image = Some(picture_id(client, picture, output).await?);
    }
    let job = client.submit(&video).await?;
    args.delivery.of(job, &out, client, output).await
}

impl KeyframeArgs {
    async fn add_to(
        self,
        video: &mut NewVideo,
        client: &Client,
        output: Output,
    ) -> Result<(), CommandError> {
        let model = (self.keyframe_model.as_deref(), KEYFRAME_MODELS);
        let adapters = stored_adapters(client, self.keyframe_adapters, model, output).await?;
        let steps = self.keyframe_steps;
        if steps.is_some() || !adapters.is_empty() {
            video.keyframe = Some(NewKeyframe { steps, adapters });
        }
        video.negative_prompt = self.negative_prompt;
        video.keyframe_model = self.keyframe_model;
        Ok(())
    }
}
