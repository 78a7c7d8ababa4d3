//! What the node asks its leader and tells it. Answers come back as events.

use std::sync::Once;
use std::time::Duration;

use fail::fail_point;
use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Sha256;
use flowai_actors::link::{AskError, Envelope, PeerId, ReplyPort};
use flowai_actors::messages::{
    AdapterTiers, AttemptRef, Beat, Body, Ended, KeptAdapters, Register, UploadTargets,
};
use flowai_actors::wire::{self, Question, QuestionError};
use flowai_node_machine::{Event, RunId};

use super::{Running, post};
use crate::engine::{cache_usage, kept};
use crate::node::Setup;
use crate::node::messages::Message;
use crate::node::tasks::NodeTask;

/// The leader answers most questions after a commit, in milliseconds.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A beat that took longer says little about the lease.
const BEAT_DEADLINE: Duration = Duration::from_secs(4);
/// What a beat says of the cache: 64 characters each.
const HELD_ADAPTERS_MAX: usize = 256;
/// What it says of each memory likewise: as many as there is room for by default, at rank 16.
const TIER_ADAPTERS_MAX: usize = 64;

impl Running {
    pub(super) fn register(&self, sent_at: Monotonic, to: PeerId, running: Option<AttemptRef>) {
        let Setup {
            maker,
            version,
            device,
        } = &self.setup;
        let models = &self.workshop.models;
        let question = Register {
            node: maker.node.clone(),
            generation: maker.generation,
            version: version.clone(),
            device_class: maker.device_class.clone(),
            device: device.name.clone(),
            memory_bytes: device.memory_bytes,
            models: models.offered().map(|model| model.offer.clone()).collect(),
            refused_models: models.refused().to_vec(),
            running,
        };
        let from = to.clone();
        self.ask(to, question, ASK_DEADLINE, move |answer| {
            Event::Registered {
                from,
                sent_at,
                reported: running,
                answer,
            }
        });
    }

    pub(super) fn beat(
        &self,
        sent_at: Monotonic,
        to: PeerId,
        seq: u64,
        running: Option<AttemptRef>,
        is_closing: bool,
    ) {
        let mut held_adapters: Vec<Sha256> = self.workshop.adapters.newest();
        held_adapters.truncate(HELD_ADAPTERS_MAX);
        let question = Beat {
            node: self.setup.maker.node.clone(),
            generation: self.setup.maker.generation,
            seq,
            running,
            is_closing,
            held_adapters,
            adapters: self.tiers(),
        };
        let from = to.clone();
        self.ask(to, question, BEAT_DEADLINE, move |answer| {
            Event::BeatAnswered {
                from,
                sent_at,
                reported: running,
                answer,
            }
        });
    }

    fn tiers(&self) -> AdapterTiers {
        let holdings = self.workshop.engine.holdings();
        let host = self.workshop.host_adapters.as_ref();
        let host = host.map(|host| kept(host.adapters(), host.usage()));
        let shortened = |mut tier: KeptAdapters| {
            tier.adapters.truncate(TIER_ADAPTERS_MAX);
            tier
        };
        AdapterTiers {
            fused: holdings.fused,
            device: holdings.device.map(shortened),
            host: host.map(shortened).unwrap_or_default(),
            disk: cache_usage(self.workshop.adapters.usage()),
        }
    }

    pub(super) fn ask_targets(&self, to: PeerId, run: RunId, question: UploadTargets) {
        self.ask(to, question, ASK_DEADLINE, move |answer| {
            Event::TargetsAnswered { run, answer }
        });
    }

    pub(super) fn tell(&self, to: PeerId, run: RunId, ended: Ended) {
        fail_point!("before_end_told");
        self.ask(to, ended, ASK_DEADLINE, move |answer| {
            Event::EndedAnswered { run, answer }
        });
    }

    /// Asks the leader in a task of its own; the answer, or that there is none, comes back as an event.
    fn ask<Q>(
        &self,
        to: PeerId,
        question: Q,
        deadline: Duration,
        answered: impl FnOnce(Option<Q::Answer>) -> Event + Send + 'static,
    ) where
        Q: Question + Send + Sync + 'static,
        Q::Answer: Send,
    {
        let (link, epoch, mailbox) = (self.link.clone(), self.state.epoch(), self.mailbox.clone());
        self.tasks.spawn(NodeTask::Ask, |_| async move {
            let answer = wire::ask(link.as_ref(), &to, epoch, &question, deadline).await;
            match &answer {
                Ok(_) => {}
                // It is asked again, and will be as large.
                Err(error @ QuestionError::Link(AskError::TooLarge(_))) => {
                    static SAID: Once = Once::new();
                    SAID.call_once(|| {
                        tracing::error!(kind = Q::KIND, %error, "leader cannot be asked");
                    });
                }
                Err(error) => {
                    tracing::debug!(kind = Q::KIND, leader = %to, %error, "leader did not answer");
                }
            }
            post(&mailbox, Message::Happened(answered(answer.ok()))).await
        });
    }

    pub(super) fn send<B: Body>(&self, to: &PeerId, body: &B) {
        match wire::seal(self.state.epoch(), body) {
            // A full or broken link sheds it: the next one says more.
            Ok(envelope) => drop(self.link.send(to, envelope)),
            Err(error) => tracing::warn!(%error, "message was not sent"),
        }
    }

    pub(super) fn answer<B: Body>(&self, reply: Option<ReplyPort>, body: &B) {
        let Some(reply) = reply else { return };
        let sent = wire::seal(self.state.epoch(), body)
            .map_err(|error| error.to_string())
            .and_then(|envelope: Envelope| reply.send(envelope).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::warn!(error, "answer was not sent");
        }
    }
}
