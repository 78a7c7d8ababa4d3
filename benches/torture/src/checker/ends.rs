//! Every job ends, by its own words and by those of its attempts, and as it should.

use std::collections::BTreeMap;

use super::{Check, Facts, Tally};
use crate::clients::{Call, Phase, Record};

/// Of what is good, at least this share becomes a clip: under fire a job may stand on two nodes that die, and is quarantined.
const GOOD_SHARE_MIN: f64 = 0.9;

pub(super) fn every_job_ends(facts: &Facts, tally: &mut Tally) -> Check {
    let mut check = Check::new("every_job_ends");
    for job in facts.jobs.values() {
        let is_end = matches!(
            job.state.as_str(),
            "done" | "failed" | "cancelled" | "quarantined"
        );
        check.look(is_end && job.finished_us.is_some(), || format!("{job:?}"));
    }
    for attempt in &facts.attempts {
        let outcome = attempt.outcome.clone().unwrap_or("open".to_owned());
        *tally.attempts.entry(outcome).or_default() += 1;
        check.look(attempt.ended_us.is_some(), || format!("{attempt:?}"));
    }
    check
}

/// By the tally of ends. A farm that fails everything loses nothing, and is no farm.
pub(super) fn good_input_becomes_clips(tally: &Tally) -> Check {
    let mut check = Check::new("good_input_becomes_clips");
    let good = ["good", "retried"].map(|class| tally.ends.get(class));
    let good = || good.into_iter().flatten().flatten();
    let all: usize = good().map(|(_, count)| count).sum();
    let done = good().filter(|(end, _)| *end == "done");
    let done: usize = done.map(|(_, count)| count).sum();
    if all > 0 {
        check.look(done as f64 >= GOOD_SHARE_MIN * all as f64, || {
            format!("{done} of {all} good ones are done: {:?}", tally.ends)
        });
    }
    check
}

/// Nothing begins of a job whose cancel was accepted. How what runs then ends is for whoever is first.
pub(super) fn cancelled_begins_no_more(history: &[Record], facts: &Facts) -> Check {
    let mut check = Check::new("cancelled_begins_no_more");
    let accepted = history
        .iter()
        .filter(|record| record.call == Call::Cancel && record.phase == Phase::Ok);
    let mut at_us: BTreeMap<&str, i64> = BTreeMap::new();
    for record in accepted {
        if let Some(job) = record.job.as_deref() {
            let first = at_us.entry(job).or_insert(record.at.0);
            *first = record.at.0.min(*first);
        }
    }
    for attempt in &facts.attempts {
        if let Some(accepted_us) = at_us.get(attempt.job.as_str()) {
            check.look(attempt.started_us <= *accepted_us, || {
                format!("cancelled at {accepted_us}: {attempt:?}")
            });
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::{Attempt, Verdict};
    use super::*;
    use crate::clients::Class;
    use crate::clock::At;

    #[test]
    fn a_farm_that_fails_what_is_good_is_found() {
        for (done, failed, verdict) in [
            (10, 0, Verdict::Holds),
            (9, 1, Verdict::Holds),
            (8, 2, Verdict::Broken),
            (0, 1, Verdict::Broken),
        ] {
            let ends = [("done", done), ("failed: engine_failed", failed)];
            let ends = ends.map(|(end, count)| (end.to_owned(), count)).into();
            let tally = Tally {
                ends: [("good".to_owned(), ends)].into(),
                ..Tally::default()
            };
            assert_eq!(good_input_becomes_clips(&tally).verdict, verdict);
        }
    }

    #[test]
    fn a_cancel_that_was_forgotten_is_found() {
        let cancel = |phase| Record {
            seed: None,
            at: At(1_000),
            client: 0,
            wish: 1,
            class: Class::Cancelled,
            call: Call::Cancel,
            phase,
            key: "wish-1".to_owned(),
            job: Some("a".to_owned()),
            status: None,
            code: None,
        };
        for (started_us, verdict) in [(999, Verdict::Holds), (1_001, Verdict::Broken)] {
            let attempt = Attempt {
                job: "a".to_owned(),
                attempt: 1,
                epoch: 1,
                node: "n1".to_owned(),
                started_us,
                ended_us: None,
                outcome: None,
            };
            let facts = Facts {
                attempts: vec![attempt],
                ..Facts::default()
            };
            let found = cancelled_begins_no_more(&[cancel(Phase::Ok)], &facts);
            assert_eq!((found.verdict, found.checked), (verdict, 1));
            let unheard = cancelled_begins_no_more(&[cancel(Phase::Info)], &facts);
            assert_eq!(unheard.checked, 0);
        }
    }
}
