//! Many pictures, one request.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowai_actors::limits::BATCH_VIDEOS_MAX;
use serde_json::json;
use tokio::time::Instant;

use super::delivery::{clip_name, not_there, save};
use super::files::{check_picture, picture_id};
use super::spec::SpecArgs;
use super::{CommandError, follow};
use crate::client::{Client, ClientError, NewVideo, Video};
use crate::exit::Exit;
use crate::output::Output;

/// Render many pictures alike, or one with many seeds: all of them are taken, or none
#[derive(Debug, clap::Args)]
#[command(
    after_help = "They are batch work: others may pass them, and they may make room for others and go on later. Ctrl-C stops \
                  watching; the jobs go on. Exit codes: flowai help exit-codes"
)]
pub(super) struct Args {
    /// The pictures to begin with: PNG, JPEG or WebP, or ids of stored ones
    #[arg(required = true, value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
    /// Render each picture once with each of these, as in --seeds 1,2,3
    #[arg(
        long,
        value_name = "SEED,…",
        value_delimiter = ',',
        conflicts_with = "seed"
    )]
    seeds: Vec<u64>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    delivery: Delivery,
}

/// What becomes of the jobs once they are submitted.
#[derive(Debug, clap::Args)]
struct Delivery {
    /// The folder that the clips go to, each named after its picture [default: this one]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Replace the clips that there are
    #[arg(long)]
    force: bool,
    /// Submit and leave; prints the ids of the jobs, in the order of the pictures
    #[arg(long, conflicts_with_all = ["out", "force", "timeout"])]
    detach: bool,
    /// Stop watching after so many seconds; the jobs go on
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// One clip of the batch.
#[derive(Debug, PartialEq)]
struct Wanted<'a> {
    picture: &'a Path,
    seed: Option<u64>,
    /// What it is called in the folder.
    name: PathBuf,
}

pub(super) async fn run(args: Args, client: &Client, output: Output) -> Result<(), CommandError> {
    let Args {
        pictures,
        seeds,
        spec,
        delivery,
    } = args;
    // Whatever can be said before anything is uploaded.
    let wanted = wanted(&pictures, &seeds)?;
    for picture in &pictures {
        check_picture(picture)?;
    }
    if !delivery.detach {
        different_names(&wanted)?;
        delivery.make_room(&wanted)?;
    }
    let most = client.me().await?.limits.videos_queued_max as usize;
    if wanted.len() > most {
        return Err(CommandError::Usage(format!(
            "so many of your videos may wait at once: {most} (got {}); submit fewer at a time",
            wanted.len()
        )));
    }
    let video = spec.video(client, output).await?;
    let mut images = HashMap::new();
    for picture in &pictures {
        images.insert(
            picture.as_path(),
            picture_id(client, picture, output).await?,
        );
    }
    let videos: Vec<NewVideo> = wanted
        .iter()
        .map(|clip| NewVideo {
            image: images.get(clip.picture).cloned(),
            seed: clip.seed.or(video.seed),
            ..video.clone()
        })
        .collect();
    let jobs = client.submit_batch(&videos).await?;
    if delivery.detach {
        for job in &jobs {
            output.object(job);
            output.line(&job.id);
        }
        return Ok(());
    }
    delivery.of(&jobs, &wanted, client, output).await
}

/// Every picture with every seed.
///
/// # Errors
/// More than one request may hold, and what is given twice.
fn wanted<'a>(pictures: &'a [PathBuf], seeds: &[u64]) -> Result<Vec<Wanted<'a>>, CommandError> {
    if let Some(picture) = twice(pictures.iter()) {
        let picture = picture.display();
        return Err(CommandError::Usage(format!("{picture} is given twice")));
    }
    if let Some(seed) = twice(seeds.iter()) {
        return Err(CommandError::Usage(format!("seed {seed} is given twice")));
    }
    let seeds: Vec<Option<u64>> = match seeds {
        [] => vec![None],
        seeds => seeds.iter().copied().map(Some).collect(),
    };
    let many = pictures.len() * seeds.len();
    if many > BATCH_VIDEOS_MAX {
        return Err(CommandError::Usage(format!(
            "a batch holds up to {BATCH_VIDEOS_MAX} clips (got {many}): submit several"
        )));
    }
    let mut wanted = Vec::with_capacity(many);
    for picture in pictures {
        for &seed in &seeds {
            wanted.push(Wanted {
                picture,
                seed,
                name: clip_name(picture, seed)?,
            });
        }
    }
    Ok(wanted)
}

fn twice<T: std::hash::Hash + Eq + Copy>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = HashSet::new();
    values.find(|value| !seen.insert(*value))
}

/// # Errors
/// Two clips that would be one file.
fn different_names(wanted: &[Wanted<'_>]) -> Result<(), CommandError> {
    let mut named: HashMap<&Path, &Path> = HashMap::new();
    for clip in wanted {
        if let Some(first) = named.insert(&clip.name, clip.picture) {
            return Err(CommandError::Usage(format!(
                "the clips of {} and {} would both be {}: submit them apart, into two folders",
                first.display(),
                clip.picture.display(),
                clip.name.display()
            )));
        }
    }
    Ok(())
}

impl Delivery {
    fn path(&self, clip: &Wanted<'_>) -> PathBuf {
        match &self.out {
            Some(folder) => folder.join(&clip.name),
            None => clip.name.clone(),
        }
    }

    /// # Errors
    /// Clips that are there already, and a folder that cannot be made: said now and not after the renders.
    fn make_room(&self, wanted: &[Wanted<'_>]) -> Result<(), CommandError> {
        if !self.force {
            let mut paths = wanted.iter().map(|clip| self.path(clip));
            paths.try_for_each(|path| not_there(&path))?;
        }
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(|error| {
                let folder = folder.display();
                CommandError::Usage(format!("the folder {folder} cannot be made: {error}"))
            })?;
        }
        Ok(())
    }

    /// Follows the jobs one after the other, which is how they start, and saves each clip. A job that brings none ends nobody else.
    async fn of(
        &self,
        jobs: &[Video],
        wanted: &[Wanted<'_>],
        client: &Client,
        output: Output,
    ) -> Result<(), CommandError> {
        let many = jobs.len();
        let clips = || jobs.iter().zip(wanted);
        output.note(format_args!("submitted {many} jobs"));
        for (job, clip) in clips() {
            output.note(named(job, clip));
            output
                .object(&json!({ "event": "submitted", "video": job.id, "path": self.path(clip) }));
        }
        let end = self
            .timeout
            .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let mut without_clip = Vec::new();
        for (place, (job, clip)) in clips().enumerate() {
            output.note(format_args!(
                "{} of {many}: {}",
                place + 1,
                clip.name.display()
            ));
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let delivered = async {
                follow::follow(client, &job.id, left, output).await?;
                save(client, &job.id, &self.path(clip), output).await
            };
            match delivered.await {
                Ok(_) => {}
                Err(why) if is_of_one(&why) => without_clip.push(CommandError::OfBatch {
                    name: named(job, clip),
                    why: Box::new(why),
                }),
                Err(why) => {
                    return Err(CommandError::BatchLeft {
                        why: Box::new(why),
                        left: clips()
                            .skip(place)
                            .map(|(job, clip)| named(job, clip))
                            .collect(),
                        without_clip,
                    });
                }
            }
        }
        match without_clip[..] {
            [] => Ok(()),
            _ => Err(CommandError::BatchFailed { without_clip, many }),
        }
    }
}

fn named(job: &Video, clip: &Wanted<'_>) -> String {
    format!("{}  {}", job.id, clip.name.display())
}

/// Whether it says nothing of the other jobs.
fn is_of_one(why: &CommandError) -> bool {
    match why {
        CommandError::NotSaved { why, .. } => is_of_one(why),
        CommandError::JobFailed { .. }
        | CommandError::JobCancelled { .. }
        | CommandError::Client(ClientError::Damaged { .. }) => true,
        _ => why.exit() == Exit::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pictures: &[&str], seeds: &[u64]) -> Result<Vec<String>, String> {
        let pictures: Vec<PathBuf> = pictures.iter().map(PathBuf::from).collect();
        let name = |clip: &Wanted<'_>| clip.name.display().to_string();
        let wanted = wanted(&pictures, seeds).and_then(|wanted| {
            different_names(&wanted)?;
            Ok(wanted.iter().map(name).collect())
        });
        wanted.map_err(|error: CommandError| error.to_string())
    }

    #[test]
    fn every_picture_comes_once_with_every_seed() {
        assert_eq!(
            names(&["in/a.png", "in/b.jpg"], &[]).unwrap(),
            ["a.mp4", "b.mp4"]
        );
        assert_eq!(
            names(&["a.png", "b.png"], &[1, 7]).unwrap(),
            ["a-1.mp4", "a-7.mp4", "b-1.mp4", "b-7.mp4"]
        );
    }

    #[test]
    fn two_clips_of_one_name_are_refused() {
        let refused = names(&["cats/1.png", "dogs/1.png"], &[]).unwrap_err();
        for word in ["cats/1.png", "dogs/1.png", "1.mp4"] {
            assert!(refused.contains(word), "{refused}");
        }
        for (pictures, seeds) in [(&["1.png"][..], &[3, 3][..]), (&["a.png", "a.png"], &[])] {
            let refused = names(pictures, seeds).unwrap_err();
            assert!(refused.contains("twice"), "{refused}");
        }
    }

    #[test]
    fn more_than_one_request_holds_is_refused_before_anything_is_uploaded() {
        let seeds: Vec<u64> = (0..BATCH_VIDEOS_MAX as u64).collect();
        assert!(names(&["a.png"], &seeds).is_ok());
        let refused = names(&["a.png", "b.png"], &seeds).unwrap_err();
        assert!(
            refused.contains(&(2 * BATCH_VIDEOS_MAX).to_string()),
            "{refused}"
        );
    }
}
