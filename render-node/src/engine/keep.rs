//! Writes checkpoints of a run beside it, in the job's folder.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flowai_actors::ids::Sha256;
use flowai_model::Sha256Digest;
use uuid::Uuid;

use super::{EngineError, EngineEvent, EngineRun, Order};
use crate::failure::{FailureCode, JobFailure};

/// A checkpoint in the order's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenCheckpoint {
    pub path: PathBuf,
    pub sha256: Sha256,
    pub bytes: u64,
    /// Steps that are done.
    pub step: u32,
}

/// Knows when the next checkpoint is due. One that cannot be written fails no job.
pub(super) struct Keeper {
    every: Duration,
    last: Instant,
    /// Steps that need not be kept again: they are in a checkpoint.
    kept: u32,
}

impl Keeper {
    /// Of a run that begins with `done` steps behind it.
    pub(super) fn new(every: Duration, done: u32) -> Self {
        Self {
            every,
            last: Instant::now(),
            kept: done,
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.every <= self.last.elapsed()
    }

    /// Writes what is new, and says so.
    ///
    /// # Errors
    /// The engine is lost.
    pub(super) fn keep(
        &mut self,
        order: &Order,
        run: &dyn EngineRun,
        done: u32,
    ) -> Result<(), EngineError> {
        if done <= self.kept {
            return Ok(());
        }
        self.last = Instant::now();
        match write(order, run, done) {
            Ok(None) => {}
            Ok(Some(written)) => {
                self.kept = done;
                // Whoever does not listen has dropped the job, which hears of it at its next boundary.
                order.say(EngineEvent::Kept(written)).ok();
            }
            Err(error @ EngineError::Lost(_)) => return Err(error),
            Err(error) => tracing::warn!(%error, step = done, "no checkpoint was written"),
        }
        Ok(())
    }
}

fn write(
    order: &Order,
    run: &dyn EngineRun,
    step: u32,
) -> Result<Option<WrittenCheckpoint>, EngineError> {
    let Some(bytes) = run.checkpoint()? else {
        return Ok(None);
    };
    // A run that is begun once more comes to the same step, while the file of the first may be on its way or about to be deleted.
    let name = format!("step-{step}-{}.checkpoint", Uuid::new_v4());
    let path = order.out_dir.join(name);
    let written = File::create(&path).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|error| {
        // A full disk has no room for half of one.
        fs::remove_file(&path).ok();
        JobFailure::new(FailureCode::DiskFailed, error)
    })?;
    Ok(Some(WrittenCheckpoint {
        path,
        sha256: Sha256::from_bytes(*Sha256Digest::of(&bytes).as_bytes()),
        bytes: bytes.len() as u64,
        step,
    }))
}
