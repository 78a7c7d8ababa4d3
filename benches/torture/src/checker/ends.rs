//! Every job ends, by its own words and by those of its attempts.

use super::{Check, Facts, Tally};

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
