//! A job followed to its end on the screen.

use std::time::Duration;

use super::CommandError;
use crate::client::{Client, Status, Update, Video};
use crate::output::Output;

/// Shows the job until it has ended; only a finished one is no error.
///
/// # Errors
/// What became of the job otherwise; `TimedOut` after `timeout`; `JobGoesOn` when the user interrupts.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    timeout: Option<Duration>,
    output: Output,
) -> Result<Box<Video>, CommandError> {
    let timed_out = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let video = tokio::select! {
        video = watch(client, id, output) => video?,
        () = timed_out => return Err(CommandError::TimedOut { id: id.to_owned() }),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(CommandError::io("waiting for Ctrl-C"))?;
            return Err(CommandError::JobGoesOn { id: id.to_owned() });
        }
    };
    outcome(video)
}

async fn watch(client: &Client, id: &str, output: Output) -> Result<Box<Video>, CommandError> {
    let mut display = output.job();
    let mut watch = client.watch(id);
    let mut last = None;
    while let Some(update) = watch.next().await? {
        display.show(&update);
        if let Update::Video(video) = update {
            last = Some(video);
        }
    }
    last.ok_or_else(|| CommandError::Failed(format!("job {id} was never seen")))
}

fn outcome(video: Box<Video>) -> Result<Box<Video>, CommandError> {
    match video.status {
        Status::Done => Ok(video),
        Status::Cancelled => Err(CommandError::JobCancelled { id: video.id }),
        Status::Failed
        | Status::Quarantined
        | Status::Queued
        | Status::Running
        | Status::Unknown => Err(CommandError::JobFailed {
            status: video.status.as_str(),
            detail: match video.error {
                Some(error) => format!("{} ({})", error.detail, error.code),
                None => "no reason was given".to_owned(),
            },
            id: video.id,
        }),
    }
}
