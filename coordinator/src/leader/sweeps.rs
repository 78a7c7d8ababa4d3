//! What no doorbell announced is found in the rows: the newest by a quick look, whatever else by a thorough one, a page at a time. And what
//! is kept for a while is forgotten.

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::JobId;
use flowai_actors::limits::{FORGET_MS, RECOVERY_PAGE_JOBS, SWEEP_MS, THOROUGH_SWEEP_MS};

use super::event::Effect;
use super::state::State;
use crate::scheduler::Event as Heard;

#[derive(Debug, Default)]
pub(super) struct Sweeps {
    next_quick: Monotonic,
    is_quick_on: bool,
    /// `None` before the first tick: what a term begins with was read just now.
    next_thorough: Option<Monotonic>,
    is_thorough_on: bool,
    next_forgetting: Monotonic,
}

impl State {
    /// Begins what is due.
    pub(super) fn sweep(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let is_busy = self.is_reading || self.outbox.is_committing();
        let sweeps = &mut self.sweeps;
        // What a job waits for at this moment comes first, once: the look would take a core from it.
        let is_due = sweeps.next_quick <= now;
        let is_late = sweeps.next_quick.plus_ms(SWEEP_MS) <= now;
        if !sweeps.is_quick_on && is_due && (!is_busy || is_late) {
            sweeps.is_quick_on = true;
            sweeps.next_quick = now.plus_ms(SWEEP_MS);
            effects.push(Effect::Sweep {
                running: self.held.keys().copied().collect(),
            });
        }
        let next_thorough = sweeps
            .next_thorough
            .get_or_insert(now.plus_ms(THOROUGH_SWEEP_MS));
        if !sweeps.is_thorough_on && *next_thorough <= now {
            sweeps.is_thorough_on = true;
            effects.push(Effect::SweepAll { after: None });
        }
        if sweeps.next_forgetting <= now {
            sweeps.next_forgetting = now.plus_ms(FORGET_MS);
            effects.push(Effect::Forget);
        }
    }

    pub(super) fn swept(
        &mut self,
        now: Monotonic,
        newcomers: Vec<JobId>,
        cancelled: Vec<JobId>,
        effects: &mut Vec<Effect>,
    ) {
        self.sweeps.is_quick_on = false;
        self.read_strangers(newcomers);
        for job in cancelled {
            self.step(now, Heard::CancelAsked(job), effects);
        }
    }

    /// A page of all unfinished jobs in the order of ids; a short one is the last.
    pub(super) fn swept_all(
        &mut self,
        now: Monotonic,
        page: Vec<JobId>,
        effects: &mut Vec<Effect>,
    ) {
        let last = page.last().copied();
        if page.len() == RECOVERY_PAGE_JOBS as usize {
            effects.push(Effect::SweepAll { after: last });
        } else {
            self.sweeps.is_thorough_on = false;
            self.sweeps.next_thorough = Some(now.plus_ms(THOROUGH_SWEEP_MS));
        }
        self.read_strangers(page);
    }

    fn read_strangers(&mut self, unfinished: Vec<JobId>) {
        let scheduler = &self.scheduler;
        let strangers = unfinished.into_iter().filter(|job| !scheduler.knows(*job));
        self.to_read.extend(strangers);
    }
}
