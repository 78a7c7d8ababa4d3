use chrono::{DateTime, Utc};

use super::CommandError;
use crate::client::{Client, Status, Video};
use crate::output::{Output, duration_text, position_text, table};

/// List your jobs, newest first
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At most so many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only those that stand so
    #[arg(long, value_enum)]
    status: Option<Filter>,
    /// Of each waiting job: its place, what it waits for, and when it will probably start
    #[arg(long, conflicts_with = "status")]
    why: bool,
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
    let status = match args.why {
        true => Some(Status::Queued),
        false => args.status.map(Filter::status),
    };
    let videos = client.videos(args.limit, status).await?;
    if args.why {
        return explain(&videos, client, output).await;
    }
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

/// Asks for each job by itself: the leader answers that from what it believes at this moment.
async fn explain(videos: &[Video], client: &Client, output: Output) -> Result<(), CommandError> {
    let mut rows = Vec::new();
    for listed in videos {
        let video = client.video(&listed.id).await?;
        output.object(&video);
        let why = match (&video.queue, video.status) {
            (Some(queue), _) => position_text(queue.position, &queue.reason, queue.starts_in),
            (None, Status::Queued) => "nobody who leads the farm answers".to_owned(),
            (None, status) => format!("waits no more: {}", status.as_str()),
        };
        rows.push([video.id.clone(), why]);
    }
    match rows.is_empty() {
        true => output.note("no job of yours waits"),
        false => output.line(table(["JOB", "WHY IT WAITS"], &rows)),
    }
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
