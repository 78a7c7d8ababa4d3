//! How a node reaches whoever leads, and what they say to each other.

use flowai_actors::ids::{Generation, NodeId};
use flowai_actors::limits::{LINK_TLS_MS, REDIAL_MOST_MS};
use flowai_actors::messages::{
    Assign, AssignAnswer, AttemptRef, ModelFamily, ModelOffer, Progress, Register,
};
use flowai_actors::spec::SpecLimits;
use flowai_node_machine::{Effect, Event};
use rand::Rng as _;

use super::{DEVICE_CLASS, Heard, LeaderAnswer, NodeQuestion, Pending};
use crate::check::coordinator::{Heard as CoordinatorHeard, peer};
use crate::check::plan::COORDINATORS;
use crate::check::world::{Occurrence, World};

/// As the node's actor has them.
const ASK_DEADLINE_MS: u64 = 5_000;
const BEAT_DEADLINE_MS: u64 = 4_000;

impl World {
    pub(super) fn dial(&mut self, process: usize, token: u64) {
        let own = &mut self.processes[process];
        if own.link.is_some() || token < own.dialling {
            return;
        }
        let next = own.token();
        own.dialling = next;
        let slot = own.slot;
        let index = self.rng.random_range(0..COORDINATORS);
        self.for_node(process, LINK_TLS_MS, Heard::Dial { token: next });
        if self.cuts.up.get(&slot).is_some_and(|cut| *cut > 0) {
            return;
        }
        let coordinator = &self.coordinators[index];
        if !coordinator.is_alive {
            return self.for_node(process, 10, Heard::Refused { is_stale: false });
        }
        let (to, delay) = (coordinator.process, self.delay());
        let heard = CoordinatorHeard::Dialled { from: process };
        self.after(
            delay,
            Occurrence::Coordinator {
                index,
                process: to,
                heard,
            },
        );
    }

    pub(super) fn link_up(&mut self, process: usize, coordinator: usize) {
        let slot = self.processes[process].slot;
        let has_another = self.processes[process]
            .link
            .is_some_and(|link| link != coordinator);
        let links = &mut self.coordinators[coordinator].links;
        // It dialled another one meanwhile, and closes this connection.
        if has_another {
            links.retain(|_, linked| *linked != process);
            return;
        }
        // Cut again before both ends had it.
        if links.get(&slot) != Some(&process) {
            let token = self.processes[process].dialling;
            return self.for_node(process, 100, Heard::Dial { token });
        }
        self.processes[process].link = Some(coordinator);
        self.node(process, Event::LinkUp(peer(coordinator)));
    }

    pub(super) fn link_down(&mut self, process: usize, coordinator: usize) {
        let own = &mut self.processes[process];
        own.link.take_if(|link| *link == coordinator);
        let token = own.dialling;
        self.node(process, Event::LinkDown(peer(coordinator)));
        let wait_ms = self.rng.random_range(0..REDIAL_MOST_MS);
        self.for_node(process, wait_ms, Heard::Dial { token });
    }

    /// A message to a coordinator: it may come late, twice or never.
    pub(super) fn tell(
        &mut self,
        process: usize,
        index: usize,
        words: impl Fn() -> CoordinatorHeard,
    ) {
        let slot = self.processes[process].slot;
        let is_cut = self.cuts.up.get(&slot).is_some_and(|cut| *cut > 0);
        if is_cut || !self.coordinators[index].is_alive {
            return;
        }
        let to = self.coordinators[index].process;
        for delay_ms in self.ways() {
            let heard = words();
            self.after(
                delay_ms,
                Occurrence::Coordinator {
                    index,
                    process: to,
                    heard,
                },
            );
        }
    }

    pub(super) fn ask(
        &mut self,
        process: usize,
        to: usize,
        pending: Pending,
        question: NodeQuestion,
    ) {
        let own = &mut self.processes[process];
        let ask = own.token();
        let deadline_ms = match pending {
            Pending::Beat { .. } => BEAT_DEADLINE_MS,
            Pending::Register { .. } | Pending::Ended { .. } | Pending::Targets { .. } => {
                ASK_DEADLINE_MS
            }
        };
        own.asks.insert(ask, pending);
        self.checks.sent(&question);
        self.for_node(process, deadline_ms, Heard::Answered { ask, answer: None });
        self.tell(process, to, || CoordinatorHeard::Asked {
            from: process,
            ask,
            question: question.clone(),
        });
    }

    pub(super) fn leader_answered(
        &mut self,
        process: usize,
        ask: u64,
        answer: Option<LeaderAnswer>,
    ) {
        let own = &mut self.processes[process];
        let Some(pending) = own.asks.remove(&ask) else {
            return;
        };
        let event = match (pending, answer) {
            (
                Pending::Register {
                    from,
                    sent_at,
                    reported,
                },
                answer,
            ) => Event::Registered {
                from: peer(from),
                sent_at,
                reported,
                answer: match answer {
                    Some(LeaderAnswer::Registered(answer)) => Some(answer),
                    _ => None,
                },
            },
            (
                Pending::Beat {
                    from,
                    sent_at,
                    reported,
                },
                answer,
            ) => Event::BeatAnswered {
                from: peer(from),
                sent_at,
                reported,
                answer: match answer {
                    Some(LeaderAnswer::Beat(answer)) => Some(answer),
                    _ => None,
                },
            },
            (Pending::Ended { run }, answer) => Event::EndedAnswered {
                run,
                answer: match answer {
                    Some(LeaderAnswer::Ended(answer)) => Some(answer),
                    _ => None,
                },
            },
            (Pending::Targets { run }, answer) => Event::TargetsAnswered {
                run,
                answer: match answer {
                    Some(LeaderAnswer::Targets(answer)) => Some(answer),
                    _ => None,
                },
            },
        };
        self.node(process, event);
    }

    pub(super) fn assigned(&mut self, process: usize, from: usize, ask: u64, assign: Box<Assign>) {
        for effect in self.step_node(process, Event::Assigned(assign)) {
            match effect {
                Effect::AnswerAssign(answer) => self.answer_assign(process, from, ask, answer),
                effect => self.node_does(process, effect),
            }
        }
        self.set_timer(process);
    }

    fn answer_assign(&mut self, process: usize, to: usize, ask: u64, answer: AssignAnswer) {
        self.tell(process, to, || CoordinatorHeard::Given {
            ask,
            answer: Some(answer.clone()),
        });
    }

    pub(super) fn ask_leader(
        &mut self,
        process: usize,
        link: Option<usize>,
        pending: impl FnOnce(usize) -> Pending,
        question: NodeQuestion,
    ) {
        // Without a link the asker hears at once that there is no answer.
        let Some(to) = link else {
            let own = &mut self.processes[process];
            let ask = own.token();
            own.asks.insert(ask, pending(0));
            return self.for_node(process, 1, Heard::Answered { ask, answer: None });
        };
        self.ask(process, to, pending(to), question);
    }

    pub(super) fn registration(
        &self,
        node: NodeId,
        generation: Generation,
        running: Option<AttemptRef>,
    ) -> Box<Register> {
        let (id, sha256) = self.model.clone();
        Box::new(Register {
            node,
            generation,
            version: "0".to_owned(),
            device_class: DEVICE_CLASS.to_owned(),
            device: "sim".to_owned(),
            memory_bytes: 80 << 30,
            models: vec![ModelOffer {
                id,
                sha256,
                family: ModelFamily::Svd,
                unet_config: serde_json::Value::Null,
                text_encoder_config: None,
                limits: SpecLimits {
                    side_multiple: 8,
                    frames_max: 25,
                },
            }],
            refused_models: Vec::new(),
            running,
        })
    }
}

pub(super) fn told(from: usize, progress: &Progress) -> CoordinatorHeard {
    CoordinatorHeard::Told {
        from,
        progress: progress.clone(),
    }
}
