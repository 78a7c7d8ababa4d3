//! Every job ends, by its own words and by those of its attempts, and as it should.

use std::collections::BTreeMap;

use super::{Check, Facts, Tally};
use crate::clients::{Call, Class, Phase, Record};

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
    for class in ["good", "retried"] {
        let Some(ends) = tally.ends.get(class) else {
            continue;
        };
        let all: usize = ends.values().sum();
        let done = ends.get("done").copied().unwrap_or(0);
        check.look(done as f64 >= GOOD_SHARE_MIN * all as f64, || {
            format!("{done} of {all} {class} ones are done: {ends:?}")
        });
    }
    check
}

/// Whose cancel was accepted gets no other end than that one, or the clip that was there first.
pub(super) fn cancelled_is_cancelled(history: &[Record], facts: &Facts) -> Check {
    let mut check = Check::new("cancelled_is_cancelled");
    let accepted = history
        .iter()
        .filter(|record| record.call == Call::Cancel && record.phase == Phase::Ok);
    let by_job: BTreeMap<&str, Class> = accepted
        .filter_map(|record| Some((record.job.as_deref()?, record.class)))
        .collect();
    for (id, class) in by_job {
        let Some(job) = facts.jobs.get(id) else {
            continue;
        };
        let is_so = match job.state.as_str() {
            "cancelled" | "done" => true,
            "quarantined" => class == Class::Poison,
            _ => false,
        };
        check.look(is_so, || format!("was cancelled: {job:?}"));
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::facts::Job;
    use super::*;
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
        for (state, class, verdict) in [
            ("cancelled", Class::Cancelled, Verdict::Holds),
            ("done", Class::Cancelled, Verdict::Holds),
            ("failed", Class::Cancelled, Verdict::Broken),
            ("quarantined", Class::Cancelled, Verdict::Broken),
            ("quarantined", Class::Poison, Verdict::Holds),
        ] {
            let job = Job {
                id: "a".to_owned(),
                owner: "owner".to_owned(),
                state: state.to_owned(),
                attempt: 1,
                finished_us: Some(0),
                error: None,
                spec: serde_json::Value::Null,
            };
            let facts = Facts {
                jobs: [("a".to_owned(), job)].into(),
                ..Facts::default()
            };
            let cancel = |phase| Record {
                at: At(0),
                client: 0,
                wish: 1,
                class,
                call: Call::Cancel,
                phase,
                key: "wish-1".to_owned(),
                job: Some("a".to_owned()),
                status: None,
                code: None,
            };
            let found = cancelled_is_cancelled(&[cancel(Phase::Ok)], &facts);
            assert_eq!((found.verdict, found.checked), (verdict, 1), "{state}");
            let unheard = cancelled_is_cancelled(&[cancel(Phase::Info)], &facts);
            assert_eq!(unheard.checked, 0);
        }
    }
}
