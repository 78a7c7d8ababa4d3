//! The runs that the state knows, and what is brought ahead for the next: tasks whose ends come back as messages.

use std::sync::Arc;

use fail::fail_point;
use flowai_actors::messages::{Assign, AttemptRef, Prefetch, Target};
use flowai_node_machine::{Event, RunId};
use tokio::sync::watch;

use super::{Running, post};
use crate::engine::Control;
use crate::failure::JobFailure;
use crate::job::{LocalCheckpoint, NotRendered, Outlets, Ready};
use crate::node::messages::Message;
use crate::node::tasks::NodeTask;
use crate::node::way::Way;
use crate::pulse::Pulse;

pub(super) struct Run {
    pub(super) assign: Arc<Assign>,
    pub(super) control: Control,
    /// What was begun for it ahead, and goes on as long as it is here.
    pub(super) ahead: Option<Control>,
    /// Once rendered.
    pub(super) ready: Option<Arc<Ready>>,
}

impl Running {
    pub(super) fn start(&mut self, id: RunId, assign: Assign) {
        tracing::info!(attempt = ?assign.at, model = %assign.spec.model, "job is taken");
        fail_point!("after_job_taken");
        let run = Run {
            assign: Arc::new(assign),
            control: Control::default(),
            ahead: None,
            ready: None,
        };
        let (assign, control) = (run.assign.clone(), run.control.clone());
        self.runs.insert(id, run);
        let (previews, newest) = watch::channel(None);
        let way = self.way(assign.at);
        self.tasks.spawn(NodeTask::Previews, |_| async move {
            way.send_previews(newest).await;
            Ok(())
        });
        let outlets = Outlets {
            previews,
            checkpoints: self.keep(id, assign.at, control.clone()),
        };
        let (workshop, mailbox) = (self.workshop.clone(), self.mailbox.clone());
        let maker = self.setup.maker.clone();
        self.tasks.spawn(NodeTask::Render, |_| async move {
            let reports_to = mailbox.clone();
            let report = move |standing| {
                let moved = Event::Moved { run: id, standing };
                // The next one says more.
                reports_to.try_send(Message::Happened(moved)).ok();
            };
            let result = Box::new(
                workshop
                    .render(&assign, &maker, &control, outlets, report)
                    .await,
            );
            post(&mailbox, Message::Rendered { run: id, result }).await
        });
    }

    /// Where the run's checkpoints go.
    fn keep(
        &self,
        run: RunId,
        at: AttemptRef,
        control: Control,
    ) -> watch::Sender<Option<Arc<LocalCheckpoint>>> {
        let (checkpoints, newest) = watch::channel(None);
        let way = self.way(at);
        let mailbox = self.mailbox.clone();
        self.tasks.spawn(NodeTask::Checkpoints, |_| async move {
            let checkpoint = way.send_checkpoints(newest, &control).await;
            let left = Event::Left { run, checkpoint };
            post(&mailbox, Message::Happened(left)).await
        });
        checkpoints
    }

    pub(super) fn upload(&self, id: RunId, targets: Vec<Target>) {
        let Some((control, ready)) = self
            .runs
            .get(&id)
            .and_then(|run| Some((run.control.clone(), run.ready.clone()?)))
        else {
            return;
        };
        let (workshop, mailbox) = (self.workshop.clone(), self.mailbox.clone());
        self.tasks.spawn(NodeTask::Upload, |_| async move {
            let beats_to = mailbox.clone();
            let pulse = Pulse::new(move || {
                let uploading = Event::StillUploading { run: id };
                beats_to.try_send(Message::Happened(uploading)).ok();
            });
            let result = workshop.upload(&ready, &targets, &control, &pulse).await;
            let result = result.map(|elapsed| elapsed.as_secs_f64() * 1e3);
            post(
                &mailbox,
                Message::Happened(Event::Uploaded { run: id, result }),
            )
            .await
        });
    }

    pub(super) fn prefetch(&mut self, next: Prefetch) {
        let control = Control::default();
        let before = self.prefetching.replace((next.job, control.clone()));
        // What the present job waits for is not begun anew: it may have come a long way, by a URL that has expired since.
        if let Some((job, before)) = before {
            let mut runs = self.runs.values_mut();
            match runs.find(|run| run.assign.at.job == job) {
                Some(run) => run.ahead = Some(before),
                None => before.stop(),
            }
        }
        let workshop = self.workshop.clone();
        self.tasks.spawn(NodeTask::Prefetch, |_| async move {
            match workshop.prefetch(&next, &control).await {
                Ok(()) => tracing::info!(job = %next.job, "adapters of the next job are at hand"),
                Err(NotRendered::Stopped) => {}
                Err(NotRendered::Failed(failure)) => {
                    let JobFailure { code, detail, .. } = failure;
                    tracing::info!(job = %next.job, %code, detail, "adapters of the next job are not at hand");
                }
            }
            Ok(())
        });
    }

    pub(super) fn control(&self, run: RunId, what: &str, change: impl Fn(&Control)) {
        if let Some(run) = self.runs.get(&run) {
            tracing::info!(attempt = ?run.assign.at, "{what}");
            change(&run.control);
        }
    }

    /// Of what an attempt sends beside its words.
    fn way(&self, at: AttemptRef) -> Way {
        Way {
            at,
            node: self.setup.maker.node.clone(),
            generation: self.setup.maker.generation,
            leader: self.leader.subscribe(),
            link: self.link.clone(),
            uploader: self.workshop.uploader.clone(),
        }
    }
}
