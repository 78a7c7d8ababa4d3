//! What a coordinator asks of the store, again and again until it is answered.

use std::collections::BTreeMap;

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Epoch;
use flowai_actors::limits::LEADER_WATCH_MS;
use flowai_actors::link::{PeerId, Role as PeerRole};
use flowai_coordinator::core::{Event, NotDispatched, RETRY_FIRST, RETRY_MOST, Renewal, State};
use rand::Rng as _;

use super::leading::API_NODES_MAX;
use super::nodes::assignment;
use super::{Giving, Heard, Leader};
use crate::check::node::LeaderAnswer;
use crate::check::statements::{Statement, StoreAnswer, StoreCall};
use crate::check::world::World;

impl World {
    pub(super) fn ask_store(&mut self, index: usize, term: Option<Epoch>, ask: Statement) {
        let process = self.coordinators[index].process;
        self.send_statement(StoreCall {
            index,
            process,
            term,
            tries: 0,
            ask,
            is_heard: true,
        });
    }

    pub(super) fn failed(&mut self, index: usize, mut call: StoreCall) {
        match call.ask {
            Statement::Look { token } | Statement::TakeOver { token, .. } => {
                if self.is_watching(index, token) {
                    self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
                }
            }
            Statement::Renew { token } => self.renewed(index, token, Renewal::Unanswered),
            Statement::GiveUp { .. } => {}
            _ if self.coordinators[index].epoch() != call.term => {}
            // The term fails, and its coordinator stands again for the lead.
            Statement::Recover => self.end_term(index),
            Statement::Sources { held, .. } => {
                let reason = "the database did not answer".to_owned();
                self.dispatched(index, held, Err(NotDispatched::NotRead(reason)));
            }
            _ => {
                let wait_ms = self.backoff(call.tries);
                call.tries += 1;
                self.for_coordinator(index, wait_ms, Heard::Again(call));
            }
        }
    }

    pub(super) fn backoff(&mut self, tries: u32) -> u64 {
        let most = RETRY_MOST.as_millis() as u64;
        let ceiling = (RETRY_FIRST.as_millis() as u64) << tries.min(16);
        self.rng.random_range(0..=ceiling.min(most))
    }

    pub(super) fn answered(&mut self, index: usize, call: StoreCall, answer: StoreAnswer) {
        match answer {
            StoreAnswer::Looked { token, holder } => self.looked(index, token, holder),
            StoreAnswer::TookOver {
                token,
                asked_at,
                won,
            } => self.took_over(index, token, asked_at, won),
            StoreAnswer::Renewed { token, is_newest } => {
                let renewal = if is_newest {
                    Renewal::Renewed
                } else {
                    Renewal::Refused
                };
                self.renewed(index, token, renewal);
            }
            StoreAnswer::Nothing => {}
            _ if call.term.is_none() || self.coordinators[index].epoch() != call.term => {}
            StoreAnswer::Recovered(rows) => {
                let (Some(epoch), start) = (call.term, self.shows(index)) else {
                    return;
                };
                let mut state = State::new(epoch);
                state.recover(Monotonic::default(), rows);
                let running = state.scheduler().unfinished();
                let running = running
                    .filter_map(|(job, attempt, node)| Some((job, (attempt, node?.clone()))));
                let running = running.collect();
                let leader = Leader {
                    state,
                    start,
                    replies: BTreeMap::new(),
                    giving: BTreeMap::new(),
                    admitted: BTreeMap::new(),
                    running,
                };
                if let Some(term) = self.coordinators[index].term() {
                    term.leader = Some(leader);
                }
                if self.plan.nodes <= API_NODES_MAX {
                    let api = PeerId::new(PeerRole::Api, "a");
                    let api = api.unwrap_or_else(|invalid| unreachable!("{invalid}"));
                    self.lead(index, Event::ApiUp(api));
                }
                self.for_coordinator(index, 0, Heard::Tick { epoch });
            }
            StoreAnswer::Happened(event) => self.lead(index, *event),
            StoreAnswer::LookedBack { reply, answer } => {
                self.reply(index, reply, Some(LeaderAnswer::Ended(answer)));
            }
            StoreAnswer::Sources {
                held,
                models,
                spec,
                resume,
            } => match spec {
                Some(spec) => self.give(
                    index,
                    Giving {
                        assign: Box::new(assignment(&held, &models, spec, resume)),
                        held,
                        tries: 0,
                    },
                ),
                None => {
                    let reason = "the job is gone".to_owned();
                    self.dispatched(index, held, Err(NotDispatched::Impossible(reason)));
                }
            },
        }
    }
}
