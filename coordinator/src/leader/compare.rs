//! Memory against the rows, every minute and when an operator asks: what the leader believes must be what it would read were
//! it to begin anew.
//!
//! Rows are read a page at a time while work goes on, so that a difference may only be a change that is on its way. Whatever
//! differs is therefore read again by itself, when nothing of it is on its way (`State::learn`): only what differs then is a
//! drift, which is counted, logged, and mended by believing the row. Whoever asked is told after that.

use std::collections::{BTreeSet, HashSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, JobId, NodeId};
use flowai_actors::limits::{
    COMPARE_MS, COMPARE_NAMED_MAX, COMPARE_STEP_JOBS, COMPARE_VERIFY_MS, RECOVERY_PAGE_JOBS,
};
use flowai_actors::messages::{Compared, Difference};
use flowai_actors::state::JobState;
use flowai_store::recovery::{JobRow, UnfinishedRow};

use super::event::{Answer, Effect, ReplyId};
use super::state::State;
use super::work::NEWCOMER_AGE;
use crate::metrics;
use crate::scheduler::Cursor;

/// The comparison that goes on, if one does.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// `None` before the first tick: what a term begins with was read just now.
    next_at: Option<Monotonic>,
    going_on: Option<GoingOn>,
    /// Who asked for the next one.
    asked: Vec<ReplyId>,
    verifying: Option<Verifying>,
}

/// What is left of a comparison when all pages were read.
#[derive(Debug)]
struct Verifying {
    compared: Compared,
    /// Suspects that were not read again yet.
    left: BTreeSet<JobId>,
    replies: Vec<ReplyId>,
    until: Monotonic,
}

#[derive(Debug, Default)]
struct GoingOn {
    seen: HashSet<JobId>,
    /// Jobs that changed since it began: their rows may be older or newer than what is believed.
    changed: BTreeSet<JobId>,
    compared: Compared,
    suspects: BTreeSet<JobId>,
    replies: Vec<ReplyId>,
    /// All rows were read: what is believed and has none is looked for from here on.
    ghosts_from: Option<Cursor>,
}

impl Comparison {
    /// A job changed.
    pub(super) fn touch(&mut self, job: JobId) {
        if let Some(going_on) = &mut self.going_on {
            going_on.changed.insert(job);
        }
    }
}

impl State {
    pub(super) fn compare_asked(&mut self, reply: ReplyId) {
        self.comparison.asked.push(reply);
    }

    /// Begins one when it is time, or goes on with it.
    pub(super) fn go_on_comparing(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        self.look_for_ghosts(now);
        let comparison = &mut self.comparison;
        let next_at = *comparison.next_at.get_or_insert(now.plus_ms(COMPARE_MS));
        let is_due = next_at <= now || !comparison.asked.is_empty();
        let is_busy = comparison.going_on.is_some() || comparison.verifying.is_some();
        if is_busy || !is_due {
            return;
        }
        comparison.next_at = Some(now.plus_ms(COMPARE_MS));
        comparison.going_on = Some(GoingOn {
            replies: std::mem::take(&mut comparison.asked),
            ..GoingOn::default()
        });
        effects.push(Effect::Compare { after: None });
    }

    /// A page of unfinished rows in the order of ids; a short one is the last.
    pub(super) fn compared(
        &mut self,
        now: Monotonic,
        rows: Vec<UnfinishedRow>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(going_on) = &mut self.comparison.going_on else {
            return;
        };
        for row in &rows {
            let believed = self.scheduler.believed(row.job);
            let is_so = believed == Some((row.attempt, row.node.as_ref()));
            if !is_so && !going_on.changed.contains(&row.job) {
                going_on.suspects.insert(row.job);
            }
            going_on.seen.insert(row.job);
        }
        going_on.compared.jobs += rows.len() as u64;
        match rows.last() {
            Some(last) if rows.len() == RECOVERY_PAGE_JOBS as usize => {
                let after = Some(last.job);
                effects.push(Effect::Compare { after });
            }
            _ => {
                going_on.ghosts_from = Some(self.scheduler.first_unfinished());
                self.look_for_ghosts(now);
            }
        }
    }

    /// What is believed and has no row: a part of it at a time.
    fn look_for_ghosts(&mut self, now: Monotonic) {
        let Some(going_on) = &mut self.comparison.going_on else {
            return;
        };
        let Some(from) = going_on.ghosts_from.take() else {
            return;
        };
        let (believed, next) = self.scheduler.unfinished_part(from, COMPARE_STEP_JOBS);
        let is_ghost =
            |job: &JobId| !going_on.seen.contains(job) && !going_on.changed.contains(job);
        let ghosts: Vec<JobId> = believed.filter(is_ghost).collect();
        going_on.ghosts_from = next;
        going_on.suspects.extend(ghosts);
        if next.is_none() {
            self.end_comparison(now);
        }
    }

    /// From here on suspects are read again.
    fn end_comparison(&mut self, now: Monotonic) {
        let Some(going_on) = self.comparison.going_on.take() else {
            return;
        };
        let mut compared = going_on.compared;
        compared.suspected = going_on.suspects.len() as u64;
        self.to_read.extend(&going_on.suspects);
        self.comparison.verifying = Some(Verifying {
            compared,
            left: going_on.suspects,
            replies: going_on.replies,
            until: now.plus_ms(COMPARE_VERIFY_MS),
        });
    }

    /// A suspect was read again: `row` is what it says, `None` when it is gone. Before it is believed.
    pub(super) fn check_suspect(&mut self, job: JobId, row: Option<&JobRow>) {
        let Some(verifying) = &mut self.comparison.verifying else {
            return;
        };
        if !verifying.left.remove(&job) {
            return;
        }
        let believed = self.scheduler.believed(job);
        let state = row.map(|row| row.state);
        let row = row.filter(|row| !row.state.is_end());
        let is_same = match (believed, row) {
            (None, None) => true,
            // Its doorbell may have been lost: it is for the sweep to find. Or another version wrote it, which no new term could
            // read either.
            (None, Some(row)) => row.waited < NEWCOMER_AGE || row.spec.is_none(),
            // Its owner ended it while it waited: that doorbell may have been lost as well.
            (Some((_, None)), None) => state == Some(JobState::Cancelled),
            (Some(_), None) => false,
            (Some(believed), Some(row)) => {
                believed == (row.attempt, row.held.as_ref().map(|held| &held.node))
            }
        };
        if is_same {
            return;
        }
        let difference = Difference {
            job,
            memory: believed.map_or("not known".to_owned(), |(attempt, node)| {
                words(attempt, node)
            }),
            row: row.map_or("ended, or gone".to_owned(), |row| {
                words(row.attempt, row.held.as_ref().map(|held| &held.node))
            }),
        };
        // Where both know the job, whoever believes the row says so (`State::disbelieve_drift`).
        if believed.is_none() || row.is_none() {
            tracing::error!(%job, memory = difference.memory, row = difference.row, "comparison: memory differs from the row; the row counts");
            metrics::record_drift();
        }
        verifying.compared.differing += 1;
        if verifying.compared.differences.len() < COMPARE_NAMED_MAX {
            verifying.compared.differences.push(difference);
        }
    }

    /// Tells who asked, once all suspects were read again, or their time is over.
    pub(super) fn end_verification(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let is_over =
            |verifying: &mut Verifying| verifying.left.is_empty() || verifying.until <= now;
        let Some(verified) = self.comparison.verifying.take_if(is_over) else {
            return;
        };
        let Compared {
            jobs,
            suspected,
            differing,
            ..
        } = verified.compared;
        tracing::debug!(
            jobs,
            suspected,
            differing,
            "memory was compared with the rows"
        );
        effects.extend(verified.replies.into_iter().map(|reply| {
            Effect::Answer(reply, Answer::Compared(Box::new(verified.compared.clone())))
        }));
    }
}

fn words(attempt: Attempt, node: Option<&NodeId>) -> String {
    match node {
        Some(node) => format!("attempt {attempt} runs on {node}"),
        None => format!("waits after {attempt} attempts"),
    }
}
