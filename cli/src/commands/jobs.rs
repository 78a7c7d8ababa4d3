use chrono::{DateTime, Utc};

use super::CommandError;
use crate::client::{Client, Status, Video};
use crate::output::{Output, duration_text, table};

/// List your jobs, newest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only those that stand so
    #[arg(long, value_enum)]
    status: Option<Filter>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Filter {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
    Quarantined,
}

impl Filter {
    const fn status(self) -> Status {
        match self {
            Self::Queued => Status::Queued,
            Self::Running => Status::Running,
            Self::Done => Status::Done,
            Self::Failed => Status::Failed,
            Self::Cancelled => Status::Cancelled,
            Self::Quarantined => Status::Quarantined,
        }
    }
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    let videos = client
        .videos(args.limit, args.status.map(Filter::status))
        .await?;
    for video in &videos {
        output.object(video);
    }
    if videos.is_empty() {
        output.note("no jobs");
        return Ok(());
    }
    let now = Utc::now();
    let rows: Vec<_> = videos.iter().map(|video| row(video, now)).collect();
    output.line(table(
        ["JOB", "STATUS", "MODEL", "SIZE", "FRAMES", "STEPS", "AGE"],
        &rows,
    ));
    Ok(())
}

fn status(video: &Video) -> String {
    let status = match video.cancelling {
        true => "cancelling",
        false => video.status.as_str(),
    };
    match video.draft {
        true => format!("{status}, draft"),
        false => status.to_owned(),
    }
}

fn row(video: &Video, now: DateTime<Utc>) -> [String; 7] {
    let age = now.signed_duration_since(video.created_at);
    [
        video.id.clone(),
        status(video),
        video.spec.model.clone(),
        format!("{}x{}", video.spec.width, video.spec.height),
        video.spec.frames.to_string(),
        video.spec.steps.to_string(),
        duration_text(age.as_seconds_f64()),
    ]
}
