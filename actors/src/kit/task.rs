//! Background tasks: each has a name and says beforehand what a shutdown and a failure mean for it.

use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a shutdown does to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCancel {
    /// Drop it at its next await: nothing it does needs an end.
    Abort,
    /// Tell it through its token and wait, within the shutdown's grace: it has something to finish.
    Finish,
}

/// What a task's failure (an `Err` or a panic) does to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Log it: the program is whole without the task.
    Log,
    /// End the program: it would be alive and useless without the task.
    EndProcess,
}

/// The background tasks of a room: an enum, one variant a task, with its policy as data.
pub trait TaskKind: Copy + Debug + Send + 'static {
    /// What a shutdown does to it.
    fn on_cancel(self) -> OnCancel;
    /// What its failure does to the program.
    fn on_failure(self) -> OnFailure;
}

/// How a task ends.
pub type TaskResult = Result<(), Box<dyn Error + Send + Sync>>;

/// A task that had to run has failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("background task {task} failed: {reason}")]
pub struct TaskError {
    /// The variant's name.
    pub task: String,
    /// The error or the panic's message.
    pub reason: String,
}

/// The background tasks of one program or part of it. Cheap to clone; all clones are the same set.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancelled by a shutdown.
    cancel: CancellationToken,
    /// Cancelled when the grace of a shutdown has passed.
    abort: CancellationToken,
    /// The first failure with `OnFailure::EndProcess`.
    failure: Arc<watch::Sender<Option<TaskError>>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            abort: CancellationToken::new(),
            failure: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Starts the task that `run` makes from its cancel token. A task started after the shutdown began ends at once.
    pub fn spawn<F>(&self, kind: impl TaskKind, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = TaskResult> + Send + 'static,
    {
        let (cancel, abort, failure) = (
            self.cancel.clone(),
            self.abort.clone(),
            self.failure.clone(),
        );
        let work = AssertUnwindSafe(run(cancel.child_token())).catch_unwind();
        self.tracker.spawn(async move {
            let ended = tokio::select! {
                biased;
                () = abort.cancelled() => {
                    tracing::warn!(task = ?kind, "background task did not finish within the grace; it was dropped");
                    return;
                }
                () = cancel.cancelled(), if kind.on_cancel() == OnCancel::Abort => return,
                ended = work => ended,
            };
            let reason = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic_message(panic.as_ref()),
            };
            match kind.on_failure() {
                OnFailure::Log => tracing::warn!(task = ?kind, reason, "background task failed"),
                OnFailure::EndProcess => {
                    tracing::error!(task = ?kind, reason, "background task failed; the program cannot go on");
                    let error = TaskError { task: format!("{kind:?}"), reason };
                    failure.send_if_modified(|first| {
                        let is_first = first.is_none();
                        first.get_or_insert(error);
                        is_first
                    });
                }
            }
        });
    }

    /// Resolves with the first failure of a task that the program cannot be without. Main waits for it.
    pub async fn failed(&self) -> TaskError {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // `self` holds the sender, so the channel cannot close while this waits.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Cancels all tasks, waits at most `grace` for those that finish, drops the rest.
    pub async fn shutdown(&self, grace: Duration) {
        self.cancel.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_err()
        {
            self.abort.cancel();
            self.tracker.wait().await;
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "panicked: {}",
        message.unwrap_or("with a value that is not text")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LONG: Duration = Duration::from_secs(10);

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Sweep,
        Flush,
        Heart,
    }

    impl TaskKind for Kind {
        fn on_cancel(self) -> OnCancel {
            match self {
                Kind::Flush => OnCancel::Finish,
                Kind::Sweep | Kind::Heart => OnCancel::Abort,
            }
        }

        fn on_failure(self) -> OnFailure {
            match self {
                Kind::Heart => OnFailure::EndProcess,
                Kind::Sweep | Kind::Flush => OnFailure::Log,
            }
        }
    }

    #[tokio::test]
    async fn shutdown_drops_what_may_be_dropped_and_waits_for_the_rest() {
        let tasks = Tasks::new();
        let flushed = Arc::new(AtomicBool::new(false));
        let done = flushed.clone();
        tasks.spawn(Kind::Sweep, |_| std::future::pending());
        tasks.spawn(Kind::Flush, |cancel| async move {
            cancel.cancelled().await;
            tokio::task::yield_now().await;
            done.store(true, Ordering::Relaxed);
            Ok(())
        });
        tokio::time::timeout(LONG, tasks.shutdown(LONG))
            .await
            .unwrap();
        assert!(flushed.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_task_that_ignores_its_token_is_dropped_after_the_grace() {
        let tasks = Tasks::new();
        tasks.spawn(Kind::Flush, |_| std::future::pending());
        tokio::time::timeout(LONG, tasks.shutdown(Duration::from_millis(10)))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn only_a_vital_task_ends_the_program() {
        let tasks = Tasks::new();
        tasks.spawn(Kind::Sweep, |_| async { Err("disk is full".into()) });
        tasks.spawn(Kind::Heart, |_| async { panic!("no pulse") });
        let failure = tokio::time::timeout(LONG, tasks.failed()).await.unwrap();
        assert_eq!(
            (failure.task.as_str(), failure.reason.as_str()),
            ("Heart", "panicked: no pulse")
        );
    }
}
