//! What passes between the leader and its nodes.

use flowai_actors::checkpoint::Resume;
use flowai_actors::ids::{Attempt, Sha256};
use flowai_actors::messages::{Assign, AssignAnswer, FirstFrameSource, Holding, Source};
use flowai_actors::spec::RenderSpec;
use flowai_coordinator::core::{
    ASSIGN_DEADLINE, BUSY_TRIES, Event, JobModels, NotDispatched, ReplyId,
};

use super::{Giving, Heard};
use crate::check::node::{Heard as NodeHeard, NodeQuestion};
use crate::check::store::CheckpointRow;
use crate::check::world::{Occurrence, World};

impl World {
    /// A message to a node's process: it may come late, twice or never.
    pub(in crate::check) fn say(
        &mut self,
        index: usize,
        process: usize,
        words: impl Fn() -> NodeHeard,
    ) {
        let slot = self.processes[process].slot;
        if !self.coordinators[index].is_alive
            || self.cuts.down.get(&slot).is_some_and(|cut| *cut > 0)
        {
            return;
        }
        for delay_ms in self.ways() {
            let heard = words();
            self.after(delay_ms, Occurrence::Node { process, heard });
        }
    }

    pub(super) fn asked(&mut self, index: usize, from: usize, ask: u64, question: NodeQuestion) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        self.turn_replies += 1;
        let reply = ReplyId(self.turn_replies);
        leader.replies.insert(reply, (from, ask));
        let event = match question {
            NodeQuestion::Register(register) => Event::Registering { reply, register },
            NodeQuestion::Beat(beat) => Event::Beat { reply, beat },
            NodeQuestion::Ended(ended) => Event::Ended { reply, ended },
            NodeQuestion::Targets(question) => Event::TargetsAsked { reply, question },
        };
        self.lead(index, event);
    }

    pub(super) fn dialled(&mut self, index: usize, from: usize) {
        let (slot, generation) = (self.processes[from].slot, self.processes[from].generation);
        let coordinator = &mut self.coordinators[index];
        if !coordinator.is_leading() {
            return self.say(index, from, || NodeHeard::Refused { is_stale: false });
        }
        let newest = coordinator.generations.entry(slot).or_insert(generation);
        if *newest > generation {
            return self.say(index, from, || NodeHeard::Refused { is_stale: true });
        }
        *newest = generation;
        if let Some(before) = coordinator
            .links
            .insert(slot, from)
            .filter(|before| *before != from)
        {
            self.say(index, before, || NodeHeard::LinkDown { coordinator: index });
        }
        let delay = self.delay();
        let heard = NodeHeard::LinkUp { coordinator: index };
        self.after(
            delay,
            Occurrence::Node {
                process: from,
                heard,
            },
        );
    }

    pub(super) fn give(&mut self, index: usize, giving: Giving) {
        let slot = self.slot_of(&giving.held.node);
        let process = slot.and_then(|slot| self.coordinators[index].links.get(&slot).copied());
        let Some(process) = process else {
            let reason = "no link to it".to_owned();
            return self.dispatched(index, giving.held, Err(NotDispatched::NotTaken(reason)));
        };
        let ask = self.coordinators[index].token();
        let assign = giving.assign.clone();
        self.checks.sent(&assign);
        if let Some(leader) = self.coordinators[index].leader() {
            leader.giving.insert(ask, giving);
        }
        self.say(index, process, || NodeHeard::Assigned {
            from: index,
            ask,
            assign: assign.clone(),
        });
        let deadline_ms = ASSIGN_DEADLINE.as_millis() as u64;
        self.for_coordinator(index, deadline_ms, Heard::Given { ask, answer: None });
    }

    pub(super) fn given(&mut self, index: usize, ask: u64, answer: Option<AssignAnswer>) {
        let Some(leader) = self.coordinators[index].leader() else {
            return;
        };
        let Some(mut giving) = leader.giving.remove(&ask) else {
            return;
        };
        let not_taken = |reason: String| Err(NotDispatched::NotTaken(reason));
        let result = match answer {
            Some(AssignAnswer::Accepted) => Ok(()),
            Some(AssignAnswer::Refused { reason }) => not_taken(reason),
            None => not_taken("it did not answer".to_owned()),
            Some(AssignAnswer::Busy { .. }) if giving.tries + 1 >= BUSY_TRIES => {
                not_taken("it stays busy".to_owned())
            }
            Some(AssignAnswer::Busy { .. }) => {
                let Some(epoch) = self.coordinators[index].epoch() else {
                    return;
                };
                let wait_ms = self.backoff(giving.tries);
                giving.tries += 1;
                return self.for_coordinator(index, wait_ms, Heard::GiveAgain { epoch, giving });
            }
        };
        self.dispatched(index, giving.held, result);
    }

    pub(super) fn dispatched(
        &mut self,
        index: usize,
        held: Holding,
        result: Result<(), NotDispatched>,
    ) {
        self.lead(index, Event::Dispatched { held, result });
    }
}

pub(super) fn assignment(
    held: &Holding,
    models: &JobModels,
    spec: RenderSpec,
    resume: Option<CheckpointRow>,
) -> Assign {
    let source = Source {
        sha256: Sha256::from_bytes([1; 32]),
        bytes: 1,
        url: String::new(),
    };
    let resume = resume.map(|kept| Resume {
        file: kept.file,
        attempt: Attempt::new(kept.attempt),
        source: source.clone(),
    });
    Assign {
        at: held.at,
        spec,
        model_sha256: models.clip.sha256,
        first_frame: FirstFrameSource::Image(source),
        adapters: Vec::new(),
        resume,
    }
}
