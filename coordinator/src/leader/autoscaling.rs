//! What the leader shows its autoscaler, and what that wants of it.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::NodeId;
use flowai_actors::kit::{BoundedRef, Tasks};
use tokio::sync::watch;

use super::actor::post;
use super::event::Event;
use super::messages::Message;
use super::state::State;
use super::tasks::LeaderTask;
use crate::autoscaler::{Autoscale, DryRun, Group, How, Look, run};
use crate::scheduler::Drain;

/// The way to an autoscaler that runs for this term.
pub(super) struct Looks {
    groups: Vec<Group>,
    shown: watch::Sender<Look>,
}

impl Looks {
    pub(super) fn start(
        autoscale: Autoscale,
        tasks: &Tasks,
        mailbox: &BoundedRef<Message>,
    ) -> Self {
        let Autoscale { policy, how } = autoscale;
        let groups = policy.groups.clone();
        let (shown, looks) = watch::channel(Look::default());
        let mailbox = mailbox.clone();
        let drain = move |node: NodeId, how: Drain| {
            let mailbox = mailbox.clone();
            async move { post(&mailbox, Event::DrainWanted { node, how }).await }
        };
        match how {
            How::DryRun => {
                tasks.spawn(LeaderTask::Autoscale, |_| run(policy, DryRun, looks, drain))
            }
            How::Command(command) => tasks.spawn(LeaderTask::Autoscale, |_| {
                run(policy, command, looks, drain)
            }),
        }
        Self { groups, shown }
    }

    pub(super) fn show(&self, at: Monotonic, state: &State) {
        let pools = self.groups.iter().map(|group| {
            let mut pool = state.scheduler.pool(|class| group.matches(class));
            for node in &mut pool.nodes {
                node.is_operators = state.is_operators(&node.node);
            }
            pool
        });
        let pools = pools.collect();
        self.shown.send_replace(Look { at, pools });
    }
}
