//! Standing by, taking over, renewing and ending a term.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::Epoch;
use flowai_actors::limits::LEADER_WATCH_MS;
use flowai_coordinator::core::{ANSWER_MS, Renewal, Tenure};

use super::{Heard, Part, Term};
use crate::check::statements::Statement;
use crate::check::world::World;

impl World {
    pub(super) fn watch(&mut self, index: usize, token: u64) {
        let Part::Standby { watching } = self.coordinators[index].part else {
            return;
        };
        if token < watching {
            return;
        }
        let next = self.coordinators[index].token();
        self.coordinators[index].part = Part::Standby { watching: next };
        self.ask_store(index, None, Statement::Look { token: next });
        let again = Heard::Watch { token: next };
        self.for_coordinator(index, ANSWER_MS + LEADER_WATCH_MS, again);
    }

    /// Whether this look is still waited for.
    pub(super) fn is_watching(&self, index: usize, token: u64) -> bool {
        matches!(self.coordinators[index].part, Part::Standby { watching } if watching == token)
    }

    pub(super) fn looked(&mut self, index: usize, token: u64, holder: Option<usize>) {
        if !self.is_watching(index, token) {
            return;
        }
        if holder.is_some() {
            self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
        } else {
            let asked_at = self.shows(index);
            self.ask_store(index, None, Statement::TakeOver { token, asked_at });
        }
    }

    pub(super) fn took_over(
        &mut self,
        index: usize,
        token: u64,
        asked_at: Monotonic,
        won: Option<Epoch>,
    ) {
        if !self.is_watching(index, token) {
            return;
        }
        let Some(epoch) = won else {
            return self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
        };
        self.coordinators[index].part = Part::Leading(Box::new(Term {
            epoch,
            tenure: Tenure::asked(asked_at),
            renewing: None,
            leader: None,
        }));
        self.for_coordinator(index, 0, Heard::Renew { epoch });
        self.ask_store(index, Some(epoch), Statement::Recover);
    }

    pub(super) fn renew(&mut self, index: usize, epoch: Epoch) {
        let now = self.shows(index);
        let token = self.coordinators[index].token();
        let Some(term) = self.coordinators[index]
            .term()
            .filter(|term| term.epoch == epoch)
        else {
            return;
        };
        match term.tenure.ask(now) {
            Err(_) => self.end_term(index),
            Ok(deadline) => {
                term.renewing = Some((token, now));
                self.when_it_shows(index, deadline, Heard::RenewDeadline { token });
                self.ask_store(index, Some(epoch), Statement::Renew { token });
            }
        }
    }

    pub(super) fn renewed(&mut self, index: usize, token: u64, renewal: Renewal) {
        let now = self.shows(index);
        let Some(term) = self.coordinators[index].term() else {
            return;
        };
        let Some((_, asked_at)) = term.renewing.take_if(|(waiting, _)| *waiting == token) else {
            return;
        };
        let epoch = term.epoch;
        match term.tenure.answered(asked_at, now, renewal) {
            Ok(next) => self.when_it_shows(index, next, Heard::Renew { epoch }),
            Err(_) => self.end_term(index),
        }
    }

    pub(super) fn end_term(&mut self, index: usize) {
        let Some(epoch) = self.coordinators[index].epoch() else {
            return;
        };
        let token = self.coordinators[index].token();
        self.coordinators[index].part = Part::Standby { watching: token };
        self.cut_links(index);
        self.ask_store(index, None, Statement::GiveUp { epoch });
        self.for_coordinator(index, LEADER_WATCH_MS, Heard::Watch { token });
    }
}
