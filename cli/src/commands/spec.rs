//! What a clip shall be, as it is typed.

use super::CommandError;
use super::files::{AdapterArg, parse_adapter, stored_adapters};
use crate::client::{CLIP_MODELS, Client, NewVideo};
use crate::output::Output;

/// What the clip shall be. Whatever is left out is the model's default.
#[derive(Debug, clap::Args)]
pub(super) struct SpecArgs {
    /// Its name, as `flowai models` lists it
    #[arg(long)]
    model: Option<String>,
    /// An adapter, as a file or as the id of one that is stored, with its strength; may be given several times
    #[arg(long = "adapter", value_name = "FILE_OR_ID[=WEIGHT]", value_parser = parse_adapter)]
    adapters: Vec<AdapterArg>,
    /// Render few steps, frames and pixels, to see whether the full video is worth it: `flowai final` makes that one
    #[arg(long)]
    draft: bool,
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

impl SpecArgs {
    /// The clip without its picture; adapters are stored first.
    pub(super) async fn video(
        self,
        client: &Client,
        output: Output,
    ) -> Result<NewVideo, CommandError> {
        let model = (self.model.as_deref(), CLIP_MODELS);
        let adapters = stored_adapters(client, self.adapters, model, output).await?;
        Ok(NewVideo {
            model: self.model,
            adapters,
            draft: self.draft,
            after: self.after,
            frames: self.frames,
            fps: self.fps,
            width: self.width,
            height: self.height,
            steps: self.steps,
            motion_bucket_id: self.motion,
            seed: self.seed,
            ..NewVideo::default()
        })
    }
}
