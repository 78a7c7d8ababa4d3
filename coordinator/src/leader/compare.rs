//! Memory against the rows, every minute and when an operator asks: what the leader believes must be what it would read were
//! it to begin anew.
//!
//! Rows are read a page at a time while work goes on, so that a difference may only be a change that is on its way. Whatever
//! differs is therefore read again by itself, when nothing of it is on its way (`State::learn`): only what differs then is a
//! drift, which is counted, logged, and mended by believing the row.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use flowai_actors::clock::Monotonic;
use flowai_actors::ids::{Attempt, JobId, NodeId};
use flowai_actors::limits::{COMPARE_MS, RECOVERY_PAGE_JOBS};
use flowai_store::recovery::UnfinishedRow;

use super::event::{Answer, Effect, ReplyId};
use super::state::State;

/// What a comparison found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Unfinished jobs in the rows.
    pub(super) jobs: u64,
    /// Those that had to be read again.
    pub(super) suspected: u64,
}

/// The comparison that goes on, if one does.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// `None` before the first tick: what a term begins with was read just now.
    next_at: Option<Monotonic>,
    going_on: Option<GoingOn>,
    /// Who asked for the next one.
    asked: Vec<ReplyId>,
}

#[derive(Debug, Default)]
struct GoingOn {
    seen: HashSet<JobId>,
    /// Jobs that changed since it began: their rows may be older or newer than what is believed.
    changed: BTreeSet<JobId>,
    findings: Findings,
    replies: Vec<ReplyId>,
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

    /// Begins one when it is time.
    pub(super) fn begin_comparison(&mut self, now: Monotonic, effects: &mut Vec<Effect>) {
        let comparison = &mut self.comparison;
        let next_at = *comparison.next_at.get_or_insert(now.plus_ms(COMPARE_MS));
        let is_due = next_at <= now || !comparison.asked.is_empty();
        if comparison.going_on.is_some() || !is_due {
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
    pub(super) fn compared(&mut self, rows: Vec<UnfinishedRow>, effects: &mut Vec<Effect>) {
        let Some(going_on) = &mut self.comparison.going_on else {
            return;
        };
        let believed: BTreeMap<JobId, Belief<'_>> = rows
            .iter()
            .filter_map(|row| Some((row.job, self.scheduler.believed(row.job)?)))
            .collect();
        let mut suspects = BTreeSet::new();
        for row in &rows {
            let belief = believed.get(&row.job);
            let is_so = belief.is_some_and(|belief| *belief == (row.attempt, row.node.as_ref()));
            if !is_so && !going_on.changed.contains(&row.job) {
                suspects.insert(row.job);
            }
            going_on.seen.insert(row.job);
        }
        going_on.findings.jobs += rows.len() as u64;
        going_on.findings.suspected += suspects.len() as u64;
        self.to_read.extend(suspects);
        match rows.last() {
            Some(last) if rows.len() == RECOVERY_PAGE_JOBS as usize => {
                let after = Some(last.job);
                effects.push(Effect::Compare { after });
            }
            _ => self.end_comparison(effects),
        }
    }

    /// What is believed and has no row.
    fn end_comparison(&mut self, effects: &mut Vec<Effect>) {
        let Some(mut going_on) = self.comparison.going_on.take() else {
            return;
        };
        let is_ghost =
            |job: &JobId| !going_on.seen.contains(job) && !going_on.changed.contains(job);
        let believed = self.scheduler.unfinished().map(|(job, ..)| job);
        let ghosts: BTreeSet<JobId> = believed.filter(is_ghost).collect();
        going_on.findings.suspected += ghosts.len() as u64;
        self.to_read.extend(ghosts);
        let Findings { jobs, suspected } = going_on.findings;
        tracing::debug!(jobs, suspected, "memory was compared with the rows");
        let answers = going_on.replies.into_iter();
        effects.extend(
            answers.map(|reply| Effect::Answer(reply, Answer::Compared(going_on.findings))),
        );
    }
}

/// The newest attempt, and the node that works on it.
type Belief<'a> = (Attempt, Option<&'a NodeId>);
