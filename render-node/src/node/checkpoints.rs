//! Sends the checkpoints of one job, the newest whenever there is a way. A stopped job waits for its last one; what does not get
//! there within [`CHECKPOINT_PATIENCE_MS`] is lost, which costs steps and no job.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowai_actors::checkpoint::{
    CheckpointFile, CheckpointPlace, CheckpointPlaced, PlaceCheckpoint,
};
use flowai_actors::ids::Epoch;
use flowai_actors::kit::Backoff;
use flowai_actors::limits::CHECKPOINT_PATIENCE_MS;
use flowai_actors::link::{AskError, PeerId};
use flowai_actors::messages::AttemptRef;
use flowai_actors::wire::{self, QuestionError};
use tokio::sync::watch;
use tokio::time::Instant;

use super::way::Way;
use crate::engine::Control;
use crate::job::LocalCheckpoint;

/// The leader only signs.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_millis(CHECKPOINT_PATIENCE_MS);
/// Between tries.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Why a checkpoint does not lie in the store.
enum NotPlaced {
    /// The next try may succeed.
    Again(String),
    Never(String),
}

/// [`PATIENCE`] after the last one has come: the node is taken until then, also by an upload that is under way.
async fn out_of_patience(mut newest: watch::Receiver<Option<Arc<LocalCheckpoint>>>) {
    while newest.changed().await.is_ok() {}
    tokio::time::sleep(PATIENCE).await;
}

impl Way {
    /// Until no more can come, or the job is dropped. Gives the newest that lies in the store.
    pub(super) async fn send_checkpoints(
        self,
        newest: watch::Receiver<Option<Arc<LocalCheckpoint>>>,
        control: &Control,
    ) -> Option<CheckpointFile> {
        let mut placed = None;
        tokio::select! {
            biased;
            () = control.dropped() => {}
            () = out_of_patience(newest.clone()) => {
                tracing::warn!(attempt = ?self.at, "last checkpoint did not get there in time");
            }
            () = self.send_each_checkpoint(newest, &mut placed) => {}
        }
        placed
    }

    async fn send_each_checkpoint(
        &self,
        mut newest: watch::Receiver<Option<Arc<LocalCheckpoint>>>,
        placed: &mut Option<CheckpointFile>,
    ) {
        while newest.changed().await.is_ok() {
            let Some(checkpoint) = newest.borrow_and_update().clone() else {
                continue;
            };
            let step = checkpoint.file.step;
            match self.insist(&checkpoint, &newest).await {
                Ok(()) => *placed = Some(checkpoint.file.clone()),
                Err(reason) => {
                    tracing::warn!(attempt = ?self.at, step, reason, "checkpoint is not kept");
                }
            }
        }
    }

    /// Until it lies there, patience ends, or a newer one has come.
    async fn insist(
        &self,
        checkpoint: &LocalCheckpoint,
        newest: &watch::Receiver<Option<Arc<LocalCheckpoint>>>,
    ) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let reason = match self
                .send_checkpoint(&checkpoint.file, &checkpoint.path)
                .await
            {
                Ok(()) => return Ok(()),
                Err(NotPlaced::Never(reason)) => return Err(reason),
                Err(NotPlaced::Again(reason)) => reason,
            };
            // Also when it is the last one, and its sender has gone.
            let is_superseded = newest.borrow().has_changed();
            if is_superseded || until <= Instant::now() {
                return Err(reason);
            }
            let wait = backoff.next_wait(&mut rand::rng());
            tokio::time::sleep(wait).await;
        }
    }

    async fn send_checkpoint(&self, file: &CheckpointFile, path: &Path) -> Result<(), NotPlaced> {
        let leader = self.leader.borrow().clone();
        let (leader, epoch) =
            leader.ok_or_else(|| NotPlaced::Again("no leader is known".to_owned()))?;
        // A term that has adopted the attempt meanwhile knows it by its own.
        let at = AttemptRef { epoch, ..self.at };
        let question = PlaceCheckpoint {
            at,
            node: self.node.clone(),
            generation: self.generation,
            file: file.clone(),
        };
        let place = wire::ask(self.link.as_ref(), &leader, epoch, &question, ASK_DEADLINE).await;
        let (url, headers) = match place {
            Ok(CheckpointPlace::Target { url, headers }) => (url, headers),
            Ok(CheckpointPlace::Refused) => {
                let reason = "leader wants none of this attempt";
                return Err(NotPlaced::Never(reason.to_owned()));
            }
            Err(error @ QuestionError::Link(AskError::Unsupported { .. })) => {
                return Err(NotPlaced::Never(error.to_string()));
            }
            Err(error) => return Err(NotPlaced::Again(error.to_string())),
        };
        let put = self.uploader.put_checkpoint(&url, &headers, path).await;
        put.map_err(|error| NotPlaced::Again(error.to_string()))?;
        self.tell(&leader, epoch, at, file);
        Ok(())
    }

    /// When it is lost, the next one or the attempt's end makes up for it.
    fn tell(&self, leader: &PeerId, epoch: Epoch, at: AttemptRef, file: &CheckpointFile) {
        let placed = CheckpointPlaced {
            at,
            file: file.clone(),
        };
        match wire::seal(epoch, &placed) {
            Ok(envelope) => drop(self.link.send(leader, envelope)),
            Err(error) => tracing::warn!(%error, "message was not sent"),
        }
    }
}
