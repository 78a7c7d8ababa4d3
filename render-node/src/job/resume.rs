//! From where a job begins: anew, or at the step to which an earlier attempt got. What does not fit, or cannot be had, is a
//! beginning anew that the manifest tells of, never a failure.

use std::path::PathBuf;
use std::sync::Arc;

use flowai_actors::checkpoint::{CheckpointFile, Resume};
use flowai_actors::limits::CHECKPOINT_TEXT_CHARS_MAX;
use flowai_actors::manifest::Resumed;
use flowai_actors::messages::Assign;

use super::Workshop;
use super::folder::JobFolder;
use crate::cache::Held;
use crate::engine::WrittenCheckpoint;
use crate::manifest::Maker;
use crate::pulse::Pulse;

/// A checkpoint on this machine's disk. Its file goes when it is dropped.
#[derive(Debug)]
pub struct LocalCheckpoint {
    pub file: CheckpointFile,
    pub path: PathBuf,
    _folder: Arc<JobFolder>,
}

impl Drop for LocalCheckpoint {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "checkpoint was not deleted");
        }
    }
}

/// How the run of a job began.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    resumed: Vec<Resumed>,
}

impl Beginning {
    /// The engine went on from the checkpoint, or began anew for this reason.
    pub(super) fn begun(assign: &Assign, anew: Option<String>) -> Self {
        let Some(Resume { file, attempt, .. }) = &assign.resume else {
            return Self::default();
        };
        let attempt = *attempt;
        let resumed = match anew {
            // What was before is no part of this clip.
            Some(reason) => vec![Resumed {
                attempt,
                step: 0,
                anew: Some(printable(&reason)),
            }],
            None => {
                let last = Resumed {
                    attempt,
                    step: file.step,
                    anew: None,
                };
                file.resumed.iter().cloned().chain([last]).collect()
            }
        };
        Self { resumed }
    }

    pub(super) fn into_resumed(self) -> Vec<Resumed> {
        self.resumed
    }

    /// What the engine wrote, as the farm knows it.
    pub(super) fn checkpoint(
        &self,
        assign: &Assign,
        maker: &Maker,
        written: WrittenCheckpoint,
        folder: &Arc<JobFolder>,
    ) -> LocalCheckpoint {
        let WrittenCheckpoint {
            path,
            sha256,
            bytes,
            step,
        } = written;
        LocalCheckpoint {
            file: CheckpointFile {
                sha256,
                bytes,
                step,
                steps: assign.spec.steps,
                device_class: maker.device_class.clone(),
                engine: maker.checkpoint_engine(),
                resumed: self.resumed.clone(),
            },
            path,
            _folder: folder.clone(),
        }
    }
}

impl Workshop {
    /// The checkpoint that the job goes on from, or why there is none to be used.
    pub(super) async fn fetch_checkpoint(
        &self,
        resume: &Resume,
        maker: &Maker,
        pulse: &Pulse,
    ) -> Result<Held, String> {
        fits(&resume.file, maker)?;
        let held = self.checkpoints.hold(&resume.source, pulse).await;
        held.map_err(|error| format!("could not be fetched: {error}"))
    }
}

/// Whether this node's bits are those of the node that made it.
fn fits(file: &CheckpointFile, maker: &Maker) -> Result<(), String> {
    let same = |what: &str, made: &str, here: &str| match made == here {
        true => Ok(()),
        false => Err(format!(
            "was made by another {what}: {made} there, {here} here"
        )),
    };
    same("device class", &file.device_class, &maker.device_class)?;
    same("engine", &file.engine, &maker.checkpoint_engine())
}

fn printable(reason: &str) -> String {
    let shown = reason.chars().filter(|c| !c.is_control());
    shown.take(CHECKPOINT_TEXT_CHARS_MAX).collect()
}
