//! From a submitted job to its clip in a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowai_actors::manifest::Manifest;
use serde_json::json;

use super::{CommandError, follow};
use crate::client::{Client, Video};
use crate::output::Output;

/// What becomes of a job once it is submitted.
#[derive(Debug, clap::Args)]
pub(super) struct Delivery {
    /// Where the clip goes [default: the name of the picture with .mp4, or clip.mp4 or final.mp4, in this folder]
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

impl Delivery {
    /// Where the clip goes when nobody says it: `name`.
    ///
    /// # Errors
    /// A path that no clip can be written to: said now and not after the render.
    pub(super) fn out(&self, name: PathBuf) -> Result<PathBuf, CommandError> {
        let out = self.out.clone().unwrap_or(name);
        if !self.detach {
            writable(&out, self.force)?;
        }
        Ok(out)
    }

    /// Follows the job to its end and saves its clip, unless it is left alone.
    pub(super) async fn of(
        self,
        job: Video,
        out: &Path,
        client: &Client,
        output: Output,
    ) -> Result<(), CommandError> {
        if self.detach {
            output.object(&job);
            output.line(&job.id);
            return Ok(());
        }
        output.note(format_args!("submitted {}", job.id));
        let timeout = self.timeout.map(Duration::from_secs);
        let job = follow::follow(client, &job.id, timeout, output).await?;
        save(client, &job.id, out, output).await?;
        if let Some(keyframe) = &job.keyframe {
            output.note(format_args!(
                "its first frame is stored; animate it again with `flowai render {keyframe}`"
            ));
        }
        if job.draft {
            let id = &job.id;
            output.note(format_args!(
                "this is a draft; `flowai final {id}` makes the full video"
            ));
        }
        Ok(())
    }
}

/// # Errors
/// A path that names no file, or one in no folder; without `force` a clip that is there already.
pub(super) fn writable(path: &Path, force: bool) -> Result<(), CommandError> {
    let refused = |why| {
        let path = path.display();
        Err(CommandError::Usage(format!("{path} {why}")))
    };
    let folder = path.parent().filter(|above| !above.as_os_str().is_empty());
    if path.is_dir() || path.file_name().is_none() {
        return refused("is a folder; say with --out how the clip in it is called");
    }
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return refused("is in a folder that is not there; make it first, or give another --out");
    }
    match force {
        true => Ok(()),
        false => not_there(path),
    }
}

/// # Errors
/// A clip that is there already.
pub(super) fn not_there(path: &Path) -> Result<(), CommandError> {
    match path.exists() {
        false => Ok(()),
        true => Err(CommandError::Usage(format!(
            "{} is there already; give --out or --force",
            path.display()
        ))),
    }
}

/// What the clip of a picture is called when nobody says it: as the picture, and its seed where that tells clips apart.
pub(super) fn clip_name(picture: &Path, seed: Option<u64>) -> Result<PathBuf, CommandError> {
    let stem = picture
        .file_stem()
        .ok_or_else(|| CommandError::Usage(format!("{} names no file", picture.display())))?;
    let mut name = OsString::from(stem);
    if let Some(seed) = seed {
        name.push(format!("-{seed}"));
    }
    name.push(".mp4");
    Ok(name.into())
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
        manifest = client.download(id, path) => manifest.map_err(CommandError::from),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(CommandError::io("waiting for Ctrl-C"))?;
            Err(CommandError::Interrupted)
        }
    };
    let manifest = manifest.map_err(|why| CommandError::NotSaved {
        id: id.to_owned(),
        why: Box::new(why),
    })?;
    drop(spinner);
    output.object(&json!({
        "event": "saved",
        "video": id,
        "path": path,
        "sha256": manifest.clip_sha256,
        "bytes": manifest.clip_bytes,
    }));
    output.line(path.display());
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_clip_can_be_written_is_refused_before_the_render() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("old.mp4"), "").unwrap();
        for (name, force, refusal) in [
            ("new.mp4", false, None),
            ("old.mp4", true, None),
            ("old.mp4", false, Some("is there already")),
            ("", true, Some("is a folder")),
            ("..", true, Some("is a folder")),
            ("none/new.mp4", true, Some("is not there")),
        ] {
            let refused = writable(&at(name), force).err();
            let refused = refused.map(|error| error.to_string());
            assert_eq!(refused.is_some(), refusal.is_some(), "{name}: {refused:?}");
            let (said, expected) = (refused.unwrap_or_default(), refusal.unwrap_or_default());
            assert!(said.contains(expected), "{said}");
        }
        assert!(writable(Path::new("clip.mp4"), true).is_ok());
    }

    #[test]
    fn a_clip_is_named_after_its_picture() {
        let check = |picture: &str, seed: Option<u64>, name: &str| {
            let made = clip_name(Path::new(picture), seed).unwrap();
            assert_eq!(made, Path::new(name));
        };
        check("photos/cat.png", None, "cat.mp4");
        check("cat", None, "cat.mp4");
        check("cat.2.png", None, "cat.2.mp4");
        check("cat.png", Some(7), "cat-7.mp4");
        assert!(clip_name(Path::new(".."), None).is_err());
    }
}
